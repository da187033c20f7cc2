"""Attention and embedding tables: a BatchNormalization goes into each projection apart, or into a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, batchnorms, both_containers, check, stir

pytestmark = pytest.mark.slow


def _attention(keras: Keras, biased: bool, normed: str, **more: Any) -> Any:
    layers = keras.layers
    x, z = layers.Input((6, 5), name="x"), layers.Input((7, 4), name="z")
    given = {"q": x, "v": z, "k": z}
    for name in normed.split(","):
        if name in given:
            given[name] = layers.BatchNormalization(name=name)(given[name])
    mha = layers.MultiHeadAttention(2, 3, value_dim=4, use_bias=biased, output_shape=6)
    y = mha(given["q"], given["v"], given["k"], **more)
    y = layers.BatchNormalization(name="after")(y) if "after" in normed else y
    return stir(keras.Model([x, z], y))


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("normed", ["q", "k", "v", "q,k,v", "after", "q,k,v,after"])
@both_containers
def test_attention(keras: Keras, normed: str, biased: bool, suffix: str, tmp_path: Path) -> None:
    """Into each projection on its own; without biases no shift can be stored."""
    folded, _ = check(keras, _attention(keras, biased, normed), tmp_path, suffix=suffix)
    assert set(folded.kept) == (set() if biased else set(normed.split(",")))


def test_self_attention(keras: Keras, tmp_path: Path) -> None:
    """One BN, read by all three projections."""
    layers = keras.layers
    x = layers.Input((6, 5), name="x")
    y = layers.BatchNormalization()(x)
    y = layers.MultiHeadAttention(2, 3)(y, y)
    y = layers.BatchNormalization()(y)
    _, loaded = check(keras, stir(keras.Model(x, y)), tmp_path)
    assert batchnorms(loaded) == []


def test_attention_by_keywords(keras: Keras, tmp_path: Path) -> None:
    """Keras sorts keyword arguments by name: key, query, value."""
    layers = keras.layers
    x, z = layers.Input((6, 5), name="x"), layers.Input((7, 4), name="z")
    q, v = layers.BatchNormalization()(x), layers.BatchNormalization()(z)
    k = layers.BatchNormalization()(layers.Activation("tanh")(z))
    y = layers.MultiHeadAttention(2, 3)(query=q, value=v, key=k)
    _, loaded = check(keras, stir(keras.Model([x, z], y)), tmp_path)
    assert batchnorms(loaded) == []


def test_embedding(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    x = layers.Input((6,), dtype="int32", name="x")
    y = layers.GlobalMaxPooling1D()(layers.BatchNormalization()(layers.Embedding(9, 4)(x)))
    _, loaded = check(keras, stir(keras.Model(x, layers.Dense(3)(y))), tmp_path, tolerance=1e-12)
    assert batchnorms(loaded) == []


def test_embedding_along_another_axis(keras: Keras, tmp_path: Path) -> None:
    """A BN over positions is no function of the table's rows."""
    layers = keras.layers
    x = layers.Input((6,), dtype="int32", name="x")
    y = layers.BatchNormalization(axis=1, name="norm")(layers.Embedding(9, 4)(x))
    folded, _ = check(keras, stir(keras.Model(x, y)), tmp_path, tolerance=1e-12)
    assert Reason.AXIS in folded.kept["norm"]
