"""How much memory a list of texts takes that an HDF5 file keeps as an attribute, told before it is read.

HDF5 stores such a list as references into heaps of texts, and copies each text for each reference, all at
once: 3,000 references to one text of 1 MiB take 3 GiB. Its library does not tell their sizes, but each
reference begins with one, so they are looked up in the block that holds the object's header.

    reference   size (4 bytes), address of a heap (8), number in it (4), little-endian

When it does not act: a single text is at most as large as the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import h5py
import numpy as np

from bnfuse.formats.keras.file.guarded_file import HEAP, GuardedFile

_REFERENCE = np.dtype([("size", "<u4"), ("heap", "<u8"), ("number", "<u4")])
_FREE_BYTES = 1 << 23
_FEW = 4  # texts, each at most as large as the file
_UNTOLD_BYTES = 1 << 30  # the most that texts may take whose references are not found


class TextSizes:
    """The same file, opened once more for each group, so that headers are read where this can see them."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._guard, self._length = GuardedFile(file, start, length), length
        self._file: h5py.File | None = None
        self._path, self._blocks = "", [b""]
        self._peek, self._heaps = GuardedFile(file, start, length), dict[int, bool]()

    def check(self, path: str, name: bytes, points: int) -> None:
        """Refuse a list that takes far more memory than its file.

        Raises:
            OSError: it does.
        """
        if points * self._length <= max(_FREE_BYTES, _FEW * self._length):
            return  # most: the weights of a layer
        taken = self._taken(path, name, points)
        if taken > max(_FREE_BYTES, self._length):
            raise OSError(f"its list of {points} texts takes {taken} bytes, which would fill the memory")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _taken(self, path: str, name: bytes, points: int) -> int:
        """Bytes of all texts together; 0 where they are not told, but the file is small."""
        if self._path != path or self._file is None:
            self.close()  # what HDF5 has read once it keeps, and reads no more
            self._path, self._blocks = path, []
            self._guard.seen = self._blocks.append
            self._file = h5py.File(self._guard, "r")
            h5py.h5a.open(h5py.h5o.open(self._file.id, path.encode()), name)
            self._guard.seen = None
        headers = (block for block in self._blocks if name in block)
        sums = [taken for block in headers for taken in self._sums(block, points)]
        if sums:
            return max(sums)
        return points * self._length if points * self._length > _UNTOLD_BYTES else 0

    def _sums(self, block: bytes, points: int) -> Iterator[int]:
        """The sizes of ``points`` references in a row together, wherever there is such a row."""
        for shift in range(_REFERENCE.itemsize):
            count = (len(block) - shift) // _REFERENCE.itemsize
            if count < points:
                return
            rows = np.frombuffer(block, _REFERENCE, count, shift)
            valid = (rows["heap"] > 0) & (rows["heap"] < self._length) & (rows["number"] > 0)
            before = np.concatenate(([0], np.cumsum(valid)))
            for at in np.flatnonzero(before[points:] - before[:-points] == points):
                row = rows[at : at + points]
                if all(self._is_heap(int(heap)) for heap in np.unique(row["heap"])):
                    yield int(row["size"].sum(dtype=np.uint64))

    def _is_heap(self, at: int) -> bool:
        if at not in self._heaps:
            start = bytearray(len(HEAP))
            if at + len(start) <= self._length:
                self._peek.seek(at)
                self._peek.readinto(start)
            self._heaps[at] = start == HEAP
        return self._heaps[at]
