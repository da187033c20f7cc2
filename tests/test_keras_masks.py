"""Masks beside the tensors: a BatchNormalization does not look at one, but its readers must still get it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, batchnorms, check, stir

pytestmark = pytest.mark.slow


def _masked(keras: Keras) -> Any:
    """BNs between what makes a mask, what hands it on and what looks at it."""
    layers = keras.layers
    words, series = layers.Input((7,), dtype="int32", name="words"), layers.Input((7, 4), name="series")

    def norm(name: str, value: Any) -> Any:
        return layers.BatchNormalization(name=name)(value)

    embedded = layers.Embedding(9, 4, mask_zero=True, name="table")(words)
    handed_on = norm("handed_on", layers.Dense(4)(layers.Dropout(0.5)(embedded)))
    both = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(norm("both", embedded))
    steps = layers.TimeDistributed(layers.Dense(4))(layers.Masking()(series))
    inside = layers.TimeDistributed(layers.BatchNormalization(name="inside"))(layers.Masking()(series))
    return keras.Model(
        [words, series],
        [
            layers.Dense(2)(handed_on),
            layers.MultiHeadAttention(1, 2)(handed_on, handed_on),  # finds the mask by itself
            layers.LSTM(3)(norm("recurrent", embedded)),
            layers.GRU(3)(norm("behind_both", both)),
            layers.Dense(2)(layers.GlobalAveragePooling1D()(norm("mean", embedded))),
            layers.Dense(2)(norm("up", layers.GlobalAveragePooling1D()(layers.Dense(3)(embedded)))),
            layers.SimpleRNN(3)(norm("steps", steps)),
            layers.GRU(3)(inside),
        ],
    )


@pytest.mark.parametrize(("library", "suffix"), [("keras", ".keras"), ("tf_keras", ".h5")])
def test_a_mask_is_no_second_input(
    library: str, suffix: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """All go, with the ops that worked out their mask where nobody else reads it."""
    module = request.getfixturevalue(library)
    folded, loaded = check(module, stir(_masked(module)), tmp_path, suffix=suffix)
    assert folded.kept == {}
    assert batchnorms(loaded) == []


def test_ops_that_worked_out_a_mask_go_with_its_last_reader(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    words = layers.Input((7,), dtype="int32", name="words")
    y = layers.BatchNormalization()(layers.Embedding(9, 4, mask_zero=True)(words))
    model = stir(keras.Model(words, layers.Dense(3)(y)))
    assert len(model.operations) == 5
    _, loaded = check(keras, model, tmp_path, tolerance=1e-12)
    assert len(loaded.operations) == 3
    assert check(keras, loaded, tmp_path / "again")[0].plan.decisions == ()


def test_a_mask_of_somebody_else(keras: Keras, tmp_path: Path) -> None:
    """What the input does not carry would not reach the attention without the BN."""
    layers = keras.layers
    words, series = layers.Input((7,), dtype="int32", name="words"), layers.Input((7, 4), name="series")
    y = layers.Dense(4)(series)
    y = layers.BatchNormalization(name="norm")(y, mask=keras.ops.not_equal(words, 0))
    model = keras.Model([words, series], layers.MultiHeadAttention(1, 2)(y, y))
    folded, _ = check(keras, stir(model), tmp_path)
    assert folded.kept == {"norm": {Reason.UNSUPPORTED_OP}}
