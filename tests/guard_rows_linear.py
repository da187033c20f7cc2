"""Guards of linear operators: weights and biases that a row does not take on, and the last that it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from bnfuse.core.reasons import Reason
from tests.guard_rows import Build, Given, Guards, behind, model, w, whole
from tests.onnx_graphs import Net, Shape

GUARDS = Guards()
stays, folds = GUARDS.stays, GUARDS.folds

# --- weights and biases that are none ------------------------------------------------------------------

_X: Shape = (2, 4, 6, 7)
_NO, _BAD = Reason.WEIGHT_NOT_CONSTANT, Reason.BAD_PARAMETERS
_RUNS: dict[str, Shape] = {"z": (5, 4, 1, 1)}
stays(
    "Conv, a weight of run time", _NO, behind("Conv", "x", "z", x=_X, more=_RUNS), says="is not a constant;"
)
stays(
    "Conv, a weight that is not worked out",
    _NO,
    behind("Conv", "x", lambda net: net.op("Tanh", w(5, 4, 1, 1)(net)), x=_X),
    says="it follows from constants, but is not worked out",
)
stays("Conv, a bias of run time", _NO, behind("Conv", "x", w(5, 4, 1, 1), "b", x=_X, more={"b": (5,)}))
stays("Conv, integers", Reason.UNSUPPORTED_OP, behind("Conv", "x", whole(5, 4, 1, 1), x=_X), runs=False)
for _shape in ((4,), (5, 1), (2, 5)):
    stays(f"Conv, a bias {_shape}", _BAD, behind("Conv", "x", w(5, 4, 1, 1), w(*_shape), x=_X), runs=False)

# --- Gemm ----------------------------------------------------------------------------------------------

stays("Gemm, a weight of three axes", _BAD, behind("Gemm", "x", w(4, 5, 1)), runs=False)
stays("Gemm, a C that a caller may override", _NO, behind("Gemm", "x", w(4, 5), w(5), overridden=2))
stays("Gemm, a C of other columns", _BAD, behind("Gemm", "x", w(4, 5), w(2, 4)), runs=False)
stays("Gemm, a C of three axes", _BAD, behind("Gemm", "x", w(4, 5), w(2, 1, 1)), runs=False)
stays("Gemm, a C of integers", Reason.UNSUPPORTED_OP, behind("Gemm", "x", w(4, 5), whole(2, 5)), runs=False)
# A column of 8192 becomes a matrix of so many rows: 2²² elements at most.
_COLUMN: dict[str, Any] = {"x": (8192, 4), "n": 513}
stays(
    "Gemm, a column that becomes large",
    _BAD,
    behind("Gemm", "x", w(4, 513), w(8192, 1), **_COLUMN),
    runs=False,
)

# --- MatMul --------------------------------------------------------------------------------------------


def _added(net: Net, **attributes: Any) -> onnx.ModelProto:
    """MatMul → Add of a constant → BN over the last axis, as it is the only one."""
    y = net.op("Add", net.op("MatMul", "x", net.weight(4, 5, fan_in=4)), net.vector(5), **attributes)
    return net.build({"x": (2, 4)}, net.bn(y, 5, is_test=1), opset=6)


stays("MatMul, a number", _BAD, behind("MatMul", "x", w()), runs=False)
stays("MatMul, a weight of run time", _NO, behind("MatMul", "x", "z", more={"z": (4, 5)}))
stays(
    "MatMul, an old Add that says where the bias lies",
    Reason.BROADCAST,
    lambda net: _added(net, broadcast=1, axis=1),
    says="a bias may lie along any axis",
    runs=False,
)

# --- Einsum --------------------------------------------------------------------------------------------

_OTHER = Reason.UNSUPPORTED_OP
for _equation, _x, _w, _n in (
    ("nc,cd", (2, 4), (4, 5), 2),
    ("...c,cd->...d", (2, 4), (4, 5), 5),
    ("nc,cde->nde", (2, 4), (4, 5, 3), 5),
    ("nct,cd->nt", (2, 4, 6), (4, 5), 6),
    ("nct,cd->ncdt", (2, 4, 6), (4, 5), 4),
    ("nct,cd->nd", (2, 4, 6), (4, 5), 5),
    ("nnc,cd->nd", (2, 2, 4), (4, 5), 5),
    ("nc,de->ncde", (2, 4), (5, 3), 4),
    ("nc,de->nde", (2, 4), (5, 3), 5),
    ("nc,cc->nc", (2, 4), (4, 4), 4),
):
    stays(f"Einsum, {_equation}", _OTHER, behind("Einsum", "x", w(*_w), n=_n, x=_x, equation=_equation))
stays("Einsum, of three", _OTHER, behind("Einsum", "x", w(4, 5), w(5), equation="nc,cd,d->nd"))
stays("Einsum, of run time", _OTHER, behind("Einsum", "x", "z", more={"z": (4, 5)}, equation="nc,cd->nd"))
stays("Einsum, integers", _OTHER, behind("Einsum", "x", whole(4, 5), equation="nc,cd->nd"), runs=False)
stays("Einsum, a weight of one axis", _OTHER, behind("Einsum", "x", w(4), equation="nc,cd->nd"), runs=False)
folds(
    "Einsum, the new letter first",
    behind("Einsum", "x", w(5, 4), x=(2, 3, 4), n=5, equation=" nac , dc -> nda"),
)

# --- recurrent -----------------------------------------------------------------------------------------


def _recurrent(*given: Given, x: Shape = (3, 4, 2), more: dict[str, Shape] | None = None) -> Build:
    """BN over the 4 features of x → RNN of 3 units."""

    def build(net: Net) -> onnx.ModelProto:
        names = [each if isinstance(each, str) else each(net) for each in given]
        y = net.op("Transpose", net.bn("x", 4), perm=[2, 0, 1, *range(3, len(x))])
        y = net.op("RNN", y, *names, hidden_size=3)
        return net.build({"x": x, **(more or {})}, y, ranks={y: 4})

    return build


_W, _R = w(1, 3, 4), w(1, 3, 3)
stays("RNN, a weight of run time", _NO, _recurrent("z", _R, more={"z": (1, 3, 4)}))
stays("RNN, a bias of run time", _NO, _recurrent(_W, _R, "z", more={"z": (1, 6)}))
stays("RNN, a weight of two axes", _NO, _recurrent(w(3, 4), _R), runs=False)
stays("RNN, half a bias", _BAD, _recurrent(_W, _R, w(1, 3)), says="bias of shape (1, 3)", runs=False)
stays("RNN, a bias of integers", _BAD, _recurrent(_W, _R, whole(1, 6)), runs=False)
stays("RNN, of a value of four axes", _BAD, _recurrent(_W, _R, x=(3, 4, 2, 1)), runs=False)


def _behind_rnn(net: Net) -> onnx.ModelProto:
    """BN over a batch of as many as there are units."""
    y = net.op("RNN", "x", _W(net), _R(net), hidden_size=3)
    y = net.op("Transpose", y, perm=[0, 2, 1, 3])
    return model(net, net.bn(y, 3), (2, 3, 4), rank=4)


stays("RNN, behind it", _OTHER, _behind_rnn)

# --- FusedMatMul ---------------------------------------------------------------------------------------

_FUSED = "com.microsoft.FusedMatMul"
_STACK: Shape = (3, 2, 4)
for _side in ("A", "B"):
    _how: dict[str, Any] = {f"transBatch{_side}": 1}
    _turned = behind(_FUSED, "x", w(4, 5), x=_STACK, n=2, **_how)
    stays(
        f"FusedMatMul, batches of {_side} turned", _OTHER, _turned, says="its batch axes change", runs=False
    )
stays("FusedMatMul, that counts nothing", _BAD, behind(_FUSED, "x", w(4, 5), alpha=0.0))
stays("FusedMatMul, a weight of three axes", _BAD, behind(_FUSED, "x", w(1, 4, 5)), runs=False)
stays("FusedMatMul, a weight of run time", _NO, behind(_FUSED, "x", "z", more={"z": (4, 5)}))
folds("FusedMatMul, a tenth", behind(_FUSED, "x", w(4, 5), alpha=0.1))


def _unknown(net: Net) -> onnx.ModelProto:
    """Of as many axes as the runtime says."""
    wanted = net.op("Cast", "z", to=onnx.TensorProto.INT64)
    y = net.op(
        "FusedMatMul", net.op("Reshape", "x", wanted), net.weight(4, 5, fan_in=4), domain="com.microsoft"
    )
    return model(net, net.bn(y, 5), (2, 4), {"z": ("R",)})


def _row(net: Net) -> onnx.ModelProto:
    """Of one axis."""
    y = net.op("Squeeze", net.bn("x", 4), net.const(np.array([0])))
    y = net.op("FusedMatMul", y, net.weight(4, 5, fan_in=4), domain="com.microsoft")
    return model(net, y, (1, 4), rank=1)


stays("FusedMatMul, of unknown rank", Reason.SHAPE_UNKNOWN, _unknown, runs=False)
stays("FusedMatMul, of a row", Reason.SHAPE_UNKNOWN, _row)

# --- what has no row -----------------------------------------------------------------------------------

_INVERSE = behind("com.microsoft.Inverse", "x", x=(4, 4), n=4)
stays("an operator of another domain", _OTHER, _INVERSE, says="(operator of the domain com.microsoft)")
stays("an operator without a row", _OTHER, behind("Acos", "x", n=4), says="scale or shift;", runs=False)
stays("an operator that is not looked into", _OTHER, behind("Floor", "x", n=4), says="scale or shift;")
