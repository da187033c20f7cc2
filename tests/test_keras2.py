"""Files of Keras 2: they come out in their own dialect, and Keras 2 loads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import batchnorms, both_containers, check, stir
from tests.keras_trained import stored_config

pytestmark = pytest.mark.slow


def _old_mlp(k: Any) -> Any:
    layers = k.layers
    return k.Sequential(
        [
            layers.Input((5,), name="x"),
            layers.BatchNormalization(name="a"),
            layers.Dense(4, use_bias=False),
            layers.BatchNormalization(name="b", scale=False),
            layers.ReLU(),
            layers.Dense(3),
            layers.BatchNormalization(name="c"),
        ]
    )


def _old_convnet(k: Any) -> Any:
    layers = k.layers
    x = layers.Input((8, 7, 3), name="x")
    y = layers.BatchNormalization(axis=[3])(layers.Conv2D(4, 3, use_bias=False)(x))
    y = layers.BatchNormalization(axis=-1)(layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.ReLU()(y)))
    z = layers.BatchNormalization()(layers.SeparableConv2D(8, 1, use_bias=False)(y))
    y = layers.Add()([y, z])
    return k.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.LeakyReLU(0.2)(y))))


def _old_nested(k: Any) -> Any:
    layers = k.layers
    z = layers.Input((4,), name="z")
    inner = k.Model(z, layers.BatchNormalization()(layers.Dense(4)(z)), name="inner")
    deep = k.Sequential([layers.Input((4,)), layers.BatchNormalization(), inner], name="deep")
    deep.layers[0].trainable = False
    x = layers.Input((4,), name="x")
    return k.Model(
        x,
        [layers.Dense(3)(deep(x)), layers.BatchNormalization(name="out")(deep(layers.Activation("tanh")(x)))],
    )


def _old_sequences(k: Any) -> Any:
    layers = k.layers
    x = layers.Input((6, 3), name="x")
    y = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(layers.BatchNormalization()(x))
    y = layers.TimeDistributed(layers.BatchNormalization())(layers.TimeDistributed(layers.Dense(5))(y))
    y = layers.GRU(4, use_bias=False)(y)
    return k.Model(x, layers.Dense(2)(layers.BatchNormalization()(y)))


OLD: dict[str, tuple[Callable[[Any], Any], int]] = {
    "mlp": (_old_mlp, 3),
    "convnet": (_old_convnet, 3),
    "nested": (_old_nested, 3),
    "sequences": (_old_sequences, 3),
}


@both_containers
@pytest.mark.parametrize("name", OLD)
def test_files_of_keras_2(tf_keras: Any, name: str, suffix: str, tmp_path: Path) -> None:
    """They come out in their own dialect: Keras 2 loads them, with its names."""
    build, count = OLD[name]
    model = stir(build(tf_keras), gamma="signed")
    folded, loaded = check(tf_keras, model, tmp_path, suffix=suffix)
    assert len(batchnorms(model)) == count
    assert batchnorms(loaded) == []
    assert folded.kept == {}
    old, new = stored_config(folded.before)[0], stored_config(folded.after)[0]
    assert {k: v for k, v in old.items() if k != "config"} == {k: v for k, v in new.items() if k != "config"}


def test_functions_of_keras_2(tf_keras: Any, tmp_path: Path) -> None:
    """TFOpLambda: copied, with its constants; BNs around it fold."""
    import tensorflow as tf

    layers = tf_keras.layers
    x = layers.Input((4,), name="x")
    y = layers.BatchNormalization(name="before")(layers.Dense(5)(x))
    y = tf.nn.relu(y) * 2.0 + layers.Dense(5)(x)
    y = layers.BatchNormalization(name="behind")(y)
    y = tf.concat([layers.Dense(3)(y), x], axis=-1)
    for suffix in (".h5", ".keras"):
        folded, loaded = check(tf_keras, stir(tf_keras.Model(x, y)), tmp_path, suffix=suffix)
        assert folded.gone == {"before", "behind"}
        assert batchnorms(loaded) == []


def test_thresholded_relu_of_keras_2(tf_keras: Any, tmp_path: Path) -> None:
    """It cuts at θ > 0: no scale passes."""
    layers = tf_keras.layers
    x = layers.Input((4,), name="x")
    y = layers.ThresholdedReLU(0.4)(layers.BatchNormalization(name="n", center=False)(layers.ReLU()(x)))
    folded, _ = check(tf_keras, stir(tf_keras.Model(x, layers.Dense(3)(y)), gamma="scale"), tmp_path)
    assert Reason.NONLINEAR in folded.kept["n"]
