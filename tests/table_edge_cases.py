"""Cases of the op table: what nodes say by saying nothing, and what older operator sets put otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

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

_KEPT = simple("ReduceMean", ints(1), shape=_channels(1))
case("ReduceMean, of channels, which stay as one", _KEPT, _AXIS, ALL)
_ROWS: dict[str, Any] = {"shape": (3, 4, 7, 5)}
for _op in ("ReduceMean", "ReduceSum"):
    _first = simple(_op, ints(0), shape=lambda s: (1, *s[1:]))
    case(f"{_op}, of rows", _first, ALL, ALL, **_ROWS)
    case(f"{_op}, as told without an input", simple(_op, noop_with_empty_axes=1), ALL, ALL)


def _over(op: str, shape: Any, **attributes: Any) -> Any:
    """The operator over what were channels before."""

    def build(net: Net, x: Value) -> Value:
        sizes = (x.shape[0], x.shape[2], x.shape[1], x.shape[3])
        y = net.node("Transpose", [x.name], sizes, perm=[0, 2, 1, 3])
        return net.node(op, [y.name], shape(sizes), **attributes)

    return build


_SMALLER = lambda s: (*s[:2], s[2] - 1, s[3])  # noqa: E731
_NEVER_NEGATIVE = {**_AXIS, "negative": Reason.NEGATIVE_SCALE}
for _op, _outcome in (("MaxPool", _NEVER_NEGATIVE), ("AveragePool", _AXIS), ("LpPool", _SAME_SHIFT)):
    case(f"{_op}, over channels", _over(_op, _SMALLER, kernel_shape=[2, 1]), _outcome, None)
    case(f"Global{_op}, over channels", _over(f"Global{_op}", _ONE), _outcome, None)

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
case(
    "Pad, with fewer at the end",
    simple("Pad", ints(0, 0, 0, 0, 0, -1, 0, 0), shape=_channels(3)),
    _AXIS,
    _AXIS,
)
_ABOVE = simple("Pad", ints(0, 0, 0, 0, 0, 2, 0, 0), shape=_channels(6))
case("Pad, with channels of zeros at the end", _ABOVE, ALL, outcomes(Reason.AXIS))
_ONES = simple("Pad", ints(0, 0, 1, 0, 0, 0, 0, 2), np.array(1.0), shape=_WIDER)
case("Pad, with ones, opset 11", _ONES, UNSUPPORTED, UNSUPPORTED, opset=11)
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
_SEES_SHIFTS = {**_ORDERED, "shift": Reason.SHIFT_REFUSED, "both": Reason.SHIFT_REFUSED}
case("LpNormalization, of the last axis", simple("LpNormalization"), _SEES_SHIFTS, UNSUPPORTED)


def _found(net: Net, x: Value) -> Value:
    """ArgMax of rows, as no axis is told."""
    found = net.fresh()
    net.nodes.append(helper.make_node("ArgMax", [x.name], [found], name="found"))
    return net.node("Cast", [found], (1, *x.shape[1:]), to=net.element)


for _opset in (12, 18):
    case(f"ArgMax, of rows, opset {_opset}", _found, _ORDERED, None, opset=_opset)
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
_BESIDE = simple("Resize", None, _SCALES, shape=_DOUBLE, mode="linear", extrapolation_value=7.0)
case("Resize, with a seven that is nowhere", _BESIDE, ALL, ALL)
_PART = simple("Resize", np.array([0, -0.2, 1, 1.2]), _SCALES[2:], shape=_DOUBLE, axes=[2, 3], **_CROP)
case("Resize, of two axes, of a region", _PART, _SHIFT_PADDED, _SHIFT_PADDED)
_PART = simple("Resize", np.array([0.1, 0, 1, 1]), _SCALES[:2], None, axes=[1, 2], **_CROP)
case("Resize, of two axes, of a region of channels", _PART, _BOTH, _BOTH)
case("GridSample, as nothing is told", _PLACES, _SHIFT_PADDED, _SHIFT_PADDED, opset=16)
_PARTS: dict[str, Any] = {"shape": (2, 4, 7, 1)}
case("DFT, of the last but one", simple("DFT", shape=with_space(7, 2)), SCALE, SCALE, **_PARTS, opset=20)
case("DFT, of channels by input", simple("DFT", None, np.array(1), shape=with_space(7, 2)), _SAME_SHIFT,
     _SAME_SHIFT, **_PARTS, opset=20)  # fmt: skip


def _regions(net: Net, x: Value) -> Value:
    rois, images = np.array([[0.3, 0.2, 3.7, 5.1], [1, 1, 9, 9]]), np.array([1, 0])
    return simple("RoiAlign", rois, images, shape=to(2, 4, 1, 1))(net, x)


case("RoiAlign, as nothing is told", _regions, SCALE, SCALE)

# --- moving --------------------------------------------------------------------------------------------

case("Transpose, reversed", simple("Transpose", shape=lambda s: s[::-1]), ALL, ALL, axis_in=2, axis_out=2)
case("Flatten, of all", simple("Flatten", axis=0, shape=to(1, 280)), ALL, _AXIS)
case("Flatten, behind the channels", simple("Flatten", axis=2, shape=to(8, 35)), ALL, _AXIS, axis_out=0)
case("Flatten, counted from behind", simple("Flatten", axis=-3, shape=to(2, 140)), ALL, _AXIS)
case("Flatten, to rows", simple("Flatten", axis=4, shape=to(280, 1)), ALL, ALL, axis_out=0)
_SHORT: dict[str, Any] = {"shape": (2, 4, 1, 5)}
_SQUEEZED = to(2, 4, 5)
case("Squeeze, by its attribute", simple("Squeeze", axes=[-2], shape=_SQUEEZED), ALL, ALL, **_SHORT, opset=11)
case("Squeeze, of what has one element", simple("Squeeze", shape=_SQUEEZED), ALL, ALL, **_SHORT)
_LONG = simple("Unsqueeze", axes=[1, -1], shape=to(2, 1, 4, 7, 1))
case("Unsqueeze, by its attribute", _LONG, ALL, None, **_TOKENS, axis_out=2, opset=11)
_BLOCKS: dict[str, Any] = {"shape": (2, 12, 7, 5)}
_TO_SPACE = simple("DepthToSpace", shape=to(2, 3, 14, 10), blocksize=2)
for _opset in (10, 18):
    case(f"DepthToSpace, opset {_opset}", _TO_SPACE, _AXIS, ALL, **_BLOCKS, opset=_opset)
case("DepthToSpace, blocks of one", simple("DepthToSpace", blocksize=1), ALL, ALL)
_SPACED = to(2, 27, 2, 3)
case("SpaceToDepth, in blocks of three", simple("SpaceToDepth", shape=_SPACED, blocksize=3), ALL, _AXIS,
     shape=(2, 3, 6, 9))  # fmt: skip

# --- choosing ------------------------------------------------------------------------------------------

_SOME: dict[str, Any] = {"starts": [1, 0], "ends": [3, 4], "axes": [1, -2]}
case("Slice, by its attributes", simple("Slice", shape=to(2, 2, 4, 5), **_SOME), ALL, ALL, opset=9)
_FIRST: dict[str, Any] = {"starts": [0, 1], "ends": [2, 99]}
case("Slice, of the first axes", simple("Slice", shape=_channels(3), **_FIRST), ALL, ALL, opset=9)
case("Slice, in steps of one", simple("Slice", ints(1), ints(3), ints(1), shape=_channels(2)), ALL, ALL)


def _in_front(ids: np.ndarray | None, shape: Shape) -> Any:
    """The channels behind rows that are chosen by a matrix: by these ids, or at run time."""

    def build(net: Net, x: Value) -> Value:
        y = net.node("Transpose", [x.name], (2, 7, 4, 5), perm=[0, 2, 1, 3])
        chosen = net.extra_input("ids", TensorProto.INT64, shape) if ids is None else net.const(ids)
        return net.node("Gather", [y.name, chosen], (2, *shape, 4, 5), axis=1)

    return build


case(
    "Gather, in front of the channels",
    _in_front(np.array([[2, -1, 0], [1, 1, 6]]), (2, 3)),
    ALL,
    None,
    axis_out=3,
)
case("Gather, in front of the channels at run time", _in_front(None, (2, 3)), ALL, None, axis_out=3)
_MATRIX_OF = simple("GatherND", np.array([[[0], [1], [0]], [[1], [1], [0]]]), shape=to(2, 3, 4, 7))
case("GatherND, of a matrix of rows", _MATRIX_OF, ALL, None, **_TOKENS, axis_out=2)
_BY_PAIRS = simple("GatherND", np.array([[[1], [0], [3]]] * 2), shape=_channels(3), batch_dims=1)
case("GatherND, of channels", _BY_PAIRS, _AXIS, _AXIS)


def _batches(net: Net, x: Value) -> Value:
    """Of each batch a matrix of rows, which lie in front of the channels."""
    y = net.node("Transpose", [x.name], (2, 7, 4, 5), perm=[0, 2, 1, 3])
    rows = net.const(net.rng.integers(0, 7, (2, 3, 6, 1)))
    return net.node("GatherND", [y.name, rows], (2, 3, 6, 4, 5), batch_dims=1)


case("GatherND, of a matrix in each batch", _batches, ALL, None, axis_out=3)
_MATRIX = simple("Gather", np.array([[2, -1, 0]]), axis=1, shape=to(2, 1, 3, 7, 5))
case("Gather, of channels by a matrix", _MATRIX, ALL, None, axis_out=2)
case("Gather, of a row", simple("Gather", np.array(-1), shape=lambda s: s[1:], axis=0), ALL, None, axis_out=0)
case("Gather, of rows", simple("Gather", ints(1, -2, 1)), ALL, ALL, shape=(3, 4, 7, 5))
case("Compress, of all", simple("Compress", np.arange(280) % 3 > 0, shape=to(186)), _AXIS, None, axis_out=0)
case(
    "ReverseSequence, of channels",
    simple("ReverseSequence", ints(3, 2), time_axis=1, batch_axis=0),
    _AXIS,
    _AXIS,
)
case("ReverseSequence, as nothing is told", simple("ReverseSequence", ints(2, 1, 2, 1)), ALL, ALL)
case(
    "CenterCropPad, of all axes", simple("CenterCropPad", ints(2, 4, 5, 3), shape=with_space(5, 3)), ALL, ALL
)
_WHOLE = simple("CenterCropPad", ints(3, 5), shape=_channels(3), axes=[1, 3])
case("CenterCropPad, of channels", _WHOLE, _AXIS, _AXIS)
_MORE = simple("CenterCropPad", ints(6), shape=_channels(6), axes=[1])
case("CenterCropPad, with channels of zeros", _MORE, _BOTH, _BOTH)


def _largest(net: Net, x: Value) -> Value:
    """TopK along the last axis, as none is told; nobody reads where they were found."""
    y = net.node("TopK", [x.name, net.ints(2)], (*x.shape[:-1], 2))
    net.nodes[-1].output.append(net.fresh())
    return y


case("TopK, as nothing is told", _largest, _ORDERED, _ORDERED)


def _elements(net: Net, x: Value) -> Value:
    """One row of two, for each place; along the first axis, as none is told."""
    rows = net.rng.integers(0, 2, x.shape)
    return net.node("GatherElements", [x.name, net.const(rows)], x.shape)


case("GatherElements, of rows", _elements, ALL, ALL)
