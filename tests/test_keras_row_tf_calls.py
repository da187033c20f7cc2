"""Calls of TensorFlow's functions, whose arguments have other names and windows: without Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfuse.core.rules.linear_rule import Linear
from bnfuse.formats.keras.graph.network import Shape
from bnfuse.formats.keras.rows.ops import output_shapes
from bnfuse.formats.keras.rows.stored import ProductStore
from tests.keras_sites import numbers, parts, rule_of, rules, tf_function

X, PLANES, LINE, CUBE = (2, 9, 8, 3), (2, 3, 9, 8), (2, 9, 3), (2, 9, 8, 7, 3)
UNSUPPORTED = "opaque: UNSUPPORTED_OP"
FREE = "no bias ever"


def _filled(*shape: int) -> Any:
    return np.random.default_rng(6).normal(size=shape).astype(np.float32).tolist()


K, TO_4 = _filled(3, 2, 3, 4), _filled(3, 4)
CONV: dict[str, Any] = {"filters": K, "strides": 1, "padding": "VALID"}
PLAIN, PADS = f"k3k2i3g1o4 3→3, {FREE}", f"k3k2i3g1o4 3→3, {FREE}, no shift: ZERO_PADDING"
SEPARABLE: dict[str, Any] = {
    "depthwise_filter": _filled(3, 2, 3, 2),
    "pointwise_filter": _filled(1, 1, 6, 4),
    "strides": [1] * 4,
    "padding": "VALID",
}
POOL: dict[str, Any] = {"ksize": 2, "strides": 2, "padding": "VALID"}
MAX = "pass, non-negative, mixes [1, 2]"
CALLS: list[tuple[str, Shape, dict[str, Any], str]] = [
    ("nn.conv2d", X, CONV, PLAIN),
    ("nn.conv2d", X, CONV | {"padding": "SAME"}, PADS),
    ("nn.conv2d", X, CONV | {"padding": "FULL"}, UNSUPPORTED),
    ("nn.conv2d", X, CONV | {"data_format": "NHWC", "strides": [1, 2, 1, 1]}, PLAIN),
    ("nn.conv2d", X, CONV | {"padding": "SAME", "strides": [3, 2]}, PLAIN),  # which fits
    ("nn.conv2d", X, CONV | {"padding": "SAME", "strides": [1, 3, 2, 1]}, PLAIN),
    ("nn.conv2d", X, CONV | {"padding": "SAME", "strides": [3, 2], "dilations": [1, 2]}, PADS),
    ("nn.conv2d", X, CONV | {"dilations": None}, PLAIN),
    ("nn.conv2d", X, CONV | {"strides": [1, 1, 1, 2]}, UNSUPPORTED),  # over the channels
    ("nn.conv2d", X, CONV | {"strides": [2, 1, 1, 1]}, UNSUPPORTED),
    ("nn.conv2d", X, CONV | {"strides": [1, 1, 1]}, UNSUPPORTED),
    ("nn.conv2d", X, CONV | {"strides": 0}, UNSUPPORTED),
    ("nn.conv2d", X, CONV | {"strides": [1, 1.5]}, UNSUPPORTED),
    ("nn.conv2d", X, CONV | {"strides": [2]}, PLAIN),
    ("nn.conv2d", PLANES, CONV | {"data_format": "NCHW", "strides": [1, 1, 2, 2]}, f"k3k2i3g1o4 1→1, {FREE}"),
    ("nn.conv2d", PLANES, CONV | {"data_format": "NCHW", "strides": [1, 2, 1, 1]}, UNSUPPORTED),
    ("nn.conv2d", X, CONV | {"data_format": "NDHWC"}, PLAIN),
    ("nn.conv2d", X, CONV | {"data_format": "HWNC"}, UNSUPPORTED),
    ("nn.conv1d", LINE, {"filters": _filled(3, 3, 4), "stride": 1, "padding": "VALID"},
     f"k3i3g1o4 2→2, {FREE}"),
    ("nn.conv1d", LINE, {"filters": _filled(3, 3, 4), "stride": 1, "padding": "VALID", "data_format": "NWC"},
     f"k3i3g1o4 2→2, {FREE}"),
    ("nn.conv1d", (2, 3, 9),
     {"filters": _filled(3, 3, 4), "stride": 1, "padding": "VALID", "data_format": "NCW"},
     f"k3i3g1o4 1→1, {FREE}"),
    ("nn.conv3d", CUBE, {"filters": _filled(2, 2, 2, 3, 4), "strides": [1] * 5, "padding": "VALID"},
     f"k2k2k2i3g1o4 4→4, {FREE}"),
    ("nn.conv3d", (2, 3, 9, 8, 7), {"filters": _filled(2, 2, 2, 3, 4), "strides": 1, "padding": "VALID",
                                    "data_format": "NCDHW"}, f"k2k2k2i3g1o4 1→1, {FREE}"),
    ("nn.convolution", X, {"filters": K}, PLAIN),
    ("nn.convolution", X, {"filters": K, "padding": "SAME"}, PADS),
    ("nn.depthwise_conv2d", X, {"filter": _filled(3, 2, 3, 2), "strides": [1] * 4, "padding": "VALID"},
     f"k3k2g3o2 3→3, {FREE}"),
    ("nn.separable_conv2d", X,
     {"depthwise_filter": _filled(3, 2, 3, 2), "pointwise_filter": _filled(1, 1, 6, 4),
                                "strides": [1] * 4, "padding": "VALID"},
     f"k3k2g3o2 3→3, {FREE}; k1k1i6o4 3→3, {FREE}"),
    ("nn.conv1d", (2, 9, 4), {"filters": _filled(3, 2, 6), "stride": 1, "padding": "VALID"},
     f"k3i2g2o3 2→2, {FREE}"),
    # of TensorFlow 1, where an argument may have two names
    ("compat.v1.nn.conv2d", X, {"filter": K, "strides": 1, "padding": "VALID"}, PLAIN),
    ("compat.v1.nn.conv2d", X, {"filter": K, "strides": 1, "padding": "VALID", "filters": K}, UNSUPPORTED),
    ("compat.v1.nn.conv2d", X, {"filter": K, "strides": 1, "padding": "VALID", "use_cudnn_on_gpu": True},
     PLAIN),
    ("compat.v1.nn.conv1d", LINE, {"filters": _filled(3, 3, 4), "stride": 1, "padding": "VALID", "input": 1},
     UNSUPPORTED),
    ("compat.v1.nn.depthwise_conv2d", X,
     {"filter": _filled(3, 2, 3, 2), "strides": [1] * 4, "padding": "VALID", "rate": [1, 2]},
     f"k3k2g3o2 3→3, {FREE}"),
    ("compat.v1.nn.depthwise_conv2d", X,
     {"filter": _filled(3, 2, 3, 2), "strides": [1] * 4, "padding": "VALID", "dilations": [1, 2]},
     UNSUPPORTED),
    ("compat.v1.nn.relu", X, {}, "pass, non-negative, no shift: SHIFT_THROUGH_ACTIVATION"),
    # pooling
    ("nn.max_pool2d", X, POOL, MAX),
    ("nn.max_pool", X, POOL | {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1]}, MAX),
    ("nn.max_pool", X, POOL | {"ksize": [1, 1, 1, 1]}, "pass, any, mixes [1, 2]"),
    ("nn.max_pool", X, POOL | {"ksize": [1, 2, 2, 3]}, UNSUPPORTED),
    ("nn.max_pool", X, POOL | {"strides": [1, 2, 2, 3]}, UNSUPPORTED),
    ("nn.max_pool1d", LINE, POOL, "pass, non-negative, mixes [1]"),
    ("nn.max_pool3d", CUBE, POOL, "pass, non-negative, mixes [1, 2, 3]"),
    ("nn.avg_pool", PLANES, POOL | {"data_format": "NCHW"}, "pass, any, mixes [2, 3]"),
    # images
    ("image.resize", X, {"size": [4, 5]}, "pass, any, mixes [1, 2]"),
    ("image.resize", X, {"size": [4, 5], "method": "nearest"}, "pass, any, mixes [1, 2]"),
    ("image.resize", X, {"size": [4, 5], "preserve_aspect_ratio": True}, UNSUPPORTED),
    ("image.resize_bilinear", X, {"size": [4, 5], "half_pixel_centers": True}, "pass, any, mixes [1, 2]"),
    ("image.resize_nearest_neighbor", X, {"size": [4, 5]}, "pass, any, mixes [1, 2]"),
    # products
    ("linalg.matmul", LINE, {"b": TO_4}, f"i3o4 2→2, {FREE}"),
    ("linalg.matmul", LINE, {"b": _filled(4, 3), "transpose_b": True}, f"o4i3 2→2, {FREE}"),
    ("linalg.matmul", LINE, {"b": _filled(4, 3), "adjoint_b": True}, f"o4i3 2→2, {FREE}"),
    ("linalg.matmul", LINE, {"b": TO_4, "transpose_a": True}, UNSUPPORTED),
    ("linalg.matmul", LINE, {"b": TO_4, "adjoint_a": True}, UNSUPPORTED),
    *(("linalg.matmul", LINE, {"b": TO_4, key: value}, UNSUPPORTED)
      for key, value in (("a_is_sparse", True), ("b_is_sparse", True), ("output_type", "int32"))),
    ("tensordot", LINE, {"b": TO_4, "axes": 1}, f"i3o4 2→2, {FREE}"),
    # arguments that mean something else
    ("gather", X, {"indices": [1, 0], "axis": 3, "batch_dims": 1}, UNSUPPORTED),
    ("gather", X, {"indices": [1, 0], "axis": 3, "validate_indices": True}, UNSUPPORTED),
    ("gather", X, {"indices": [1, 0]}, "pass, any"),
    ("gather", X, {"indices": [2, 0]}, UNSUPPORTED),  # of two along the batch
    ("squeeze", (2, 1, 3), {"squeeze_dims": [1]}, UNSUPPORTED),
    ("strided_slice", X, {"begin": [0], "end": [1], "ellipsis_mask": 1}, UNSUPPORTED),
    ("strided_slice", X, {"begin": [0], "end": [1], "new_axis_mask": 1}, UNSUPPORTED),
    ("slice", X, {"begin": [0, 0, 0, -1], "size": [-1, -1, -1, 1]}, UNSUPPORTED),
    ("slice", X, {"begin": [0, 0, 0, 0], "size": [-1, -1, -1, -2]}, UNSUPPORTED),
    ("math.reduce_sum", X, {"axis": [1, 2]}, "pass, any, mixes [1, 2]"),
    ("identity", X, {"name": "it"}, "pass, any"),
    ("identity", X, {"more": 1}, UNSUPPORTED),
    ("nn.tanh", X, {}, "opaque: NONLINEAR"),
    ("nothing", X, {}, UNSUPPORTED),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "kwargs", "expected"), CALLS)
def test_what_a_call_of_tensorflow_is_made_of(
    name: str, shape: Shape, kwargs: dict[str, Any], expected: str
) -> None:
    assert "; ".join(rules(tf_function(name, [shape], **kwargs))) == expected


def test_a_bias_behind_a_call_is_a_node() -> None:
    """Where the shape is known, in which it is added; the call itself can store none."""
    for out, has_bias in (((2, 4, 9), True), (None, False)):
        at = tf_function("linalg.matmul", [LINE], out=[out], b=TO_4)
        (part,) = parts(at)
        rule = rule_of(part)
        assert isinstance(rule, Linear)
        assert (rule.bias, rule.has_bias, rule.bias_nodes) == (None, has_bias, 1)
        assert part.stored == ProductStore("kernel", "", bias_shape=(4,))
    first, second = parts(tf_function("nn.separable_conv2d", [X], out=[X], **SEPARABLE))
    for part, has_bias in ((first, False), (second, True)):
        rule = rule_of(part)
        assert isinstance(rule, Linear) and rule.has_bias == has_bias


def test_a_constant_in_front() -> None:
    """A·x, with the constant as it is or laid the other way round."""
    weight = np.arange(12.0).reshape(4, 3)
    for transposed, rows in ((False, weight), (True, weight.T)):
        raw = ["_CONSTANT_VALUE", -1, rows.tolist(), {"b": ["x0", 0, 0], "transpose_a": transposed}]
        (part,) = parts(tf_function("linalg.matmul", [(2, 3, 5)], raw=raw))
        rule = rule_of(part)
        assert isinstance(rule, Linear)
        assert (rule.in_axis, rule.out_axis) == (1, 1)
        np.testing.assert_array_equal(numbers(rule.weight).reshape(rows.shape), rows)
        assert "".join(rule.form.letters) == ("io" if transposed else "oi")
    raw = ["_CONSTANT_VALUE", -1, weight.tolist(), {"b": ["x0", 0, 0], "transpose_b": True}]
    assert rules(tf_function("linalg.matmul", [(2, 5, 3)], raw=raw)) == [UNSUPPORTED]


SIZES: list[tuple[str, Shape, dict[str, Any], Shape | None]] = [
    ("nn.conv2d", X, CONV, (2, 7, 7, 4)),
    ("nn.conv2d", X, CONV | {"strides": [1, 2, 3, 1], "padding": "SAME"}, (2, 5, 3, 4)),
    ("nn.conv2d", X, CONV | {"dilations": [2, 3]}, (2, 5, 5, 4)),
    ("nn.depthwise_conv2d", X, {"filter": _filled(3, 2, 3, 2), "strides": [1] * 4, "padding": "VALID"},
     (2, 7, 7, 6)),
    ("nn.separable_conv2d", X,
     {"depthwise_filter": _filled(3, 2, 3, 2), "pointwise_filter": _filled(1, 1, 6, 4),
                                "strides": [1] * 4, "padding": "VALID"}, (2, 7, 7, 4)),
    ("nn.max_pool2d", X, POOL | {"ksize": [3, 2], "strides": [1, 2]}, (2, 7, 4, 3)),
    ("nn.avg_pool", PLANES, POOL | {"data_format": "NCHW", "padding": "SAME"}, (2, 3, 5, 4)),
    ("image.resize", X, {"size": [4, 5]}, (2, 4, 5, 3)),
    ("nn.avg_pool", PLANES, {"ksize": [1, 1, 3, 2], "strides": [1, 1, 1, 2], "data_format": "NCHW",
                             "padding": "VALID"}, (2, 3, 7, 4)),
    ("nn.depthwise_conv2d", X, {"filter": _filled(3, 2, 3, 4), "strides": 1, "padding": "VALID"},
     (2, 7, 7, 12)),
    ("linalg.matmul", LINE, {"b": TO_4}, (2, 9, 4)),
    ("tensordot", LINE, {"b": TO_4, "axes": 1}, (2, 9, 4)),
    ("gather", X, {"indices": [1, 0, 1]}, (3, 9, 8, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "kwargs", "expected"), SIZES)
def test_what_a_call_of_tensorflow_puts_out(
    name: str, shape: Shape, kwargs: dict[str, Any], expected: Shape | None
) -> None:
    at = tf_function(name, [shape], **kwargs)
    assert output_shapes(at.layer, [shape], at.call) == (expected,)
