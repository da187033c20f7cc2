"""Keras files on the command line: a report and a result, or one sentence and exit 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command import call
from tests.keras_nets import Keras, assert_same, both_containers, every_layer, outputs_of, random_inputs
from tests.keras_trained import trained

pytestmark = pytest.mark.slow


def _refused(path: Path, *words: str) -> None:
    """Exit 3, one sentence on stderr that has these words, nothing written."""
    out = path.parent / f"out{path.suffix}"
    done = call("optimize", path, "-o", out, "--no-verify", "--no-bench")
    assert done.exit_code == 3, done.stderr
    assert done.stdout == ""
    message = done.stderr.strip()
    assert message.count("\n") <= 1
    assert "Traceback" not in message
    for word in words:
        assert word.lower() in " ".join(message.split()).lower()
    assert not out.exists()


def test_weights_without_a_model(keras: Keras, tmp_path: Path) -> None:
    model, _ = trained(keras, tmp_path, ".keras")
    model.save_weights(tmp_path / "m.weights.h5")
    _refused(tmp_path / "m.weights.h5", "weights")


def test_a_subclassed_model(keras: Keras, tmp_path: Path) -> None:
    class Own(keras.Model):  # type: ignore[misc]
        def __init__(self, **more: Any) -> None:
            super().__init__(**more)
            self.dense, self.norm = keras.layers.Dense(3), keras.layers.BatchNormalization()

        def call(self, inputs: Any) -> Any:
            return self.norm(self.dense(inputs))

    model = Own()
    model(np.ones((1, 4)))
    model.save(tmp_path / "own.keras")
    _refused(tmp_path / "own.keras", "subclassed", "Own", "ONNX")


@both_containers
def test_optimize_on_the_command_line(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """One report, the result beside it, and nothing else."""
    model, path = trained(keras, tmp_path, suffix)
    out = tmp_path / f"out{suffix}"
    done = call("optimize", path, "-o", out, "--no-verify", "--no-bench", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["batchnorms"] == {"found": 1, "folded": 1, "kept": 0}
    assert report["operators"]["before"]["BatchNormalization"] == 1
    assert "BatchNormalization" not in report["operators"]["after"]
    loaded = keras.models.load_model(out, compile=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
    assert [type(layer).__name__ for layer in every_layer(loaded)].count("BatchNormalization") == 0
    assert call("optimize", out, "--check", "--no-verify", "--no-bench").exit_code == 0
    assert call("optimize", path, "--check", "--no-verify", "--no-bench").exit_code == 1


def test_proved_on_the_command_line(keras: Keras, tmp_path: Path) -> None:
    """With the proof, in Keras itself."""
    _, path = trained(keras, tmp_path, ".keras")
    done = call("optimize", path, "--json", "--no-bench", "--verify-time", "0.5")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verification"]["status"] == "equal"
    assert (tmp_path / "trained.fused.keras").is_file()
