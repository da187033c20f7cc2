"""Attention and embedding tables: a BatchNormalization goes into each projection apart, or into a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_files import with_setting
from tests.keras_nets import Keras, batchnorms, both_containers, check, fold_file, stir

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


GATED: dict[str, Callable[[Any], Any]] = {
    "GroupQueryAttention": lambda k: k.GroupQueryAttention(3, 4, 2),
    "GroupQueryAttention without bias": lambda k: k.GroupQueryAttention(3, 4, 2, use_bias=False),
    "GroupQueryAttention, gated": lambda k: k.GroupQueryAttention(3, 4, 2, use_gate=True),
    "MultiHeadAttention, gated": lambda k: k.MultiHeadAttention(2, 3, value_dim=4, use_gate=True),
}


@both_containers
def test_groups_of_queries_and_gates(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """A gate is one more projection that reads the query."""
    layers = keras.layers
    x = layers.Input((6, 5), name="x")
    outputs = []
    for number, make in enumerate(GATED.values()):
        y = layers.BatchNormalization(name=f"before{number}")(x)
        outputs.append(layers.BatchNormalization(name=f"behind{number}")(make(layers)(y, y)))
    folded, _ = check(keras, stir(keras.Model(x, outputs)), tmp_path, suffix=suffix)
    assert folded.kept.keys() == {"before1", "behind1"}


def test_weights_that_a_class_is_not_known_to_have(keras: Keras, tmp_path: Path) -> None:
    """A setting of tomorrow may bring a projection that reads the input, too: nothing goes into the layer."""
    layers = keras.layers
    x = layers.Input((6, 5), name="x")
    y = layers.BatchNormalization(name="norm")(x)
    model = stir(keras.Model(x, layers.MultiHeadAttention(2, 3, use_gate=True, name="it")(y, y)))
    model.save(tmp_path / "saved.keras")
    with_setting(tmp_path / "saved.keras", tmp_path / "before.keras", "it", "use_gate", False)
    folded = fold_file(tmp_path / "before.keras", tmp_path / "after.keras")
    assert Reason.LOCKED_WEIGHTS in folded.kept["norm"]


@pytest.mark.parametrize("name", ["Attention", "AdditiveAttention"])
def test_what_is_averaged(keras: Keras, name: str, tmp_path: Path) -> None:
    """A scale of the values passes, no shift (a mask may make zeros); one that is the key, too, none."""
    layers = keras.layers
    inputs = [layers.Input((n, 5), name=f"x{n}") for n in (6, 7, 8)]
    q, v, k = (layers.Activation("tanh")(layers.Dense(4)(x)) for x in (inputs[0], inputs[1], inputs[1]))
    for gamma, three, kept in (
        ("signed scale", True, {"query"}),
        ("mixed", True, {"query", "value"}),
        ("signed scale", False, {"query", "value"}),
    ):
        given = [layers.BatchNormalization(name="query")(q), layers.BatchNormalization(name="value")(v)]
        y = getattr(layers, name)(use_scale=True)([*given, *([k] if three else [])])
        model = stir(keras.Model(inputs[:2], layers.Dense(2)(y)), gamma=gamma)
        folded, _ = check(keras, model, tmp_path / f"{gamma} {three}")
        assert folded.kept.keys() == kept, (gamma, three)


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
