"""TimeDistributed: what it wraps folds as if it stood alone, along its own axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, batchnorms, both_containers, chain, check

pytestmark = pytest.mark.slow


def _wrapped_net(keras: Keras) -> Any:
    layers = keras.layers
    x = layers.Input((7, 3))
    y = layers.BatchNormalization(name="deep")(layers.Conv1D(4, 2, padding="same")(x))
    return keras.Model(x, layers.Dense(5)(layers.Flatten()(layers.ReLU()(y))), name="inner")


WRAPPED: dict[str, tuple[tuple[int, ...], Callable[[Keras], list[Any]]]] = {
    "dense, BN behind": (
        (6, 5),
        lambda k: [k.layers.TimeDistributed(k.layers.Dense(4)), k.layers.BatchNormalization()],
    ),
    "dense, BN before": (
        (6, 5),
        lambda k: [k.layers.BatchNormalization(), k.layers.TimeDistributed(k.layers.Dense(4))],
    ),
    "dense without bias": (
        (6, 5),
        lambda k: [
            k.layers.BatchNormalization(),
            k.layers.TimeDistributed(k.layers.Dense(4, use_bias=False, activation="tanh")),
        ],
    ),
    "conv": (
        (4, 8, 7, 3),
        lambda k: [
            k.layers.BatchNormalization(),
            k.layers.TimeDistributed(k.layers.Conv2D(5, (3, 2), use_bias=False)),
            k.layers.BatchNormalization(),
        ],
    ),
    "BN in it": (
        (4, 8, 3),
        lambda k: [
            k.layers.TimeDistributed(k.layers.Conv1D(5, 3)),
            k.layers.TimeDistributed(k.layers.BatchNormalization()),
        ],
    ),
    "BN along an axis of the step": (
        (4, 8, 3),
        lambda k: [
            k.layers.Permute((1, 3, 2)),
            k.layers.TimeDistributed(k.layers.BatchNormalization(axis=1)),
            k.layers.Permute((1, 3, 2)),
            k.layers.Dense(4),
        ],
    ),
    "a network": (
        (4, 7, 3),
        lambda k: [k.layers.TimeDistributed(_wrapped_net(k)), k.layers.BatchNormalization()],
    ),
    "a sequential": (
        (4, 7, 3),
        lambda k: [
            k.layers.TimeDistributed(
                k.Sequential([k.layers.Input((7, 3)), k.layers.BatchNormalization(), k.layers.Conv1D(4, 3)])
            ),
            k.layers.BatchNormalization(),
        ],
    ),
    "a recurrent layer": (
        (4, 7, 3),
        lambda k: [
            k.layers.BatchNormalization(),
            k.layers.TimeDistributed(k.layers.GRU(5, return_sequences=True)),
            k.layers.TimeDistributed(k.layers.BatchNormalization()),
            k.layers.Dense(3),
        ],
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
@both_containers
def test_time_distributed(keras: Keras, name: str, suffix: str, tmp_path: Path) -> None:
    shape, steps = WRAPPED[name]
    _, loaded = check(keras, chain(keras, shape, *steps(keras)), tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []


def test_bn_over_time(keras: Keras, tmp_path: Path) -> None:
    """A BN along the axis that a TimeDistributed does not know of."""
    layers = keras.layers
    norm = layers.BatchNormalization(axis=1, name="norm")
    model = chain(keras, (6, 5), layers.Activation("tanh"), norm, layers.TimeDistributed(layers.Dense(4)))
    assert Reason.AXIS in check(keras, model, tmp_path)[0].kept["norm"]
