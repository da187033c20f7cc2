"""Operators that move, repeat or choose elements, worked out on constants: bit for bit what the file holds.

Each is a function of a ``KnownCall``. Those of ``RESHAPING`` say the new shape alone: the elements stay where
they are. Source: the ONNX operator specification; what it leaves open is as onnxruntime does it.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from bnfuse.core.weights.tensor import Array, FilledTensor
from bnfuse.formats.onnx.graph.evaluate.call import KnownCall, Unknown, bounded, broadcast
from bnfuse.formats.table import counted

Shape = tuple[int, ...]

# --- the elements stay where they are: the new shape


def identity(call: KnownCall) -> Shape:
    """The same."""
    return call.tensor().shape


def reshape(call: KnownCall) -> Shape:
    """0 copies a size (unless ``allowzero``), -1 is what remains."""
    before, target = call.tensor().shape, call.ints(1, "shape")
    if target is None:
        raise Unknown("no shape")
    if not call.attr("allowzero", 0):
        if any(n == 0 and k >= len(before) for k, n in enumerate(target)):
            raise Unknown(f"{target} of the shape {before}")
        target = [before[k] if n == 0 else n for k, n in enumerate(target)]
    if -1 in target:
        known = prod(n for n in target if n != -1)
        if target.count(-1) > 1 or known <= 0 or prod(before) % known:
            raise Unknown(f"{target} of the shape {before}")
        target = [prod(before) // known if n == -1 else n for n in target]
    if any(n < 0 for n in target) or prod(target) != prod(before):
        raise Unknown(f"{target} of the shape {before}")
    return tuple(target)


def unsqueeze(call: KnownCall) -> Shape:
    """Axes of size 1 come, counted in the result."""
    before, axes = call.tensor().shape, call.ints(1, "axes")
    if axes is None:
        raise Unknown("no axes")
    rank = len(before) + len(axes)
    new, old = set(counted(axes, rank)), iter(before)
    return tuple(1 if a in new else next(old) for a in range(rank))


def squeeze(call: KnownCall) -> Shape:
    """Axes of size 1 go: those named, or all."""
    before, axes = call.tensor().shape, call.ints(1, "axes")
    gone = {a for a, n in enumerate(before) if n == 1} if axes is None else set(counted(axes, len(before)))
    if any(before[a] != 1 for a in gone):
        raise Unknown(f"axes {axes} of the shape {before}")
    return tuple(n for a, n in enumerate(before) if a not in gone)


def flatten(call: KnownCall) -> Shape:
    """Two axes remain: those before ``axis``, and the rest."""
    before, axis = call.tensor().shape, call.attr("axis", 1)
    axis += len(before) if axis < 0 else 0
    if not 0 <= axis <= len(before):
        raise Unknown(f"axis {axis} of {len(before)}")
    return prod(before[:axis]), prod(before[axis:])


# --- elements move


def transpose(call: KnownCall) -> Array:
    """Axes change places; reversed where nothing is said."""
    x = call.array()
    perm = call.attr("perm", range(x.ndim)[::-1])
    if sorted(perm) != list(range(x.ndim)):
        raise Unknown(f"perm {list(perm)}")
    turned: Array = x.transpose(perm)
    return turned


def concat(call: KnownCall) -> Array:
    """One behind the other."""
    parts = call.arrays()
    axis = counted(call.attr("axis"), parts[0].ndim)[0]
    around = {(*p.shape[:axis], *p.shape[axis + 1 :]) for p in parts}
    if len(around) != 1 or len({p.ndim for p in parts}) != 1 or len({p.dtype for p in parts}) != 1:
        raise Unknown("parts that do not fit")
    bounded((sum(p.size for p in parts),))
    return np.concatenate(parts, axis)


def slice_(call: KnownCall) -> Array:
    """From start to end in steps, bounds clamped to the axis."""
    x = call.array()
    starts, ends = call.ints(1, "starts"), call.ints(2, "ends")
    if starts is None or ends is None:
        raise Unknown("no bounds")
    axes, steps = call.ints(3, "axes"), call.ints(4)
    axes = counted(list(range(len(starts))) if axes is None else axes, x.ndim)
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Unknown("bounds that do not fit")
    index: list[slice] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = _span(start, end, step, x.shape[axis])
    return x[tuple(index)]


def _span(start: int, end: int, step: int, n: int) -> slice:
    """ONNX's bounds as Python's: an end before the first element is None there."""
    low, high = (0, n) if step > 0 else (-1, n - 1)
    start, end = (min(max(v + n if v < 0 else v, low), high) for v in (start, end))
    start = max(start, 0)
    return slice(start, None if end < 0 else end, step) if n else slice(0, 0)


def gather(call: KnownCall) -> Array:
    """Chosen along one axis; negative indices count from the end."""
    x, indices = call.array(), call.array(1)
    axis = counted(call.attr("axis", 0), x.ndim)[0]
    n = x.shape[axis]
    if indices.dtype.kind != "i" or not ((indices >= -n) & (indices < n)).all():
        raise Unknown(f"indices beyond {n} elements")
    bounded((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    taken: Array = x.take(indices % max(n, 1), axis)
    return taken


def expand(call: KnownCall) -> Array | FilledTensor:
    """Repeated along axes of size 1; sizes of the input stay where the target says 1."""
    target = call.ints(1)
    if target is None:
        raise Unknown("no shape")
    x = call.array()
    shape = broadcast(x.shape, bounded(target))
    return FilledTensor(shape, x.reshape(())) if x.size == 1 else np.broadcast_to(x, shape)


def tile(call: KnownCall) -> Array:
    """The whole, several times along each axis."""
    x, repeats = call.array(), call.ints(1)
    if repeats is None or len(repeats) != x.ndim:
        raise Unknown(f"repeats {repeats} of {x.ndim} axes")
    bounded([n * k for n, k in zip(x.shape, repeats, strict=True)])
    return np.tile(x, repeats)


def split(call: KnownCall) -> list[Array]:
    """Cut along one axis into the sizes given, else equal ones (of ``num_outputs`` the last may be less)."""
    x = call.array()
    axis = counted(call.attr("axis", 0), x.ndim)[0]
    n, parts = x.shape[axis], call.attr("num_outputs", call.outputs)
    sizes = call.ints(1, "split")
    if sizes is None and call.version >= 18:
        if "num_outputs" not in call.attributes:
            raise Unknown("no sizes")
        step = -(-n // parts)
        sizes = [step] * (parts - 1) + [n - step * (parts - 1)]
    elif sizes is None:
        sizes = [n // parts] * parts
    if len(sizes) != call.outputs or sum(sizes) != n or any(k < 0 for k in sizes):
        raise Unknown(f"parts {sizes} of {n} elements")
    return np.split(x, np.cumsum(sizes)[:-1], axis)


_MODES = {b"constant": "constant", b"reflect": "reflect", b"edge": "edge", b"wrap": "wrap"}


def pad(call: KnownCall) -> Array:
    """Borders of one number, mirrored, repeated or wrapped; a negative pad cuts off (constant mode alone)."""
    x, pads, axes = call.array(), call.ints(1, "pads"), call.ints(3)
    axes = counted(list(range(x.ndim)) if axes is None else axes, x.ndim)
    mode = _MODES.get(call.attr("mode", b"constant"))
    if pads is None or len(pads) != 2 * len(axes) or mode is None:
        raise Unknown(f"pads {pads}")
    widths = [(0, 0)] * x.ndim
    for k, axis in enumerate(axes):
        widths[axis] = pads[k], pads[k + len(axes)]
    bounded([n + before + after for n, (before, after) in zip(x.shape, widths, strict=True)])
    if mode != "constant":
        if any(not 0 <= k < n for n, pair in zip(x.shape, widths, strict=True) for k in pair):
            raise Unknown(f"pads {pads} of the shape {x.shape}")
        mirrored: Array = np.pad(x, widths, mode)  # type: ignore[call-overload]
        return mirrored
    cut = tuple(
        slice(max(-before, 0), n - max(-after, 0)) for n, (before, after) in zip(x.shape, widths, strict=True)
    )
    if any(c.stop < c.start for c in cut):
        raise Unknown(f"pads {pads} of the shape {x.shape}")
    widths = [(max(before, 0), max(after, 0)) for before, after in widths]
    return np.pad(x[cut], widths, "constant", constant_values=_fill(call, x.dtype))


def _fill(call: KnownCall, dtype: np.dtype[Any]) -> Any:
    if call.version < 11:
        return np.asarray(call.attr("value", 0.0), np.float32).astype(dtype)
    given = call.optional(2)
    if given is None:
        return np.zeros((), dtype)
    if given.dtype != dtype or prod(given.shape) != 1:
        raise Unknown("no number to pad with")
    return given.read(0, 1)[0]


def where(call: KnownCall) -> Array:
    """One of two, element by element."""
    condition, x, y = call.arrays()
    if condition.dtype.kind != "b" or x.dtype != y.dtype:
        raise Unknown("operands that do not fit")
    broadcast(condition.shape, x.shape, y.shape)
    chosen: Array = np.where(condition, x, y)
    return chosen


# --- shapes as values


def shape(call: KnownCall) -> Array:
    """The sizes from ``start`` to ``end``."""
    found = call.tensor().shape
    rank = len(found)
    return np.array(found[_clamped(call, "start", 0, rank) : _clamped(call, "end", rank, rank)], np.int64)


def _clamped(call: KnownCall, name: str, default: int, rank: int) -> int:
    given: int = call.attr(name, default)
    return min(max(given + rank if given < 0 else given, 0), rank)


def count(call: KnownCall) -> Array:
    """The number of elements (Size)."""
    return np.array(prod(call.tensor().shape), np.int64)


RESHAPING = {
    "Identity": identity,
    "Reshape": reshape,
    "Unsqueeze": unsqueeze,
    "Squeeze": squeeze,
    "Flatten": flatten,
}
