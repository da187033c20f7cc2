"""Edits of a config: what goes, what takes its place where it cannot go, and that all else stays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from bnfuse.formats.keras.edit.rewrite import LINEAR, Configure, Edit, Remove, rewrite, settle
from bnfuse.formats.keras.graph.calls import StoredRef, rewire_call, rewire_ends
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import LayerPath, Ref, Shape
from tests import keras_configs as made
from tests.keras_configs import Json, dense, functional, layer, nested, node, old, sequential, source, tensor


def entry(config: Json, *path: str) -> Json:
    """A layer's entry by its path."""
    for name in path:
        entries = config["config"] if isinstance(config["config"], list) else config["config"]["layers"]
        config = next(each for each in entries if each.get("name", each["config"].get("name")) == name)
    return config


def bn(name: str, *nodes: Any, **config: Any) -> Json:
    return layer("BatchNormalization", name, *nodes, axis=[1], dtype="float32", trainable=True, **config)


def swap(stored: StoredRef) -> StoredRef:
    return StoredRef("new", 5, 6, (None, 9), "float16") if stored.layer == "a" else stored


# stored call, the same with every tensor of "a" replaced
REWIRED: tuple[tuple[Any, Any], ...] = (
    ([["a", 0, 0]], [["new", 5, 6]]),
    (
        [["a", 0, 0, {"y": ["a", 1, 0], "z": ["b", 0, 0]}]],
        [["new", 5, 6, {"y": ["new", 5, 6], "z": ["b", 0, 0]}]],
    ),
    (["b", 0, 0, {"spec": [{"start": ["a", 0, 0]}]}], ["b", 0, 0, {"spec": [{"start": ["new", 5, 6]}]}]),
    ({"q": ["a", 0, 0, {}], "p": ["b", 0, 0, {}]}, {"q": ["new", 5, 6, {}], "p": ["b", 0, 0, {}]}),
    (["_CONSTANT_VALUE", -1, 2.0, {"y": ["a", 0, 0]}], ["_CONSTANT_VALUE", -1, 2.0, {"y": ["new", 5, 6]}]),
    (node([tensor("b"), tensor("a")], 2), node([tensor("b"), tensor("new", 5, 6, (None, 9))], 2)),
    (
        node(tensor("b"), key={"deep": tensor("a")}),
        node(tensor("b"), key={"deep": tensor("new", 5, 6, (None, 9))}),
    ),
)


@pytest.mark.parametrize(("raw", "expected"), REWIRED)
def test_rewired_calls(raw: Any, expected: Any) -> None:
    before = copy.deepcopy(raw)
    result = rewire_call(raw, swap)
    text = str(result).replace("float16", "float32")
    assert text == str(expected)
    assert raw == before


def test_rewired_outputs_keep_their_structure() -> None:
    ends = {"z": ["a", 0, 0], "k": [["b", 0, 0], ["a", 1, 0]]}
    assert rewire_ends(ends, swap) == {"z": ["new", 5, 6], "k": [["b", 0, 0], ["new", 5, 6]]}


@pytest.mark.parametrize("make", [made.twice_keras2, made.twice_keras3])
def test_removing_inside_a_network_called_twice_leaves_its_calls_alone(make: Callable[[], Json]) -> None:
    config = make()
    before = copy.deepcopy(config)
    edited = rewrite(config, {("inner", "bn"): Remove()})
    assert config == before
    assert [each.name for each in parse(edited).layer("inner").inner.layers] == ["i", "d", "relu"]  # type: ignore[union-attr]
    assert parse(edited).layer("inner").inner.layer("relu").calls[0].inputs == (Ref("d", 0, 0),)  # type: ignore[union-attr]
    for name in ("x", "y", "plus", "half"):
        assert entry(edited, name) == entry(config, name)
    assert edited["config"]["output_layers"] == config["config"]["output_layers"]


def test_the_source_shape_and_dtype_come_along() -> None:
    half = tensor("x", shape=(None, 4))
    half["config"]["dtype"] = "float16"
    layers = [source(), bn("b", node(half)), bn("c", node(tensor("b"))), dense("d", node(tensor("c")))]
    edited = rewrite(functional(layers, ["x", 0, 0], ["d", 0, 0]), {("b",): Remove(), ("c",): Remove()})
    assert entry(edited, "d")["inbound_nodes"] == [node(half)]


def test_a_nested_model_becomes_the_source_with_its_own_node_index() -> None:
    """Keras 2 counts a nested Functional from 1, and Keras 3 does so in output_layers."""
    inner = functional([source("i"), dense("d", old(("i", 0, 0)))], [["i", 0, 0]], [["d", 0, 0]], "inner")
    layers = [
        source(),
        nested(inner, old(("x", 0, 0))),
        bn("b", old(("inner", 1, 0))),
        dense("e", old(("b", 0, 0))),
    ]
    edited = rewrite(functional(layers, [["x", 0, 0]], [["e", 0, 0]]), {("b",): Remove()})
    assert entry(edited, "e")["inbound_nodes"] == [[["inner", 1, 0, {}]]]

    deep = functional([source("i"), dense("d", node(tensor("i")))], ["i", 0, 0], ["d", 0, 0], "deep")
    layers = [source("m"), nested(deep, node(tensor("m"))), bn("b", node(tensor("deep")))]
    middle = functional(layers, ["m", 0, 0], ["b", 0, 0], "middle")
    model = functional([source(), nested(middle, node(tensor("x")))], ["x", 0, 0], ["middle", 1, 0])
    edited = rewrite(model, {("middle", "b"): Remove()})
    assert entry(edited, "middle")["config"]["output_layers"] == ["deep", 1, 0]
    parse(edited)


# A model, the layers to remove, those of them that stay as linear activations.
SETTLED: tuple[tuple[Json, list[LayerPath], set[str]], ...] = (
    (functional([source(), bn("b", old(("x", 0, 0)))], [["x", 0, 0]], [["b", 0, 0]]), [("b",)], {"b"}),
    (sequential(source(), dense("d"), bn("b"), bn("c")), [("b",), ("c",)], {"c"}),
    (sequential(source(), bn("b"), dense("d")), [("b",)], set()),
    (sequential(bn("b", batch_input_shape=[None, 4]), dense("d")), [("b",)], {"b"}),
    (sequential(dense("d"), sequential(bn("b"), bn("c"), name="s")), [("s", "b"), ("s", "c")], {"c"}),
    (sequential(dense("d"), sequential(bn("b"), dense("c"), name="s")), [("s", "b")], set()),
    (
        sequential(
            functional(
                [source("i"), bn("b", old(("i", 0, 0))), bn("c", old(("b", 0, 0)))],
                [["i", 0, 0]],
                [["c", 0, 0]],
                "f",
            )
        ),
        [("f", "b"), ("f", "c")],
        {"c"},
    ),
    (
        sequential(
            functional(
                [source("i"), dense("d", old(("i", 0, 0))), bn("c", old(("d", 0, 0)))],
                [["i", 0, 0]],
                [["c", 0, 0]],
                "f",
            )
        ),
        [("f", "c")],
        set(),
    ),
    (sequential(dense("d"), layer("TimeDistributed", "t", layer=bn("b"))), [("t", "b")], {"b"}),
    (made.wrapped_sequential(), [("td", "step", "bn")], set()),
)


@pytest.mark.parametrize(("config", "paths", "linear"), SETTLED)
def test_what_cannot_go_becomes_linear(config: Json, paths: list[LayerPath], linear: set[str]) -> None:
    edits: dict[LayerPath, Edit] = dict.fromkeys(paths, Remove())
    settled = settle(parse(config), edits)
    assert {path[-1] for path, edit in settled.items() if edit == LINEAR} == linear
    edited = rewrite(config, edits)
    parse(edited)
    assert "BatchNormalization" not in str(edited)
    assert str(edited).count("'linear'") == len(linear)


def test_linear_activation_keeps_what_names_and_shapes_it() -> None:
    config = sequential(bn("b", batch_input_shape=[None, 4], epsilon=1e-3), dense("d"))
    config["config"]["layers"][0] |= {"module": "keras.src.layers", "registered_name": "BatchNormalization"}
    edited = rewrite(config, {("b",): Remove()})
    assert entry(edited, "b") == {
        "class_name": "Activation",
        "config": {
            "name": "b",
            "trainable": True,
            "batch_input_shape": [None, 4],
            "dtype": "float32",
            "activation": "linear",
        },
        "module": "keras.layers",
        "registered_name": None,
    }


@pytest.mark.parametrize(
    ("call", "bare"),
    [
        (node(tensor("x"), False, mask=None, training=tensor("y")), node(tensor("x"))),
        ([["x", 0, 0, {"training": False}]], [["x", 0, 0, {}]]),
    ],
)
def test_a_linear_activation_is_called_with_nothing_but_its_input(call: Any, bare: Any) -> None:
    """Its ``call`` takes neither mask nor training: with them, Keras would refuse the file."""
    config = functional([source(), source("y"), bn("b", call)], [["x", 0, 0], ["y", 0, 0]], [["b", 0, 0]])
    assert entry(rewrite(config, {("b",): Remove()}), "b")["inbound_nodes"] == [bare]


def test_an_old_sequential_hands_its_input_shape_on() -> None:
    inner = sequential(bn("b", batch_input_shape=[None, 4]), bn("c"), dense("d"), name="s")
    edited = rewrite(sequential(dense("a"), inner), {("s", "b"): Remove(), ("s", "c"): Remove()})
    shape: Shape = (None, 4)
    assert entry(edited, "s", "d")["config"]["batch_input_shape"] == list(shape)


def test_a_bare_list_stays_one() -> None:
    config = {
        "class_name": "Sequential",
        "config": sequential(dense("d"), bn("b"), dense("e"))["config"]["layers"],
    }
    edited = rewrite(config, {("b",): Remove()})
    assert [each["config"]["name"] for each in edited["config"]] == ["d", "e"]


def test_configure_changes_only_what_it_names() -> None:
    config = made.twice_keras2()
    edited = rewrite(config, {("inner", "d"): Configure({"use_bias": True})})
    assert entry(edited, "inner", "d")["config"] == {"name": "d", "units": 4, "use_bias": True}
    del entry(edited, "inner", "d")["config"]["use_bias"]
    assert edited == config


def test_both_directions_of_one_stored_layer_are_edited_alike() -> None:
    config, bias = made.wrapped_sequential(), Configure({"use_bias": True})
    both: dict[LayerPath, Edit] = {("both", f"{way}_lstm"): bias for way in ("forward", "backward")}
    assert entry(rewrite(config, both), "both")["config"]["layer"]["config"]["use_bias"] is True
    with pytest.raises(ValueError, match="edit both alike"):
        rewrite(config, {("both", "forward_lstm"): bias})


REJECTED: tuple[tuple[Json, LayerPath, str], ...] = (
    (made.merge_keras2(), ("gone",), "no layer at gone"),
    (made.merge_keras2(), ("add",), "exactly one input"),
    (made.merge_keras3(), ("x",), "reads nothing"),
    (sequential(source(), dense("d")), ("x",), "InputLayer cannot be removed"),
)


@pytest.mark.parametrize(("config", "path", "message"), REJECTED)
def test_edits_that_make_no_sense(config: Json, path: LayerPath, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rewrite(config, {path: Remove()})
