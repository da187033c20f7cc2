"""Published HDF5 models, taken apart as Keras 2 does (``to_json``, ``save_weights``), and in gzip."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import bnfuse

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models" / "keras"
# Nested networks, residual ones, and an old ending.
CHOSEN = (
    "mlperf_tiny_person_nested_mobilenet.h5",
    "stm32_esc10_yamnet_nested.h5",
    "stm32_esc10_miniresnet_v2_preact.h5",
    "fer2013_mini_xception.hdf5",
)


def taken_apart(whole: Path, folder: Path) -> Path:
    """The architecture, beside which the weights lie."""
    with h5py.File(whole) as file, h5py.File(folder / "net.h5", "w") as weights:
        config = file.attrs["model_config"]
        (folder / "net.json").write_bytes(config if isinstance(config, bytes) else str(config).encode())
        for key, value in file["model_weights"].attrs.items():
            weights.attrs[key] = value
        for name in file["model_weights"]:
            file.copy(f"model_weights/{name}", weights)
    return folder / "net.json"


def held(group: h5py.Group) -> dict[str, Any]:
    """Every array and every attribute below a group, as something to compare."""
    found: dict[str, Any] = {"": {key: str(value) for key, value in group.attrs.items()}}

    def see(name: str, item: Any) -> None:
        array = item[()].tobytes() if isinstance(item, h5py.Dataset) else b""
        found[name] = array, {key: str(np.asarray(value)) for key, value in item.attrs.items()}

    group.visititems(see)
    return found


@pytest.mark.skipif(not MODELS.is_dir(), reason=f"no real models at {MODELS}")
@pytest.mark.parametrize("name", CHOSEN)
def test_the_result_is_that_of_the_whole_file(tmp_path: Path, name: str) -> None:
    whole = MODELS / name
    options: dict[str, Any] = {"verify": False, "bench": False, "details": False}
    expected = bnfuse.optimize(whole, tmp_path / "whole.h5", **options)
    report = bnfuse.optimize(taken_apart(whole, tmp_path), tmp_path / "out.json", **options)
    assert report.plan == expected.plan and report.plan.counts(batchnorm=True)[1] > 0
    with h5py.File(tmp_path / "whole.h5") as one, h5py.File(tmp_path / "out.h5") as other:
        assert held(one["model_weights"]) == held(other)
        assert json.loads(one.attrs["model_config"]) == json.loads((tmp_path / "out.json").read_text())
    (tmp_path / "m.h5.gz").write_bytes(gzip.compress(whole.read_bytes(), 1))
    packed = bnfuse.optimize(tmp_path / "m.h5.gz", **options).model
    assert packed is not None
    assert gzip.decompress(packed.read_bytes()) == (tmp_path / "whole.h5").read_bytes()
