"""Shapes that a file does not tell, and what the shapes of several calls have in common; without Keras."""

from __future__ import annotations

from typing import Any

import pytest

from bnfuse.formats.keras.graph import config as bounds
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import SEQUENTIAL_INPUT, Ref, Shape, networks
from bnfuse.formats.keras.graph.shapes import infer
from tests import keras_configs as made
from tests.keras_configs import Json, dense, functional, layer, nested, old, sequential, source


def test_unknown_layers_are_unknown_until_a_rank_tells() -> None:
    layers = [
        source(),
        layer("Mystery", "m", old(("x", 0, 0))),
        layer("Activation", "a", old(("m", 0, 0)), activation="relu"),
        layer("Reshape", "r", old(("m", 0, 0)), target_shape=[6, 5, -1]),
        layer("Conv2D", "c", old(("a", 0, 0)), filters=7, kernel_size=[3, 3], padding="same"),
    ]
    shapes = infer(parse(functional(layers, [["x", 0, 0]], [["c", 0, 0], ["r", 0, 0]])))
    assert shapes.of((), Ref("m", 0, 0)) is None
    assert shapes.of((), Ref("r", 0, 0)) is None
    assert shapes.of((), Ref("c", 0, 0)) == (None, None, None, 7)
    assert shapes.rank((), Ref("a", 0, 0)) == 4


def test_a_recurrent_layer_tells_its_shape_behind_an_unknown_one() -> None:
    """Where its cell is one of Keras's own; what is no cell tells nothing, and raises nothing."""
    cells = {
        "own": {"class_name": "LSTMCell", "config": {"units": 5}},
        "no object": "LSTMCell",
        "no settings": {"class_name": "LSTMCell"},
    }
    layers = [source(), layer("Mystery", "m", old(("x", 0, 0)))]
    layers += [
        layer("RNN", name, old(("m", 0, 0)), cell=cell, return_sequences=True) for name, cell in cells.items()
    ]
    shapes = infer(parse(functional(layers, [["x", 0, 0]], [[name, 0, 0] for name in cells])))
    assert [shapes.of((), Ref(name, 0, 0)) for name in cells] == [(None, None, 5), None, None]


def test_custom_layers_are_never_taken_for_keras_own() -> None:
    entry = layer("Mine>Dense", "d", old(("x", 0, 0)), units=7)
    shapes = infer(parse(functional([source(), entry], [["x", 0, 0]], [["d", 0, 0]])))
    assert shapes.of((), Ref("d", 0, 0)) is None


@pytest.mark.parametrize(
    "config",
    [
        {"filters": 7},
        {"filters": "7", "kernel_size": 3},
        {"filters": 7, "kernel_size": [3]},
        {"filters": 7, "kernel_size": 3, "strides": 0},
        {"filters": 7, "kernel_size": 3, "padding": "full"},
        {"filters": 7, "kernel_size": 30},
        {"filters": 7, "kernel_size": 3, "data_format": None},
        {"filters": 7.5, "kernel_size": 3},
    ],
)
def test_a_config_that_makes_no_sense_gives_no_shape(config: Json) -> None:
    model = sequential(
        layer("InputLayer", "x", batch_input_shape=[None, 9, 9, 3]), layer("Conv2D", "c", **config)
    )
    assert infer(parse(model)).of((), Ref("c", 0, 0)) is None


def test_shapes_of_a_network_called_twice_are_what_its_calls_share() -> None:
    inner = functional(
        [layer("InputLayer", "i", batch_input_shape=[None, None, 4]), dense("d", old(("i", 0, 0)))],
        [["i", 0, 0]],
        [["d", 0, 0]],
        "inner",
    )
    layers = [
        layer("InputLayer", "x", batch_input_shape=[2, 5, 4]),
        layer("InputLayer", "y", batch_input_shape=[2, 6, 4]),
        nested(inner, old(("x", 0, 0)), old(("y", 0, 0))),
    ]
    ends = [["inner", 1, 0], ["inner", 2, 0]]
    shapes = infer(parse(functional(layers, [["x", 0, 0], ["y", 0, 0]], ends)))
    assert shapes.of((), Ref("inner", 0, 0)) == (2, 5, 4)
    assert shapes.of((), Ref("inner", 1, 0)) == (2, 6, 4)
    assert shapes.of(("inner",), Ref("d", 0, 0)) == (2, None, 4)


def test_a_network_called_with_very_many_shapes_is_given_up() -> None:
    inner = sequential(dense("d"), name="inner")
    sources = [layer("InputLayer", f"x{k}", batch_input_shape=[None, k + 1, 4]) for k in range(20)]
    layers = [*sources, nested(inner, *(old((f"x{k}", 0, 0)) for k in range(20)))]
    inputs = [[f"x{k}", 0, 0] for k in range(20)]
    network = parse(functional(layers, inputs, [["inner", k, 0] for k in range(20)]))
    shapes = infer(network)
    assert shapes.of((), Ref("inner", 0, 0)) == (None, 1, 4)
    assert shapes.of((), Ref("inner", 19, 0)) is None
    assert shapes.of(("inner",), Ref("d", 0, 0)) is None


def test_networks_that_double_at_every_level_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 25 levels calls the next twice: 33 million calls, were they all followed."""
    monkeypatch.setattr(bounds, "_FREE_CALLS", 1 << 40)  # a file with so many is refused
    model = sequential(dense("d"), name="n0")
    for k in range(1, 25):
        inside = [
            source("i"),
            nested(model, old(("i", 0, 0)), old((f"n{k - 1}", 0, 0))),
        ]
        model = functional(inside, [["i", 0, 0]], [[f"n{k - 1}", 1, 0]], f"n{k}")
        if k > 1:
            inside[1]["inbound_nodes"] = [old(("i", 0, 0)), old((f"n{k - 1}", 1, 0))]
            model["config"]["output_layers"] = [[f"n{k - 1}", 2, 0]]
    network = parse(model)
    shapes = infer(network)
    assert len(list(networks(network))) == 25
    assert shapes.of((), network.outputs[0]) == (None, 4)


def test_inputs_may_be_told_better_than_the_file_does() -> None:
    network = parse(sequential(dense("d")))
    assert infer(network).of((), Ref("d", 0, 0)) is None
    shapes = infer(network, [(3, 8)])
    assert shapes.of((), SEQUENTIAL_INPUT) == (3, 8)
    assert shapes.of((), Ref("d", 0, 0)) == (3, 4)


def test_shape_of_what_a_layer_was_built_with() -> None:
    built = dense("d") | {"build_config": {"input_shape": [None, 8]}}
    shapes = infer(parse(sequential(layer("Mystery", "m", batch_input_shape=[None, 3]), built)))
    assert shapes.of((), Ref("m", 0, 0)) == (None, 8)
    assert shapes.of((), Ref("d", 0, 0)) == (None, 4)


def test_operations_broadcast_with_constants() -> None:
    shapes = infer(parse(made.twice_keras2()))
    assert shapes.of((), Ref("half", 0, 0)) == (None, 4)
    keras3 = infer(parse(made.twice_keras3()))
    assert keras3.of((), Ref("half", 0, 0)) == (None, 4)


_LSTM = {"class_name": "LSTMCell", "config": {"units": 5}}
_GRU = {"class_name": "GRUCell", "config": {"units": 6}}
_STACK = {"class_name": "StackedRNNCells", "config": {"cells": [_LSTM, _GRU]}}
_STEPS, _IMAGES = (2, 7, 3), (2, 7, 9, 8, 3)


def _both(kind: str, *, registered: str | None = None, **config: Any) -> Json:
    inner = {"class_name": kind, "config": {"name": "in", **config}, "registered_name": registered}
    return {"layer": inner}


def _two(kind: str, **config: Any) -> Json:
    """An LSTM of 5 units forward, and another layer backward."""
    states = {"return_state": config.get("return_state", False)}
    other = {"class_name": kind, "config": {"name": "back", "go_backwards": True, **config}}
    return _both("LSTM", units=5, **states) | {"backward_layer": other}


# class, settings, the shape of the input, and those of all outputs as far as they are known
RECURRENT: tuple[tuple[str, Json, Shape | None, list[Shape | None]], ...] = (
    ("LSTM", {"units": 5}, None, [(None, 5)]),
    ("LSTM", {"units": 5, "return_sequences": True}, None, [(None, None, 5)]),
    ("LSTM", {"units": 5}, (2, 7, 1, 3), []),
    ("GRU", {"units": 5, "time_major": True}, _STEPS, []),
    ("GRU", {"units": 5, "return_state": True}, _STEPS, [(2, 5)] * 2),
    ("CuDNNGRU", {"units": 5, "return_state": True}, _STEPS, [(2, 5)] * 2),
    ("CuDNNLSTM", {"units": 5, "return_state": True}, _STEPS, [(2, 5)] * 3),
    ("ConvLSTM2D", {"filters": 4, "kernel_size": 3}, None, [(None, None, None, 4)]),
    ("ConvLSTM2D", {"filters": 4, "kernel_size": 3}, (2, 7, 9, 3), []),
    ("ConvLSTM2D", {"filters": 4, "kernel_size": 3, "strides": 0}, _IMAGES, []),
    (
        "ConvLSTM2D", {"filters": 4, "kernel_size": (3, 2), "return_sequences": True, "return_state": True},
        _IMAGES, [(2, 7, 7, 7, 4), (2, 7, 7, 4), (2, 7, 7, 4)],
    ),
    ("RNN", {"cell": _LSTM, "return_state": True}, _STEPS, [(2, 5)] * 3),
    ("RNN", {"cell": _GRU, "return_state": True}, _STEPS, [(2, 6)] * 2),
    ("RNN", {"cell": _GRU, "return_sequences": True}, _STEPS, [(2, 7, 6)]),
    ("RNN", {"cell": _STACK, "return_state": True}, _STEPS, [(2, 6)]),
    ("RNN", {"cell": _GRU}, (2, 7, 1, 3), []),
    ("RNN", {"cell": _GRU, "time_major": True}, _STEPS, []),
    ("Bidirectional", _both("GRU", units=5), _STEPS, [(2, 10)]),
    ("Bidirectional", _both("GRU", units=5, return_state=True), _STEPS, [(2, 10), (2, 5), (2, 5)]),
    ("Bidirectional", _both("GRU", units=5) | {"merge_mode": "sum"}, _STEPS, [(2, 5)]),
    ("Bidirectional", _both("GRU", units=5) | {"merge_mode": None}, _STEPS, [(2, 5), (2, 5)]),
    ("Bidirectional", _both("GRU", units=5) | {"merge_mode": "max"}, _STEPS, []),
    ("Bidirectional", _both("GRU", units=5), (2, 7, 1, 3), []),
    ("Bidirectional", _both("GRU", units=5, registered="Mine>GRU"), _STEPS, []),
    ("Bidirectional", _both("Dense", units=5), _STEPS, []),
    ("Bidirectional", _both("GRU", units=5, return_sequences=True), _STEPS, [(2, 7, 10)]),
    ("Bidirectional", _both("GRU", units=None), _STEPS, [(2, None)]),
    ("Bidirectional", _both("GRU", units=5, return_sequences=True), (2, None, 3), [(2, None, 10)]),
    ("Bidirectional", _two("GRU", units=None), _STEPS, [(2, None)]),
    ("Bidirectional", _two("GRU", units=3) | _both("LSTM", units=None), _STEPS, [(2, None)]),
    ("Bidirectional", _two("Dense", units=3) | {"merge_mode": "sum"}, _STEPS, []),
    ("Bidirectional", _two("GRU", units=3), _STEPS, [(2, 8)]),
    ("Bidirectional", _two("GRU", units=3) | {"merge_mode": None}, _STEPS, [(2, 5), (2, 3)]),
    (
        "Bidirectional", _two("GRU", units=3, return_state=True), _STEPS,
        [(2, 8), (2, 5), (2, 5), (2, 3)],
    ),
    ("Bidirectional", _two("Dense", units=3), _STEPS, []),
    ("Bidirectional", _two("ConvLSTM1D", filters=3, kernel_size=2), _STEPS, []),
    ("Bidirectional", _both("ConvLSTM1D", filters=[3], kernel_size=2), (2, 7, 9, 3), []),
)  # fmt: skip


@pytest.mark.parametrize(("kind", "config", "given", "known"), RECURRENT)
def test_what_recurrent_layers_put_out(
    kind: str, config: Json, given: Shape | None, known: list[Shape | None]
) -> None:
    """Nothing is known of what would not run, or of an axis of time in front."""
    first = layer("InputLayer", "x", batch_input_shape=list(given or (None, 4)))
    entries = [first, *([] if given else [layer("Mystery", "m", old(("x", 0, 0)))])]
    entries.append(layer(kind, "it", old(("x" if given else "m", 0, 0)), **config))
    shapes = infer(parse(functional(entries, [["x", 0, 0]], [["it", 0, 0]])))
    assert [shapes.of((), Ref("it", 0, k)) for k in range(len(known))] == known
    assert shapes.of((), Ref("it", 0, len(known))) is None
