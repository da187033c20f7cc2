"""Tensors that several layers read: who takes the BatchNormalization on, and who the inverse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, batchnorms, chain, check, stir

pytestmark = pytest.mark.slow


def test_several_in_a_row(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers

    def norms() -> list[Any]:
        return [layers.BatchNormalization(scale=k != 1, center=k != 2) for k in range(4)]

    _, loaded = check(keras, chain(keras, (4, 5), layers.Dense(6), *norms()), tmp_path / "a")
    assert batchnorms(loaded) == []
    folded, loaded = check(keras, chain(keras, (4, 5), *norms()), tmp_path / "b")
    assert len(batchnorms(loaded)) == 1
    assert len(folded.gone) == 3


def test_a_tensor_with_several_readers(keras: Keras, tmp_path: Path) -> None:
    """x read by a BN, a kernel and a pooling: siblings take the inverse; with γ = 0 there is none."""
    layers = keras.layers
    x = layers.Input((8, 7, 3), name="x")
    h = layers.Conv2D(5, 3)(x)
    a = layers.Activation("tanh")(layers.BatchNormalization(name="norm")(h))
    b = layers.DepthwiseConv2D(2, use_bias=False, activation="tanh")(h)
    c = layers.Dense(2, activation="tanh")(layers.GlobalAveragePooling2D()(h))
    model = keras.Model(x, [a, b, c])
    folded, _ = check(keras, stir(model, gamma="signed"), tmp_path / "a")
    assert folded.gone == {"norm"}
    folded, _ = check(keras, stir(model, gamma="mixed"), tmp_path / "b")
    assert Reason.ZERO_SCALE in folded.kept["norm"]


def test_a_bn_with_several_readers(keras: Keras, tmp_path: Path) -> None:
    """tanh → BN → three readers: each takes it on, γ = 0 included; a fourth that cannot keeps it."""
    layers = keras.layers
    x = layers.Input((8, 7, 3), name="x")
    h = layers.BatchNormalization(name="norm")(layers.Activation("tanh")(x))
    a, b = layers.Conv2D(4, 3, use_bias=False)(h), layers.Dense(2)(h)
    c = layers.Dense(2)(layers.AveragePooling2D(2)(h))
    folded, _ = check(keras, stir(keras.Model(x, [a, b, c])), tmp_path / "a")
    assert folded.gone == {"norm"}
    d = layers.Conv2D(4, 3, padding="same")(h)
    folded, _ = check(keras, stir(keras.Model(x, [a, b, c, d])), tmp_path / "b")
    assert Reason.ZERO_PADDING in folded.kept["norm"]


def test_two_bns_on_one_tensor(keras: Keras, tmp_path: Path) -> None:
    """One goes up, the other takes the inverse and goes down into its reader."""
    layers = keras.layers
    x = layers.Input((8, 7, 3), name="x")
    h = layers.Conv2D(5, 3)(x)
    a = layers.Activation("tanh")(layers.BatchNormalization()(h))
    b = layers.Dense(2)(layers.BatchNormalization()(h))
    _, loaded = check(keras, stir(keras.Model(x, [a, b]), gamma="signed"), tmp_path)
    assert batchnorms(loaded) == []
