"""The trained fixture networks: good enough to show accuracy with, and unharmed by ``bnfuse optimize``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fixtures.accuracy import HERE, batchnorms, correct, logits
from tests.command import call

BATCHNORMS = {"digits_cnn": 8, "digits_mlp": 4, "digits_separable": 9}
models = pytest.mark.parametrize("name", BATCHNORMS)


def fixture_model(name: str) -> Path:
    return HERE / f"{name}.onnx"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def statistics(path: Path) -> dict[str, list[np.ndarray]]:
    """[scale, bias, mean, variance] of each BatchNormalization, by its name."""
    graph = onnx.load(path).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    return {node.name: [arrays[name] for name in node.input[1:]] for node in norms}


def test_all_fixtures_are_small() -> None:
    files = [path for path in HERE.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000


@models
def test_trained_network_is_accurate(name: str) -> None:
    right, total = correct(fixture_model(name))
    assert total == 360
    assert right >= 0.95 * total


@models
def test_batchnorms_are_true_nodes_with_trained_statistics(name: str) -> None:
    """A fresh BN (1, 0, 0, 1) is near the identity and would hide every mistake."""
    norms = statistics(fixture_model(name))
    assert len(norms) == BATCHNORMS[name]
    for scale, bias, mean, variance in norms.values():
        assert np.ptp(scale) > 0.3
        assert np.ptp(mean) > 0.01
        assert np.ptp(bias) > 0.3
        assert np.abs(variance - 1).max() > 0.5


def test_inputs_file_holds_test_images() -> None:
    with np.load(HERE / "digits_inputs.npz") as inputs, np.load(HERE / "digits_test.npz") as test:
        assert list(inputs) == ["image"]
        np.testing.assert_array_equal(inputs["image"], test["image"][:64])


@models
@pytest.mark.slow
def test_optimize_keeps_every_answer(name: str, tmp_path: Path) -> None:
    source, target = fixture_model(name), tmp_path / "fused.onnx"
    before = sha256(source)
    inputs = HERE / "digits_inputs.npz"
    done = call("optimize", source, "-o", target, "--no-bench", "--inputs", inputs, "--json")
    assert done.exit_code == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    found = BATCHNORMS[name]
    assert report["batchnorms"] == {"found": found, "folded": found, "kept": 0}
    assert report["verification"]["status"] == "equal"
    assert batchnorms(target) == 0
    assert sha256(source) == before

    with np.load(HERE / "digits_test.npz") as data:
        images = data["image"]
    expected, actual = logits(source, images), logits(target, images)
    np.testing.assert_array_equal(actual.argmax(axis=1), expected.argmax(axis=1))
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()
    assert correct(target) == correct(source)


@models
@pytest.mark.slow
def test_optimize_is_repeatable_and_leaves_nothing_for_a_second_run(name: str, tmp_path: Path) -> None:
    quick = ("--no-bench", "--no-verify")
    first, second, again = tmp_path / "first.onnx", tmp_path / "second.onnx", tmp_path / "again.onnx"
    assert call("optimize", fixture_model(name), "-o", first, *quick).exit_code == 0
    assert call("optimize", fixture_model(name), "-o", second, *quick).exit_code == 0
    assert first.read_bytes() == second.read_bytes()
    done = call("optimize", first, "-o", again, *quick, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["batchnorms"] == {"found": 0, "folded": 0, "kept": 0}
