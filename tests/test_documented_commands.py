"""What the README and docs/ci.md tell to type, typed: each command ends as its page says."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.command import FAST, call
from tests.documented import ROOT, blocks, commands
from tests.keras_handmade import dense, make_archive, norm
from tests.tiny_models import model

pytestmark = pytest.mark.slow
_KERAS = all(importlib.util.find_spec(name) for name in ("tensorflow", "keras"))
_SIZES = 5, 7, 4  # in, hidden, out


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages call model.onnx, model.keras, a.onnx, zoo/, samples.npz…: all of one network."""
    folder = tmp_path_factory.mktemp("documented")
    rng = np.random.default_rng(7)
    i, h, o = _SIZES
    weights = {
        "w1": rng.normal(0, 0.5, (i, h)), "b1": rng.normal(0, 0.5, h),
        "gamma": rng.uniform(0.5, 1.5, h) * rng.permutation([1, -1, 1, 1, -1, 1, 1]),
        "beta": rng.normal(0, 0.5, h), "mean": rng.normal(0, 1, h), "var": rng.uniform(0.3, 2, h),
        "w2": rng.normal(0, 0.5, (h, o)), "b2": rng.normal(0, 0.5, o),
    }  # fmt: skip
    arrays = {name: array.astype(np.float32) for name, array in weights.items()}
    _onnx(folder / "model.onnx", arrays)
    _keras(folder / "model.keras", arrays)
    shutil.copy(folder / "model.onnx", folder / "a.onnx")
    shutil.copy(folder / "model.keras", folder / "a.keras")
    for several in ("zoo", "models"):
        (folder / several / "deep").mkdir(parents=True)
        shutil.copy(folder / "model.onnx", folder / several / "deep")
    made = call("optimize", folder / "a.onnx", "-o", folder / "b.onnx", "--no-bench", *FAST)
    assert made.exit_code == 0, made.stderr
    samples = rng.normal(0, 1, (12, i)).astype(np.float32)
    np.savez(folder / "samples.npz", x=samples)
    (folder / "y.csv").write_text("label\n" + "".join(f"{n}\n" for n in rng.integers(0, o, 12)))
    return folder


def _onnx(path: Path, arrays: dict[str, np.ndarray]) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"], "matmul"),
        helper.make_node("Add", ["m", "b1"], ["a"], "add"),
        helper.make_node(
            "BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["n"], "bn_7", epsilon=1e-3
        ),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "gemm"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])
        for name, size in zip("xy", _SIZES[::2], strict=True)
    ]
    held = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    onnx.save(model(nodes, ends[:1], ends[1:], held), path)


def _keras(path: Path, arrays: dict[str, np.ndarray]) -> None:
    i, h, o = _SIZES
    start = {
        "class_name": "InputLayer",
        "config": {"batch_shape": [None, i], "dtype": "float32", "name": "x"},
    }
    rectify = {"class_name": "ReLU", "config": {"name": "relu"}}
    bn = norm("bn_7", epsilon=1e-3, axis=-1)
    layers = [start, dense("d1", units=h), bn, rectify, dense("y", units=o)]
    for layer in layers:
        layer.setdefault("module", "keras.layers")
        layer.setdefault("registered_name", None)
    kept = {
        "dense": ("w1", "b1"),
        "batch_normalization": ("gamma", "beta", "mean", "var"),
        "dense_1": ("w2", "b2"),
    }
    stored = {
        f"layers/{place}/vars/{at}": arrays[name]
        for place, held in kept.items()
        for at, name in enumerate(held)
    }
    make_archive(path, layers, stored)


def _type(words: list[str], folder: Path) -> None:
    """Run one command there, in little time; it ends as the contract says for what it asks."""
    runs = words[0] in ("optimize", "verify", "bench") and "--check" not in words
    if runs and not _KERAS and any(word.endswith(".keras") for word in words):
        return
    quick = {"optimize": FAST, "verify": FAST[:2], "bench": FAST[2:]}.get(words[0], ())
    kept = [word.replace("$RUNNER_TEMP", str(folder)) for word in words]
    done = call(kept[0], *kept[1:], *quick)
    allowed = {0}
    if "--check" in words:
        allowed = {1}
    elif "--fail-if-slower" in words:
        allowed = {0, 1}  # of so short a measurement either may come
    assert done.exit_code in allowed, (words, done.stderr)


def test_the_readme_in_its_order(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    typed = [words for block in blocks(ROOT / "README.md") for words in commands(block)]
    assert len(typed) >= 10
    for words in typed:
        _type(words, tmp_path)
    assert {"moved.onnx", "bare.onnx", "build"} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "model.fused.keras").exists() is _KERAS


RECIPES = [words for block in blocks(ROOT / "docs/ci.md") for words in commands(block)]


@pytest.mark.parametrize("words", RECIPES, ids=range(len(RECIPES)))
def test_each_recipe_in_a_clean_folder(
    words: list[str], files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if "--baseline" in words:
        before = ("optimize", "model.onnx", "-o", "old.onnx", "--report", "reports/yesterday.json")
        assert call(*before, *FAST).exit_code == 0
    _type(words, tmp_path)
    for at, word in enumerate(words):
        if word == "--report":
            assert Path(words[at + 1].replace("$RUNNER_TEMP", os.fspath(tmp_path))).stat().st_size
