"""The op table: which rule of core's vocabulary each ONNX operator obeys.

A new operator is a row in ``ROWS``. A row is a function of a ``View`` (the node with its attributes,
constants and shapes); what the operator set changed over its versions is handled where it happened.
Operators without a row are opaque.

Source of every line: the ONNX operator specification, ai.onnx, versions 1 to 22.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bnfuse.core.joint import ConcatSplit, Product, Select
from bnfuse.core.operands import operands
from bnfuse.core.reasons import Reason
from bnfuse.core.rules import Opaque, Pass, Rule, ShapeOnly, Sign, Source
from bnfuse.core.weighted_sum import WeightedSum
from bnfuse.formats.onnx.rows.affine_ops import arithmetic, batchnorm, normalization
from bnfuse.formats.onnx.rows.linear_ops import conv, conv_transpose, einsum, gemm, matmul, recurrent, table
from bnfuse.formats.onnx.rows.moving_ops import (
    cast,
    flatten,
    gather,
    pad,
    reduce,
    relabelled,
    reshape,
    resize,
    slice_,
    squeeze,
    transpose,
    unsqueeze,
)
from bnfuse.formats.onnx.rows.signature import checked
from bnfuse.formats.onnx.rows.view import View

Row = Callable[[View], Rule]


def _nonlinear(view: View) -> Rule:
    return Opaque(Reason.NONLINEAR)


def _homogeneous(view: View) -> Rule:
    """f(s·x) = s·f(x) for s >= 0."""
    return Pass(Sign.NONNEGATIVE, Reason.SHIFT_THROUGH_ACTIVATION)


def _clip(view: View) -> Rule:
    """Homogeneous where the bounds are 0 and infinity: a ReLU."""
    low = view.attr("min") if view.opset < 11 else (view.scalar(1) if view.has_input(1) else None)
    high = view.attr("max") if view.opset < 11 else (view.scalar(2) if view.has_input(2) else None)
    given_low = "min" in {a.name for a in view.proto.attribute} or view.has_input(1)
    given_high = "max" in {a.name for a in view.proto.attribute} or view.has_input(2)
    low_ok = low in (0.0, float("-inf")) if given_low else True
    high_ok = high in (0.0, float("inf")) or (high is not None and high >= 3e38) if given_high else True
    return _homogeneous(view) if low_ok and high_ok else _nonlinear(view)


def _dropout(view: View) -> Rule:
    """The identity at inference."""
    if view.opset < 7 and not view.attr("is_test", 0):
        return Opaque(Reason.TRAINING_MODE)
    if view.has_input(2) and not (view.is_const(2) and view.scalar(2) == 0):
        return Opaque(Reason.TRAINING_MODE)
    return Pass()


def _spatial(axis: int) -> bool:
    return axis >= 2 or axis < 0


def _max_pool(view: View) -> Rule:
    """Monotone: commutes with increasing maps; padding counts as minus infinity."""
    one = all(k == 1 for k in view.attr("kernel_shape", [0]))
    return Pass(Sign.ANY if one else Sign.NONNEGATIVE, mixes=_spatial)


def _average_pool(view: View) -> Rule:
    """An average of valid elements commutes with every affine map; one that counts zeros does not."""
    counts = view.attr("count_include_pad", 0)
    auto = view.attr("auto_pad", b"NOTSET").startswith(b"SAME")
    padded = any(view.attr("pads", [])) or auto or view.attr("ceil_mode", 0)
    return Pass(shift=Reason.ZERO_PADDING if counts and padded else None, mixes=_spatial)


def _global_pool(view: View, sign: Sign = Sign.ANY, shift: Reason | None = None) -> Rule:
    return Pass(sign, shift, mixes=_spatial)


def _same(view: View) -> Rule:
    return Pass()


def _reader(view: View) -> Rule:
    return ShapeOnly()


def _total(view: View) -> Rule:
    """Add, Sub, Sum, Neg of run-time tensors."""
    if _begins_at_an_axis(view):
        return Opaque(Reason.BROADCAST)
    n = len(view.proto.input)
    signs = (1, -1) if view.proto.op_type == "Sub" else (-1,) if view.proto.op_type == "Neg" else (1,) * n
    lie = operands([view.shape(i) for i in range(n)], view.out_shape())
    return Opaque(Reason.SHAPE_UNKNOWN) if lie is None else WeightedSum(signs, lie)


def _begins_at_an_axis(view: View) -> bool:
    """Below opset 7 the second operand lies where ``axis`` says, not on the right."""
    return view.opset < 7 and view.attr("axis") is not None


def _product(view: View) -> Rule:
    """Mul, Div of run-time tensors."""
    if _begins_at_an_axis(view):
        return Opaque(Reason.BROADCAST)
    lie = operands([view.shape(0), view.shape(1)], view.out_shape())
    exponents = (1, -1) if view.proto.op_type == "Div" else (1, 1)
    return Opaque(Reason.SHAPE_UNKNOWN) if lie is None else Product(exponents, lie)


def _arithmetic(view: View) -> Rule:
    """With a per-channel constant a ChannelAffine, else a sum or a product."""
    affine = arithmetic(view)
    if affine is not None:
        return affine
    return _total(view) if view.proto.op_type in ("Add", "Sub") else _product(view)


def _mean(view: View) -> Rule:
    """The mean of run-time tensors."""
    n = len(view.proto.input)
    lie = operands([view.shape(i) for i in range(n)], view.out_shape())
    return Opaque(Reason.SHAPE_UNKNOWN) if lie is None else WeightedSum((1.0 / n,) * n, lie)


def _alike(view: View, first: int = 0, sign: Sign = Sign.NONNEGATIVE) -> Rule:
    """Max, Min, and Where with its condition: inputs of the output's own shape."""
    ports = tuple(range(first, len(view.proto.input)))
    lie = operands([view.shape(i) for i in ports], view.out_shape())
    if lie is None:
        return Opaque(Reason.SHAPE_UNKNOWN)
    if any(o.offset or o.stretched for o in lie):
        return Opaque(Reason.BROADCAST)
    return Select(ports, sign)


def _gather(view: View) -> Rule:
    return table(view) or gather(view)


def _concat(view: View) -> Rule:
    axis = view.axis(view.attr("axis", 1))
    sizes = []
    for i in range(len(view.proto.input)):
        shape = view.shape(i)
        dim = None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]
        sizes.append(dim if isinstance(dim, int) else None)
    if axis < 0:
        return Opaque(Reason.SHAPE_UNKNOWN)
    return ConcatSplit(~0, tuple(range(len(sizes))), axis, tuple(sizes))


def _split(view: View) -> Rule:
    axis = view.axis(view.attr("axis", 0))
    if axis < 0:
        return Opaque(Reason.SHAPE_UNKNOWN)
    n = len(view.proto.output)
    given = view.attr("split") or view.ints(1)
    if given is None:
        shape = view.shape(0)
        dim = None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]
        if isinstance(dim, int):
            step = -(-dim // n)
            given = [min(step, dim - step * k) for k in range(n)]
    sizes: tuple[int | None, ...] = tuple(given) if given is not None and len(given) == n else (None,) * n
    return ConcatSplit(0, tuple(~j for j in range(n)), axis, sizes)


def _source(view: View) -> Rule:
    """A constant operand, written into the model under its own name."""
    assert view.handle.operand is not None
    tensor = view.const(view.handle.operand)
    floats = tensor is not None and tensor.dtype.kind in "fV"
    return Source(tensor) if tensor is not None and floats else Opaque(Reason.WEIGHT_NOT_CONSTANT)


ROWS: dict[str, Row] = {
    # linear with constant weights
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), recurrent),
    # affine per channel
    "BatchNormalization": batchnorm,
    "LayerNormalization": normalization,
    "InstanceNormalization": normalization,
    "GroupNormalization": normalization,
    "Mul": _arithmetic,
    "Div": _arithmetic,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Sum": _total,
    "Mean": _mean,
    "Max": _alike,
    "Min": _alike,
    "Where": partial(_alike, first=1, sign=Sign.ANY),
    "Neg": _total,
    # positively homogeneous
    "Relu": _homogeneous,
    "LeakyRelu": _homogeneous,
    "PRelu": _homogeneous,
    "Abs": _homogeneous,
    "Clip": _clip,
    # pooling
    "MaxPool": _max_pool,
    "GlobalMaxPool": partial(_global_pool, sign=Sign.NONNEGATIVE),
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool,
    "LpPool": partial(_global_pool, sign=Sign.NONNEGATIVE, shift=Reason.SHIFT_REFUSED),
    "GlobalLpPool": partial(_global_pool, sign=Sign.NONNEGATIVE, shift=Reason.SHIFT_REFUSED),
    "ReduceMean": reduce,
    "ReduceMax": partial(reduce, sign=Sign.NONNEGATIVE),
    "ReduceMin": partial(reduce, sign=Sign.NONNEGATIVE),
    "ReduceSum": partial(reduce, shift=Reason.SHIFT_REFUSED),
    "ReduceL1": partial(reduce, sign=Sign.NONNEGATIVE, shift=Reason.SHIFT_REFUSED),
    "ReduceL2": partial(reduce, sign=Sign.NONNEGATIVE, shift=Reason.SHIFT_REFUSED),
    # moving values about
    "Identity": _same,
    "Dropout": _dropout,
    "Cast": cast,
    "Transpose": transpose,
    "Flatten": flatten,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Pad": pad,
    "Slice": slice_,
    "Gather": _gather,
    "Resize": resize,
    "Upsample": resize,
    "DepthToSpace": relabelled,
    "SpaceToDepth": relabelled,
    "Concat": _concat,
    "Split": _split,
    # reading the shape alone
    "Shape": _reader,
    "Size": _reader,
    # nonlinear: named, so that the reason says so
    **dict.fromkeys(
        ("Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish",
         "Mish", "Gelu", "Erf", "Exp", "Log", "Sqrt", "Pow", "Softplus", "Softsign", "ThresholdedRelu"),
        _nonlinear,
    ),
}  # fmt: skip


def rule_of(view: View) -> Rule:
    """The rule of one node."""
    if view.handle.operand is not None:
        return _source(view)
    if view.proto.domain not in ("", "ai.onnx"):
        return Opaque(Reason.UNSUPPORTED_OP, detail=f"operator of the domain {view.proto.domain}")
    in_function = view.handle.scope.path[:1] == ("functions",)
    if in_function and any(a.ref_attr_name for a in view.proto.attribute):
        return Opaque(Reason.UNSUPPORTED_OP, detail="an attribute is set by the function's caller")
    row = ROWS.get(view.node.op)
    if row is None:
        return Opaque()
    view.attributes = checked(view.proto, view.node.op, view.opset)
    return row(view)
