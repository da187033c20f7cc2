"""Keeps the reference's outputs until the candidate has run, in memory or on disk.

The two models are never in memory together, so what the first put out must wait for the second. Arrays
beyond a share of the memory go to a temporary folder, which goes when this object does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct, field

from bnfuse.files.staging import output_errors

MOST_BYTES = 1 << 28


class _OnDisk(Struct, frozen=True, eq=False):
    """An array as the bytes of its elements in C order."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self) -> np.ndarray:
        return np.frombuffer(self.path.read_bytes(), dtype=self.dtype).reshape(self.shape)


class StoredOutputs(Struct, eq=False):
    """Outputs by input set and name."""

    most_bytes: int = MOST_BYTES
    _rows: list[dict[str, np.ndarray | _OnDisk]] = field(default_factory=list)
    _in_memory: int = 0
    _on_disk: int = 0
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, outputs: dict[str, np.ndarray]) -> None:
        """Keep the outputs of one input set.

        Raises:
            OutputError: there is no room on the disk for temporary files.
        """
        self._rows.append({name: self._put(array) for name, array in outputs.items()})

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {
            name: array.read() if isinstance(array, _OnDisk) else array
            for name, array in self._rows[row].items()
        }

    def full(self) -> bool:
        """Whether what comes next goes to disk."""
        return self._in_memory >= self.most_bytes

    def _put(self, array: np.ndarray) -> np.ndarray | _OnDisk:
        if array.dtype.hasobject or self._in_memory + array.nbytes <= self.most_bytes:
            self._in_memory += array.nbytes
            return array
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="bnfuse-")
        self._on_disk += 1
        path = Path(self._folder.name) / str(self._on_disk)
        with output_errors(path):
            path.write_bytes(array.tobytes())
        return _OnDisk(path, array.shape, array.dtype)
