"""What a BatchNormalization is asked to do: train, or compute what no constants can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, batchnorms, both_containers, check, fold, stir

pytestmark = pytest.mark.slow


def test_training_in_the_call(keras: Keras, tmp_path: Path) -> None:
    """The statistics of the batch are no constants; ``training=False`` asks for what inference does."""
    layers = keras.layers
    x = layers.Input((5,), name="x")
    y = layers.BatchNormalization(name="live")(layers.Dense(4)(x), training=True)
    y = layers.BatchNormalization(name="still")(layers.Dense(3)(y), training=False)
    folded, loaded = check(keras, stir(keras.Model(x, y)), tmp_path)
    assert folded.kept == {"live": {Reason.TRAINING_MODE}}
    assert batchnorms(loaded) == ["live"]


@both_containers
def test_training_is_inherited(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """``inner(x, training=True)`` means every BN in it, and its Dropout is no identity."""
    layers = keras.layers
    z = layers.Input((5,), name="z")
    h = layers.BatchNormalization(name="deep")(layers.Dense(4)(z))
    inner = keras.Model(z, layers.Dense(4)(h), name="inner")
    x = layers.Input((5,), name="x")
    y = layers.BatchNormalization(name="outer")(inner(x, training=True))
    folded, _ = check(keras, stir(keras.Model(x, y)), tmp_path, suffix=suffix)
    assert folded.kept == {"inner/deep": {Reason.TRAINING_MODE}}
    assert folded.gone == {"outer"}


def test_dropout_in_training_lets_nothing_pass(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    x = layers.Input((5,), name="x")
    y = layers.Dropout(0.5)(layers.Dense(4)(x), training=True)
    folded = fold(
        stir(keras.Model(x, layers.Activation("tanh")(layers.BatchNormalization(name="n")(y)))), tmp_path
    )
    assert Reason.TRAINING_MODE in folded.kept["n"]


@pytest.mark.parametrize("option", [{"renorm": True}, {"virtual_batch_size": 4}], ids=["renorm", "virtual"])
def test_other_batch_normalizations(tf_keras: Any, option: dict[str, Any], tmp_path: Path) -> None:
    """Keras 2 had variants that compute something else, and stored more variables for them."""
    layers = tf_keras.layers
    x = layers.Input((5,), batch_size=4 if "virtual_batch_size" in option else None, name="x")
    y = layers.BatchNormalization(name="other", **option)(layers.Dense(4)(x))
    y = layers.BatchNormalization(name="plain")(layers.Dense(3)(y))
    folded = fold(stir(tf_keras.Model(x, y)), tmp_path, ".h5")
    assert folded.kept == {"other": {Reason.UNSUPPORTED_OP}}
    assert folded.gone == {"plain"}


@pytest.mark.parametrize(
    ("name", "value"), [("variance", -1.0), ("variance", np.nan), ("gamma", np.inf), ("mean", np.nan)]
)
def test_statistics_that_make_no_affine(keras: Keras, name: str, value: float, tmp_path: Path) -> None:
    layers = keras.layers
    model = stir(keras.Sequential([layers.Input((5,)), layers.Dense(4), layers.BatchNormalization(name="n")]))
    for weight in model.layers[-1].weights:
        if name in weight.path:
            array = np.asarray(weight).copy()
            array[1] = value
            weight.assign(array)
    folded = fold(model, tmp_path)
    assert folded.kept == {"n": {Reason.INVALID_STATISTICS}}
    assert folded.after.read_bytes() == folded.before.read_bytes()


def test_tiny_variance_is_no_obstacle(keras: Keras, tmp_path: Path) -> None:
    """Dead channels have a variance of 0: ε is what is left."""
    layers = keras.layers
    model = stir(keras.Sequential([layers.Input((5,)), layers.Dense(4), layers.BatchNormalization()]))
    model.layers[-1].moving_variance.assign([0.0, 1e-12, 0.5, 1e-6])
    _, loaded = check(keras, model, tmp_path)
    assert batchnorms(loaded) == []
