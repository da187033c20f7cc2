"""Rows of the op table: what works element by element."""

from __future__ import annotations

from functools import partial

import onnx

from bnfuse.core.reasons import Reason
from bnfuse.core.rules import Opaque, Pass, Rule, ShapeOnly, Sign
from bnfuse.formats.onnx.graph.extents.rules import broadcast, same
from bnfuse.formats.onnx.rows.insensitive import Even, Unseen
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.view import View

_FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
}


def _nonlinear(view: View) -> Rule:
    return Opaque(Reason.NONLINEAR)


def _homogeneous(view: View) -> Rule:
    """f(s·x) = s·f(x) for s >= 0."""
    return Pass(Sign.NONNEGATIVE, Reason.SHIFT_THROUGH_ACTIVATION)


def _magnitude(view: View) -> Rule:
    """|s·x| = |s|·|x|."""
    return Even(Pass(Sign.NONNEGATIVE, Reason.SHIFT_THROUGH_ACTIVATION))


def _sign(view: View) -> Rule:
    """Of each element."""
    return Unseen(lambda axis: False, Reason.SHIFT_REFUSED)


def _thresholded(view: View) -> Rule:
    """At zero it is a ReLU."""
    return _homogeneous(view) if view.attr("alpha", 1.0) == 0.0 else _nonlinear(view)


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


def _identity(view: View) -> Rule:
    return Pass()


def _reader(view: View) -> Rule:
    return ShapeOnly()


def _cast(view: View, like: int | None = None) -> Rule:
    """Between floating-point types only: rounding aside, a cast commutes with everything."""
    to = view.attr("to") if like is None else view.dtype(like)
    if view.dtype(0) in _FLOATS and to in _FLOATS:
        return Pass()
    return Opaque(Reason.UNSUPPORTED_OP, "not between floating-point types")


ROWS = (
    # the identity, rounding aside
    OpKind(("Identity",), _identity, same),
    OpKind(("Dropout",), _dropout, same),
    OpKind(("Cast",), _cast, same),
    OpKind(("CastLike",), partial(_cast, like=1), same),
    # positively homogeneous
    OpKind(("Relu", "LeakyRelu"), _homogeneous, same),
    OpKind(("Abs",), _magnitude, same),
    OpKind(("Sign",), _sign, same),
    OpKind(("ThresholdedRelu",), _thresholded, same),
    OpKind(("PRelu",), _homogeneous, broadcast),
    OpKind(("Clip",), _clip, same),
    # nonlinear: named, so that the reason says so
    OpKind(
        ("Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish",
         "Mish", "Gelu", "Erf", "Exp", "Log", "Sqrt", "Softplus", "Softsign",
         "Swish"),
        _nonlinear, same,
    ),
    OpKind(("Pow",), _nonlinear, broadcast),
    # reading the shape alone
    OpKind(("Shape", "Size"), _reader),
    OpKind(("EyeLike",), _reader, same),
    # not looked into
    OpKind(
        ("Reciprocal", "Floor", "Ceil", "Round", "Sin", "Cos", "Not", "IsNaN",
         "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "FakeQuant", "Quant",
         "QuickGelu", "FastGelu", "RandomNormalLike", "RandomUniformLike", "Bernoulli"),
        extents=same,
    ),
)  # fmt: skip
