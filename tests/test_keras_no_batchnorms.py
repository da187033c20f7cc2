"""``--target no-bn`` in Keras files: what cannot go is a Rescaling in the end, under its old name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from tests.command import FAST, call
from tests.keras_nets import Keras, assert_same, batchnorms, fold, outputs_of, random_inputs, stir

pytestmark = pytest.mark.slow

NONE_LEFT = ReadOptions(target="no-bn")
TOLERANCE = 2e-6  # of float32


def _everywhere(keras: Keras) -> Any:
    """Between activations, where none can go: in one network, shared, nested, wrapped, and as an output."""
    layers = keras.layers

    def tanh(y: Any) -> Any:
        return layers.Activation("tanh")(y)

    z = layers.Input((4,), name="z")
    inner = keras.Model(z, tanh(layers.BatchNormalization(name="deep")(tanh(z))), name="inner")
    flat, image = layers.Input((4,), name="flat"), layers.Input((5, 6, 4), name="image")
    shared = layers.BatchNormalization(name="shared")
    steps = layers.TimeDistributed(layers.BatchNormalization(name="step"), name="steps")
    rows = layers.TimeDistributed(layers.BatchNormalization(axis=1, name="row"), name="rows")
    outputs = [
        tanh(layers.BatchNormalization(name="first")(tanh(flat))),
        tanh(layers.Add()([shared(tanh(flat)), tanh(shared(inner(flat)))])),
        tanh(layers.BatchNormalization(name="plain", scale=False, center=False)(tanh(image))),
        tanh(steps(tanh(layers.Reshape((5, 24))(image)))),
        tanh(layers.BatchNormalization(axis=1, name="high")(tanh(image))),
        tanh(layers.BatchNormalization(axis=2, name="wide")(tanh(image))),
        tanh(layers.BatchNormalization(axis=1, name="long")(tanh(layers.Reshape((5, 24))(image)))),
        tanh(rows(tanh(image))),
        layers.BatchNormalization(name="last")(tanh(image)),
    ]
    return stir(keras.Model([flat, image], outputs))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_what_stays_is_a_rescaling(either_keras: Keras, suffix: str, tmp_path: Path) -> None:
    model = _everywhere(either_keras)
    folded = fold(model, tmp_path, suffix, NONE_LEFT)
    assert folded.gone == set()
    names = {
        "inner/deep",
        "first",
        "shared",
        "plain",
        "steps/step",
        "last",
        "high",
        "wide",
        "long",
        "rows/row",
    }
    assert folded.plan.arithmetic == names
    assert {d.becomes for d in folded.plan.decisions if d.node in names} == {("Rescaling",)}
    loaded = either_keras.models.load_model(folded.after, compile=False)
    assert batchnorms(loaded) == []
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), TOLERANCE)
    again = fold(loaded, tmp_path / "again", suffix, NONE_LEFT)
    assert again.gone == set()


def test_a_list_along_an_image_means_the_same_in_either_format(keras3: Keras, tmp_path: Path) -> None:
    """A list of one level lies along the first axis of an image where the format is "channels_first"."""
    layers = keras3.layers
    x = y = layers.Input((4, 4, 4), name="x")
    for axis in (1, 2, 3):
        y = layers.Activation("tanh")(layers.BatchNormalization(axis=axis, name=f"norm{axis}")(y))
    model = stir(keras3.Model(x, y))
    folded = fold(model, tmp_path, options=NONE_LEFT)
    feeds, usual = random_inputs(model), keras3.config.image_data_format()
    try:
        for form in ("channels_first", "channels_last"):
            keras3.config.set_image_data_format(form)
            loaded = keras3.models.load_model(folded.after, compile=False)
            assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), TOLERANCE)
    finally:
        keras3.config.set_image_data_format(usual)


def test_what_must_stay_is_told(either_keras: Keras, tmp_path: Path) -> None:
    layers = either_keras.layers
    x = y = layers.Input((5, 4), name="x")
    if not hasattr(either_keras, "ops"):  # Keras 3 makes none along two axes
        y = layers.BatchNormalization(axis=[1, 2], name="planes")(layers.Activation("tanh")(y))
    y = layers.Activation("tanh")(y)
    y = layers.Activation("tanh")(layers.BatchNormalization(name="live")(y, training=True))
    folded = fold(stir(either_keras.Model(x, y)), tmp_path, options=NONE_LEFT)
    kept = folded.kept
    assert set(kept) <= {"live", "planes"} and kept["live"] == {Reason.TRAINING_MODE}
    ran = call("optimize", folded.before, "--target", "no-bn", "--no-bench", "--no-verify")
    assert ran.exit_code == 1
    assert f"{len(kept)} BatchNormalization" in ran.stderr and "'live'" in ran.stderr


def test_numbers_of_float64_that_keras_rounds(keras: Keras, tmp_path: Path) -> None:
    """A Rescaling makes float32 of the numbers in its config, whatever it computes in."""
    layers = keras.layers
    x = layers.Input((4,), name="x")
    y = layers.BatchNormalization(name="norm")(layers.Activation("tanh")(x))
    folded = fold(stir(keras.Model(x, layers.Activation("tanh")(y))), tmp_path, options=NONE_LEFT)
    assert Reason.NO_ARITHMETIC in folded.kept["norm"]
    assert [keep.node for keep in folded.plan.left] == ["norm"]


def test_a_mask_that_a_rescaling_of_keras_2_does_not_take(keras2: Keras, tmp_path: Path) -> None:
    layers = keras2.layers
    x = layers.Input((5,), dtype="int32", name="x")
    y = layers.Activation("tanh")(layers.Embedding(9, 4, mask_zero=True)(x))
    y = layers.LSTM(3)(layers.Activation("tanh")(layers.BatchNormalization(name="norm")(y)))
    folded = fold(stir(keras2.Model(x, y)), tmp_path, options=NONE_LEFT)
    assert Reason.NO_ARITHMETIC in folded.kept["norm"]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_in_a_sequential_on_the_command_line(keras3: Keras, suffix: str, tmp_path: Path) -> None:
    layers = keras3.layers
    made = [layers.Activation("tanh"), layers.BatchNormalization(name="norm"), layers.Activation("tanh")]
    model = stir(keras3.Sequential([layers.Input((4,)), *made, layers.BatchNormalization(name="end")]))
    path = tmp_path / f"m{suffix}"
    model.save(path)
    ran = call("optimize", path, "--target", "no-bn", "--no-bench", *FAST[:2])
    assert ran.exit_code == 0, ran.output
    assert "2 BatchNormalizations that cannot go stay as Rescaling" in " ".join(ran.output.split())
    loaded = keras3.models.load_model(tmp_path / f"m.fused{suffix}", compile=False)
    assert batchnorms(loaded) == [] and [layer.name for layer in loaded.layers][-1] == "end"
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), TOLERANCE)
