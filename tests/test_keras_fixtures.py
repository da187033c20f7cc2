"""The trained Keras networks of ``fixtures/``: the right layers, truly trained, accurate, and small."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

from bnfuse.formats.base import RunSettings
from bnfuse.formats.keras.runtime import run
from fixtures.accuracy import HERE, correct, enlarged, logits

NETWORKS = ("digits_a", "digits_b")
RIGHT = {"digits_a": 355, "digits_b": 353}
# class, units, activation, bias: only what a Dense has is asked of it
LAYERS = {
    "digits_a": [
        ("Flatten",),
        ("BatchNormalization",),
        ("Dense", 300, "elu", True),
        ("BatchNormalization",),
        ("Dense", 100, "elu", True),
        ("BatchNormalization",),
        ("Dense", 10, "softmax", True),
    ],
    "digits_b": [
        ("Flatten",),
        ("BatchNormalization",),
        ("Dense", 300, "linear", False),
        ("BatchNormalization",),
        ("Activation", "elu"),
        ("Dense", 100, "linear", False),
        ("BatchNormalization",),
        ("Activation", "elu"),
        ("Dense", 10, "softmax", True),
    ],
}
networks = pytest.mark.parametrize("name", NETWORKS)


def archived(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The config of a .keras, and its arrays by "group/position"."""
    with zipfile.ZipFile(HERE / f"{name}.keras") as archive:
        config = json.loads(archive.read("config.json"))
        weights = io.BytesIO(archive.read("model.weights.h5"))
    return config, arrays(weights, "layers")


def arrays(file: Any, group: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(file, "r") as opened:
        opened[group].visititems(keep)
    return found


def by_layer(name: str) -> dict[str, np.ndarray]:
    """The arrays of a .h5 as "layer/variable"."""
    found = arrays(HERE / f"{name}.h5", "model_weights")
    return {"/".join(key.split("/")[-2:]): array for key, array in found.items()}


def layer_rows(config: dict[str, Any]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for entry in config["config"]["layers"]:
        name, settings = entry["class_name"], entry["config"]
        if name == "Dense":
            rows.append((name, settings["units"], settings["activation"], settings["use_bias"]))
        elif name == "Activation":
            rows.append((name, settings["activation"]))
        elif name != "InputLayer":
            rows.append((name,))
    return rows


@networks
def test_the_layers_are_those_of_the_notes(name: str) -> None:
    config, _ = archived(name)
    assert layer_rows(config) == LAYERS[name]
    with h5py.File(HERE / f"{name}.h5") as file:
        assert layer_rows(json.loads(file.attrs["model_config"])) == LAYERS[name]
    assert config["class_name"] == ("Sequential" if name == "digits_a" else "Functional")


@networks
def test_both_files_hold_the_same_weights(name: str) -> None:
    """Told apart by their values: the two formats name and order arrays differently."""
    _, ours = archived(name)
    theirs = arrays(HERE / f"{name}.h5", "model_weights")
    key = [sorted((a.shape, a.tobytes()) for a in group.values()) for group in (ours, theirs)]
    assert key[0] == key[1]
    assert len(key[0]) == 12 + (6 if name == "digits_a" else 4)


@networks
def test_statistics_are_trained(name: str) -> None:
    """A fresh BN (1, 0, 0, 1) is near the identity and would hide every mistake."""
    found = by_layer(name)
    for layer in ("bn_1", "bn_2", "bn_3"):
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (found[f"{layer}/{part}"] for part in parts)
        assert np.ptp(gamma) > 0.3
        assert np.ptp(beta) > 0.3
        assert np.ptp(mean) > 0.1
        assert np.abs(variance - 1).max() > 0.5
        assert (variance >= 0).all()
    kernels = [array for array in found.values() if array.ndim == 2]
    assert [k.dtype for k in kernels] == [np.float32] * 3
    for kernel in kernels:  # as fixtures/README.md says
        np.testing.assert_array_equal(kernel, kernel.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_enlarging_is_bilinear() -> None:
    """A plane stays a plane between the outer pixel centres; beyond them the last value holds."""
    rows, columns = np.mgrid[0:8, 0:8].astype(np.float64)
    big = enlarged((2 * rows + 3 * columns)[None, None])
    assert big.shape == (1, 28, 28)
    assert big.dtype == np.float32
    at = (np.arange(28) + 0.5) / 3.5 - 0.5
    inside = np.clip(at, 0, 7)
    np.testing.assert_allclose(big[0], 2 * inside[:, None] + 3 * inside[None, :], atol=1e-6)
    assert at[0] < 0 < at[2]
    one = enlarged(np.eye(8)[None, None] * 4.0)
    assert one[0].max() <= 4.0
    assert one[0, 1, 0] == one[0, 0, 1] == one[0, 0, 0] == 4.0


def test_inputs_file_holds_enlarged_test_images() -> None:
    with np.load(HERE / "digits28_inputs.npz") as inputs, np.load(HERE / "digits_test.npz") as test:
        assert list(inputs) == ["image"]
        np.testing.assert_array_equal(inputs["image"], enlarged(test["image"][:32]))


def by_hand(name: str, x: np.ndarray) -> np.ndarray:
    """The network in float64 numpy, from the .h5: probabilities (n, 10) of images (n, 28, 28)."""
    found = {key: array.astype(np.float64) for key, array in by_layer(name).items()}

    def norm(layer: str, x: np.ndarray) -> np.ndarray:
        mean, variance = found[f"{layer}/moving_mean"], found[f"{layer}/moving_variance"]
        return found[f"{layer}/gamma"] * (x - mean) / np.sqrt(variance + 1e-3) + found[f"{layer}/beta"]

    def dense(layer: str, x: np.ndarray) -> np.ndarray:
        return np.asarray(x @ found[f"{layer}/kernel"] + found.get(f"{layer}/bias", 0.0))

    def elu(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))

    x = norm("bn_1", x.reshape(len(x), -1).astype(np.float64))
    for number in (1, 2):
        if name == "digits_a":
            x = norm(f"bn_{number + 1}", elu(dense(f"dense_{number}", x)))
        else:
            x = elu(norm(f"bn_{number + 1}", dense(f"dense_{number}", x)))
    scores = dense("digit", x)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@networks
def test_accuracy_by_hand(name: str) -> None:
    with np.load(HERE / "digits_test.npz") as data:
        images, labels = enlarged(data["image"]), data["label"]
    assert int((by_hand(name, images).argmax(axis=1) == labels).sum()) == RIGHT[name]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@networks
def test_accuracy_in_keras(name: str, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of fixtures/README.md, by the script that reports them."""
    pytest.importorskip("tensorflow")
    monkeypatch.setattr("fixtures.accuracy.load", run.load)
    path = HERE / f"{name}{suffix}"
    assert correct(path) == (RIGHT[name], 360)
    with np.load(HERE / "digits_test.npz") as data:
        images = data["image"]
    want = by_hand(name, enlarged(images))
    assert np.abs(logits(path, images) - want).max() < 1e-5
    with run.load(path, RunSettings()) as runner:
        assert [(s.name, s.shape) for s in runner.inputs] == [("image", (None, 28, 28))]
        assert [(s.name, s.shape) for s in runner.outputs] == [("digit", (None, 10))]


def test_every_fixture_is_described() -> None:
    text = (HERE / "README.md").read_text(encoding="utf-8")
    for path in HERE.iterdir():
        if path.suffix in (".keras", ".h5", ".onnx", ".npz"):
            assert f"`{path.name}`" in text, path.name
    assert sum(path.stat().st_size for path in Path(HERE).iterdir() if path.is_file()) < 3_000_000
