"""Cases of the op table: what chooses and repeats elements, and what samples, transforms or adds them up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from bnfuse.core.reasons import Reason
from tests.random_nets import Net, Shape, Value
from tests.table_cases import (
    ALL,
    POSITIVE_SCALE,
    SCALE,
    UNSUPPORTED,
    Build,
    Table,
    ints,
    outcomes,
    refused,
    simple,
    to,
    with_space,
)

CHOOSING = Table()
case = CHOOSING.case

_AXIS = refused(Reason.AXIS)
_TOKENS: dict[str, Any] = {"shape": (2, 4, 7)}
SHIFT_PADDED = outcomes(Reason.ZERO_PADDING)

# --- choosing ----------------------------------------------------------------------------------------


def _channels(n: int) -> Callable[[Shape], Shape]:
    return lambda shape: (shape[0], n, *shape[2:])


case("Gather, of repeated columns", simple("Gather", ints(2, 2, 0), shape=with_space(7, 3), axis=3), ALL, ALL)
case(
    "Gather, by a matrix of indices",
    simple("Gather", np.array([[2, 2, 0], [1, -1, 4]]), shape=with_space(7, 2, 3), axis=-1),
    ALL,
    ALL,
)


def _picked(op: str, shape: Shape, *ids: int, **attributes: Any) -> Build:
    """The operator with indices that are an input of the model: numbers from 0 to 6."""
    return lambda net, x: net.node(
        op, [x.name, net.extra_input("ids", TensorProto.INT64, ids)], shape, **attributes
    )


case("Gather, at run time", _picked("Gather", (2, 4, 2, 3, 5), 2, 3, axis=2), ALL, ALL)
case("Gather, of channels at run time", _picked("Gather", (2, 3, 7, 5), 3, axis=1), _AXIS, _AXIS)
_EVERY = (2, 4, 7, 5)
case("GatherElements", _picked("GatherElements", _EVERY, *_EVERY, axis=2), ALL, ALL)
case("GatherElements, of fewer", _picked("GatherElements", (2, 3, 7, 5), 2, 3, 7, 5, axis=2), _AXIS, _AXIS)
case("GatherND", _picked("GatherND", (2, 4, 3, 5), 2, 4, 3, 1, batch_dims=2), ALL, ALL)
case(
    "GatherND, of rows with their channels",
    simple("GatherND", np.array([[1], [0], [1]]), shape=to(3, 4, 7)),
    ALL,
    ALL,
    **_TOKENS,
)
_SOME = np.array([True, False, True, True, False, True, False])
case("Compress", simple("Compress", _SOME, shape=with_space(4, 5), axis=2), ALL, ALL)
case("Compress, of channels", simple("Compress", _SOME[:4], shape=_channels(3), axis=1), _AXIS, _AXIS)
case("Tile", simple("Tile", ints(1, 1, 3, 2), shape=with_space(21, 10)), ALL, ALL)
case("Tile, of channels", simple("Tile", ints(1, 2, 1, 1), shape=_channels(8)), ALL, _AXIS)


def _copies_together(net: Net, x: Value) -> Value:
    """Channels twice, and each element from one of the copies: what it is held as, both copies are."""
    c = x.channels
    y = net.node("Tile", [x.name, net.ints(1, 2, 1, 1)], (x.shape[0], 2 * c, *x.space))
    net.node("Split", [y.name, net.ints(c, c)], x.shape, x.shape, axis=1)
    a, b = net.last(2)
    mask = net.const(net.normal(*x.space) > 0)
    return net.node("Where", [mask, a.name, b.name], x.shape)


case("Tile, of channels that are alike", _copies_together, ALL, ALL)
case("Expand", simple("Expand", ints(1, 6, 5), shape=to(2, 4, 6, 5)), ALL, ALL, shape=(2, 4, 1, 5))
case("Expand, by a new axis", simple("Expand", ints(3, 2, 1, 7), shape=to(3, 2, 4, 7)), ALL, None, **_TOKENS,
     axis_out=2)  # fmt: skip


def _expanded_at_run_time(net: Net, x: Value) -> Value:
    """Rows broadcast to the number of ids."""
    ids = net.extra_input("ids", TensorProto.INT64, (2, 6))
    told, wanted = net.fresh(), net.fresh()
    net.nodes.append(helper.make_node("Shape", [ids], [told], name="told", start=1))
    ones = net.ints(1)
    net.nodes.append(helper.make_node("Concat", [ones, told, ones], [wanted], name="wanted", axis=0))
    return net.node("Expand", [x.name, wanted], (2, 4, 6, 5))


case("Expand, at run time", _expanded_at_run_time, ALL, ALL, shape=(2, 4, 1, 5))
_LENGTHS = ints(2, 1, 2, 1)
case("ReverseSequence", simple("ReverseSequence", _LENGTHS, time_axis=0, batch_axis=1), ALL, ALL)


def _top(axis: int, shape: Callable[[Shape], Shape], told: bool, **attributes: Any) -> Build:
    """The largest elements; where they were found is an output too, if ``told``."""

    def build(net: Net, x: Value) -> Value:
        y = net.node("TopK", [x.name, net.ints(2)], shape(x.shape), axis=axis, **attributes)
        found = net.fresh()
        net.nodes[-1].output.append(found)
        if told:
            wide = net.fresh()
            net.nodes.append(helper.make_node("Cast", [found], [wide], name="wide", to=net.element))
            net.values.append(Value(wide, shape(x.shape)))
        return y

    return build


_ORDERED = outcomes(negative=Reason.NEGATIVE_SCALE, zero=Reason.ZERO_SCALE)
case("TopK", _top(2, with_space(2, 5), True), _ORDERED, _ORDERED)
case("TopK, the smallest", _top(-1, with_space(7, 2), True, largest=0), _ORDERED, _ORDERED)
_ORDERED_ACROSS = {**_AXIS, "negative": Reason.NEGATIVE_SCALE, "zero": Reason.ZERO_SCALE}
case("TopK, of channels", _top(1, _channels(2), False), _ORDERED_ACROSS, _ORDERED_ACROSS)


def _max_and_where(net: Net, x: Value) -> Value:
    """MaxPool, and where each maximum lies as an output."""
    y = net.node("MaxPool", [x.name], (*x.shape[:2], 6, 4), kernel_shape=[2, 2])
    found, wide = net.fresh(), net.fresh()
    net.nodes[-1].output.append(found)
    net.nodes.append(helper.make_node("Cast", [found], [wide], name="wide", to=net.element))
    net.values.append(Value(wide, y.shape))
    return y


case("MaxPool, telling where", _max_and_where, _ORDERED, _ORDERED)
case("CenterCropPad", simple("CenterCropPad", ints(5, 5), shape=with_space(5, 5), axes=[2, 3]), ALL, ALL)
case(
    "CenterCropPad, with zeros around",
    simple("CenterCropPad", ints(9), shape=with_space(9, 5), axes=[-2]),
    SHIFT_PADDED,
    SHIFT_PADDED,
)

# --- sampling ----------------------------------------------------------------------------------------

_SCALES = np.array([1, 1, 2, 1.6], np.float32)
_LARGER = with_space(14, 8)
for _name, _more in (
    ("cubic", {}),
    ("cubic, excluding what is outside", {"exclude_outside": 1, "cubic_coeff_a": -0.5}),
    ("cubic, aligned", {"coordinate_transformation_mode": "align_corners"}),
    ("cubic, antialiased", {"antialias": 1}),
    ("linear, antialiased", {"antialias": 1, "mode": "linear"}),
):
    _how: dict[str, Any] = {"mode": "cubic", **_more}
    _build = simple("Resize", None, _SCALES, shape=_LARGER, **_how)
    case(f"Resize, {_name}", _build, ALL, ALL)
for _mode in ("linear", "cubic"):
    _smaller = simple("Resize", None, None, ints(2, 4, 4, 3), shape=with_space(4, 3), mode=_mode, antialias=1)
    case(f"Resize, {_mode}, antialiased to less", _smaller, ALL, ALL)
case(
    "Resize, of two axes",
    simple("Resize", None, _SCALES[2:], shape=_LARGER, mode="linear", axes=[2, -1]),
    ALL,
    ALL,
)
_KEEPING: dict[str, Any] = {"keep_aspect_ratio_policy": "not_larger", "mode": "linear"}
case(
    "Resize, keeping its proportions",
    simple("Resize", None, None, ints(14, 11), shape=with_space(14, 10), axes=[2, 3], **_KEEPING),
    UNSUPPORTED,
    UNSUPPORTED,
)
_REGION = np.array([0, 0, -0.2, -0.2, 1, 1, 1.2, 1.2])
_CROP: dict[str, Any] = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear"}
case(
    "Resize, with zeros beside the image",
    simple("Resize", _REGION, _SCALES, shape=_LARGER, **_CROP),
    SHIFT_PADDED,
    SHIFT_PADDED,
)
case(
    "Resize, with a seven beside the image",
    simple("Resize", _REGION, _SCALES, shape=_LARGER, extrapolation_value=7.0, **_CROP),
    UNSUPPORTED,
    UNSUPPORTED,
)


def _regions(mode: str) -> Build:
    """Three regions of two images, one of which leaves its image."""
    rois = np.array([[0.3, 0.2, 3.7, 5.1], [-3, -3, 2.2, 2.4], [1, 1, 9, 9]])
    images = np.array([1, 0, 1])
    return simple("RoiAlign", rois, images, shape=to(3, 4, 2, 3), output_height=2, output_width=3, mode=mode)


case("RoiAlign", _regions("avg"), SCALE, SCALE)
case("RoiAlign, the maximum", _regions("max"), POSITIVE_SCALE, POSITIVE_SCALE)
_BINS = np.array([[1.0, 0, 0, 4, 3], [0, 1, 1, 2, 6], [1, 5, 7, 9, 9]])
case(
    "MaxRoiPool",
    simple("MaxRoiPool", _BINS, shape=to(3, 4, 2, 3), pooled_shape=[2, 3]),
    POSITIVE_SCALE,
    POSITIVE_SCALE,
)


def _grid(net: Net, x: Value) -> np.ndarray:
    """Places, some of them outside."""
    return net.rng.uniform(-1.4, 1.4, (x.shape[0], 3, 6, 2))


for _mode in ("linear", "nearest", "cubic"):
    for _padding, _expected in (("zeros", SHIFT_PADDED), ("border", ALL), ("reflection", ALL)):
        _build = simple("GridSample", _grid, shape=with_space(3, 6), mode=_mode, padding_mode=_padding)
        case(f"GridSample, {_mode} {_padding}", _build, _expected, _expected, opset=20)


def _unpooled(net: Net, x: Value) -> Value:
    """Each element at a place of its own."""
    total = int(np.prod(x.shape[:2])) * 48
    places = np.sort(net.rng.choice(48, 12, replace=False))
    indices = (np.arange(0, total, 48)[:, None] + places).reshape(x.shape)
    inputs = [x.name, net.const(indices), net.ints(*x.shape[:2], 6, 8)]
    return net.node("MaxUnpool", inputs, (*x.shape[:2], 6, 8), kernel_shape=[2, 2], strides=[2, 2])


case("MaxUnpool", _unpooled, SCALE, SCALE, shape=(2, 5, 3, 4))
_ACROSS = {**_AXIS, "shift": Reason.SHIFT_REFUSED, "both": Reason.SHIFT_REFUSED}
case("CumSum", simple("CumSum", np.array(-2), exclusive=1), SCALE, SCALE)
case("CumSum, of channels", simple("CumSum", np.array(1)), _ACROSS, _ACROSS)
case("Trilu", simple("Trilu", upper=0), SCALE, SCALE)
_PARTS: dict[str, Any] = {"shape": (2, 4, 7, 1)}
case("DFT", simple("DFT", None, np.array(2), shape=with_space(7, 2)), SCALE, SCALE, **_PARTS, opset=20)
case("DFT, by its attribute", simple("DFT", shape=with_space(7, 2), axis=2), SCALE, SCALE, **_PARTS, opset=17)
case("DFT, of channels", simple("DFT", shape=with_space(7, 2)), _ACROSS, _ACROSS, **_PARTS, opset=17)
_FRAMES = simple("STFT", np.array(3), None, np.array(4), shape=to(2, 2, 3, 2))
case("STFT", _FRAMES, _ACROSS, _ACROSS, shape=(2, 7, 1))


def _angles(net: Net, x: Value) -> np.ndarray:
    return net.normal(x.shape[0], x.shape[2], x.shape[3] // 2)


case(
    "RotaryEmbedding", simple("RotaryEmbedding", _angles, _angles), SCALE, SCALE, shape=(2, 4, 7, 6), opset=23
)

# --- what does not see a scale -----------------------------------------------------------------------


def _arg(op: str, axis: int, shape: Callable[[Shape], Shape]) -> Build:
    """Where the largest is, as numbers that can be read on."""

    def build(net: Net, x: Value) -> Value:
        found = net.fresh()
        net.nodes.append(helper.make_node(op, [x.name], [found], name="found", axis=axis, keepdims=0))
        return net.node("Cast", [found], shape(x.shape), to=net.element)

    return build


_SEES_SHIFTS = {**_ORDERED, "shift": Reason.SHIFT_REFUSED, "both": Reason.SHIFT_REFUSED}
case("ArgMax", _arg("ArgMax", 2, with_space(5)), _ORDERED, None)
case("ArgMin", _arg("ArgMin", -1, with_space(7)), _ORDERED, None)
case("ArgMax, of channels", _arg("ArgMax", 1, lambda s: (s[0], *s[2:])), _ORDERED_ACROSS, None)
case("Hardmax", simple("Hardmax"), _ORDERED, UNSUPPORTED)
case("LpNormalization", simple("LpNormalization", p=1, axis=2), _SEES_SHIFTS, UNSUPPORTED)
case("LpNormalization, of channels", simple("LpNormalization", axis=1), {**_ORDERED_ACROSS,
     "shift": Reason.SHIFT_REFUSED, "both": Reason.SHIFT_REFUSED}, UNSUPPORTED)  # fmt: skip
case("Sign", simple("Sign"), _SEES_SHIFTS, UNSUPPORTED)
case("EyeLike", simple("EyeLike", k=1), ALL, UNSUPPORTED, shape=(2, 4))
