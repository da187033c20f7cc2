"""Rows of the op table: operators that give elements another place and compute nothing else.

Axes are checked against the rank here, since the maps of ``core.axes`` believe what they are given.
What does not fit raises ``Malformed``, which refuses the node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import prod

from bnfuse.core.axes import AxisMap, Chain, Permute, Regroup, Reversed, Shape, dropping, regroup
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass, Rule
from bnfuse.formats.onnx.graph.extents import layout
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.view import View
from bnfuse.formats.table import Malformed, counted, known


def transpose(view: View) -> Rule:
    """Axes change places."""
    perm = view.attr("perm")
    if perm is None:
        perm = range(known(view.rank(0)))[::-1]
    if sorted(perm) != list(range(len(perm))):
        raise Malformed(f"perm {list(perm)}")
    return Pass(axes=Permute(tuple(perm)))


def flatten(view: View) -> Rule:
    """Two axes remain: those before ``axis``, and the rest."""
    shape = known(view.shape(0))
    axis = view.attr("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    if not 0 <= axis <= len(shape):
        raise Malformed(f"axis {axis} of {len(shape)} axes")
    out = tuple(_product(part) for part in (shape[:axis], shape[axis:]))
    groups = ((range(axis), range(1)), (range(axis, len(shape)), range(1, 2)))
    return Pass(axes=Regroup(shape, out, groups))


def along(axes: Collection[int]) -> Callable[[int], bool]:
    """Whether an axis is one of these; one counted from behind, of a value of unknown rank, may be any."""
    return lambda axis: axis < 0 or axis in axes


def spatial(axis: int) -> bool:
    """Whether an axis is none of batch and channels, or may be none."""
    return axis >= 2 or axis < 0


def _product(dims: Shape) -> int | str | None:
    if len(dims) == 1:
        return dims[0]
    known = [d for d in dims if isinstance(d, int)]
    return prod(known) if len(known) == len(dims) else None


def reshape(view: View) -> Rule:
    """Runs of axes become other runs of axes."""
    before, after = known(view.shape(0)), view.out_shape()
    target = view.attr("shape") or view.ints(1)
    if after is None and target is not None:
        after = tuple(d if d > 0 else None for d in target)
    after = known(after)
    if target is not None and len(target) == len(after) and not view.attr("allowzero", 0):
        # 0 copies the input's size, -1 is what remains: either may be a symbol that inference lost.
        after = tuple(
            before[j] if d == 0 and j < len(before) else (d if d > 0 else after[j])
            for j, d in enumerate(target)
        )
    return Pass(axes=regroup(before, after))


def squeeze(view: View) -> Rule:
    """Axes of size 1 go."""
    shape = known(view.shape(0))
    axes = view.axes_argument(1)
    if axes is None:
        if not all(isinstance(d, int) for d in shape):
            return Opaque(Reason.SHAPE_UNKNOWN)
        axes = [a for a, d in enumerate(shape) if d == 1]
    elif not axes:
        raise Malformed("an empty list of axes, which is read in two ways")
    gone = set(counted(axes, len(shape)))
    if any(isinstance(shape[a], int) and shape[a] != 1 for a in gone):
        raise Malformed(f"axes {axes} of the shape {shape}")
    return Pass(axes=dropping(len(shape), gone))


def unsqueeze(view: View) -> Rule:
    """Axes of size 1 come."""
    rank, axes = known(view.rank(0)), known(view.axes_argument(1))
    new = counted(axes, rank + len(axes))
    return Pass(axes=dropping(rank, (), new))


def relabelled(view: View) -> Rule:
    """DepthToSpace and SpaceToDepth: reshape, transpose, reshape, as the specification defines them."""
    shape, block = known(view.shape(0)), view.attr("blocksize")
    if len(shape) != 4:
        raise Malformed(f"{len(shape)} axes")
    n, c, h, w = shape
    if not isinstance(c, int):
        return Opaque(Reason.SHAPE_UNKNOWN)
    if block < 1 or (view.proto.op_type == "DepthToSpace" and c % (block * block)):
        raise Malformed(f"blocks of {block} and {c} channels")
    if view.proto.op_type == "DepthToSpace":
        return Pass(axes=_to_space(shape, block, crd=view.attr("mode", b"DCR") == b"CRD"))
    sizes = (k // block if isinstance(k, int) else None for k in (h, w))
    return Pass(axes=Reversed(_to_space((n, c * block * block, *sizes), block, crd=False)))


def _to_space(shape: Shape, block: int, *, crd: bool) -> AxisMap:
    n, c, h, w = shape
    assert isinstance(c, int)
    depth = c // (block * block)
    wide: Shape = (n, depth, block, block, h, w) if crd else (n, block, block, depth, h, w)
    perm = (0, 1, 4, 2, 5, 3) if crd else (0, 3, 4, 1, 5, 2)
    moved: Shape = (n, depth, h, block, w, block)
    out: Shape = (n, depth, *(k * block if isinstance(k, int) else None for k in (h, w)))
    split = ((range(1), range(1)), (range(1, 2), range(1, 4)), (range(2, 3), range(4, 5)),
             (range(3, 4), range(5, 6)))  # fmt: skip
    merge = ((range(1), range(1)), (range(1, 2), range(1, 2)), (range(2, 4), range(2, 3)),
             (range(4, 6), range(3, 4)))  # fmt: skip
    return Chain((Regroup(shape, wide, split), Permute(perm), Regroup(moved, out, merge)))


ROWS = (
    OpKind(("Transpose",), transpose, layout.transpose),
    OpKind(("Flatten",), flatten, layout.flatten),
    OpKind(("Reshape",), reshape, layout.reshape),
    OpKind(("Squeeze",), squeeze, layout.squeeze),
    OpKind(("Unsqueeze",), unsqueeze, layout.unsqueeze),
    OpKind(("DepthToSpace",), relabelled, layout.blocks(True)),
    OpKind(("SpaceToDepth",), relabelled, layout.blocks(False)),
)
