"""How ONNX operators change the sizes of axes, as far as sizes of inputs can be told from them.

One row per operator: the shape of its first output from those of its inputs, with the demands that it makes
of them (a convolution wants its channels, a Concat equal sizes along its other axes). An operator without a
row, or one whose attributes make no sense, has unknown outputs. Source: the operators' documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from bnfuse.formats.extents import Extent, Shape, Sizes, product, scaled, windows

Numbers = tuple[Any, ...]  # of a small tensor, flat: extents, or floats


@dataclass(slots=True, eq=False)
class Call:
    """One node as its rule sees it: the shapes of its inputs, and the numbers in those that are known."""

    node: onnx.NodeProto
    opset: int
    sizes: Sizes
    shapes: list[Shape | None]
    numbers: list[Numbers | None]

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return onnx.helper.get_attribute_value(attribute)
        return default

    def shape(self, at: int) -> Shape:
        """Of an input.

        Raises:
            LookupError: it is not known.
        """
        shape = self.shapes[at]
        if shape is None:
            raise LookupError("unknown shape")
        return shape

    def given(self, at: int, attribute: str) -> Numbers | None:
        """What newer opsets give as an input and older ones as an attribute; None where there is neither.

        Raises:
            LookupError: there is such an input, but its numbers are not known.
        """
        if at < len(self.node.input) and self.node.input[at]:
            return self.known(at)
        value = self.attribute(attribute)
        return None if value is None else tuple(value) if isinstance(value, list) else (value,)

    def known(self, at: int) -> Numbers:
        """The numbers in an input.

        Raises:
            LookupError: they are not known.
        """
        numbers = self.numbers[at]
        if numbers is None:
            raise LookupError("unknown numbers")
        return numbers


Rule = Callable[[Call], "Shape | None"]


def output_shape(call: Call) -> Shape | None:
    """The shape of the first output; None where it cannot be told."""
    rule = RULES.get(call.node.op_type)
    if rule is None:
        return None
    try:
        return rule(call)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, MemoryError):
        return None


def _same(call: Call) -> Shape | None:
    return call.shapes[0]


def _broadcast(call: Call) -> Shape:
    shapes = [call.shape(at) for at in range(len(call.shapes))]
    rank = max(map(len, shapes))
    padded: list[Shape] = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    made = padded[0]
    for shape in padded[1:]:
        made = tuple(_together(call.sizes, a, b) for a, b in zip(made, shape, strict=True))
    return made


def _together(sizes: Sizes, a: Extent, b: Extent) -> Extent:
    if a is None or b is None or a is b:
        return a if b is None or a is b else b
    if isinstance(a, int) and a == 1:
        return b
    if isinstance(b, int) and b == 1:
        return a
    sizes.must((np.equal(a, 1)) | (np.equal(b, 1)) | np.equal(a, b))
    return a if isinstance(b, np.ndarray) else b


def _pads(call: Call, rank: int, kernel: Sequence[int]) -> list[int | None]:
    """Padding of each spatial axis, both ends together; None for as much as the stride asks for."""
    auto = call.attribute("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        return [None] * rank
    pads = call.attribute("pads") or [0] * 2 * rank
    if auto == b"VALID":
        pads = [0] * 2 * rank
    return [pads[at] + pads[at + rank] for at in range(rank)]


def _windowed(call: Call, kernel: Sequence[int], channels: Extent) -> Shape:
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


def _conv(weight: int) -> Rule:
    def rule(call: Call) -> Shape:
        kernel = call.shape(weight)
        inner, groups = kernel[1], call.attribute("group", 1)
        if inner is not None:
            call.sizes.equal(call.shape(0)[1], inner * groups)
        return _windowed(call, [_number(size) for size in kernel[2:]], kernel[0])

    return rule


def _number(size: Extent) -> int:
    """An extent that must be known.

    Raises:
        LookupError: it is not, or depends on the free axes.
    """
    if not isinstance(size, int):
        raise LookupError("not one size")
    return size


def _pool(call: Call) -> Shape:
    return _windowed(call, call.attribute("kernel_shape"), call.shape(0)[1])


def _conv_transpose(call: Call) -> Shape:
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


def _global_pool(call: Call) -> Shape:
    shape = call.shape(0)
    return (*shape[:2], *(1,) * (len(shape) - 2))


def _reduce(call: Call) -> Shape:
    shape, axes = call.shape(0), call.given(1, "axes")
    gone = {int(axis) % len(shape) for axis in axes} if axes else set(range(len(shape)))
    if call.attribute("keepdims", 1):
        return tuple(1 if axis in gone else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def _arg(call: Call) -> Shape:
    shape = call.shape(0)
    axis = call.attribute("axis", 0) % len(shape)
    kept = (1,) if call.attribute("keepdims", 1) else ()
    return (*shape[:axis], *kept, *shape[axis + 1 :])


def _concat(call: Call) -> Shape:
    shapes = [call.shape(at) for at in range(len(call.shapes))]
    axis = call.attribute("axis", 1) % len(shapes[0])
    made = list(shapes[0])
    for shape in shapes[1:]:
        for at, size in enumerate(shape):
            if at == axis:
                made[at] = _added(made[at], size)
            else:
                call.sizes.equal(made[at], size)
                made[at] = size if made[at] is None else made[at]
    return tuple(made)


def _added(a: Extent, b: Extent) -> Extent:
    return None if a is None or b is None else a + b


def _flatten(call: Call) -> Shape:
    shape = call.shape(0)
    axis = call.attribute("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return product(shape[:axis]), product(shape[axis:])


def _reshape(call: Call) -> Shape:
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


def _gemm(call: Call) -> Shape:
    a, b = call.shape(0), call.shape(1)
    a = a[::-1] if call.attribute("transA", 0) else a
    b = b[::-1] if call.attribute("transB", 0) else b
    call.sizes.equal(a[1], b[0])
    return a[0], b[1]


def _matmul(call: Call) -> Shape | None:
    a, b = call.shape(0), call.shape(1)
    if len(a) < 2 or len(b) < 2:
        return None
    call.sizes.equal(a[-1], b[-2])
    more = a[:-2] if len(a) >= len(b) else b[:-2]
    return (*more, a[-2], b[-1])


def _recurrent(call: Call) -> Shape:
    x, weight = call.shape(0), call.shape(1)
    call.sizes.equal(x[2], weight[2])
    hidden = call.attribute("hidden_size")
    return (x[0], weight[0], x[1], hidden) if not call.attribute("layout", 0) else (*x[:2], weight[0], hidden)


def _transpose(call: Call) -> Shape:
    shape = call.shape(0)
    order = call.attribute("perm") or range(len(shape))[::-1]
    return tuple(shape[axis] for axis in order)


def _squeeze(call: Call) -> Shape:
    shape, axes = call.shape(0), call.given(1, "axes")
    ones = {at for at, n in enumerate(shape) if isinstance(n, int) and n == 1}
    gone = {int(axis) % len(shape) for axis in axes} if axes else ones
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def _unsqueeze(call: Call) -> Shape:
    shape, axes = call.shape(0), call.given(1, "axes") or ()
    rank = len(shape) + len(axes)
    added = {int(axis) % rank for axis in axes}
    rest = iter(shape)
    return tuple(1 if axis in added else next(rest) for axis in range(rank))


def _slice(call: Call) -> Shape:
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


def _pad(call: Call) -> Shape:
    shape = call.shape(0)
    pads = call.given(1, "pads" if call.opset > 1 else "paddings") or ()
    if len(pads) != 2 * len(shape):
        return (None,) * len(shape)
    return tuple(
        None if size is None else size + pads[at] + pads[at + len(shape)] for at, size in enumerate(shape)
    )


def _resize(call: Call) -> Shape:
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


def _resized(call: Call, shape: Shape, wanted: Numbers) -> Shape:
    axes = call.attribute("axes") or range(len(shape))
    made = list(shape)
    for axis, size in zip(axes, wanted, strict=True):
        made[axis] = size
        before = shape[axis]
        if isinstance(size, int) and isinstance(before, np.ndarray) and before.size == max(before.shape):
            call.sizes.told(call.sizes.axis(int(np.argmax(before.shape))), size)
    return tuple(made)


def _gather(call: Call) -> Shape:
    data, indices = call.shape(0), call.shape(1)
    axis = call.attribute("axis", 0) % len(data)
    return (*data[:axis], *indices, *data[axis + 1 :])


def _blocks(down: bool) -> Rule:
    def rule(call: Call) -> Shape:
        batch, channels, *rest = call.shape(0)
        block = call.attribute("blocksize")
        many = None if channels is None else channels // block**2 if down else channels * block**2
        spatial = [None if n is None else n * block if down else n // block for n in rest]
        if not down:
            for size in rest:
                call.sizes.must(None if size is None else np.asarray(size % block == 0))
        return (batch, many, *spatial)

    return rule


def _expand(call: Call) -> Shape:
    shape, wanted = call.shape(0), call.known(1)
    rank = max(len(shape), len(wanted))
    a, b = ((1,) * (rank - len(s)) + tuple(s) for s in (shape, wanted))
    return tuple(_together(call.sizes, x, y) for x, y in zip(a, b, strict=True))


def _tile(call: Call) -> Shape:
    return tuple(
        None if size is None or many is None else size * many
        for size, many in zip(call.shape(0), call.known(1), strict=True)
    )


# fmt: off
_POINTWISE = (
    "Relu", "LeakyRelu", "Elu", "Celu", "Selu", "Gelu", "Mish", "ThresholdedRelu", "Sigmoid",
    "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Softsign", "Softmax", "LogSoftmax", "Hardmax",
    "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Sign", "Floor", "Ceil", "Round", "Sin",
    "Cos", "Not", "IsNaN", "Cast", "CastLike", "Identity", "Dropout", "Clip", "BatchNormalization",
    "InstanceNormalization", "LayerNormalization", "GroupNormalization", "LpNormalization",
    "MeanVarianceNormalization", "LRN", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",
    "FakeQuant", "Quant", "CumSum", "Trilu", "QuickGelu", "FastGelu", "RandomNormalLike",
    "RandomUniformLike", "Bernoulli",
)
_BROADCAST = (
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Mean", "Sum", "Where", "Equal", "Less",
    "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor", "PRelu",
)
_REDUCE = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
# fmt: on

RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE, _same),
    **dict.fromkeys(_BROADCAST, _broadcast),
    **{f"Reduce{name}": _reduce for name in _REDUCE},
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"), _global_pool),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger"), _conv(1)),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Concat": _concat,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Pad": _pad,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Gather": _gather,
    "DepthToSpace": _blocks(True),
    "SpaceToDepth": _blocks(False),
    "Expand": _expand,
    "Tile": _tile,
}
