"""Configs of all dialects as networks of calls."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import SEQUENTIAL_INPUT, Network, Ref, walk
from bnfuse.formats.keras.graph.order import check_order
from bnfuse.formats.keras.graph.shapes import infer
from tests import keras_configs as made
from tests.keras_configs import (
    Json,
    dense,
    functional,
    layer,
    nested,
    node,
    old,
    one_dense,
    sequential,
    source,
    tensor,
)
from tests.keras_files import REAL_MODELS, real_configs


def calls(network: Network) -> dict[str, list[tuple[tuple[Ref, str], ...]]]:
    """The tensors of every call, with their keywords."""
    return {
        each.name: [tuple(zip(c.inputs, c.keywords, strict=True)) for c in each.calls]
        for each in network.layers
    }


def test_old_sequential_is_a_bare_list_whose_input_has_no_layer() -> None:
    config = {"class_name": "Sequential", "config": sequential(dense("a"), dense("b"))["config"]["layers"]}
    network = parse(config)
    assert (network.inputs, network.outputs) == ((SEQUENTIAL_INPUT,), (Ref("b", 0, 0),))
    assert calls(network) == {"a": [((SEQUENTIAL_INPUT, ""),)], "b": [((Ref("a", 0, 0), ""),)]}


def test_nested_bare_lists_get_names_that_are_free() -> None:
    inner = {"class_name": "Sequential", "config": sequential(dense("a"))["config"]["layers"]}
    config = {"class_name": "Sequential", "config": [inner, dense("sequential_1"), copy.deepcopy(inner)]}
    assert [each.name for each in parse(config).layers] == ["sequential_2", "sequential_1", "sequential_3"]


def test_sequential_with_input_layer() -> None:
    network = parse(sequential(source("i"), dense("a")))
    assert network.inputs == (Ref("i", 0, 0),)
    assert calls(network) == {"i": [], "a": [((Ref("i", 0, 0), ""),)]}


@pytest.mark.parametrize("make", [made.twice_keras2, made.twice_keras3])
def test_nested_network_called_twice(make: Callable[[], Json]) -> None:
    """Both dialects give the same references, though they count nodes differently."""
    network = parse(make())
    first, second = (Ref("inner", k, 0) for k in (0, 1))
    assert network.outputs == (Ref("half", 0, 0), second)  # the dict's keys sorted
    read = calls(network)
    assert read["inner"] == [((Ref("x", 0, 0), ""),), ((Ref("y", 0, 0), ""),)]
    assert [ref for ref, _ in read["plus"][0]] == [first, second]
    assert [ref for ref, _ in read["half"][0]] == [Ref("plus", 0, 0)]
    half = network.layer("half").calls[0]
    assert half.constants == {0: 0.5}
    assert network.layer("inner").inner is not None


def test_keyword_tensors_and_arguments_in_keras2() -> None:
    network = parse(made.twice_keras2())
    plus = network.layer("plus").calls[0]
    assert plus.keywords == ("", "y")
    assert plus.arguments == {"name": None}
    assert network.layer("half").calls[0].keywords == ("y",)


def test_keyword_tensors_of_keras3_come_sorted_as_keras_flattens_them() -> None:
    call = node(
        tensor("a"), [tensor("b"), 2.0], value=tensor("v"), key=tensor("k", shape=(None, 7)), training=True
    )
    layers = [*(source(n) for n in "abvk"), layer("Custom", "c", call)]
    network = parse(functional(layers, [[n, 0, 0] for n in "abvk"], ["c", 0, 2]))
    read = network.layer("c").calls[0]
    assert [(ref.layer, word) for ref, word in calls(network)["c"][0]] == [
        ("a", ""),
        ("b", ""),
        ("k", "key"),
        ("v", "value"),
    ]
    assert read.shapes == ((None, 4), (None, 4), (None, 7), (None, 4))
    assert read.dtypes == ("float32",) * 4
    assert read.arguments == {"training": True}
    assert read.constants == {1: [tensor("b"), 2.0]}  # mixed: listed whole


def test_first_argument_of_keras2_may_be_a_dict_or_nested() -> None:
    call = {"b": ["x", 0, 0, {"training": False}], "a": [["y", 0, 0, {"training": False}]]}
    layers = [source("x"), source("y"), layer("Custom", "c", call)]
    read = parse(functional(layers, [["x", 0, 0], ["y", 0, 0]], [["c", 0, 0]])).layer("c").calls[0]
    assert [ref.layer for ref in read.inputs] == ["y", "x"]
    assert read.arguments == {"training": False}


# A nested model's definition, how many calls it has, the node indices that readers use: the first node.
STEP = [dense("d")]
DEFERRED = sequential(*STEP, name="inner")
SHAPED = sequential(layer("Dense", "d", units=4, batch_input_shape=[None, 4]), name="inner")
GIVEN = sequential(source("i"), *STEP, name="inner")
FIRST_NODES: tuple[tuple[Json, int, list[int], int], ...] = (
    (DEFERRED, 1, [0], 0),
    (DEFERRED, 2, [0, 1], 0),
    (DEFERRED, 2, [1, 2], 1),  # built by its first call, as some versions count
    (DEFERRED, 3, [1], 0),  # only inner nodes are read: by rule
    (SHAPED, 1, [1], 1),
    (SHAPED, 3, [2], 1),
    (GIVEN, 1, [1], 1),
    (GIVEN, 3, [1, 2], 1),
    (GIVEN, 1, [0], 0),
    (sequential(GIVEN | {"name": "g"}, name="inner"), 3, [1], 1),
)


@pytest.mark.parametrize(("inner", "count", "used", "first"), FIRST_NODES)
def test_first_node_of_keras2_is_what_the_references_say(
    inner: Json, count: int, used: list[int], first: int
) -> None:
    layers = [source(), nested(inner, *[old(("x", 0, 0))] * count)]
    layers += [layer("Activation", f"a{k}", old(("inner", index, 0))) for k, index in enumerate(used)]
    network = parse(functional(layers, [["x", 0, 0]], [[f"a{k}", 0, 0] for k in range(len(used))]))
    assert network.first_node.get("inner", 0) == first
    assert [ref.call for k in range(len(used)) for ref in network.layer(f"a{k}").calls[0].inputs] == [
        index - first for index in used
    ]


def test_wrapped_layers() -> None:
    network = parse(made.wrapped_sequential())
    seen = [(path, each.name) for path, each in walk(network)]
    assert seen == [
        ((), "td"),
        (("td",), "step"),
        (("td", "step"), "d"),
        (("td", "step"), "bn"),
        ((), "both"),
        (("both",), "forward_lstm"),
        (("both",), "backward_lstm"),
    ]
    forward, backward = network.layer("both").wrapped
    assert (forward.config.get("go_backwards", False), backward.config["go_backwards"]) == (False, True)


def test_custom_classes_are_told_from_keras_own() -> None:
    entries = [
        layer("Dense", "own", module="keras.layers"),
        layer("Dense", "tf", module="tf_keras.src.layers"),
        layer("Mine>Dense", "h5"),
        layer("Dense", "foreign", module="my.layers"),
        layer("Dense", "package", module=None) | {"registered_name": "Mine>Dense"},
    ]
    found = {each.name: (each.class_name, each.registered) for each in parse(sequential(*entries)).layers}
    assert found == {
        "own": ("Dense", ""),
        "tf": ("Dense", ""),
        "h5": ("Dense", "Mine>Dense"),
        "foreign": ("Dense", "Dense"),
        "package": ("Dense", "Mine>Dense"),
    }


def test_two_calls_of_one_layer_in_a_row_are_no_cycle() -> None:
    network = parse(one_dense(old(("x", 0, 0)), old(("d", 0, 0))))
    assert [call.inputs for call in network.layer("d").calls] == [(Ref("x", 0, 0),), (Ref("d", 0, 0),)]


def test_thousands_of_layers_in_a_row() -> None:
    layers = [source(), *(dense(f"d{k}", old((f"d{k - 1}" if k else "x", 0, 0))) for k in range(20_000))]
    network = parse(functional(layers, [["x", 0, 0]], [["d19999", 0, 0]]))
    check_order(network)
    assert infer(network).of((), network.outputs[0]) == (None, 4)


def _count(value: Any, class_name: str) -> int:
    if isinstance(value, dict):
        return (value.get("class_name") == class_name) + sum(_count(v, class_name) for v in value.values())
    return sum(_count(v, class_name) for v in value) if isinstance(value, list) else 0


@pytest.mark.skipif(not REAL_MODELS.is_dir(), reason=f"no real models at {REAL_MODELS}")
def test_every_layer_of_real_files_is_found() -> None:
    configs = real_configs()
    assert configs
    for name, config in configs.items():
        layers = [each for _, each in walk(parse(config))]
        for class_name in ("BatchNormalization", "Conv2D", "Dense", "Sequential", "DepthwiseConv2D"):
            found = sum(each.class_name == class_name for each in layers)
            outermost = int(config["class_name"] == class_name)
            assert found == _count(config, class_name) - outermost, (name, class_name)
