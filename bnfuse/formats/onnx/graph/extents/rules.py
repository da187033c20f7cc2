"""How ONNX operators change the sizes of axes, as far as sizes of inputs can be told from them.

One row per operator: the shape of its first output from those of its inputs, with the demands that it makes
of them (a convolution wants its channels, a Concat equal sizes along its other axes). An operator without a
row, or one whose attributes make no sense, has unknown outputs. Source: the operators' documentation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnfuse.formats.extents import Extent, Shape, windows
from bnfuse.formats.onnx.graph.extents.call import ExtentCall, Rule, together
from bnfuse.formats.onnx.graph.extents.layout import LAYOUT


def output_shape(call: ExtentCall) -> Shape | None:
    """The shape of the first output; None where it cannot be told."""
    rule = RULES.get(call.node.op_type)
    if rule is None:
        return None
    try:
        return rule(call)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, MemoryError):
        return None


def _same(call: ExtentCall) -> Shape | None:
    return call.shapes[0]


def _broadcast(call: ExtentCall) -> Shape:
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


def _conv(weight: int) -> Rule:
    def rule(call: ExtentCall) -> Shape:
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


def _pool(call: ExtentCall) -> Shape:
    return _windowed(call, call.attribute("kernel_shape"), call.shape(0)[1])


def _conv_transpose(call: ExtentCall) -> Shape:
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


def _global_pool(call: ExtentCall) -> Shape:
    shape = call.shape(0)
    return (*shape[:2], *(1,) * (len(shape) - 2))


def _reduce(call: ExtentCall) -> Shape:
    shape, axes = call.shape(0), call.given(1, "axes")
    gone = {int(axis) % len(shape) for axis in axes} if axes else set(range(len(shape)))
    if call.attribute("keepdims", 1):
        return tuple(1 if axis in gone else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def _arg(call: ExtentCall) -> Shape:
    shape = call.shape(0)
    axis = call.attribute("axis", 0) % len(shape)
    kept = (1,) if call.attribute("keepdims", 1) else ()
    return (*shape[:axis], *kept, *shape[axis + 1 :])


def _gemm(call: ExtentCall) -> Shape:
    a, b = call.shape(0), call.shape(1)
    a = a[::-1] if call.attribute("transA", 0) else a
    b = b[::-1] if call.attribute("transB", 0) else b
    call.sizes.equal(a[1], b[0])
    return a[0], b[1]


def _matmul(call: ExtentCall) -> Shape | None:
    a, b = call.shape(0), call.shape(1)
    if len(a) < 2 or len(b) < 2:
        return None
    call.sizes.equal(a[-1], b[-2])
    more = a[:-2] if len(a) >= len(b) else b[:-2]
    return (*more, a[-2], b[-1])


def _recurrent(call: ExtentCall) -> Shape:
    x, weight = call.shape(0), call.shape(1)
    call.sizes.equal(x[2], weight[2])
    hidden = call.attribute("hidden_size")
    return (x[0], weight[0], x[1], hidden) if not call.attribute("layout", 0) else (*x[:2], weight[0], hidden)


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
    **LAYOUT,
    **dict.fromkeys(_POINTWISE, _same),
    **dict.fromkeys(_BROADCAST, _broadcast),
    **{f"Reduce{name}": _reduce for name in _REDUCE},
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"), _global_pool),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger"), _conv(1)),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}
