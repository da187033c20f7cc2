"""``--activations move`` in archives of Keras 3: a ReLU becomes a maximum or minimum of a vector, or both."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.formats.base import ReadOptions
from tests.command import FAST, call
from tests.keras_nets import Keras, assert_same, batchnorms, fold, outputs_of, random_inputs, stir

pytestmark = pytest.mark.slow

MOVES = ReadOptions(activations="move")


def _stays(keras: Keras, *, gamma: str, relu: Any = None) -> Any:
    """Conv → ReLU → BN → zero-padded Conv, and a stream that two BN → ReLU read: none goes without moving."""
    layers = keras.layers
    x = layers.Input((6, 5, 3), name="x")
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="first")(x)
    y = (relu or layers.Activation("relu", name="relu"))(y)
    y = layers.Conv2D(4, 3, padding="same", name="second")(layers.BatchNormalization(name="norm")(y))
    for k in (1, 2):
        z = layers.Activation("tanh", name=f"tanh{k}")(y)
        z = layers.ReLU(name=f"relu{k}")(layers.BatchNormalization(name=f"norm{k}")(z))
        y = layers.Concatenate(name=f"join{k}")([y, layers.Conv2D(2, 1, name=f"grown{k}")(z)])
    return stir(keras.Model(x, y), gamma=gamma)


def _clamps(keras: Keras) -> dict[str, Any]:
    """All that are min(max(x, low), high), as layers, as activations and as nodes of ``keras.ops``."""
    layers, ops = keras.layers, keras.ops
    return {
        "capped": layers.ReLU(max_value=1.3, name="capped"),
        "named": layers.Activation("relu6", name="named"),
        "tanh": layers.Activation("hard_tanh", name="tanh"),
        "inside": layers.Activation(layers.ReLU(max_value=1.7), name="inside"),
        "function": lambda y: keras.activations.relu(y, max_value=1.1),
        "relu": ops.relu,
        "relu6": ops.relu6,
        "hard_tanh": ops.hard_tanh,
        "clip": lambda y: ops.clip(y, -1, 2.0),
        "at least": lambda y: ops.maximum(0.5, y),
        "at most": lambda y: ops.minimum(x1=y, x2=0.5),
    }


@pytest.mark.parametrize("gamma", ["positive", "signed"])
def test_every_clamp_moves(keras: Keras, gamma: str, tmp_path: Path) -> None:
    """With both bounds it is two nodes; one behind the other, in one model."""
    layers, clamps = keras.layers, _clamps(keras)
    x = y = layers.Input((6, 5, 3), name="x")
    for k, clamp in enumerate(clamps.values()):
        y = clamp(layers.Conv2D(4, 1)(y))
        y = layers.Conv2D(3, 2, padding="same")(layers.BatchNormalization(name=f"norm{k}")(y))
    model = stir(keras.Model(x, y), gamma=gamma)
    assert len(fold(model, tmp_path / "kept").kept) == len(clamps)
    folded = fold(model, tmp_path, options=MOVES)
    assert folded.kept == {}
    loaded = keras.models.load_model(folded.after, compile=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
    assert len(loaded.operations) <= len(model.operations)
    loaded.save(tmp_path / "again.keras")  # by Keras itself
    again = keras.models.load_model(tmp_path / "again.keras", compile=False)
    assert_same(outputs_of(model, feeds), outputs_of(again, feeds), 1e-12)


def _classes(path: Path) -> Counter[str]:
    config = json.loads(zipfile.ZipFile(path).read("config.json"))
    return Counter(entry["class_name"] for entry in config["config"]["layers"])


@pytest.mark.parametrize("gamma", ["positive", "signed"])
def test_activations_move(keras: Keras, gamma: str, tmp_path: Path) -> None:
    model = _stays(keras, gamma=gamma)
    assert len(fold(model, tmp_path / "kept").kept) == 3
    folded = fold(model, tmp_path, options=MOVES)
    assert folded.kept == {}
    loaded = keras.models.load_model(folded.after, compile=False)
    assert batchnorms(loaded) == []
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
    classes = _classes(folded.after)
    assert classes["Maximum"] == 3
    assert bool(classes["Minimum"]) is (gamma == "signed")
    assert classes["ReLU"] == classes["Activation"] - 2 == 0  # but for the two tanh
    loaded.save(tmp_path / "again.keras")  # by Keras itself
    again = keras.models.load_model(tmp_path / "again.keras", compile=False)
    assert_same(outputs_of(model, feeds), outputs_of(again, feeds), 1e-12)


@pytest.mark.parametrize("gamma", ["positive", "signed"])
def test_what_a_layer_does_itself_moves_behind_it(keras: Keras, gamma: str, tmp_path: Path) -> None:
    """``activation="relu"`` of all sorts of layers, in a nested model too; two read what one puts out."""
    layers = keras.layers
    relu = {"activation": "relu"}
    inner = layers.Input((6, 5, 4), name="inner_in")
    y = layers.SeparableConv2D(4, 3, padding="same", name="separable", **relu)(inner)
    y = layers.Conv2DTranspose(3, 3, padding="same", name="nested_last")(
        layers.BatchNormalization(name="in")(y)
    )
    nested = keras.Model(inner, y, name="nested")
    x = layers.Input((6, 5, 3), name="x")
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv", **relu)(x)
    y = layers.BatchNormalization(name="a")(y)
    y = layers.Add()([layers.Conv2D(4, 3, padding="same", name="left")(y), layers.ZeroPadding2D(0)(y)])
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise", **relu)(y)
    y = layers.Conv2D(4, 3, padding="same", name="next")(layers.BatchNormalization(name="b")(y))
    y = nested(y)
    y = layers.Dense(4, name="dense", activation=layers.ReLU())(y)
    y = layers.Conv2D(2, 2, padding="same", name="last")(layers.BatchNormalization(name="c")(y))
    model = stir(keras.Model(x, y), gamma=gamma)
    assert len(fold(model, tmp_path / "kept").kept) >= 3
    folded = fold(model, tmp_path, options=MOVES)
    assert folded.kept == {}
    loaded = keras.models.load_model(folded.after, compile=False)
    assert batchnorms(loaded) == []
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
    assert loaded.get_layer("conv").activation is keras.activations.linear
    assert len(loaded.operations) <= len(model.operations)
    loaded.save(tmp_path / "again.keras")  # by Keras itself
    again = keras.models.load_model(tmp_path / "again.keras", compile=False)
    assert_same(outputs_of(model, feeds), outputs_of(again, feeds), 1e-12)


def test_what_moves_behind_a_layer_leaves_a_sequential_beside_it(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    x = layers.Input((6, 6, 3), name="x")
    y = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, activation="relu", name="conv")(x))
    y = layers.Conv2D(4, 3, padding="same", name="next")(y)
    beside = keras.Sequential([layers.Input((4, 4, 4)), layers.Conv2D(2, 1)], name="beside")
    model = stir(keras.Model(x, beside(y)), gamma="positive")
    folded = fold(model, tmp_path, options=MOVES)
    assert folded.kept == {}
    feeds = random_inputs(model)
    loaded = keras.models.load_model(folded.after, compile=False)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)


@pytest.mark.parametrize("gamma", ["positive", "signed"])
def test_two_nodes_are_too_many_for_what_was_none(keras: Keras, gamma: str, tmp_path: Path) -> None:
    """Behind a MaxPooling no sign may change: where signs are mixed it takes a maximum and a minimum."""
    layers = keras.layers
    x = layers.Input((6, 6, 3), name="x")
    y = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    y = layers.MaxPooling2D(name="pool")(layers.BatchNormalization(name="norm")(y))
    model = stir(keras.Model(x, layers.Conv2D(2, 3, padding="same")(y)), gamma=gamma)
    folded = fold(model, tmp_path, options=MOVES)
    assert (folded.kept == {}) is (gamma == "positive")
    loaded = keras.models.load_model(folded.after, compile=False)
    assert len(loaded.operations) == len(model.operations)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)


def test_a_fused_activation_that_is_no_plain_relu_stays(keras: Keras, tmp_path: Path) -> None:
    """Others, a layer that is called twice, and one inside a wrapper."""
    layers = keras.layers
    shared = layers.Conv2D(4, 1, activation="relu", name="shared")
    makers: tuple[tuple[str, Any], ...] = (
        ("leaky", lambda x: layers.Conv2D(4, 1, activation="leaky_relu")(x)),
        ("capped", lambda x: layers.Conv2D(4, 1, activation="relu6")(x)),
        ("shared", lambda x: layers.Add()([shared(x), layers.Activation("tanh")(shared(x))])),
        ("wrapped", lambda x: layers.TimeDistributed(layers.Dense(4, activation="relu"))(x)),
    )
    for name, make in makers:
        x = layers.Input((6, 5, 3), name="x")
        y = layers.BatchNormalization(name="norm")(make(x))
        model = stir(keras.Model(x, layers.Conv2D(2, 3, padding="same")(y)), gamma="positive")
        folded = fold(model, tmp_path / name, options=MOVES)
        assert set(folded.kept) == {"norm"}, name
        loaded = keras.models.load_model(folded.after, compile=False)
        feeds = random_inputs(model)
        assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)


def test_a_name_that_is_taken(keras: Keras, tmp_path: Path) -> None:
    """The maximum before the minimum needs a name of its own."""
    layers = keras.layers
    x = layers.Input((5,), name="x")
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(layers.Activation("tanh")(x)))
    y = layers.Dense(3, name="relu_maximum")(y)
    model = stir(keras.Model(x, layers.Dense(2, name="relu_maximum1")(y)), gamma="signed")
    folded = fold(model, tmp_path, options=MOVES)
    assert folded.gone == {"norm"}
    loaded = keras.models.load_model(folded.after, compile=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)


def test_what_is_no_clamp_stays(keras: Keras, tmp_path: Path) -> None:
    """Leaky, with a threshold, by vectors, or called twice: only what a maximum says as well becomes one."""
    layers, ops = keras.layers, keras.ops
    shared = layers.ReLU(name="shared")
    for name, relu in (
        ("leaky", layers.ReLU(negative_slope=0.1, name="leaky")),
        ("leaky inside", layers.Activation(layers.ReLU(negative_slope=0.1), name="leaky_inside")),
        ("leaky and capped", layers.ReLU(max_value=6.0, negative_slope=0.1, name="capped")),
        ("threshold", layers.ReLU(threshold=0.5, name="threshold")),
        ("vector", lambda y: ops.maximum(y, np.array([0.1, 0.2, -0.3, 0.4]))),
        ("lists", lambda y: ops.clip(y, [0.1, 0.2, -0.3, 0.4], 2.0)),
        ("shared", lambda y: layers.Add()([shared(y), shared(layers.Conv2D(4, 1)(y))])),
    ):
        model = _stays(keras, gamma="positive", relu=relu)
        folded = fold(model, tmp_path / name, options=MOVES)
        assert set(folded.kept) == {"norm"}, name
        loaded = keras.models.load_model(folded.after, compile=False)
        feeds = random_inputs(model)
        assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)


def test_what_cannot_hold_it_stays_and_is_told(keras: Keras, tf_keras: Keras, tmp_path: Path) -> None:
    """HDF5, whose nodes with arrays Keras does not load; Keras 2; masks, which a node does not hand on."""
    layers = keras.layers
    x = layers.Input((5,), dtype="int32", name="x")
    y = layers.Activation("tanh")(layers.Embedding(9, 4, mask_zero=True)(x))
    y = layers.ReLU()(layers.BatchNormalization(name="norm")(y))
    masked = stir(keras.Model(x, layers.LSTM(3)(y)), gamma="positive")
    for model, suffix in (
        (_stays(keras, gamma="positive"), ".h5"),
        (_stays(tf_keras, gamma="positive"), ".keras"),
        (masked, ".keras"),
    ):
        folded = fold(model, tmp_path / f"{model.name}{suffix}", suffix, options=MOVES)
        assert folded.kept
        assert any("activations of this file stay" in note for note in folded.notes)


def test_on_the_command_line(keras3: Keras, tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    _stays(keras3, gamma="positive").save(path)
    ran = call("optimize", path, "--activations", "move", "--no-bench", "--json", *FAST[:2])
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    assert report["batchnorms"] == {"found": 3, "folded": 3, "kept": 0}
    assert report["verification"]["status"] == "equal"
    (through,) = [d for d in report["decisions"] if d["name"] == "norm"]
    assert through["becomes"] == {"relu": "Max"}
    loaded = keras3.models.load_model(tmp_path / "m.fused.keras", compile=False)
    bound = next(op for op in loaded.operations if op.name == "relu")
    assert type(bound).__name__ == "Maximum"
    assert np.isfinite(outputs_of(loaded, random_inputs(loaded))[0]).all()


def test_behind_the_last_layer_of_a_nested_model(keras: Keras, tmp_path: Path) -> None:
    """Once its BatchNormalization has gone, no layer reads it: the end of the nested model does."""
    layers = keras.layers
    inner = layers.Input((6, 6, 3))
    y = layers.Conv2D(4, 3, activation="relu", name="conv")(inner)
    nested = keras.Model(inner, layers.BatchNormalization(name="norm")(y), name="nested")
    x = layers.Input((6, 6, 3), name="x")
    model = stir(keras.Model(x, layers.Conv2D(2, 3, padding="same")(nested(x))), gamma="signed")
    folded = fold(model, tmp_path, options=MOVES)
    assert folded.kept == {}
    loaded = keras.models.load_model(folded.after, compile=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
