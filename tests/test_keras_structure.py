"""Order, names and nesting: the result has them as the model had them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, assert_same, batchnorms, both_containers, check, fold, stir

pytestmark = pytest.mark.slow


@both_containers
def test_the_order_of_layers(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Without its BN, D1 is as deep as D2: Keras lists them the other way round, and binds weights so."""
    layers = keras.layers
    x = layers.Input((4,), name="x")
    y = layers.Add()(
        [
            layers.BatchNormalization()(layers.Dense(5, name="D1")(x)),
            layers.ReLU()(layers.Dense(5, name="D2")(x)),
        ]
    )
    folded, loaded = check(keras, stir(keras.Model(x, layers.Activation("tanh")(y))), tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []
    before = keras.models.load_model(folded.before, compile=False)
    names = [[layer.name for layer in model.layers if "D" in layer.name] for model in (before, loaded)]
    assert names[0] != names[1], "the order did not change: the test shows nothing"


@pytest.mark.parametrize(("seed", "suffix"), list(zip(range(6), (".keras", ".h5") * 3, strict=True)))
def test_random_branches(keras: Keras, seed: int, suffix: str, tmp_path: Path) -> None:
    """Many branches of unlike depth, all of one shape, so that a mix-up of weights loads without a sound."""
    layers = keras.layers
    rng = np.random.default_rng(seed)
    x = layers.Input((4,), name="x")
    values = [x]
    for k in range(14):
        source = values[int(rng.integers(max(0, len(values) - 4), len(values)))]
        kind = int(rng.integers(4))
        if kind == 0:
            made = layers.BatchNormalization(name=f"bn{k}")(layers.Dense(4, name=f"d{k}")(source))
        elif kind == 1:
            made = layers.Dense(4, activation="tanh")(layers.BatchNormalization(name=f"bn{k}")(source))
        elif kind == 2:
            made = layers.Add()([source, layers.Dense(4)(values[-1])])
        else:
            made = layers.LeakyReLU(0.3)(layers.Dense(4, use_bias=False)(source))
        values.append(made)
    model = keras.Model(x, layers.Concatenate()([layers.Activation("tanh")(v) for v in values[-5:]]))
    folded, _ = check(keras, stir(model, gamma="signed", seed=seed), tmp_path, suffix=suffix)
    assert folded.gone


@both_containers
def test_a_bn_that_names_an_output(keras: Keras, suffix: str, tmp_path: Path) -> None:
    layers = keras.layers
    x = layers.Input((4,), name="x")
    h = layers.BatchNormalization(name="features")(layers.Dense(5)(x))
    y = layers.Dense(2, name="classes")(h)
    folded, loaded = check(keras, stir(keras.Model(x, [h, y])), tmp_path, suffix=suffix)
    assert folded.gone == {"features"}
    assert loaded.output_names == ["features", "classes"]


@both_containers
def test_bn_at_the_ends_of_a_sequential(keras: Keras, suffix: str, tmp_path: Path) -> None:
    layers = keras.layers
    model = stir(
        keras.Sequential(
            [
                layers.Input((5,), name="x"),
                layers.BatchNormalization(),
                layers.Dense(4),
                layers.BatchNormalization(name="end"),
            ]
        )
    )
    _, loaded = check(keras, model, tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []
    assert type(loaded).__name__ == "Sequential"


@both_containers
def test_nothing_but_a_bn(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Nobody is there to take it."""
    layers = keras.layers
    model = stir(keras.Sequential([layers.Input((5,), name="x"), layers.BatchNormalization(name="n")]))
    folded, _ = check(keras, model, tmp_path / "a", suffix=suffix)
    assert folded.kept == {"n": {Reason.GRAPH_INPUT, Reason.GRAPH_OUTPUT}}
    assert folded.after.read_bytes() == folded.before.read_bytes()
    # Inside another network somebody is, and something must be left where it was.
    only = keras.Sequential([layers.Input((5,)), layers.BatchNormalization()], name="only")
    x = layers.Input((4,), name="x")
    model = stir(keras.Model(x, only(layers.Dense(5)(x))))
    _, loaded = check(keras, model, tmp_path / "b", suffix=suffix)
    assert batchnorms(loaded) == []
    assert loaded.output_names == ["only"]


@both_containers
@pytest.mark.parametrize("trainable", [True, False])
def test_nested_both_ways(keras: Keras, suffix: str, trainable: bool, tmp_path: Path) -> None:
    """Functional in Sequential in Functional; a frozen base, as transfer learning leaves it."""
    layers = keras.layers
    z = layers.Input((8, 7, 3), name="z")
    h = layers.BatchNormalization(name="a")(layers.Conv2D(4, 3, use_bias=False)(z))
    h = layers.BatchNormalization(name="b")(layers.DepthwiseConv2D(3, use_bias=False)(layers.ReLU()(h)))
    base = keras.Model(z, h, name="base")
    base.trainable = trainable
    middle = keras.Sequential(
        [
            layers.Input((8, 7, 3)),
            base,
            layers.GlobalAveragePooling2D(),
            layers.BatchNormalization(name="c"),
        ],
        name="middle",
    )
    x = layers.Input((8, 7, 3), name="x")
    y = layers.Dense(3, name="top")(layers.Dropout(0.3)(middle(layers.Rescaling(0.5)(x))))
    folded, loaded = check(keras, stir(keras.Model(x, y)), tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []
    assert {"middle/base/a", "middle/base/b", "middle/c"} <= folded.gone
    assert loaded.get_layer("middle").get_layer("base").trainable is trainable


@both_containers
def test_dicts_of_inputs_and_outputs(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Keys, not positions: they must be the same after loading."""
    layers = keras.layers
    left, right = layers.Input((4,), name="in_l"), layers.Input((3,), name="in_r")
    x = layers.BatchNormalization(name="joined")(layers.Concatenate()([left, right]))
    named = layers.BatchNormalization(name="named")(layers.Dense(5)(x))
    outputs = {"z": layers.Dense(2, name="d1")(x), "a": named}
    model = stir(keras.Model({"right": right, "left": left}, outputs))
    folded = fold(model, tmp_path, suffix)
    assert folded.gone == {"joined", "named"}
    loaded = keras.models.load_model(folded.after, compile=False)
    rng = np.random.default_rng(0)
    feeds = {"left": rng.normal(size=(3, 4)), "right": rng.normal(size=(3, 3))}
    want, got = model(feeds, training=False), loaded(feeds, training=False)
    assert set(want) == set(got) == {"z", "a"}
    for key in want:
        assert_same([np.asarray(want[key])], [np.asarray(got[key])], 1e-12)
    assert batchnorms(loaded) == []


@both_containers
def test_several_inputs_and_outputs(keras: Keras, suffix: str, tmp_path: Path) -> None:
    layers = keras.layers
    image, table = layers.Input((8, 7, 3), name="image"), layers.Input((5,), name="table")
    a = layers.BatchNormalization()(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image)))
    b = layers.BatchNormalization()(layers.Dense(4)(table))
    both = layers.BatchNormalization()(layers.Concatenate()([a, b]))
    model = keras.Model([table, image], [layers.Dense(2, name="p")(both), both, layers.Dense(3, name="q")(b)])
    _, loaded = check(keras, stir(model, gamma="signed"), tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []
