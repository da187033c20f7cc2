"""Calls of functions that are not understood as a whole are not looked into; those beside them are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from bnfuse.core.axes import Permute
from bnfuse.core.reparam import from_backward
from bnfuse.core.rules.base import Opaque, Pass, Rule
from bnfuse.core.rules.weighted_sum import WeightedSum
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.flow import read_flow
from bnfuse.formats.keras.graph.shapes import infer
from bnfuse.formats.keras.rows.functions import meaning
from bnfuse.formats.keras.rows.placing_functions import OffBatch
from tests.keras_configs import Json, functional, layer, node, old, tensor

SHAPE = (None, 8, 6, 4)
X = tensor("x", shape=SHAPE)


def _array(value: Any, dtype: str = "float32") -> Json:
    return {"class_name": "__numpy__", "config": {"value": value, "dtype": dtype}}


def _slice(start: Any = None, stop: Any = None, step: Any = None) -> Json:
    return {"class_name": "__slice__", "config": {"start": start, "stop": stop, "step": step}}


def _dots() -> Json:
    return {"class_name": "__ellipsis__", "config": {}}


def keras(name: str, *args: Any, given: Json | None = None, **config: Any) -> Json:
    """A call of ``keras.ops``: its positional arguments, those ``given`` by name, and the node's config."""
    return layer(name, "f", node(*(args or (X,)), **(given or {})), module="keras.src.ops.numpy", **config)


def tensorflow(function: str, **given: Any) -> Json:
    """A call of TensorFlow's with the input as its first argument."""
    return layer("TFOpLambda", "f", old(("x", 0, 0), **given), function=function)


def rule_of(call: Json, shape: tuple[int | None, ...] = SHAPE, dtype: str = "float32") -> Rule:
    """What a model of one function makes of it."""
    source = layer("InputLayer", "x", batch_input_shape=list(shape), dtype=dtype)
    network = parse(functional([source, call], [["x", 0, 0]], [["f", 0, 0]]))
    graph, _ = read_flow(network, infer(network))
    return graph.rule(graph.nodes[0])


_POOL: dict[str, Any] = {"strides": None, "padding": "valid", "data_format": "channels_last"}
_SIZED: dict[str, Any] = {"interpolation": "bilinear", "antialias": False, "data_format": "channels_last"}
_KSIZE: dict[str, Any] = {"ksize": [1, 2, 2, 1], "strides": 2, "padding": "SAME"}
_SLICED: dict[str, Any] = {"begin": [0, 1], "end": [9, 5], "strides": [1, 2]}
UNDERSTOOD = {
    "flip": keras("Flip", axis=1),
    "pad": keras("Pad", X, given={"constant_values": 0}, pad_width=[[0, 0]] * 3 + [[1, 1]], mode="constant"),
    "take": keras("Take", X, [0, 1], axis=1),
    "take of an array": keras("Take", X, _array([0, -1], "int64"), axis=3),
    "index": keras("GetItem", X, [_slice(), _slice(1, -1), _dots(), None, 2]),
    "reshape": keras("Reshape", newshape=[-1, 48, 4]),
    "multiply": keras("Multiply", X, _array([1.0, 2.0, 3.0, 4.0])),
    "divide": keras("Divide", X, 2),
    "max_pool": keras("MaxPool", pool_size=2, **_POOL),
    "resize": keras("Resize", size=[4, 4], **_SIZED),
    "mean": keras("Mean", axis=[1, 2], keepdims=True),
    "max": keras("Max", axis=1, keepdims=False, initial=None),
    "cast": keras("Cast", dtype="float64"),
    "tile": keras("Tile", repeats=[1, 2, 1, 1]),
    "a name of tensorflow's": tensorflow("math.negative", name="y"),
    "pool of tensorflow": tensorflow("nn.max_pool", **_KSIZE),
    "bias_add": tensorflow("nn.bias_add", bias=[1.0, 2.0, 3.0, 4.0], data_format="NHWC"),
    "strided_slice": tensorflow("strided_slice", **_SLICED),
    "gather": tensorflow("gather", indices=[0], axis=1, batch_dims=0),
    "image.resize": tensorflow("image.resize", size=[4, 4], preserve_aspect_ratio=False),
    "reshape of tensorflow": tensorflow("reshape", shape=[-1, 48, 4]),
}
NOT_UNDERSTOOD = {
    "an argument that nobody knows": keras("Flip", axis=1, mode="both"),
    "an argument that nobody knows, in the call": keras("Flip", X, given={"mode": None}, axis=1),
    "an argument too many": keras("Flip", X, 1, 2, axis=1),
    "an argument that is missing": keras("Flip"),
    "an object in the config": keras("Flip", axis={"class_name": "Axis"}),
    "an object in the call": keras("Take", X, {"class_name": "Indices", "config": {}}, axis=1),
    "a custom class": {**keras("Flip", axis=1), "module": "mine.ops.numpy", "registered_name": "Mine>Flip"},
    "a constant in place of the tensor": keras("Flip", 1.0, axis=1),
    "a tensor in place of an index": keras("Take", X, X, axis=1),
    "a tensor in a slice": keras("GetItem", X, [_slice(), _slice(X)]),
    "two tensors in place of one": keras("Mean", [X, X], axis=1, keepdims=False),
    "a constant in place of a choice": keras("Where", X, X, 1.0),
    "a tensor as what is padded with": keras(
        "Pad", X, given={"constant_values": X}, pad_width=[[0, 0]] * 3 + [[1, 1]], mode="constant"
    ),
    "a truth value as an index": keras("GetItem", X, [_slice(), True]),
    "two times ...": keras("GetItem", X, [_dots(), _dots()]),
    "an index of too many axes": keras("GetItem", X, [0, 0, 0, 0, 0]),
    "an element that there is not": keras("Take", X, [0, 8], axis=1),
    "elements in two axes": keras("Take", X, _array([[0], [1]], "int64"), axis=1),
    "a size that is worked out": keras("Reshape", newshape=[None, -1]),
    "tensors and numbers side by side": keras("Concatenate", [X, 1.0], axis=-1),
    "an axis that there is not": keras("Concatenate", [X, X], axis=4),
    "axes twice": keras("Flip", axis=[1, -3]),
    "a permutation that is none": keras("Transpose", axes=[0, 1, 2]),
    "a constant of another type": keras("Multiply", X, _array([1.0, 2.0, 3.0, 4.0], "float64")),
    "a truth value as a factor": keras("Multiply", X, True),
    "zero as a factor": keras("Multiply", X, 0.0),
    "zero as a divisor": keras("TrueDivide", X, 0),
    "a factor that is no number": keras("Multiply", X, float("nan")),
    "a factor too large for its type": keras("Multiply", X, 1e39),
    "a quotient": keras("TrueDivide", 2.0, X),
    "a constant with more axes": keras("Add", X, _array(np.zeros((2, 1, 8, 6, 4)).tolist())),
    "a constant of more axes, all of one": keras("Add", X, _array([[[[[1.0, 2.0, 3.0, 4.0]]]]])),
    "a constant of another size": keras("Add", X, _array([1.0, 2.0])),
    "a constant along the batch": keras("Add", X, _array(np.zeros((2, 1, 1, 1)).tolist())),
    "pooling without a data format": keras("MaxPool", pool_size=2, **{**_POOL, "data_format": None}),
    "pooling with other padding": keras("MaxPool", pool_size=2, **{**_POOL, "padding": "causal"}),
    "windows of another rank": keras("MaxPool", pool_size=[2, 2, 2], **_POOL),
    "a resize of borders": keras("Resize", size=[4, 4], fill_mode="reflect", **_SIZED),
    "a resize without a data format": keras("Resize", size=[4, 4], **{**_SIZED, "data_format": None}),
    "an initial value": keras("Max", axis=1, keepdims=False, initial=0.0),
    "no axes": keras("Mean", axis=[], keepdims=False),
    "a sum of another type": keras("Cumsum", axis=1, dtype="float64"),
    "a cast to whole numbers": keras("Cast", dtype="int32"),
    "a cast to a narrower type": keras("Cast", dtype="float16"),
    "a tile of new axes": keras("Tile", repeats=[1, 1, 1, 1, 2]),
    "no repeats": keras("Repeat", repeats=0, axis=1),
    "repeats of everything": keras("Repeat", repeats=2, axis=None),
    "margins that are none": keras("Pad", pad_width=[[0, 0]], mode="constant"),
    "margins of ones": keras(
        "Pad", X, given={"constant_values": 1}, pad_width=[[0, 0]] * 3 + [[1, 1]], mode="constant"
    ),
    "margins of another kind": keras("Pad", pad_width=[[0, 0]] * 3 + [[1, 1]], mode="wrap"),
    "pieces that go back": keras("Split", indices_or_sections=[5, 2], axis=1),
    "pieces that leave something": tensorflow("split", num_or_size_splits=[2, 2], axis=1),
    "unlike pieces": keras("Split", indices_or_sections=3, axis=1),
    "blocks that do not fit": keras("DepthToSpace", block_size=3, data_format="channels_last"),
    "blocks of the second axis": keras("DepthToSpace", block_size=2, data_format="channels_first"),
    "which axes are of one is not known": keras("Squeeze", axis=None),
    "a function that there is not": tensorflow("math.something"),
    "windows over the channels": tensorflow("nn.max_pool", **{**_KSIZE, "ksize": [1, 2, 2, 2]}),
    "padding told by numbers": tensorflow(
        "nn.max_pool", **{**_KSIZE, "padding": [[0, 0], [1, 1], [1, 1], [0, 0]]}
    ),
    "a bias of the second axis": tensorflow("nn.bias_add", bias=[1.0, 2.0, 3.0, 4.0], data_format="NCHW"),
    "a mask of new axes": tensorflow("strided_slice", new_axis_mask=1, **_SLICED),
    "batches of indices": tensorflow("gather", indices=[0], axis=1, batch_dims=1),
    "a resize that keeps the aspect": tensorflow("image.resize", size=[4, 4], preserve_aspect_ratio=True),
    "a tensor in a shape": tensorflow("reshape", shape=[["x", 0, 0], -1]),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_call_that_is_understood(name: str) -> None:
    assert not isinstance(rule_of(UNDERSTOOD[name]), Opaque)


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_a_call_that_is_not_understood(name: str) -> None:
    assert isinstance(rule_of(NOT_UNDERSTOOD[name]), Opaque)


def test_a_call_that_would_be_understood_with_other_sizes() -> None:
    """Where the constant makes the result larger, or would reach the batch."""
    along_the_batch = keras("Add", X, _array([[[[1.0]]], [[[2.0]]]]))
    assert isinstance(rule_of(along_the_batch, (2, 8, 6, 4)), Opaque)
    assert isinstance(rule_of(keras("Add", X, _array([1.0, 2.0, 3.0])), (None, 8, 6, 1)), Opaque)
    assert isinstance(rule_of(keras("GetItem", X, [_slice(), True]), (None, None, 6, 4)), Opaque)
    assert isinstance(rule_of(keras("Squeeze", axis=None), (None, 1, 6, 4)), Opaque)
    to_bfloat16 = tensorflow("cast", dtype="bfloat16")
    assert isinstance(rule_of(to_bfloat16, dtype="float16"), Opaque)
    assert isinstance(rule_of(to_bfloat16, dtype="bfloat16"), Pass)


def test_an_input_that_no_argument_shows() -> None:
    """Every tensor that a call reads has its place among the arguments, or nothing is known of the call."""
    source = layer("InputLayer", "x", batch_input_shape=list(SHAPE), dtype="float32")
    network = parse(functional([source, keras("Flip", axis=1)], [["x", 0, 0]], [["f", 0, 0]]))
    function = network.layer("f")
    (call,) = function.calls
    assert meaning(function, call, [SHAPE]) is not None
    assert meaning(function, replace(call, inputs=call.inputs * 2), [SHAPE] * 2) is None


def test_sizes_that_are_not_known_are_not_the_same() -> None:
    """One of them may be 1 when the model runs."""
    y = tensor("y", shape=(None, None, 6, 4))
    x = tensor("x", shape=(None, None, 6, 4))
    sources = [layer("InputLayer", n, batch_input_shape=[None, None, 6, 4], dtype="float32") for n in "xy"]
    network = parse(functional([*sources, keras("Add", x, y)], [["x", 0, 0], ["y", 0, 0]], [["f", 0, 0]]))
    rule = (graph := read_flow(network, infer(network))[0]).rule(graph.nodes[0])
    assert isinstance(rule, WeightedSum)
    assert [operand.stretched for operand in rule.operands] == [{1}, {1}]


def test_the_sizes_tell_the_data_format() -> None:
    """A resize for which it is left to whoever runs the model."""
    call = keras("Resize", size=[6, 6], **{**_SIZED, "data_format": None})
    for before, after, mixed in (
        ((None, 8, 7, 4), (None, 6, 6, 4), [1, 2]),
        ((None, 4, 8, 7), (None, 4, 6, 6), [2, 3]),
        ((None, 4, 8, 6), (None, 4, 6, 6), [2, 3]),
        ((None, 6, 8, 4), (None, 6, 6, 4), [1, 2]),
        ((None, 6, 6, 6), (None, 6, 6, 6), None),
    ):
        source = layer("InputLayer", "x", batch_input_shape=list(before), dtype="float32")
        reader = layer("Activation", "r", node(tensor("f", shape=after)), module="keras.layers")
        resize = {**call, "inbound_nodes": [node(tensor("x", shape=before))]}
        network = parse(functional([source, resize, reader], [["x", 0, 0]], [["r", 0, 0]]))
        rule = (graph := read_flow(network, infer(network))[0]).rule(graph.nodes[0])
        if mixed is None:
            assert isinstance(rule, Opaque)
        else:
            assert isinstance(rule, Pass) and rule.mixes is not None
            assert [axis for axis in range(4) if rule.mixes(axis)] == mixed


def test_arithmetic_in_half_precision_takes_the_constants_rounding() -> None:
    """0.1 in float16 is 0.0999755859375."""
    rule = rule_of(tensorflow("math.multiply", y=0.1), dtype="float16")
    assert isinstance(rule, Pass)
    moved = rule.axes.forward(from_backward((), np.ones(()), np.ones(())))
    assert moved is not None and moved.backward is not None
    assert moved.backward[1] == np.float16(0.1)
    assert isinstance(rule_of(tensorflow("math.multiply", y=[0.1] * 4), dtype="float16"), Opaque)
    assert isinstance(rule_of(tensorflow("math.multiply", y=2.0), dtype="bfloat16"), Opaque)


def test_no_factor_arrives_in_the_first_axis() -> None:
    """Layers take it for granted that nothing varies along the batch."""
    held = from_backward((3,), np.array([2.0, 3.0]), np.zeros(2))
    assert OffBatch(Permute((0, 3, 1, 2))).forward(held) is not None
    assert OffBatch(Permute((3, 0, 1, 2))).forward(held) is None
    assert OffBatch(Permute((1, 2, 3, 0))).backward(held) is None
    rule = rule_of(keras("Transpose", axes=[3, 1, 2, 0]))
    assert isinstance(rule, Pass)
    assert rule.axes.forward(held) is None
