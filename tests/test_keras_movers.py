"""A BatchNormalization behind or before every layer that moves values: it passes, or it stays as told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.keras_movers import Mover, arrival, arriving, gammas, movers
from tests.keras_nets import Keras, batchnorms, chain, check, computing_in

pytestmark = pytest.mark.slow


@arriving
@gammas
def test_bn_behind_a_mover(keras: Keras, mover: Mover, gamma: str, tmp_path: Path) -> None:
    """kernel → mover → BN: up through the mover, or not, and then for the reason in the table.

    The BN's axis is the one in which the kernel's channels arrive, found from where they went.
    """
    layers = keras.layers
    with computing_in(keras, mover.floatx):
        axis = arrival(mover, len(mover.make(layers)(layers.Input(mover.shape)).shape))
        assert axis is not None
        norm = layers.BatchNormalization(axis=axis, name="norm")
        steps = [_pointwise(layers, mover), mover.make(layers), norm]
        folded, _ = check(keras, chain(keras, mover.shape, *steps, gamma=gamma), tmp_path)
    _as_told(folded, mover.why(gamma))


@movers
@gammas
def test_bn_before_a_mover(keras: Keras, mover: Mover, gamma: str, tmp_path: Path) -> None:
    """tanh → BN → mover → Dense: down through the mover."""
    layers = keras.layers
    with computing_in(keras, mover.floatx):
        norm = layers.BatchNormalization(axis=mover.axis, name="norm")
        steps = [layers.Activation("tanh"), norm, mover.make(layers), layers.Flatten(), layers.Dense(3)]
        folded, _ = check(keras, chain(keras, mover.shape, *steps, gamma=gamma), tmp_path)
    _as_told(folded, mover.why(gamma))


def _pointwise(layers: Any, mover: Mover) -> Any:
    """A kernel over the channels that runs on a CPU whatever their axis."""
    if mover.axis == -1:
        return layers.Dense(mover.shape[-1], use_bias=False)
    return layers.EinsumDense("abcd,be->aecd", output_shape=mover.shape, bias_axes=None)


def _as_told(folded: Any, why: Reason | None) -> None:
    if why is None:
        assert folded.kept == {}
        assert folded.gone == {"norm"}
    else:
        assert set(folded.kept) == {"norm"}
        assert why in folded.kept["norm"]


def test_a_flattened_bn_goes_up(keras: Keras, tmp_path: Path) -> None:
    """Behind a Flatten every element has its own factor: it stays, unless the factors repeat by channel."""
    layers = keras.layers
    steps = (layers.Dense(3), layers.Flatten(), layers.BatchNormalization(name="norm"))
    model = chain(keras, (4, 5), *steps)
    assert Reason.AXIS in check(keras, model, tmp_path / "a")[0].kept["norm"]
    repeated = ([2.0, -1, 0], [1.0, 2, 3], [4.0, 5, 6], [1.0, 2, 3])
    for weight, values in zip(model.layers[-1].weights, repeated, strict=True):
        weight.assign(np.tile(values, 4))
    assert check(keras, model, tmp_path / "b")[0].kept == {}


def test_a_reshape_apart_goes_up(keras: Keras, tmp_path: Path) -> None:
    """(24,) → (2, 4, 3): a factor per last axis repeats along the kernel's outputs."""
    layers = keras.layers
    steps = (layers.Dense(24), layers.Reshape((2, 4, 3)), layers.BatchNormalization())
    _, loaded = check(keras, chain(keras, (5,), *steps), tmp_path)
    assert batchnorms(loaded) == []
