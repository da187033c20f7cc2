"""Rows of the op table: operators that choose elements, repeat them, or put them in another order.

Where it is known before the model runs which elements are chosen, factors follow them. Where it is not,
factors must not vary along the axis that is chosen from. Axes are checked against the rank here, since the
maps of ``core.axes`` believe what they are given. What does not fit raises ``Malformed``, which
refuses the node.
"""

from __future__ import annotations

from bnfuse.core.axes import AxisMap, Chain, Dim, Regroup, Relabel, SameAxes, Shape, Take, dropping
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass, Rule, Sign, Source
from bnfuse.formats.onnx.graph.extents import layout
from bnfuse.formats.onnx.graph.extents.rules import same
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.layout_ops import along
from bnfuse.formats.onnx.rows.stored import TableStore
from bnfuse.formats.onnx.rows.view import View
from bnfuse.formats.onnx.rows.weights import constant_weight
from bnfuse.formats.table import Malformed, counted, known

_MOST_ELEMENTS = 1 << 20  # along one axis, that are followed one by one


def slice_(view: View) -> Rule:
    """Elements are chosen along some axes."""
    shape = known(view.shape(0))
    starts, ends = known(view.attr("starts") or view.ints(1)), known(view.attr("ends") or view.ints(2))
    given = view.attr("axes") or view.given_ints(3)
    axes = counted(given or range(len(starts)), len(shape))
    steps = view.given_ints(4) or [1] * len(starts)
    if not len(axes) == len(starts) == len(ends) == len(steps) or 0 in steps:
        raise Malformed(f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes, {len(steps)} steps")
    takes = []
    mixed = set()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = shape[axis]
        if isinstance(size, int) and size <= _MOST_ELEMENTS:
            # As Python's, but that one that begins before the first element begins there in reverse, too.
            chosen = tuple(range(size))[max(start, -size) : end : step]
            if chosen != tuple(range(size)):
                takes.append(Take(axis, chosen, size))
        else:
            mixed.add(axis)
    return Pass(mixes=along(mixed), axes=Chain(tuple(takes)))


def _table(view: View) -> Rule | None:
    """Gather of rows from a constant table (an embedding); None if it is not that."""
    if not view.is_const(0) or view.attr("axis", 0) != 0:
        return None
    rows, rank = constant_weight(view, 0), known(view.rank(1))
    if isinstance(rows, Opaque) or len(rows.shape) < 2:
        return Opaque(Reason.WEIGHT_NOT_CONSTANT)
    return Source(rows, offset=rank - 1, chosen=frozenset(range(rank)))


def gather(view: View) -> Rule:
    """Rows of a table, or indices along one axis of a run-time tensor."""
    rows = _table(view)
    if rows is not None:
        return rows
    if view.is_const(0):
        return Opaque(Reason.UNSUPPORTED_OP)
    shape = known(view.shape(0))
    (axis,) = counted(view.attr("axis", 0), len(shape))
    size, indices = shape[axis], view.ints(1)
    if indices is None or not isinstance(size, int) or size > _MOST_ELEMENTS:
        return _chosen_at_run_time(axis, len(shape), known(view.rank(1)))
    if not all(-size <= i < size for i in indices):
        raise Malformed(f"indices {indices} of {size} elements")
    take, laid = Take(axis, tuple(i % size for i in indices), size), known(view.shape(1))
    if not laid:
        return Pass(axes=Chain((take, dropping(len(shape), {axis}))))
    return Pass(axes=Chain((take, _as_many_axes(axis, shape, laid, len(indices)))))


def _chosen_at_run_time(axis: int, rank: int, indices: int) -> Rule:
    """The axes of the indices come in place of the one that is chosen from."""
    target = [None if a == axis else a + (indices - 1) * (a > axis) for a in range(rank)]
    return Pass(axes=Relabel(tuple(target), rank + indices - 1))


def _as_many_axes(axis: int, shape: Shape, indices: Shape, chosen: int) -> AxisMap:
    """One axis, of so many chosen elements, becomes those of the indices."""
    if len(indices) == 1:
        return SameAxes()
    before = (*shape[:axis], chosen, *shape[axis + 1 :])
    after: Shape = (*shape[:axis], *indices, *shape[axis + 1 :])
    more = len(indices) - 1
    begins = [a + more * (a > axis) for a in range(len(shape))]
    groups = [(range(a, a + 1), range(b, b + 1 + more * (a == axis))) for a, b in enumerate(begins)]
    return Regroup(before, after, tuple(groups))


def gather_elements(view: View) -> Rule:
    """Each element from another place along one axis: along the others they stay in line."""
    shape, indices = known(view.shape(0)), known(view.shape(1))
    if len(shape) != len(indices):
        raise Malformed(f"indices of {len(indices)} axes into {len(shape)}")
    (axis,) = counted(view.attr("axis", 0), len(shape))
    cut = {a for a, (n, k) in enumerate(zip(shape, indices, strict=True)) if n is None or n != k}
    return Pass(mixes=along({axis} | cut))


def gather_nd(view: View) -> Rule:
    """Slices chosen by the first axes behind the batch: the axes behind those stay whole."""
    shape, indices, batch = known(view.shape(0)), known(view.shape(1)), view.attr("batch_dims", 0)
    depth = indices[-1] if indices else 0
    if not isinstance(depth, int):
        return Opaque(Reason.SHAPE_UNKNOWN)
    if not 0 <= batch < len(indices) or not 1 <= depth <= len(shape) - batch:
        raise Malformed(f"indices of shape {indices} into {len(shape)} axes, {batch} of them batches")
    chosen = range(batch, batch + depth)
    moved = len(indices) - 1 - batch - depth
    target = [None if a in chosen else a + moved * (a >= batch) for a in range(len(shape))]
    return Pass(axes=Relabel(tuple(target), len(shape) + moved))


def compress(view: View) -> Rule:
    """A condition chooses along an axis; without one, from all elements in a row."""
    rank, axis = known(view.rank(0)), view.attr("axis")
    if axis is None:
        return Pass(axes=Relabel((None,) * rank, 1))
    return Pass(mixes=along(counted(axis, rank)))


def tile(view: View) -> Rule:
    """The whole, again and again along each axis."""
    if view.opset < 6:  # it had other operands
        return Opaque(Reason.UNSUPPORTED_OP)
    shape, repeats = known(view.shape(0)), known(view.ints(1))
    if len(repeats) != len(shape) or min(repeats, default=1) < 1:
        raise Malformed(f"repeats {repeats} of {len(shape)} axes")
    takes, mixed = [], set()
    for axis, (size, times) in enumerate(zip(shape, repeats, strict=True)):
        if isinstance(size, int) and size * times <= _MOST_ELEMENTS:
            takes += [Take(axis, tuple(range(size)) * times, size)] if times > 1 else []
        elif times > 1:
            mixed.add(axis)
    return Pass(mixes=along(mixed), axes=Chain(tuple(takes)))


def expand(view: View) -> Rule:
    """Axes of one element become longer; new ones come in front."""
    shape, wanted = known(view.shape(0)), view.ints(1)
    sizes: list[int | None] | None = None if wanted is None else [*wanted]
    told = view.shape(1)
    if sizes is None and told and isinstance(told[0], int):
        sizes = [None] * told[0]
    sizes = known(sizes)
    if wanted is not None and min(wanted, default=1) < 1:
        raise Malformed(f"a shape of {wanted}")
    rank = max(len(shape), len(sizes))
    sizes = [*[1] * (rank - len(sizes)), *sizes]
    new = rank - len(shape)
    takes, mixed = [], set()
    for axis, size in enumerate(shape, new):
        found = _stretched(axis, size, sizes[axis])
        if isinstance(found, Take):
            takes.append(found)
        elif found:
            mixed.add(axis)
    longer = (Relabel(tuple(range(new, rank)), rank),) if new else ()
    return Pass(mixes=along({a - new for a in mixed}), axes=Chain((*longer, *takes)))


def _stretched(axis: int, size: Dim, wanted: int | None) -> Take | bool:
    """How one axis is stretched; whether that cannot be told."""
    if wanted == 1 or (isinstance(size, int) and size > 1):
        return False
    if size != 1 or wanted is None or wanted > _MOST_ELEMENTS:
        return True
    return Take(axis, (0,) * wanted, 1)


def reverse_sequence(view: View) -> Rule:
    """The first elements along an axis in reverse order, how many is known at run time."""
    return Pass(mixes=along(counted(view.attr("time_axis", 0), known(view.rank(0)))))


def top_k(view: View) -> Rule:
    """The largest elements along an axis, in order, and where they were: a zero would make all alike."""
    return Pass(Sign.POSITIVE, mixes=along(counted(view.attr("axis", -1), known(view.rank(0)))))


def center_crop_pad(view: View) -> Rule:
    """The middle of each axis, or zeros around it."""
    shape, wanted = known(view.shape(0)), known(view.ints(1))
    axes = counted(view.attr("axes") or range(len(shape)), len(shape))
    if len(axes) != len(wanted):
        raise Malformed(f"{len(wanted)} sizes for {len(axes)} axes")
    changed = {a for a, n in zip(axes, wanted, strict=True) if shape[a] != n}
    grows = any(not isinstance(n := shape[a], int) or n < k for a, k in zip(axes, wanted, strict=True))
    shift = Reason.ZERO_PADDING if grows else None
    return Pass(shift=shift, mixes=along(changed))


ROWS = (
    OpKind(("Slice",), slice_, layout.slice_),
    OpKind(("Gather",), gather, layout.gather, TableStore()),
    OpKind(("GatherElements",), gather_elements),
    OpKind(("GatherND",), gather_nd),
    OpKind(("Compress",), compress),
    OpKind(("Tile",), tile, layout.tile),
    OpKind(("Expand",), expand, layout.expand),
    OpKind(("ReverseSequence",), reverse_sequence, same),
    OpKind(("TopK",), top_k),
    OpKind(("CenterCropPad",), center_crop_pad),
)
