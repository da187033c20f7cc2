"""Sizes of axes behind operators that join, cut, turn and resize: see ``rules``."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfuse.formats.extents import Extent, Shape, product, scaled
from bnfuse.formats.onnx.graph.extents.call import Elements, ExtentCall, together
from bnfuse.formats.table import curried


def concat(call: ExtentCall) -> Shape:
    """The sum along the axis; equal along the others."""
    shapes = [call.shape(at) for at in range(len(call.shapes))]
    axis = call.attribute("axis", 1) % len(shapes[0])
    made = list(shapes[0])
    for shape in shapes[1:]:
        for at, size in enumerate(shape):
            if at == axis:
                made[at] = None if size is None or (before := made[at]) is None else before + size
            else:
                call.sizes.equal(made[at], size)
                made[at] = size if made[at] is None else made[at]
    return tuple(made)


def flatten(call: ExtentCall) -> Shape:
    """Two axes."""
    shape = call.shape(0)
    axis = call.attribute("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return product(shape[:axis]), product(shape[axis:])


def reshape(call: ExtentCall) -> Shape:
    """As the constant says."""
    target = list(call.given(1, "shape") or ())
    shape = call.shapes[0]
    for at, size in enumerate(target):
        if isinstance(size, int) and size == 0 and not call.attribute("allowzero", 0):
            target[at] = None if shape is None else shape[at]
    open_axes = [at for at, size in enumerate(target) if isinstance(size, int) and size == -1]
    total = None if shape is None else product(shape)
    rest = product([size for at, size in enumerate(target) if at not in open_axes])
    if open_axes:
        target[open_axes[0]] = None
        if total is not None and rest is not None:
            call.sizes.must(np.asarray((total % rest == 0) & (total >= rest)))
            target[open_axes[0]] = total // rest
            if open_axes[0] == 0 and shape is not None and isinstance(shape[0], int):
                call.sizes.told(target[0], shape[0])  # most likely the batch again
    else:
        call.sizes.equal(total, rest)
    return tuple(target)


def transpose(call: ExtentCall) -> Shape:
    """Axes in another order."""
    shape = call.shape(0)
    order = call.attribute("perm") or range(len(shape))[::-1]
    return tuple(shape[axis] for axis in order)


def squeeze(call: ExtentCall) -> Shape:
    """Without axes of size 1."""
    shape, axes = call.shape(0), call.given(1, "axes")
    ones = {at for at, n in enumerate(shape) if isinstance(n, int) and n == 1}
    gone = {int(axis) % len(shape) for axis in axes} if axes else ones
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def unsqueeze(call: ExtentCall) -> Shape:
    """With new axes of size 1."""
    shape, axes = call.shape(0), call.given(1, "axes") or ()
    rank = len(shape) + len(axes)
    added = {int(axis) % rank for axis in axes}
    rest = iter(shape)
    return tuple(1 if axis in added else next(rest) for axis in range(rank))


def slice_(call: ExtentCall) -> Shape:
    """What lies between the bounds."""
    made = list(call.shape(0))
    starts, ends = call.given(1, "starts") or (), call.given(2, "ends") or ()
    axes = call.given(3, "axes") if len(call.node.input) > 3 or call.attribute("axes") else None
    steps = call.known(4) if len(call.node.input) > 4 and call.node.input[4] else (1,) * len(starts)
    for axis, start, end, step in zip(axes or range(len(starts)), starts, ends, steps, strict=True):
        at = int(axis) % len(made)
        made[at] = _sliced(made[at], start, end, step)
    return tuple(made)


def _sliced(size: Extent, start: Any, end: Any, step: Any) -> Extent:
    if size is None or start is None or end is None or step is None or step < 1:
        return size if isinstance(step, int) and step == -1 else None
    first, last = (
        np.where(np.less(value, 0), value + size, np.minimum(value, size)) for value in (start, end)
    )
    made = np.maximum(0, -(-(last - first) // step))
    return made if made.ndim else int(made)


def pad(call: ExtentCall) -> Shape:
    """With both pads."""
    shape = call.shape(0)
    pads = call.given(1, "pads" if call.opset > 1 else "paddings") or ()
    if len(pads) != 2 * len(shape):
        return (None,) * len(shape)
    return tuple(
        None if size is None else size + pads[at] + pads[at + len(shape)] for at, size in enumerate(shape)
    )


def resize(call: ExtentCall) -> Shape:
    """Sizes that do not follow the input's are most likely those of the model's input."""
    shape, inputs = call.shape(0), call.node.input
    if len(inputs) > 3 and inputs[3]:
        return _resized(call, shape, call.known(3))
    scales = call.attribute("scales") or call.known(2 if len(inputs) > 2 else 1)
    if not scales:
        return (None,) * len(shape)
    axes = call.attribute("axes") or range(len(shape))
    made = list(shape)
    for axis, scale in zip(axes, scales, strict=True):
        made[axis] = scaled(made[axis], float(scale))
    return tuple(made)


def _resized(call: ExtentCall, shape: Shape, wanted: Elements) -> Shape:
    axes = call.attribute("axes") or range(len(shape))
    made = list(shape)
    stretches = call.attribute("keep_aspect_ratio_policy", b"stretch") == b"stretch"
    for axis, size in zip(axes, wanted, strict=True):
        made[axis] = size if stretches else None  # else one scale for all axes
        before = shape[axis]
        if isinstance(size, int) and isinstance(before, np.ndarray) and before.size == max(before.shape):
            call.sizes.told(call.sizes.axis(int(np.argmax(before.shape))), size)
    return tuple(made)


def gather(call: ExtentCall) -> Shape:
    """The indices in place of the axis."""
    data, indices = call.shape(0), call.shape(1)
    axis = call.attribute("axis", 0) % len(data)
    return (*data[:axis], *indices, *data[axis + 1 :])


@curried
def blocks(call: ExtentCall, /, down: bool) -> Shape:
    """DepthToSpace, or the reverse."""
    batch, channels, *rest = call.shape(0)
    block = call.attribute("blocksize")
    many = None if channels is None else channels // block**2 if down else channels * block**2
    spatial = [None if n is None else n * block if down else n // block for n in rest]
    if not down:
        for size in rest:
            call.sizes.must(None if size is None else np.asarray(size % block == 0))
    return (batch, many, *spatial)


def expand(call: ExtentCall) -> Shape:
    """Broadcast to the constant."""
    shape, wanted = call.shape(0), call.known(1)
    rank = max(len(shape), len(wanted))
    a, b = ((1,) * (rank - len(s)) + tuple(s) for s in (shape, wanted))
    return tuple(together(call.sizes, x, y) for x, y in zip(a, b, strict=True))


def tile(call: ExtentCall) -> Shape:
    """Repeated."""
    return tuple(
        None if size is None or many is None else size * many
        for size, many in zip(call.shape(0), call.known(1), strict=True)
    )
