"""Rows of the op table: what works element by element."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass, Rule, ShapeOnly, Sign
from bnfuse.core.rules.clamp import Clamp
from bnfuse.formats.onnx.graph.extents.rules import broadcast, same
from bnfuse.formats.onnx.rows import curves
from bnfuse.formats.onnx.rows.insensitive import Even, Unseen
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.stored import ClampStore
from bnfuse.formats.onnx.rows.view import View

_FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
}
_HALVES = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
# The types that Max and Min know wherever they broadcast.
_BROADCASTING_MAX = 8  # the operator set from which on Max and Min broadcast
_LARGEST = 3e38  # the default bounds of old Clips are the largest float32


_NONLINEAR = Opaque(Reason.NONLINEAR)
# f(s·x) = s·f(x) for s >= 0.
_HOMOGENEOUS = Pass(Sign.NONNEGATIVE, Reason.SHIFT_THROUGH_ACTIVATION)


def _thresholded(view: View) -> Rule:
    """At zero it is a ReLU."""
    return _HOMOGENEOUS if view.attr("alpha", 1.0) == 0.0 else _NONLINEAR


def _clip(view: View) -> Rule:
    """A ReLU where the bounds are 0 and infinity."""
    bounds = [_bound(view, at, name) for at, name in ((1, "min"), (2, "max"))]
    if any(bound is None or np.isnan(bound) for bound in bounds):
        return _NONLINEAR
    low, high = bounds
    return _clamp(
        view, -np.inf if low is None else low, np.inf if high is None else high, single=view.opset >= 11
    )


def _bound(view: View, at: int, name: str) -> float | None:
    """A bound of a Clip, infinite where there is none; None where it is not known."""
    absent = np.inf if name == "max" else -np.inf
    given = view.attr(name) if view.opset < 11 else None
    if view.opset >= 11 and view.has_input(at) and (given := view.scalar(at)) is None:
        return None
    if given is None:
        return absent
    return absent if abs(given) >= _LARGEST and np.sign(given) == np.sign(absent) else float(given)


def _clamp(view: View, low: float, high: float, *, single: bool = False) -> Rule:
    """min(max(x, low), high), and what it is to whoever leaves the bounds where they are."""
    homogeneous = low in (0.0, -np.inf) and high in (0.0, np.inf)
    unmoved = _HOMOGENEOUS if homogeneous else _NONLINEAR
    dtype = view.float_type(0)
    if dtype is None or low > high or view.opset < _BROADCASTING_MAX:
        return unmoved
    return Clamp(low, high, unmoved, dtype, single, view.rank(0) is not None)


def _dropout(view: View) -> Rule:
    """The identity at inference."""
    if view.opset < 7 and not view.attr("is_test", 0):
        return Opaque(Reason.TRAINING_MODE)
    if view.has_input(2) and not (view.is_const(2) and view.scalar(2) == 0):
        return Opaque(Reason.TRAINING_MODE)
    return Pass()


def _cast(view: View, like: int | None = None) -> Rule:
    """Between floating-point types only: rounding aside, a cast commutes with everything."""
    has, to = view.dtype(0), view.attr("to") if like is None else view.dtype(like)
    if has in _FLOATS and to in _FLOATS:
        return Pass(halves=has not in _HALVES and to in _HALVES)
    return Opaque(Reason.UNSUPPORTED_OP, "not between floating-point types")


ROWS = (
    # the identity, rounding aside
    OpKind(("Identity",), Pass(), same, constant=curves.same),
    OpKind(("Dropout",), _dropout, same),
    OpKind(("Cast",), _cast, same),
    OpKind(("CastLike",), partial(_cast, like=1), same),
    # positively homogeneous
    OpKind(("LeakyRelu",), _HOMOGENEOUS, same, constant=curves.same),
    OpKind(("Abs",), Even(_HOMOGENEOUS), same, constant=curves.same),
    OpKind(("Sign",), Unseen(lambda axis: False, Reason.SHIFT_REFUSED), same),
    OpKind(("ThresholdedRelu",), _thresholded, same),
    OpKind(("PRelu",), _HOMOGENEOUS, broadcast),
    # clamps
    OpKind(("Relu",), lambda view: _clamp(view, 0.0, np.inf), same, ClampStore(), constant=curves.same),
    OpKind(("Clip",), _clip, same, ClampStore()),
    # nonlinear: named, so that the reason says so
    OpKind(
        ("Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish",
         "Mish", "Gelu", "Erf", "Exp", "Log", "Sqrt", "Softplus", "Softsign",
         "Swish"),
        _NONLINEAR, same, constant=curves.curve,
    ),
    OpKind(("Pow",), _NONLINEAR, broadcast),
    # reading the shape alone
    OpKind(("Shape", "Size"), ShapeOnly()),
    OpKind(("EyeLike",), ShapeOnly(), same),
    # not looked into
    OpKind(
        ("Reciprocal", "Floor", "Ceil", "Round", "Sin", "Cos", "Not", "IsNaN",
         "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "FakeQuant", "Quant",
         "QuickGelu", "FastGelu", "RandomNormalLike", "RandomUniformLike", "Bernoulli"),
        extents=same,
    ),
)  # fmt: skip
