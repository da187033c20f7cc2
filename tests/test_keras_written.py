"""The written file: its dialect and metadata, its bytes, the optimiser that is left out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.keras_nets import Keras, both_containers, fold_file
from tests.keras_trained import stored_config, trained

pytestmark = pytest.mark.slow


@both_containers
def test_the_optimizer_is_left_out_and_said(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Its state no longer fits; how the model was compiled still does, and it can be trained on."""
    model, path = trained(keras, tmp_path, suffix)
    folded = fold_file(path, tmp_path / f"after{suffix}")
    assert any("optimiser" in note for note in folded.notes)
    loaded = keras.models.load_model(folded.after)
    assert loaded.loss == keras.models.load_model(path).loss
    assert type(loaded.optimizer).__name__ == "Adam"
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.003)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(16, 5)), rng.normal(size=(16, 2))
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-9)
    loaded.fit(x, y, verbose=0)
    assert len(loaded.weights) == len(model.weights) - 4 + 1


@both_containers
def test_twice_the_same_bytes_and_nothing_left(keras: Keras, suffix: str, tmp_path: Path) -> None:
    _, path = trained(keras, tmp_path, suffix)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    first, second = (tmp_path / f"{name}{suffix}" for name in "ab")
    assert fold_file(path, first).gone
    fold_file(path, second)
    assert first.read_bytes() == second.read_bytes()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    again = fold_file(first, tmp_path / f"again{suffix}")
    assert again.plan.decisions == ()
    assert again.after.read_bytes() == first.read_bytes()


@both_containers
def test_dialect_and_metadata_are_kept(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Names, version, modules, build and compile configs: as they were."""
    _, path = trained(keras, tmp_path, suffix)
    after = fold_file(path, tmp_path / f"after{suffix}").after
    (old, new), (old_meta, new_meta) = zip(*(stored_config(p) for p in (path, after)), strict=True)
    assert old_meta == new_meta
    assert {k: v for k, v in old.items() if k != "config"} == {
        k: v for k, v in new.items() if k not in ("config",)
    }
    by_name = {entry["config"]["name"]: entry for entry in old["config"]["layers"]}
    for entry in new["config"]["layers"]:
        before = by_name[entry["config"]["name"]]
        changed = {k for k in before["config"] if before["config"][k] != entry["config"][k]}
        assert changed <= {"use_bias"}
        assert {k: v for k, v in before.items() if k != "config"} == {
            k: v for k, v in entry.items() if k != "config"
        }
