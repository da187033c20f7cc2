"""Guards of what works element by element: bounds, types, modes, and operands that do not lie alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from bnfuse.core.reasons import Reason
from tests.guard_rows import Build, Given, Guards, model
from tests.guard_rows_moving import between, one
from tests.onnx_graphs import Net, Shape

GUARDS = Guards()
stays, folds = GUARDS.stays, GUARDS.folds
_NONLINEAR, _THROUGH = Reason.NONLINEAR, Reason.SHIFT_THROUGH_ACTIVATION
_FLAT: dict[str, Shape] = {"z": ()}

# --- bounds --------------------------------------------------------------------------------------------

_MOST = float(np.finfo(np.float32).max)
_CLIPS: list[tuple[str, tuple[Given, ...], dict[str, Any], Reason]] = [
    ("a bound of run time", ("z",), {}, _NONLINEAR),
    ("an upper bound of run time", (one(0.0), "z"), {}, _NONLINEAR),
    ("below two", (one(2.0),), {}, _NONLINEAR),
    ("the largest number", (one(0.0), one(_MOST)), {}, _THROUGH),
    ("the smallest number", (one(-_MOST), one(0.0)), {}, _THROUGH),
    ("infinite bounds", (one(-np.inf), one(np.inf)), {}, _THROUGH),
    ("by its attributes", (), {"min": 0.0, "max": _MOST, "opset": 10}, _THROUGH),
    ("by one attribute", (), {"min": 0.0, "opset": 10}, _THROUGH),
    ("above by its attribute", (), {"max": 0.0, "opset": 10}, _THROUGH),
    ("of two by its attribute", (), {"max": 2.0, "opset": 10}, _NONLINEAR),
]
for _name, _more, _how, _expected in _CLIPS:
    stays(f"Clip, {_name}", _expected, between("Clip", *_more, fed=_FLAT if "z" in _more else None, **_how))
stays("Clip, a bound that is no number", _NONLINEAR, between("Clip", one(np.nan)), runs=False)
stays("Clip, at least the largest number", _NONLINEAR, between("Clip", one(_MOST)), runs=False)
stays("Clip, at most the smallest number", _NONLINEAR, between("Clip", "", one(-_MOST)), runs=False)
stays("ThresholdedRelu, as nothing is told", _NONLINEAR, between("ThresholdedRelu"))

# --- the identity, or not ------------------------------------------------------------------------------


def _told(trains: bool) -> Given:
    return lambda net: net.const(np.array(trains))


_OFF, _ON = (between("Dropout", one(0.5), _told(trains)) for trains in (False, True))
folds("Dropout, told that it does not train", _OFF)
stays("Dropout, that trains", Reason.TRAINING_MODE, _ON, runs=False)
_ASKED = between("Dropout", one(0.5), "cond", fed={"cond": ()})
stays("Dropout, told at run time", Reason.TRAINING_MODE, _ASKED, runs=False)
folds("Dropout, opset 6", between("Dropout", is_test=1, opset=6), runs=False)
stays("Dropout, opset 6, that trains", Reason.TRAINING_MODE, between("Dropout", opset=6), runs=False)
folds("Dropout, opset 7", between("Dropout", opset=7))


def _cast(*kinds: int, like: bool = False, opset: int = 17) -> Build:
    """Conv → one Cast after another, and back to float32 → BN."""

    def build(net: Net) -> onnx.ModelProto:
        y = net.conv("x", 3, 4, 1, 1)
        for kind in (*kinds, TensorProto.FLOAT):
            if like:
                net.initializers.append(onnx.helper.make_tensor(f"like{kind}", kind, [], [1]))
            y = net.op("CastLike", y, f"like{kind}") if like else net.op("Cast", y, to=kind)
        return model(net, net.bn(y, 4), (2, 3, 6, 7), opset=opset)

    return build


for _like in (False, True):
    _op = "CastLike" if _like else "Cast"
    folds(f"{_op}, to float64", _cast(TensorProto.DOUBLE, like=_like))
    stays(f"{_op}, to whole numbers", Reason.UNSUPPORTED_OP, _cast(TensorProto.INT32, like=_like),
          says="not between floating-point types")  # fmt: skip

# --- operands ------------------------------------------------------------------------------------------


def _with(op: str, z: Shape, *, first: bool = True, n: int = 4, opset: int = 17, **attributes: Any) -> Build:
    """Conv → the operator with Tanh(z) → BN."""

    def build(net: Net) -> onnx.ModelProto:
        two = [net.conv("x", 3, 4, 1, 1), net.op("Tanh", "z")]
        y = net.op(op, *(two if first else two[::-1]), **attributes)
        return model(net, net.bn(y, n), (2, 3, 6, 7), {"z": z}, opset=opset)

    return build


stays("Max, stretched", Reason.BROADCAST, _with("Max", (4, 1, 1)))
stays("Max, of fewer axes", Reason.BROADCAST, _with("Max", (6, 7), first=False))
stays("Max, of one row", Reason.BROADCAST, _with("Max", (1, 4, 6, 7)))
stays("Add, that says where its operand lies", Reason.BROADCAST,
      between("Add", "z", fed={"z": (4,)}, opset=6, broadcast=1, axis=1), runs=False)  # fmt: skip
folds(
    "Add, of equal tensors in opset 6",
    between("Sub", lambda net: net.conv("x", 3, 4, 1, 1), opset=6),
    runs=False,
)


def _halves(n: int, **attributes: Any) -> Build:
    """Conv → Split without sizes → BN on the first part, Tanh on the others."""

    def build(net: Net) -> onnx.ModelProto:
        outs = [f"part{k}" for k in range(attributes.get("num_outputs", 2))]
        net.op("Split", net.conv("x", 3, n, 1, 1), out=outs, axis=1, **attributes)
        first = -(-n // len(outs))
        parts = [net.op("Tanh", net.bn(outs[0], first)), *(net.op("Tanh", part) for part in outs[1:])]
        y = net.op("Concat", *parts, axis=1)
        return model(net, y, (2, 3, 6, 7), opset=18 if "num_outputs" in attributes else 17)

    return build


folds("Split, in halves", _halves(6))
folds("Split, in three, the last of fewer", _halves(7, num_outputs=3))
folds("Split, of rows unless told", between("Split", n=4))
