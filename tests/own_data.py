"""Samples of a user's own as files: .npy, .npz, and folders of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def folder(tmp_path: Path, **arrays: Any) -> Path:
    """A folder of .npy files (arrays) and .npz files (dicts of arrays)."""
    (tmp_path / "data").mkdir()
    for name, value in arrays.items():
        if isinstance(value, dict):
            np.savez(tmp_path / "data" / f"{name}.npz", **value)
        else:
            np.save(tmp_path / "data" / f"{name}.npy", value)
    return tmp_path / "data"


def npz(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def npy(tmp_path: Path, array: np.ndarray) -> Path:
    np.save(tmp_path / "data.npy", array)
    return tmp_path / "data.npy"
