"""Guards of what is affine, or ends in γ and β: norms, and arithmetic with a constant."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx

from bnfuse.core.reasons import Reason
from tests.guard_rows import Build, Given, Guards, behind, model, w, whole
from tests.onnx_graphs import Net, Shape

GUARDS = Guards()
stays, folds = GUARDS.stays, GUARDS.folds
_NO, _BAD, _OTHER = Reason.WEIGHT_NOT_CONSTANT, Reason.BAD_PARAMETERS, Reason.UNSUPPORTED_OP

# --- γ and β of a norm ---------------------------------------------------------------------------------

_LN, _FED = "LayerNormalization", {"z": (4,)}
_IMAGE: Shape = (2, 4, 6, 7)
folds("LayerNormalization", behind(_LN, "x", w(4), w(4), n=4))
folds("LayerNormalization, an axis from the front", behind(_LN, "x", w(4), w(4), n=4, axis=1))
stays("LayerNormalization, γ of run time", _NO, behind(_LN, "x", "z", n=4, more=_FED))
stays("LayerNormalization, β of run time", _NO, behind(_LN, "x", w(4), "z", n=4, more=_FED))
for _at in (1, 2):
    stays(
        f"LayerNormalization, input {_at} may be overridden",
        _NO,
        behind(_LN, "x", w(4), w(4), n=4, overridden=_at),
    )
stays("LayerNormalization, of two axes", _OTHER, behind(_LN, "x", w(6, 7), w(6, 7), n=4, x=_IMAGE, axis=2))
stays("LayerNormalization, γ of integers", _OTHER, behind(_LN, "x", whole(4), n=4), runs=False)
_WHOLE = behind(_LN, "x", w(4), whole(4), n=4)
stays("LayerNormalization, β of integers", _BAD, _WHOLE, says="bias of type int64", runs=False)
stays("LayerNormalization, β left out by name", _BAD, behind(_LN, "x", w(4), "", n=4), says="an empty name")
stays("LayerNormalization, β of one number", _BAD, behind(_LN, "x", w(4), w(1), n=4), runs=False)
stays("LayerNormalization, of two axes by one vector", _OTHER, behind(_LN, "x", w(7), n=4, x=_IMAGE, axis=2),
      runs=False)  # fmt: skip
folds("InstanceNormalization", behind("InstanceNormalization", "x", w(4), w(4), n=4, x=_IMAGE))
_GROUPS = behind("GroupNormalization", "x", w(2), w(2), n=4, x=_IMAGE, opset=18, num_groups=2)
stays("GroupNormalization, by group", _OTHER, _GROUPS)
_EACH = behind("GroupNormalization", "x", w(4), w(4), n=4, x=_IMAGE, opset=20, num_groups=4)
stays("GroupNormalization, by group, of one channel each", _OTHER, _EACH)
folds(
    "GroupNormalization", behind("GroupNormalization", "x", w(4), w(4), n=4, x=_IMAGE, opset=21, num_groups=2)
)


def _told(net: Net) -> onnx.ModelProto:
    """The mean is an output as well."""
    net.op(_LN, "x", net.weight(4, fan_in=4), out=["normal", "mean"])
    y = net.bn("normal", 4, out="y")
    made = model(net, y, (2, 4))
    made.graph.output.add().CopyFrom(onnx.helper.make_tensor_value_info("mean", net.element, [None, None]))
    return made


stays("LayerNormalization, whose mean is read", _OTHER, _told)


def _shifted(net: Net) -> onnx.ModelProto:
    """No bias, and one of four elements is shifted behind."""
    y = net.op(_LN, "x", net.weight(4, fan_in=1))
    zero, one = net.const(np.zeros(4)), net.const(np.ones(4))
    shift = net.const(np.array([0.0, 0.0, 1.5, 0.0]))
    return model(net, net.op("BatchNormalization", y, one, shift, zero, one), (2, 4))


folds("LayerNormalization, without β and shifted in part", _shifted)

# --- parameters of a BatchNormalization ----------------------------------------------------------------


def _bn(*given: Given, x: Shape = (2, 4), more: dict[str, Shape] | None = None, opset: int = 17) -> Build:
    """Gemm → BN of these parameters."""

    def build(net: Net) -> onnx.ModelProto:
        names = [each if isinstance(each, str) else each(net) for each in given]
        y = net.op("Gemm", "x", net.weight(4, 5, fan_in=4), net.vector(5))
        return model(net, net.op("BatchNormalization", y, *names, epsilon=1e-2), x, more, opset=opset)

    return build


def variance(*shape: int) -> Given:
    """Above zero."""
    return lambda net: net.const(np.exp(net.rng.standard_normal(shape)))


_AT_RUN_TIME = Reason.PARAMETER_NOT_CONSTANT
_FIVE: dict[str, Shape] = {"z": (5,)}
stays("BN, β of run time", _AT_RUN_TIME, _bn(w(5), "z", w(5), variance(5), more=_FIVE), says="(bias)")
stays("BN, μ of run time", _AT_RUN_TIME, _bn(w(5), w(5), "z", variance(5), more=_FIVE), says="(mean)")
stays(
    "BN, μ of integers", _BAD, _bn(w(5), w(5), whole(5), variance(5)), says="mean of type int64", runs=False
)
stays(
    "BN, μ of another size",
    _BAD,
    _bn(w(5), w(5), w(4), variance(5)),
    says="shapes (5,), (5,), (4,)",
    runs=False,
)
folds("BN, of one row each", _bn(w(1, 5), w(1, 5), w(1, 5), variance(1, 5), opset=9), runs=False)
_ROWS = _bn(w(1, 5), w(1, 5), w(1, 5), variance(1, 5), opset=8)
stays("BN, of one row each in opset 8", _BAD, _ROWS, says="statistics of 2 axes", runs=False)


def _spatial(net: Net, *, known: bool) -> onnx.ModelProto:
    """A number per channel where one per element is meant, of an input of four axes or of some."""
    y = net.op("Conv", "x", net.weight(5, 4, 1, 1, fan_in=4)) if known else net.op("Reshape", "x", "shape")
    made = model(net, net.bn(y, 5, spatial=0), (2, 4, 6, 7), rank=4, opset=8)
    if not known:
        made.graph.input.append(onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, ["R"]))
    return made


for _known in (True, False):
    _says = f"statistics of 1 axes and an input of {4 if _known else 'unknown'} axes"
    stays(f"BN, spatial=0, {_known}", _BAD, partial(_spatial, known=_known), says=_says, runs=False)

# --- arithmetic ----------------------------------------------------------------------------------------


def _by(op: str, *numbers: float, first: bool = False) -> Build:
    """Tanh → BN → the operator with these numbers → Tanh."""

    def build(net: Net) -> onnx.ModelProto:
        y = net.bn(net.op("Tanh", "x"), 4)
        constant = net.const(np.array(numbers))
        y = net.op(op, *((constant, y) if first else (y, constant)))
        return model(net, net.op("Tanh", y), (2, 4))

    return build


_INVALID = Reason.INVALID_STATISTICS
for _op in ("Mul", "Add", "Sub"):
    stays(f"{_op}, of infinity", _INVALID, _by(_op, 1.0, 2.0, np.inf, 1.0), runs=False)
    stays(
        f"{_op}, of what is no number, first",
        _INVALID,
        _by(_op, 1.0, np.nan, 2.0, 1.0, first=True),
        runs=False,
    )
stays("Div, by zero", _INVALID, _by("Div", 1.0, 2.0, 0.0, 1.0), runs=False)
stays("Div, of a constant", Reason.SHIFT_REFUSED, _by("Div", 1.0, 2.0, 3.0, 1.0, first=True), runs=False)
_STAYS = Reason.NONLINEAR  # the BN, which takes the other on
stays("Div, by numbers", _STAYS, _by("Div", 1.0, 2.0, -3.0, 0.5))
stays("Sub, from numbers", _STAYS, _by("Sub", 1.0, 2.0, -3.0, 0.5, first=True))
