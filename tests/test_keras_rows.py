"""The op table as a whole: every row has its test, and every decision names a layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bnfuse.core.decisions import Keep
from bnfuse.formats.keras.rows.opaque_layers import WHY
from bnfuse.formats.keras.rows.ops import ROWS
from tests.keras_nets import Keras, chain, check

# The files that put layers to the test, class by class.
TABLES = (
    "keras_kernels",
    "keras_movers",
    "test_keras_movers",
    "test_keras_kernels",
    "test_keras_recurrent",
    "test_keras_attention",
    "test_keras_affines",
    "test_keras_merges",
    "test_keras_readers",
    "test_keras_wrappers",
    "test_keras_spectral",
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


def _exported(layers: ModuleType) -> Iterator[str]:
    """The names of all layers, as files have them."""
    for name in dir(layers):
        found = getattr(layers, name)
        if isinstance(found, type) and issubclass(found, layers.Layer):
            yield found.__name__
        elif isinstance(found, ModuleType) and name in ("experimental", "preprocessing"):
            yield from _of(found, layers.Layer)


def _of(module: ModuleType, base: type) -> Iterator[str]:
    found = (getattr(module, name) for name in dir(module))
    return (each.__name__ for each in found if isinstance(each, type) and issubclass(each, base))


@pytest.mark.slow
def test_every_layer_of_keras_has_a_row_or_a_reason(either_keras: ModuleType) -> None:
    names = set(_exported(either_keras.layers))
    assert len(names) > 110
    looked_into = {name for name in names if name in ROWS and ROWS[name].parts is not None}
    assert names - looked_into - WHY.keys() == set()
    assert looked_into & WHY.keys() == set()


@pytest.mark.slow
def test_a_layer_without_a_row_says_why(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    steps = (layers.Dense(4), layers.UnitNormalization(), layers.BatchNormalization(name="norm"))
    folded, _ = check(keras, chain(keras, (5,), *steps), tmp_path)
    (decision,) = folded.plan.decisions
    assert isinstance(decision, Keep)
    assert "divides by the norm of its input" in decision.message


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
