"""Cases of the op table: what nodes say by saying nothing, and what older operator sets put otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from bnfuse.core.reasons import Reason
from tests.random_nets import Net, Shape, Value
from tests.table_cases import (
    ALL,
    MONOTONE,
    PADDED,
    POSITIVE_SCALE,
    SCALE,
    UNSUPPORTED,
    Table,
    ints,
    outcomes,
    refused,
    simple,
    to,
    with_space,
)

EDGES = Table()
case = EDGES.case

_AXIS = refused(Reason.AXIS)
_NOTHING = ints()
_ONE = with_space(1, 1)
_TOKENS: dict[str, Any] = {"shape": (2, 4, 7)}
_SAME_SHIFT = {**_AXIS, "shift": Reason.SHIFT_REFUSED, "both": Reason.SHIFT_REFUSED}


def _all(shape: Shape) -> Shape:
    return (1,) * len(shape)


def _channels(n: int) -> Any:
    return lambda shape: (shape[0], n, *shape[2:])


# --- reductions ----------------------------------------------------------------------------------------

for _op, _opset, _noop in (("ReduceMean", 18, ALL), ("ReduceSum", 13, ALL), ("ReduceMax", 18, MONOTONE)):
    _refused = _AXIS if _op != "ReduceMax" else {**_AXIS, "negative": Reason.NEGATIVE_SCALE}
    _sum = simple(_op, _NOTHING, shape=_all)
    case(f"{_op}, of no axes, which are all", _sum, _refused, ALL, opset=_opset)  # of one channel
    case(f"{_op}, of all", simple(_op, shape=_all), _refused, ALL, opset=_opset)
    _kept = simple(_op, _NOTHING, noop_with_empty_axes=1)
    case(f"{_op}, of no axes, which are none", _kept, _noop, _noop, opset=_opset)
case("ReduceSum, by its attribute", simple("ReduceSum", shape=_ONE, axes=[-1, 2]), ALL, ALL, opset=11)
case(
    "ReduceL2, by its attribute",
    simple("ReduceL2", shape=with_space(), axes=[2, 3], keepdims=0),
    SCALE,
    POSITIVE_SCALE,
    opset=17,
)

# --- padding -------------------------------------------------------------------------------------------

_PADS: dict[str, Any] = {"pads": [0, 0, 1, 0, 0, 0, 0, 2]}
_WIDER = with_space(8, 7)
case("Pad, by its attribute", simple("Pad", shape=_WIDER, **_PADS), PADDED, PADDED, opset=10)
case("Pad, twos by its attribute", simple("Pad", shape=_WIDER, value=2.0, **_PADS), UNSUPPORTED, UNSUPPORTED,
     opset=10)  # fmt: skip
case("Pad, of some axes", simple("Pad", ints(1, 0, 0, 2), None, ints(2, -1), shape=_WIDER), PADDED, PADDED)
_BOTH = {**_AXIS, "shift": Reason.ZERO_PADDING, "both": Reason.ZERO_PADDING}
case(
    "Pad, with other channels of zeros",
    simple("Pad", ints(0, -1, 0, 0, 0, 2, 0, 0), shape=_channels(5)),
    _BOTH,
    _BOTH,
)
case(
    "Pad, with channels and rows of zeros",
    simple("Pad", ints(0, 1, 1, 0, 0, 0, 0, 0), shape=to(2, 5, 8, 5)),
    _BOTH,
    _BOTH,
)
case("Pad, by nothing", simple("Pad", ints(*[0] * 8)), ALL, ALL)
case(
    "Pad, with fewer channels", simple("Pad", ints(0, -1, 0, 0, 0, 0, 0, 0), shape=_channels(3)), _AXIS, _AXIS
)

# --- what sees no scale --------------------------------------------------------------------------------

_ORDERED = outcomes(negative=Reason.NEGATIVE_SCALE, zero=Reason.ZERO_SCALE)
_ACROSS = {**_AXIS, "negative": Reason.NEGATIVE_SCALE, "zero": Reason.ZERO_SCALE}
case("Hardmax, of columns on", simple("Hardmax", axis=2), _ORDERED, UNSUPPORTED, opset=12)
case("Hardmax, of channels on", simple("Hardmax"), _ACROSS, UNSUPPORTED, opset=12)
case("Hardmax, of all", simple("Hardmax", axis=0), _ACROSS, UNSUPPORTED, opset=12)
case("Hardmax, of rows alone", simple("Hardmax", axis=0), _ORDERED, UNSUPPORTED, opset=13)
case("Hardmax, of the last axis", simple("Hardmax"), _ACROSS, UNSUPPORTED, opset=13, shape=(2, 4))
case("LpNormalization, of the last axis", simple("LpNormalization"),
     {**_ACROSS, "shift": Reason.SHIFT_REFUSED, "both": Reason.SHIFT_REFUSED}, UNSUPPORTED,
     shape=(2, 4))  # fmt: skip


def _found(net: Net, x: Value) -> Value:
    """ArgMax of rows, as no axis is told."""
    found = net.fresh()
    net.nodes.append(helper.make_node("ArgMax", [x.name], [found], name="found"))
    return net.node("Cast", [found], (1, *x.shape[1:]), to=net.element)


case("ArgMax, of rows", _found, _ORDERED, None)
case(
    "MaxPool, of one row", simple("MaxPool", shape=with_space(6, 5), kernel_shape=[2, 1]), MONOTONE, MONOTONE
)

# --- sampling ------------------------------------------------------------------------------------------

_DOUBLE = with_space(14, 10)
_SCALES = np.array([1, 1, 2, 2], np.float32)
case("Resize, opset 10", simple("Resize", _SCALES, mode="linear", shape=_DOUBLE), ALL, ALL, opset=10)
_BY_ATTRIBUTE = simple("Upsample", scales=[1.0, 1.0, 2.0, 2.0], shape=_DOUBLE)
case("Upsample, by its attribute", _BY_ATTRIBUTE, ALL, ALL, opset=8)
case(
    "Resize, of channels",
    simple("Resize", None, np.array([1, 2, 1, 1], np.float32), shape=_channels(8)),
    _AXIS,
    _AXIS,
)
_LONGER = simple("Resize", None, None, ints(2, 8, 7, 5), shape=_channels(8))
case("Resize, of channels to sizes", _LONGER, _AXIS, _AXIS)
_CROP: dict[str, Any] = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear"}
_REGION = np.array([0, 0, -0.2, -0.2, 1, 1, 1.2, 1.2])
_SHIFT_PADDED = outcomes(Reason.ZERO_PADDING)
case(
    "Resize, of a region of channels",
    simple("Resize", np.array([0, 0.1, 0, 0, 1, 1, 1, 1]), _SCALES, shape=_DOUBLE, **_CROP),
    _BOTH,
    _BOTH,
)
case(
    "Resize, of the whole as a region",
    simple(
        "Resize", np.array([0.0] * 4 + [1.0] * 4), _SCALES, shape=_DOUBLE, extrapolation_value=0.0, **_CROP
    ),
    _SHIFT_PADDED,
    _SHIFT_PADDED,
)
_PLACES = simple("GridSample", np.linspace(-1.4, 1.4, 72).reshape(2, 3, 6, 2), shape=with_space(3, 6))
case("GridSample, as nothing is told", _PLACES, _SHIFT_PADDED, _SHIFT_PADDED, opset=16)
_PARTS: dict[str, Any] = {"shape": (2, 4, 7, 1)}
case("DFT, of the last but one", simple("DFT", shape=with_space(7, 2)), SCALE, SCALE, **_PARTS, opset=20)
case("DFT, of channels by input", simple("DFT", None, np.array(1), shape=with_space(7, 2)), _SAME_SHIFT,
     _SAME_SHIFT, **_PARTS, opset=20)  # fmt: skip


def _regions(net: Net, x: Value) -> Value:
    rois, images = np.array([[0.3, 0.2, 3.7, 5.1], [1, 1, 9, 9]]), np.array([1, 0])
    return simple("RoiAlign", rois, images, shape=to(2, 4, 1, 1))(net, x)


case("RoiAlign, as nothing is told", _regions, SCALE, SCALE)
