"""How ONNX operators change the sizes of axes, as far as sizes of inputs can be told from them.

The shape of the first output from those of the inputs, with the demands that the operator makes of them (a
convolution wants its channels, a Concat equal sizes along its other axes). Which operator does what says the
op table (``rows``). Source: the operators' documentation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnfuse.formats.extents import Extent, Shape, windows
from bnfuse.formats.onnx.graph.extents.call import ExtentCall, together
from bnfuse.formats.table import curried


def same(call: ExtentCall) -> Shape | None:
    """As the input."""
    return call.shapes[0]


def broadcast(call: ExtentCall) -> Shape:
    """Of all inputs."""
    shapes = [call.shape(at) for at in range(len(call.shapes))]
    rank = max(map(len, shapes))
    padded: list[Shape] = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    made = padded[0]
    for shape in padded[1:]:
        made = tuple(together(call.sizes, a, b) for a, b in zip(made, shape, strict=True))
    return made


def _pads(call: ExtentCall, rank: int, kernel: Sequence[int]) -> list[int | None]:
    """Padding of each spatial axis, both ends together; None for as much as the stride asks for."""
    auto = call.attribute("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        return [None] * rank
    pads = call.attribute("pads") or [0] * 2 * rank
    if auto == b"VALID":
        pads = [0] * 2 * rank
    return [pads[at] + pads[at + rank] for at in range(rank)]


def _windowed(call: ExtentCall, kernel: Sequence[int], channels: Extent) -> Shape:
    shape = call.shape(0)
    rank = len(shape) - 2
    strides = call.attribute("strides") or [1] * rank
    dilations = call.attribute("dilations") or [1] * rank
    up = bool(call.attribute("ceil_mode", 0))
    made: list[Extent] = []
    for at, pads in enumerate(_pads(call, rank, kernel)):
        size, window = shape[2 + at], (kernel[at] - 1) * dilations[at] + 1
        if size is None:
            made.append(None)
        elif pads is None:
            made.append(-(-size // strides[at]))
        else:
            made.append(windows(size, window, strides[at], pads, up=up))
        if isinstance(made[-1], np.ndarray):
            call.sizes.must(made[-1] >= 1)
    return (shape[0], channels, *made)


@curried
def conv(call: ExtentCall, /, weight: int) -> Shape:
    """A convolution whose kernel is input ``weight``."""
    kernel = call.shape(weight)
    inner, groups = kernel[1], call.attribute("group", 1)
    if inner is not None:
        call.sizes.equal(call.shape(0)[1], inner * groups)
    return _windowed(call, [_number(size) for size in kernel[2:]], kernel[0])


def _number(size: Extent) -> int:
    """An extent that must be known.

    Raises:
        LookupError: it is not, or depends on the free axes.
    """
    if not isinstance(size, int):
        raise LookupError("not one size")
    return size


def pool(call: ExtentCall) -> Shape:
    """Windows of a fixed size."""
    return _windowed(call, call.attribute("kernel_shape"), call.shape(0)[1])


def conv_transpose(call: ExtentCall) -> Shape:
    """Windows stretched, or ``output_shape``."""
    shape, weight = call.shape(0), call.shape(1)
    rank = len(shape) - 2
    call.sizes.equal(shape[1], weight[0])
    channels = _number(weight[1]) * call.attribute("group", 1)
    strides = call.attribute("strides") or [1] * rank
    dilations = call.attribute("dilations") or [1] * rank
    extra = call.attribute("output_padding") or [0] * rank
    wanted = call.attribute("output_shape")
    made: list[Extent] = []
    for at, pads in enumerate(_pads(call, rank, ())):
        size, window = shape[2 + at], (_number(weight[2 + at]) - 1) * dilations[at] + 1
        kept = pads if pads is not None else 0
        if wanted or size is None:
            made.append(wanted[at] if wanted else None)
        elif pads is None:
            made.append(size * strides[at])
        else:
            made.append((size - 1) * strides[at] + window + extra[at] - kept)
    return (shape[0], channels, *made)


def global_pool(call: ExtentCall) -> Shape:
    """One element of each channel."""
    shape = call.shape(0)
    return (*shape[:2], *(1,) * (len(shape) - 2))


def reduce(call: ExtentCall) -> Shape:
    """Without the axes, or with size 1 along them."""
    shape, axes = call.shape(0), call.given(1, "axes")
    if not axes and not call.attribute("noop_with_empty_axes", 0):
        axes = tuple(range(len(shape)))
    gone = {int(axis) % len(shape) for axis in axes or ()}
    if call.attribute("keepdims", 1):
        return tuple(1 if axis in gone else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def arg(call: ExtentCall) -> Shape:
    """Without the one axis."""
    shape = call.shape(0)
    axis = call.attribute("axis", 0) % len(shape)
    kept = (1,) if call.attribute("keepdims", 1) else ()
    return (*shape[:axis], *kept, *shape[axis + 1 :])


def gemm(call: ExtentCall) -> Shape:
    """Rows of A, columns of B."""
    a, b = call.shape(0), call.shape(1)
    a = a[::-1] if call.attribute("transA", 0) else a
    b = b[::-1] if call.attribute("transB", 0) else b
    call.sizes.equal(a[1], b[0])
    return a[0], b[1]


def matmul(call: ExtentCall) -> Shape | None:
    """The same, stacked."""
    a, b = call.shape(0), call.shape(1)
    if len(a) < 2 or len(b) < 2:
        return None
    call.sizes.equal(a[-1], b[-2])
    more = a[:-2] if len(a) >= len(b) else b[:-2]
    return (*more, a[-2], b[-1])


def recurrent(call: ExtentCall) -> Shape:
    """The states of all steps."""
    x, weight = call.shape(0), call.shape(1)
    call.sizes.equal(x[2], weight[2])
    hidden = call.attribute("hidden_size")
    return (x[0], weight[0], x[1], hidden) if not call.attribute("layout", 0) else (*x[:2], weight[0], hidden)
