"""Arrays in numpy's files, read piece by piece: shapes and types first, values when they are needed.

An ``.npy`` file is mapped, so that a slice costs no more than itself; of ``.npz`` archives the one that
was read last is held. Nothing is unpickled: an array of Python objects is refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from bnfuse.errors import UsageError
from bnfuse.formats.child.messages import dtype_named

Feeds = dict[str, np.ndarray]
_MAGIC = b"\x93NUMPY"


class ArrayFiles(Struct, eq=False):
    """Opens numpy's files; holds the arrays of the archive that was read last."""

    _held: tuple[Path, Feeds] | None = None

    def stored(self, path: Path) -> dict[str, StoredArray]:
        """The arrays of one file by name, without their values; the one of an ``.npy`` is called "".

        Raises:
            UsageError: no such file, or not one of numpy's formats.
        """
        with _explained(path):
            with path.open("rb") as file:
                single = file.read(len(_MAGIC)) == _MAGIC
            if single:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                return {"": StoredArray(self, path, "", array.shape, array.dtype)}
            with _opened(path) as archive, zipfile.ZipFile(path) as members:
                return {
                    name: StoredArray(self, path, name, *_header(members, name, archive))
                    for name in archive.files
                }

    def read(self, path: Path, member: str, rows: slice | None) -> np.ndarray:
        """Values of one array, all of them or some rows of its first axis."""
        with _explained(path):
            if not member:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                array = self._archive(path)[member]
            return np.array(array if rows is None else array[rows])

    def _archive(self, path: Path) -> Feeds:
        if self._held is None or self._held[0] != path:
            self._held = None  # let go of one before the next is read
            with _opened(path) as archive:
                self._held = path, {name: archive[name] for name in archive.files}
        return self._held[1]


class StoredArray(Struct, frozen=True, eq=False):
    """One array in a file: its shape and type, and its values on demand."""

    files: ArrayFiles
    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, rows: slice | None = None) -> np.ndarray:
        """All values, or some rows of the first axis.

        Raises:
            UsageError: the file has gone, or was changed.
        """
        return self.files.read(self.path, self.member, rows)


def _header(members: zipfile.ZipFile, name: str, archive: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an archive's array, from its header where numpy can read that alone."""
    entry = name if name in members.namelist() else f"{name}.npy"
    readers: dict[tuple[int, int], Callable[[Any], Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with members.open(entry) as file:
        reader = readers.get(np.lib.format.read_magic(file))
        if reader is not None:
            shape, _, dtype = reader(file)
            if dtype.hasobject:
                raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
            return tuple(shape), dtype
    array = archive[name]
    return array.shape, array.dtype


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The arrays of an archive by name. numpy would leave one open that is damaged."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        yield archive


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """One sentence for a file that is not there or not numpy's."""
    try:
        yield
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path} cannot be read as a numpy .npz or .npy file: {reason}") from error


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a ``TensorSpec.dtype``; the narrow floats come from ``ml_dtypes``.

    Raises:
        UsageError: numpy has no such type; sequences, maps and optional values are no tensors.
    """
    if name == "string":
        return np.dtype(object)
    try:
        return dtype_named(name)
    except ValueError:
        raise UsageError(
            f"the model has an input of type {name}, which bnfuse cannot make up or read from a file: "
            "its result can only be written unproved, with --no-verify --no-bench"
        ) from None
