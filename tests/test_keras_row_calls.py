"""Calls of functions and what they are made of: constants, several tensors, and what is not looked into."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.clamp import Clamp
from bnfuse.formats.keras.graph.network import Shape
from tests.keras_configs import tensor
from tests.keras_sites import function, parts, rule_of, rules

X, ALIKE, ROW, MOST, HUGE = (2, 3, 4, 5), (2, 4, 4, 5), (2, 1, 4, 5), 1 << 20, (1 << 20) + 1
UNSUPPORTED, NONLINEAR, WIDER = "opaque: UNSUPPORTED_OP", "opaque: NONLINEAR", "opaque: BROADCAST"
LONG = (2, None)
FIRST = {"data_format": "channels_first"}
LAST = {"data_format": "channels_last"}
POOL: dict[str, Any] = {"pool_size": 2, "strides": None, "padding": "valid", **LAST}
CONV: dict[str, Any] = {"strides": 1, "padding": "valid", "dilation_rate": 1, **LAST}
RESIZE: dict[str, Any] = {"size": [6, 8], "interpolation": "bilinear", "antialias": False, **LAST}
PAD: dict[str, Any] = {"pad_width": [[0, 0], [1, 0], [0, 0], [0, 0]], "mode": "constant"}


def _cut(start: Any, stop: Any, step: Any) -> dict[str, Any]:
    return {"class_name": "__slice__", "config": {"start": start, "stop": stop, "step": step}}


EVERY, TWO = _cut(None, None, None), _cut(None, 2, None)
x, y, z = (tensor(name) for name in ("x0", "x1", "x2"))


def array(*shape: int, dtype: str = "float32") -> dict[str, Any]:
    """A constant as Keras 3 stores it."""
    values = np.arange(1, 1 + int(np.prod(shape))).reshape(shape)
    return {"class_name": "__numpy__", "config": {"value": values.tolist(), "dtype": dtype}}


# The function, the shapes of its tensors, its arguments, its settings, and the rules of its nodes.
CALLS: list[tuple[str, list[Shape | None], tuple[Any, ...], dict[str, Any], str]] = [
    ("Add", [X], (x, 2.0), {}, "affine (): shift"),
    ("Add", [X], (2.0, x), {}, "affine (): shift"),
    ("Add", [X], (x, array(5)), {}, "affine (3,): shift"),
    ("Add", [X], (x, array(3, 1, 1)), {}, "affine (1,): shift"),
    ("Add", [X], (x, array(4, 1)), {}, "affine (2,): shift"),
    ("Add", [ALIKE], (x, array(4, 1)), {}, UNSUPPORTED),  # Keras adds it along axis 1
    ("Add", [X], (x, array(4, 5)), {}, "source; (1.0, 1.0) 0 2[0, 1]"),
    ("Add", [X], (x, array(3, 1, 5)), {}, "source; (1.0, 1.0) 0 1[0, 2]"),
    ("Add", [X], (x, array(2, 3, 4, 5)), {}, WIDER),  # along the batch, too
    ("Add", [X], (x, array(1, 1, 1, 1, 5)), {}, WIDER),
    ("Add", [X], (x, array(6)), {}, WIDER),
    ("Add", [X], (x, array(5, dtype="int32")), {}, UNSUPPORTED),
    ("Add", [X], (x, True), {}, UNSUPPORTED),
    ("Add", [X], (x, "a"), {}, UNSUPPORTED),
    ("Subtract", [X], (x, array(5)), {}, "affine (3,): shift"),
    ("Subtract", [X], (x, array(4, 5)), {}, "source; (1.0, -1.0) 0 2[0, 1]"),
    ("Subtract", [X], (array(4, 5), x), {}, "source; (-1.0, 1.0) 0 2[0, 1]"),
    ("Multiply", [X], (x, -2.0), {}, "affine (): scale"),
    ("Multiply", [X], (x, array(5)), {}, "affine (3,): scale"),
    ("Multiply", [X], (x, array(4, 5)), {}, WIDER),
    ("Multiply", [X], (x, 0.0), {}, "opaque: BAD_PARAMETERS"),
    ("Multiply", [X], (x, float("nan")), {}, "opaque: BAD_PARAMETERS"),
    ("Divide", [X], (x, 4.0), {}, "affine (): scale"),
    ("Divide", [X], (4.0, x), {}, UNSUPPORTED),
    ("TrueDivide", [X], (x, array(5)), {}, "affine (3,): scale"),
    ("Add", [X, X], (x, y), {}, "(1.0, 1.0) 0 0"),
    ("Subtract", [X, X], (x, y), {}, "(1.0, -1.0) 0 0"),
    ("Multiply", [X, X], (x, y), {}, "(1, 1) 0 0"),
    ("Divide", [X, X], (x, y), {}, "(1, -1) 0 0"),
    ("Maximum", [X, X], (x, y), {}, "one of (0, 1), non-negative"),
    ("Maximum", [X], (x, 2.0), {}, "clamp 2.0 inf"),
    ("Maximum", [X], (2, x), {}, "clamp 2.0 inf"),
    ("Minimum", [X], (6, x), {}, "clamp -inf 6.0"),
    ("Maximum", [X], (x, array(5)), {}, NONLINEAR),
    ("Clip", [X], (x,), {"x_min": -1, "x_max": 2.0}, "clamp -1.0 2.0"),
    ("Clip", [X], (x,), {"x_min": -1, "x_max": [2.0]}, NONLINEAR),
    ("Clip", [X], (x,), {"x_min": 2, "x_max": -1}, NONLINEAR),
    ("Clip", [X], (x,), {"x_min": [1.0], "x_max": 2.0}, NONLINEAR),
    ("Resize", [X], (x,), RESIZE | {"size": [1, 8], **FIRST}, "pass, any, mixes [2, 3]"),
    ("Relu", [X], (x,), {}, "clamp 0.0 inf"),
    ("Relu6", [X], (x,), {}, "clamp 0.0 6.0"),
    ("HardTanh", [X], (x,), {}, "clamp -1.0 1.0"),
    ("ReLU", [X], (x,), {"negative_slope": 0.0, "max_value": 6.0, "threshold": 0.0}, "clamp 0.0 6.0"),
    ("ReLU", [X], (x,), {"negative_slope": 0.1, "max_value": None, "threshold": 0.0},
     "pass, non-negative, no shift: SHIFT_THROUGH_ACTIVATION"),
    ("Cast", [X], (x,), {"dtype": "float64"}, "pass, any"),
    ("Cast", [X], (x,), {"dtype": "float32"}, "pass, any"),
    ("Cast", [X], (x,), {"dtype": "float16"}, "opaque: OTHER_TYPE"),
    ("Cast", [X], (x,), {"dtype": "bfloat16"}, "opaque: OTHER_TYPE"),
    ("Cast", [X], (x,), {"dtype": None}, "pass, any"),
    ("Cast", [X], (x,), {"dtype": "int32"}, UNSUPPORTED),
    ("Where", [X, X, X], (x, y, z), {}, "one of (1, 2), any"),
    ("Where", [X, X, ROW], (x, y, z), {}, WIDER),
    ("Concatenate", [X, X], ([x, y],), {"axis": -1}, "(0, 1) side by side along 3: (5, 5)"),
    ("Concatenate", [X, X], ([x, y],), {"axis": 1}, "(0, 1) side by side along 1: (3, 3)"),
    ("Concatenate", [X, None], ([x, y],), {"axis": -1}, "(0, 1) side by side along 3: (5, None)"),
    ("Concatenate", [X], ([x, 2.0],), {"axis": -1}, UNSUPPORTED),
    ("Hstack", [X, X], ([x, y],), {}, "(0, 1) side by side along 1: (3, 3)"),
    ("Vstack", [X, X], ([x, y],), {}, "(0, 1) side by side along 0: (2, 2)"),
    ("Dstack", [X, X], ([x, y],), {}, "(0, 1) side by side along 2: (4, 4)"),
    ("Stack", [X, X], ([x, y],), {"axis": 1}, "pass, any; pass, any; (0, 1) side by side along 1: (1, 1)"),
    ("Stack", [X, X], ([x, y],), {"axis": -1}, "pass, any; pass, any; (0, 1) side by side along 4: (1, 1)"),
    ("Split", [X], (x,), {"indices_or_sections": 2, "axis": 2}, "(-1, -2) side by side along 2: (2, 2)"),
    ("Split", [X], (x,), {"indices_or_sections": [1, 3], "axis": 3},
     "(-1, -2, -3) side by side along 3: (1, 2, 2)"),
    ("Split", [X], (x,), {"indices_or_sections": [1, 1], "axis": 3}, UNSUPPORTED),
    ("Split", [X], (x,), {"indices_or_sections": 3, "axis": 2}, UNSUPPORTED),
    ("Split", [(None, None, 4)], (x,), {"indices_or_sections": 2, "axis": 1}, UNSUPPORTED),
    ("Unstack", [(2, 3, 4)], (x,), {"num": None, "axis": 2},
     "(-1, -2, -3, -4) side by side along 2: (1, 1, 1, 1); pass, any"),
    ("MaxPool", [X], (x,), POOL, "pass, non-negative, mixes [1, 2]"),
    ("MaxPool", [X], (x,), POOL | {"data_format": None}, UNSUPPORTED),
    ("AveragePool", [X], (x,), POOL | {"pool_size": [2, 1], "padding": "same", **FIRST},
     "pass, any, mixes [2, 3]"),
    ("MaxPool", [X], (x,), POOL | {"pool_size": [2]}, UNSUPPORTED),
    ("MaxPool", [X], (x,), POOL | {"padding": "full"}, UNSUPPORTED),
    ("Resize", [X], (x,), RESIZE, "pass, any, mixes [1, 2]"),
    ("Resize", [X], (x,), RESIZE | {"data_format": None}, "pass, any, mixes [1, 2]"),
    ("Resize", [X], (x,), RESIZE | FIRST, "pass, any, mixes [2, 3]"),
    ("Resize", [X], (x,), RESIZE | {"size": [6, 7], "data_format": None}, UNSUPPORTED),
    ("Resize", [X], (x,), RESIZE | {"size": [0, 7]}, UNSUPPORTED),
    ("Resize", [X], (x,), RESIZE | {"fill_mode": "reflect"}, UNSUPPORTED),
    ("Tanh", [X], (x,), {}, NONLINEAR),
    ("Celu", [X], (x,), {"alpha": 1.0}, NONLINEAR),
    ("Max", [X], (x,), {"axis": 1, "keepdims": False, "initial": 0.0}, UNSUPPORTED),
    ("Mean", [X], (x,), {"axis": [], "keepdims": False}, UNSUPPORTED),
    ("Sum", [(2, None, 4)], (x,), {"axis": 1, "keepdims": False},
     "pass, any, no shift: SHIFT_REFUSED, mixes [1]"),
    ("Average", [X], (x,), {"axis": 1, "weights": [1, 2, 3]}, UNSUPPORTED),
    ("Cumsum", [X], (x,), {"axis": 1, "dtype": "float64"}, UNSUPPORTED),
    ("Conv", [X], (x, array(2, 2, 5, 6)), CONV, "k2k2i5g1o6 3→3, no bias"),
    ("Conv", [X], (x, array(2, 2, 1, 10)), CONV | {"padding": "same"},
     "k2k2i1g5o2 3→3, no bias, no shift: ZERO_PADDING"),
    ("Conv", [X], (x, array(2, 2, 2, 6)), CONV, UNSUPPORTED),
    ("Conv", [X], (x, array(2, 5, 6)), CONV, UNSUPPORTED),
    ("Conv", [X], (x, array(2, 2, 3, 6)), CONV | FIRST, "k2k2i3g1o6 1→1, no bias"),
    ("Conv", [X], (x, array(2, 2, 5, 6)), CONV | {"padding": "full"}, UNSUPPORTED),
    ("Conv", [X], (x, array(2, 2, 5, 6)), CONV | {"data_format": None}, UNSUPPORTED),
    ("Conv", [(2, 3, 4, None)], (x, array(2, 2, 5, 6)), CONV, UNSUPPORTED),
    ("Conv", [X], (x, 2.0), CONV, UNSUPPORTED),
    ("DepthwiseConv", [X], (x, array(2, 2, 5, 2)), CONV, "k2k2g5o2 3→3, no bias"),
    ("SeparableConv", [X], (x, array(2, 2, 5, 2), array(1, 1, 10, 3)), CONV,
     "k2k2g5o2 3→3, no bias ever; k1k1i10o3 3→3, no bias"),
    ("Matmul", [X], (x, array(5, 6)), {}, "i5o6 3→3, no bias"),
    ("Matmul", [X], (array(6, 4), x), {}, "o6i4 2→2, no bias"),
    ("Matmul", [X, X], (x, y), {}, UNSUPPORTED),
    ("Dot", [X], (x, array(5, 6)), {}, "i5o6 3→3, no bias"),
    ("Dot", [X], (array(6, 4), x), {}, UNSUPPORTED),
    ("Tensordot", [X], (x, array(5, 6)), {"axes": 1}, "i5o6 3→3, no bias"),
    ("Tensordot", [X], (x, array(5, 6)), {"axes": 2}, UNSUPPORTED),
    ("Tensordot", [X], (x, array(5, 6)), {"axes": [[3], [0]]}, "i5o6 3→3, no bias"),
    ("Tensordot", [X], (x, array(5, 6)), {"axes": [3, 0]}, "i5o6 3→3, no bias"),
    ("Tensordot", [X], (x, array(5, 6)), {"axes": [2, 0]}, UNSUPPORTED),
    ("Tensordot", [X], (x, array(5, 6)), {"axes": [-1, 0]}, "i5o6 3→3, no bias"),
    ("Tensordot", [X], (x, array(5, 6)), {"axes": [[-1], [0]]}, "i5o6 3→3, no bias"),
    ("Einsum", [X], (x, array(5, 6)), {"subscripts": "abcd, de -> abce"}, "i5o6 3→3, no bias"),
    ("Einsum", [X], (array(5, 6), x), {"subscripts": "de,abcd->abce"}, "i5o6 3→3, no bias"),
    ("Einsum", [X], (x, array(5, 6)), {"subscripts": "abcd->abc"}, UNSUPPORTED),
    ("BatchNorm", [X], (x, array(5), array(5)), {"axis": -1, "epsilon": 1e-3}, "affine (3,): nothing"),
    ("BatchNorm", [X], (x, array(5), array(5), array(5), array(5)), {"axis": -1, "epsilon": 1e-3},
     "affine (3,): scale shift"),
    ("LayerNorm", [X], (x, array(5)), {"axis": -1, "epsilon": 1e-3, "rms_scaling": False},
     "affine (3,): scale"),
    ("RMSNorm", [X], (x, array(5)), {"axis": -1, "epsilon": 1e-3}, "affine (3,): scale"),
    ("Pad", [X], (x,),
     {"pad_width": [[0, 0], [1, 0], [0, 0], [0, 0]], "mode": "constant", "constant_values": 1.0},
     UNSUPPORTED),
    ("Pad", [X], (x,), {"pad_width": [[0, 0], [1, 0]], "mode": "constant"}, UNSUPPORTED),
    ("Pad", [X], (x,), {"pad_width": 1, "mode": "constant"}, UNSUPPORTED),
    ("Copy", [X], (x, x), {}, UNSUPPORTED),
    ("Copy", [X], (x,), {"more": 1}, UNSUPPORTED),
    ("Transpose", [None], (x,), {"axes": None}, "opaque: SHAPE_UNKNOWN"),
    ("Transpose", [X], (x,), {"axes": [0, 1, 2]}, UNSUPPORTED),
    ("Moveaxis", [X], (x,), {"source": [1, 2], "destination": [3]}, UNSUPPORTED),
    ("Squeeze", [(2, None, 4)], (x,), {"axis": None}, UNSUPPORTED),
    ("DepthToSpace", [(2, 3, 4, 6)], (x,), {"block_size": 2, "data_format": "channels_last"}, UNSUPPORTED),
    ("DepthToSpace", [(2, 3, 4, 12)], (x,), {"block_size": 2, "data_format": "channels_first"}, UNSUPPORTED),
    ("SpaceToDepth", [(2, 4, 4, 3)], (x,), {"block_size": 2, "data_format": "channels_first"}, UNSUPPORTED),
    ("SpaceToDepth", [(2, 4, 4, None)], (x,), {"block_size": 2, "data_format": "channels_last"}, UNSUPPORTED),
    ("Take", [X], (x, [5]), {"axis": 3}, UNSUPPORTED),
    ("Take", [X], (x, [-6]), {"axis": 3}, UNSUPPORTED),
    ("Take", [X], (x, []), {"axis": 3}, UNSUPPORTED),
    ("Take", [(2, None)], (x, [0]), {"axis": 1}, UNSUPPORTED),
    ("GetItem", [X], (x, [0, 3]), {}, UNSUPPORTED),
    ("GetItem", [X], (x, [True]), {}, UNSUPPORTED),
    ("GetItem", [(2, None, 4)], (x, [EVERY, 1]), {}, "pass, any, mixes [1]"),
    ("GetItem", [(2, None, 4)], (x, [EVERY, TWO]), {}, "pass, any, mixes [1]"),
    ("GetItem", [(2, None, 4)], (x, [EVERY, EVERY]), {}, "pass, any"),
    ("Tile", [X], (x,), {"repeats": [1, 1, 1, 1, 2]}, UNSUPPORTED),
    ("Tile", [(2, None, 4)], (x,), {"repeats": [1, 2, 1]}, "pass, any, mixes [1]"),
    ("Tile", [X], (x,), {"repeats": 0}, UNSUPPORTED),
    ("Repeat", [X], (x,), {"repeats": [1, 2], "axis": 1}, UNSUPPORTED),
    ("Repeat", [X], (x,), {"repeats": 0, "axis": 1}, UNSUPPORTED),
    ("Roll", [X], (x,), {"shift": [1, 2, 3], "axis": [1, 2]}, UNSUPPORTED),
    ("Flip", [(2, None, 4)], (x,), {"axis": 1}, "pass, any, mixes [1]"),
    ("Flip", [(2, HUGE)], (x,), {"axis": 1}, "pass, any, mixes [1]"),
    ("Squeeze", [(None, 1)], (x,), {"axis": None}, UNSUPPORTED),
    ("GetItem", [(None, 4)], (x, [TWO]), {}, "pass, any, mixes [0]"),
    ("Roll", [X], (x,), {"shift": True, "axis": 1}, UNSUPPORTED),
    ("Reshape", [X], (x,), {"newshape": [-2, -60]}, UNSUPPORTED),
    ("Reshape", [X], (x,), {"newshape": [2, "60"]}, UNSUPPORTED),
    ("DepthToSpace", [X], (x,), {"block_size": 0, **LAST}, UNSUPPORTED),
    ("DepthToSpace", [X], (x,), {"block_size": 1, **LAST}, "pass, any"),
    ("Pad", [X], (x,), PAD | {"mode": "wrap"}, UNSUPPORTED),
    ("Pad", [X], (x,), PAD | {"constant_values": 0.0}, "pass, any, no shift: ZERO_PADDING, mixes [1]"),
    ("Pad", [X], (x,), PAD | {"constant_values": "0"}, UNSUPPORTED),
    ("Pad", [X], (x,), PAD | {"mode": "CONSTANT"}, "pass, any, no shift: ZERO_PADDING, mixes [1]"),
    ("Pad", [(2, 3, None)], (x,), {"pad_width": [[0, 0], [0, 0], [1, 0]], "mode": "constant"},
     "pass, any, no shift: ZERO_PADDING, mixes [2]"),
    ("Flip", [(2, MOST)], (x,), {"axis": 1}, "pass, any"),
    ("GetItem", [(2, MOST)], (x, [EVERY, TWO]), {}, "pass, any"),
    ("GetItem", [(2, HUGE)], (x, [EVERY, TWO]), {}, "pass, any, mixes [1]"),
    ("GetItem", [X], (x, ["a"]), {}, UNSUPPORTED),
    ("GetItem", [LONG], (x, [EVERY, "a"]), {}, UNSUPPORTED),
    ("GetItem", [LONG], (x, [EVERY, _cut(1.5, None, None)]), {}, UNSUPPORTED),
    ("GetItem", [LONG], (x, [EVERY, _cut(0, True, None)]), {}, UNSUPPORTED),
    ("GetItem", [LONG], (x, [EVERY, _cut(0, 2, 0)]), {}, UNSUPPORTED),
    ("Take", [X], (x, [0, 7]), {"axis": 3}, UNSUPPORTED),
    ("Pad", [X], (x,), PAD | {"constant_values": False}, UNSUPPORTED),
    ("GetItem", [X], (x, [_cut(1.5, None, None)]), {}, UNSUPPORTED),
    ("GetItem", [X], (x, [_cut(0, 2, 0)]), {}, UNSUPPORTED),
    ("GetItem", [X], (x, [_cut(2, 2, 1)]), {}, UNSUPPORTED),  # nothing
    ("Take", [(2, MOST)], (x, [1]), {"axis": 1}, "pass, any"),
    ("Take", [(2, HUGE)], (x, [1]), {"axis": 1}, UNSUPPORTED),
    ("Take", [X], (x, [1, "2"]), {"axis": 3}, UNSUPPORTED),
    ("Take", [X], (x, [True]), {"axis": 3}, UNSUPPORTED),
    ("Tile", [(2, None, 4)], (x,), {"repeats": [1, 1, 2]}, "pass, any"),
    ("Repeat", [(2, MOST)], (x,), {"repeats": 2, "axis": 1}, UNSUPPORTED),  # too many
    ("Nothing", [X], (x,), {}, UNSUPPORTED),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shapes", "args", "config", "expected"), CALLS)
def test_what_a_call_is_made_of(
    name: str, shapes: list[Shape | None], args: tuple[Any, ...], config: dict[str, Any], expected: str
) -> None:
    out = [(2, 6, 8, 5) if name == "Resize" else X]
    assert "; ".join(rules(function(name, shapes, *args, out=out, **config))) == expected


NUMBERS = [
    ("Add", (x, array(5)), lambda v, k: v + k),
    ("Add", (array(5), x), lambda v, k: v + k),
    ("Subtract", (x, array(5)), lambda v, k: v - k),
    ("Subtract", (array(5), x), lambda v, k: k - v),
    ("Multiply", (x, array(5)), lambda v, k: v * k),
    ("Divide", (x, array(5)), lambda v, k: v / k),
]


@pytest.mark.parametrize(("name", "args", "does"), NUMBERS)
def test_numbers_of_arithmetic(name: str, args: tuple[Any, ...], does: Any) -> None:
    (part,) = parts(function(name, [X], *args, out=[X]))
    rule = rule_of(part)
    assert isinstance(rule, Affine) and part.is_affine
    value, constant = np.linspace(-2.0, 3.0, 5), np.arange(1.0, 6.0)
    np.testing.assert_allclose(rule.pair[0] * value + rule.pair[1], does(value, constant), rtol=1e-12)
    assert rule.divides == (name == "Divide")


def test_a_number_is_added_as_the_bias_of_a_layer() -> None:
    """``ops.add(x, c)`` may become a vector along the last axis alone; from the front, along any."""
    along = []
    for args in ((x, 2.0), (2.0, x), (x, array(5))):
        (part,) = parts(function("Add", [X], *args, out=[X]))
        rule = rule_of(part)
        assert isinstance(rule, Affine)
        along.append(rule.stores_along)
    assert along == [3, None, None]


def test_bounds_are_those_of_the_call() -> None:
    (part,) = parts(function("Clip", [X], x_min=-0.5, x_max=3, out=[X]))
    rule = rule_of(part)
    assert isinstance(rule, Clamp)
    assert (rule.low, rule.high, str(rule.dtype), rule.spreads) == (-0.5, 3.0, "float32", True)
