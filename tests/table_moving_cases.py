"""Cases of the op table: activations, pooling, and what moves elements about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from bnfuse.core.reasons import Reason
from tests.random_nets import Net, Shape, Value
from tests.table_cases import (
    ALL,
    HOMOGENEOUS,
    INVERTIBLE,
    MONOTONE,
    PADDED,
    POSITIVE_SCALE,
    SCALE,
    UNSUPPORTED,
    Build,
    Table,
    by_channel,
    ints,
    outcomes,
    refused,
    simple,
    to,
    with_space,
)

MOVING = Table()
case = MOVING.case

_FLAT: dict[str, Any] = {"shape": (2, 4)}
_TOKENS: dict[str, Any] = {"shape": (2, 4, 7)}

# --- activations -------------------------------------------------------------------------------------

case("Relu", simple("Relu"), HOMOGENEOUS, HOMOGENEOUS)
case("LeakyRelu", simple("LeakyRelu", alpha=0.2), HOMOGENEOUS, HOMOGENEOUS)
case("PRelu", simple("PRelu", by_channel), HOMOGENEOUS, HOMOGENEOUS)
case("PRelu, one slope", simple("PRelu", np.array([-0.4])), HOMOGENEOUS, HOMOGENEOUS)
case("Abs", simple("Abs"), outcomes(Reason.SHIFT_THROUGH_ACTIVATION), HOMOGENEOUS)
case("ThresholdedRelu, at zero", simple("ThresholdedRelu", alpha=0.0), HOMOGENEOUS, HOMOGENEOUS)
case("Clip, at zero", simple("Clip", np.array(0.0)), HOMOGENEOUS, HOMOGENEOUS)
_NONLINEAR = refused(Reason.NONLINEAR)
case("Clip, at zero and six", simple("Clip", np.array(0.0), np.array(6.0)), _NONLINEAR, _NONLINEAR)
case("Pow", simple("Pow", np.array(2.0)), _NONLINEAR, _NONLINEAR)
case("Gelu", simple("Gelu"), _NONLINEAR, _NONLINEAR, opset=20)
case("Swish", simple("Swish"), _NONLINEAR, _NONLINEAR, opset=24)
for _op in ("Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish",
            "Mish", "Erf", "Exp", "Log", "Sqrt", "Softplus", "Softsign", "ThresholdedRelu"):  # fmt: skip
    case(_op, simple(_op), _NONLINEAR, _NONLINEAR)

# --- pooling -----------------------------------------------------------------------------------------

_WINDOW: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 1]}
_BORDER: dict[str, Any] = {**_WINDOW, "pads": [1, 0, 1, 1]}
_IN, _OUT = with_space(3, 4), with_space(4, 5)
case("MaxPool", simple("MaxPool", shape=_OUT, **_BORDER), MONOTONE, MONOTONE)
case("MaxPool, of one element", simple("MaxPool", shape=_OUT, kernel_shape=[1, 1], strides=[2, 1]), ALL, ALL)
case("AveragePool", simple("AveragePool", shape=_OUT, **_BORDER), ALL, ALL)
case(
    "AveragePool, counting its padding",
    simple("AveragePool", shape=_OUT, count_include_pad=1, **_BORDER),
    PADDED,
    PADDED,
)
case(
    "AveragePool, counting no padding",
    simple("AveragePool", shape=_IN, count_include_pad=1, **_WINDOW),
    ALL,
    ALL,
)
case("LpPool", simple("LpPool", shape=_IN, **_WINDOW), SCALE, POSITIVE_SCALE)
case("GlobalMaxPool", simple("GlobalMaxPool", shape=with_space(1, 1)), MONOTONE, MONOTONE)
case("GlobalAveragePool", simple("GlobalAveragePool", shape=with_space(1, 1)), ALL, ALL)
case("GlobalLpPool", simple("GlobalLpPool", shape=with_space(1, 1)), SCALE, POSITIVE_SCALE)
for _op, _how in (
    ("ReduceMean", ALL), ("ReduceMax", MONOTONE), ("ReduceMin", MONOTONE), ("ReduceSum", ALL),
    ("ReduceL1", POSITIVE_SCALE), ("ReduceL2", POSITIVE_SCALE),
):  # fmt: skip
    _before = SCALE if _how is POSITIVE_SCALE else _how
    case(f"{_op}, of space", simple(_op, ints(2, -1), shape=with_space(1, 1)), _before, _how)
    case(f"{_op}, to rank 2", simple(_op, ints(-1, 2), shape=with_space(), keepdims=0), _before, _how)

# Along the channels themselves: nothing that varies along them passes, and all of these do vary.
_ACROSS = simple("ReduceMean", ints(1), shape=lambda s: (s[0], *s[2:]), keepdims=0)
case("ReduceMean, of channels", _ACROSS, refused(Reason.AXIS), ALL, axis_in=2)

# --- moving ------------------------------------------------------------------------------------------

case("Identity", simple("Identity"), ALL, ALL)
case("Dropout", simple("Dropout"), ALL, ALL)
case("Cast, of its own type", simple("Cast", to=TensorProto.FLOAT), ALL, ALL)
case("CastLike", simple("CastLike", np.array(0.5)), ALL, ALL)
case(
    "Transpose",
    simple("Transpose", shape=lambda s: (s[0], s[3], s[1], s[2]), perm=[0, 3, 1, 2]),
    ALL,
    ALL,
    axis_in=3,
    axis_out=2,
)
case("Flatten", simple("Flatten", shape=to(2, 140)), ALL, refused(Reason.AXIS))
case("Flatten, of one element each", simple("Flatten", shape=to(2, 4)), ALL, ALL, shape=(2, 4, 1, 1))
case("Reshape, to rank 2", simple("Reshape", ints(0, -1), shape=to(2, 140)), ALL, refused(Reason.AXIS))
case("Reshape, of space", simple("Reshape", ints(-1, 4, 35), shape=to(2, 4, 35)), ALL, ALL)
case(
    "Reshape, of rows into channels",
    simple("Reshape", ints(2, 3, 8), shape=to(2, 3, 8)),
    refused(Reason.AXIS),
    ALL,
    shape=(2, 24),
    axis_out=2,
)
case("Squeeze", simple("Squeeze", ints(2), shape=to(2, 4, 5)), ALL, ALL, shape=(2, 4, 1, 5))
case(
    "Squeeze, of an axis before",
    simple("Squeeze", ints(-3), shape=to(2, 4, 5)),
    None,
    ALL,
    shape=(2, 1, 4, 5),
    axis_in=2,
)
case("Unsqueeze", simple("Unsqueeze", ints(-1), shape=lambda s: (*s, 1)), ALL, ALL, **_TOKENS)
case(
    "Unsqueeze, of an axis before",
    simple("Unsqueeze", ints(1), shape=to(2, 1, 4, 7)),
    ALL,
    None,
    **_TOKENS,
    axis_out=2,
)


def _pad(*values: Any, axis: int = 3, **attributes: Any) -> Build:
    numbers = [0] * 8
    numbers[axis], numbers[axis + 4] = 1, 2
    return simple(
        "Pad",
        ints(*numbers),
        *values,
        shape=lambda s: tuple(n + 3 * (a == axis) for a, n in enumerate(s)),
        **attributes,
    )


case("Pad, with zeros", _pad(), PADDED, PADDED)
case("Pad, with zeros as a constant", _pad(np.array(0.0)), PADDED, PADDED)
case("Pad, with ones", _pad(np.array(1.0)), UNSUPPORTED, UNSUPPORTED)
case("Pad, reflect", _pad(mode="reflect"), ALL, ALL)
case("Pad, edge", _pad(mode="edge"), ALL, ALL)
case("Pad, with channels of zeros", _pad(axis=1), ALL, outcomes(Reason.AXIS))
case("Pad, cropping", simple("Pad", ints(0, 0, -1, 0, 0, 0, -2, -1), shape=with_space(4, 4)), ALL, ALL)


def _slice(start: int, end: int, axis: int, step: int, shape: Callable[[Shape], Shape]) -> Build:
    return simple("Slice", ints(start), ints(end), ints(axis), ints(step), shape=shape)


case("Slice, of space", _slice(1, -1, 2, 2, with_space(3, 5)), ALL, ALL)
case("Slice, of channels", _slice(1, 9, 1, 1, lambda s: (s[0], 3, *s[2:])), ALL, ALL)
case("Slice, of channels backwards", _slice(-1, -9, 1, -2, lambda s: (s[0], 2, *s[2:])), ALL, ALL)
case(
    "Gather, of channels",
    simple("Gather", ints(2, -1, 0), shape=lambda s: (s[0], 3, *s[2:]), axis=1),
    ALL,
    ALL,
)
case(
    "Gather, of repeated channels",
    simple("Gather", ints(2, 2, 0), shape=lambda s: (s[0], 3, *s[2:]), axis=1),
    ALL,
    refused(Reason.AXIS),
)
case("Gather, of one column", simple("Gather", np.array(2), shape=with_space(7), axis=3), ALL, ALL)


def _embedding(net: Net, x: Value) -> Value:
    """Rows of a table, added to x: (N, C, T) + (N, T, C) turned."""
    ids = net.extra_input("ids", TensorProto.INT64, (2, x.shape[2]))
    y = net.node("Gather", [net.const(net.normal(7, x.channels)), ids], (2, x.shape[2], x.channels))
    y = net.node("Transpose", [y.name], x.shape, perm=[0, 2, 1])
    return net.node("Add", [x.name, y.name], x.shape)


case("Gather, of a table", _embedding, INVERTIBLE, ALL, **_TOKENS)
_DOUBLE = with_space(14, 10)
_SCALES = np.array([1, 1, 2, 2], np.float32)
case("Resize, nearest", simple("Resize", None, _SCALES, shape=_DOUBLE), ALL, ALL)
case(
    "Resize, linear to sizes",
    simple("Resize", None, None, ints(2, 4, 14, 10), mode="linear", shape=_DOUBLE),
    ALL,
    ALL,
)
case("Upsample", simple("Upsample", _SCALES, mode="linear", shape=_DOUBLE), ALL, ALL, opset=9)
for _mode in ("DCR", "CRD"):
    case(
        f"DepthToSpace, {_mode}",
        simple("DepthToSpace", shape=to(2, 3, 14, 10), blocksize=2, mode=_mode),
        refused(Reason.AXIS),
        ALL,
        shape=(2, 12, 7, 5),
    )
case(
    "SpaceToDepth",
    simple("SpaceToDepth", shape=to(2, 12, 4, 5), blocksize=2),
    ALL,
    refused(Reason.AXIS),
    shape=(2, 3, 8, 10),
)
