"""``--target no-bn`` in Keras files: a shift before zero padding goes by a channel that is constant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.decisions import Fold, Split
from bnfuse.formats.base import ReadOptions
from tests.command import call
from tests.keras_nets import Folded, Keras, assert_same, batchnorms, fold, outputs_of, random_inputs, stir

pytestmark = pytest.mark.slow

NONE_LEFT = ReadOptions(target="no-bn")
_OF_BOTH = ("elu", "selu", "sigmoid", "tanh", "softplus", "softsign", "exponential", "gelu", "swish")
_OF_KERAS_3 = ("silu", "mish", "celu", "leaky_relu")


def _folded(
    keras: Keras, model: Any, folder: Path, tolerance: float, suffix: str = ".keras"
) -> tuple[Any, Folded]:
    """The model that Keras loads, which computes the same and has no BatchNormalization."""
    folded = fold(model, folder, suffix, NONE_LEFT)
    loaded = keras.models.load_model(folded.after, compile=False)
    assert batchnorms(loaded) == []
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), tolerance)
    return loaded, folded


def _by_channel(folded: Folded) -> set[str]:
    return {d.node for d in folded.plan.decisions if isinstance(d, Fold) and d.split is Split.CONSTANT}


def test_past_every_activation(either_keras: Keras, tmp_path: Path) -> None:
    """As a layer and inside one, in a Sequential: each convolution but the last gets a channel."""
    layers, suffix = either_keras.layers, ".h5" if hasattr(either_keras, "ops") else ".keras"
    names = _OF_BOTH + (_OF_KERAS_3 if hasattr(either_keras, "ops") else ())
    made: list[Any] = [layers.Input((6, 5, 3))]
    for k, name in enumerate(names):
        fused = {"activation": name} if k % 2 else {}
        made.append(layers.Conv2D(4, 3, padding="same", use_bias=k % 3 > 0, **fused))
        made += [] if k % 2 else [layers.Activation(name)]
        made.append(layers.BatchNormalization(name=f"norm{k}"))
    for layer in (layers.ELU(0.3), layers.LeakyReLU(), layers.Dropout(0.3)):
        tanh = layers.Conv2D(4, 3, padding="same", activation="tanh")
        made += [tanh, layer, layers.BatchNormalization()]
    model = stir(either_keras.Sequential([*made, layers.Conv2D(2, 3, padding="same")]), gamma="signed")
    loaded, folded = _folded(either_keras, model, tmp_path, 2e-5, suffix)
    assert {f"norm{k}" for k in range(len(names))} <= _by_channel(folded)
    assert folded.plan.arithmetic == set()
    wide = [layer.filters for layer in loaded.layers if hasattr(layer, "filters")]
    assert wide.count(5) == len(_by_channel(folded)) and wide[-1] == 2
    again = fold(loaded, tmp_path / "again", suffix, NONE_LEFT)
    assert not again.plan.decisions


def _between(keras: Keras) -> Any:
    """Pools, a Concatenate, several readers, other layers that write; inside a nested model, too."""
    layers = keras.layers

    def norm(y: Any) -> Any:
        return layers.BatchNormalization()(y)

    def padded(y: Any) -> Any:
        return layers.Conv2D(3, 3, padding="same")(y)

    z = layers.Input((6, 6, 3), name="z")
    y = padded(norm(layers.Activation("tanh")(layers.Conv2D(4, 1)(z))))
    inner = keras.Model(z, y, name="inner")
    x, line, box = (layers.Input(shape) for shape in ((6, 6, 3), (7, 3), (4, 5, 4, 2)))
    y = inner(layers.Conv2DTranspose(3, 3, padding="same")(x))
    y = layers.MaxPooling2D(2, padding="same")(layers.Dense(4, activation="elu")(y))
    y = layers.SpatialDropout2D(0.2)(layers.AveragePooling2D(2, strides=1, padding="same")(y))
    y = norm(layers.UpSampling2D(2)(y))
    y = layers.Add()([padded(y), layers.Dense(3)(y)])
    sides = [layers.Activation("tanh")(y), layers.Conv2D(4, 1, activation="sigmoid")(y)]
    y = padded(norm(layers.Concatenate()([*sides, layers.Activation("softplus")(y)])))
    y = layers.Conv2DTranspose(4, 3, padding="same", activation="swish")(y)
    y = padded(norm(layers.Cropping2D(1)(y)))
    flat = layers.Conv1D(2, 3, padding="causal")(norm(layers.Conv1D(4, 2, activation="elu")(line)))
    deep = layers.Conv3D(2, 3, padding="same")(norm(layers.Conv3D(3, 1, activation="selu")(box)))
    return stir(keras.Model([x, line, box], [y, flat, deep]), gamma="signed")


def test_through_what_lies_between(keras: Keras, tmp_path: Path) -> None:
    model = _between(keras)
    loaded, folded = _folded(keras, model, tmp_path, 1e-12)
    assert len(_by_channel(folded)) == 6
    assert folded.plan.arithmetic == set()
    assert len(loaded.layers) < len(model.layers)
    loaded.save(tmp_path / "again.keras")  # by Keras itself
    again = keras.models.load_model(tmp_path / "again.keras", compile=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(again, feeds), 1e-12)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_in_files_of_keras_2(tf_keras: Keras, suffix: str, tmp_path: Path) -> None:
    _, folded = _folded(tf_keras, _between(tf_keras), tmp_path, 2e-5, suffix)
    assert len(_by_channel(folded)) == 6


def test_a_channel_that_is_cut_off_is_used(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    x = layers.Input((6, 5, 3), name="x")
    y = layers.Conv2D(4, 1, activation="tanh", use_bias=False, name="first")(x)
    y = layers.Conv2D(2, 3, padding="same")(layers.BatchNormalization(name="norm")(y))
    model = stir(keras.Model(x, y), gamma="mixed")
    (dead,) = np.flatnonzero(np.asarray(model.get_layer("norm").gamma) == 0.0)
    loaded, folded = _folded(keras, model, tmp_path, 1e-12)
    assert _by_channel(folded) == {"norm"}
    kernel, bias = loaded.get_layer("first").get_weights()
    assert kernel.shape == (1, 1, 3, 4) and not kernel[..., dead].any()
    assert list(bias) == [float(k == dead) for k in range(4)]


def test_elsewhere_it_is_spelled_out(keras3: Keras, tmp_path: Path) -> None:
    """Groups, a value that others see or that a nested model tells of, wrappers, and who mixes channels."""
    layers = keras3.layers

    def norm(name: str, y: Any) -> Any:
        return layers.BatchNormalization(name=name)(y)

    def padded(y: Any, **settings: Any) -> Any:
        return layers.Conv2D(4, 3, padding="same", **settings)(y)

    def tanh(y: Any) -> Any:
        return layers.Activation("tanh")(y)

    x, steps = layers.Input((6, 6, 4), name="x"), layers.Input((2, 6, 6, 4), name="steps")
    z = layers.Input((6, 6, 4), name="z")
    inner = keras3.Model(z, padded(norm("begins", z)), name="inner")
    shared = layers.Conv2D(4, 1, activation="tanh")
    deep = keras3.Sequential([layers.Input((6, 6, 4)), layers.Conv2D(4, 1, activation="tanh")])
    deep.add(layers.BatchNormalization(name="step"))
    deep.add(layers.Conv2D(2, 3, padding="same"))
    outputs = [
        padded(norm("depthwise", layers.DepthwiseConv2D(3, activation="tanh")(x))),
        padded(norm("grouped", tanh(padded(x))), groups=2),
        layers.DepthwiseConv2D(3, padding="same")(norm("by depth", tanh(padded(x)))),
        padded(norm("shared", layers.Add()([shared(x), shared(tanh(x))]))),
        inner(tanh(padded(x))),
        layers.TimeDistributed(deep)(steps),
        padded(norm("mixes", layers.Conv2D(4, 1, activation="softmax")(x))),
        padded(norm("unknown", layers.Conv2D(4, 1, activation="hard_sigmoid")(x))),
        padded(norm("learned", layers.PReLU()(padded(x)))),
        padded(norm("along", tanh(layers.Permute((1, 3, 2))(padded(x))))),
        padded(norm("no writer", tanh(x))),
    ]
    y = tanh(padded(x))
    outputs += [y, padded(norm("seen", y))]
    y = norm("another", tanh(padded(x)))
    outputs += [padded(y), tanh(y)]
    model = stir(keras3.Model([x, steps], outputs), gamma="signed")
    _, folded = _folded(keras3, model, tmp_path, 2e-5)
    assert _by_channel(folded) == set()
    names = {d.node for d in folded.plan.decisions if d.is_batchnorm}
    assert folded.plan.arithmetic == names
    assert len(names) == 13


def test_the_command_proves_and_tells_it(keras3: Keras, tmp_path: Path) -> None:
    layers, path = keras3.layers, tmp_path / "m.keras"
    x = layers.Input((6, 5, 3), name="x")
    y = layers.Conv2D(4, 3, activation="elu", name="first")(x)
    y = layers.Conv2D(2, 3, padding="same")(layers.BatchNormalization(name="norm")(y))
    stir(keras3.Model(x, y), gamma="signed").save(path)
    ran = call("optimize", path, "--target", "no-bn", "--no-bench")
    assert ran.exit_code == 0, ran.output
    assert "first (becomes one channel wider)" in " ".join(ran.output.split())
    again = call("optimize", tmp_path / "m.fused.keras", "--target", "no-bn", "--check", "--no-bench")
    assert again.exit_code == 0, again.output
