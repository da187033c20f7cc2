"""The op table as a whole: every row has its test, and every decision names a layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnfuse.core.decisions import Keep
from bnfuse.formats.keras.rows.ops import ROWS
from tests.keras_nets import Keras, chain, check

# The files that put layers to the test, class by class.
TABLES = (
    "keras_kernels",
    "keras_movers",
    "test_keras_kernels",
    "test_keras_recurrent",
    "test_keras_attention",
    "test_keras_affines",
    "test_keras_merges",
    "test_keras_readers",
    "test_keras_wrappers",
)


def test_every_row_has_its_test() -> None:
    """A new row asks for a line in one of these files (or for its name here, with the reason)."""
    here = Path(__file__).parent
    source = "".join((here / f"{name}.py").read_text(encoding="utf-8") for name in TABLES)
    elsewhere = {
        *(f"Convolution{n}D" for n in (1, 2, 3)),  # Keras 1's names, which no Keras of today writes
        "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization",  # tf.keras's
        "ThresholdedReLU",  # tf_keras's
        "GroupedQueryAttention",  # GroupQueryAttention, by the name of its class
    }  # fmt: skip
    missing = {
        name
        for name, kind in ROWS.items()
        if kind.parts is not None
        and name not in elsewhere
        and f".{name}(" not in source
        and f'"{name}"' not in source
    }
    assert missing == set()


@pytest.mark.slow
def test_refusals_name_their_layer(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    model = chain(keras, (5,), layers.BatchNormalization(), layers.Dense(3, activation="tanh", name="d"))
    folded, _ = check(keras, chain(keras, (5,), layers.BatchNormalization(name="n")), tmp_path / "a")
    (decision,) = folded.plan.decisions
    assert isinstance(decision, Keep)
    assert "input of the model" in decision.message
    folded, _ = check(keras, model, tmp_path / "b")
    (fold,) = folded.plan.decisions
    assert "d" in fold.message
