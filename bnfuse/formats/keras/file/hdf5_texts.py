"""How much memory the texts take that an HDF5 file keeps as an attribute, told before they are read.

HDF5 stores such texts as references into heaps of texts, and copies each text for each reference, all at
once: 3,000 references to one text of 1 MiB take 3 GiB. It makes room for what a reference says before it
looks at the text: one that is damaged takes up to 4 GiB. Its library does not tell these sizes, but each
reference begins with one, so they are looked up in the block that holds the object's header.

    reference   size (4 bytes), address of a heap (8), number in it (4), little-endian
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from bnfuse.formats.keras.file.guarded_file import HEAP, GuardedFile

_REFERENCE = np.dtype([("size", "<u4"), ("heap", "<u8"), ("number", "<u4")])
_FREE_BYTES = 1 << 23
_FEW = 4  # texts, each at most as large as the file
_UNTOLD_BYTES = 1 << 30  # the most that texts may take whose references are not found


class TextSizes:
    """The same file, opened once more, so that all that HDF5 reads of an object's header is seen here.

    HDF5 keeps what it has read, and reads it no more. Where a header's own references must be told from
    those of others, the file is therefore opened anew; where those of others do no harm, it stays open.
    """

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._guard, self._length = GuardedFile(file, start, length), length
        self._file: h5py.h5f.FileID | None = None
        self._blocks, self._known = list[bytes](), set[bytes]()  # all that were read, each once
        self._headers: dict[str, list[bytes]] = {}  # of an object: those read in a file opened anew
        self._largest: dict[tuple[bytes, int], tuple[int, int]] = {}  # of so many blocks, the largest size
        self._peek, self._heaps = GuardedFile(file, start, length), dict[int, bool]()

    def check(self, path: str, name: bytes, points: int) -> None:
        """Refuse texts that take far more memory than their file.

        Raises:
            OSError: they do.
        """
        if points * self._length <= max(_FREE_BYTES, _FEW * self._length):  # most: the weights of a layer
            self._look(path, name)
            self._refuse_larger(self._largest_of(name, points))
            return
        blocks = (block for block in self._header(path, name) if name in block)
        found = [sizes for block in blocks for sizes in self._references(block, points)]
        self._refuse_larger(max((int(sizes.max()) for sizes in found), default=0))
        # Where references are not found, but the file is small, they are not told.
        untold = points * self._length if points * self._length > _UNTOLD_BYTES else 0
        taken = max((int(sizes.sum()) for sizes in found), default=untold)
        if taken > max(_FREE_BYTES, self._length):
            raise OSError(f"its list of {points} texts takes {taken} bytes, which would fill the memory")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _refuse_larger(self, size: int) -> None:
        if size > self._length:
            raise OSError("it says that a text is larger than the file")

    def _largest_of(self, name: bytes, points: int) -> int:
        """The largest size in a row of references of such an attribute, of any object that was looked at."""
        done, largest = self._largest.get((name, points), (0, 0))
        for block in self._blocks[done:]:
            if name in block:
                largest = max([largest, *(int(sizes.max()) for sizes in self._references(block, points))])
        self._largest[name, points] = len(self._blocks), largest
        return largest

    def _header(self, path: str, name: bytes) -> list[bytes]:
        """The blocks that it takes to read this object's header, and the attribute."""
        blocks = self._headers.get(path, [])
        if not any(name in block for block in blocks):
            self.close()
            blocks = self._headers[path] = self._look(path, name)
        return blocks

    def _look(self, path: str, name: bytes) -> list[bytes]:
        """Let HDF5 read an attribute, but not its texts: the blocks that this takes, those on the way too."""
        read: list[bytes] = []
        self._guard.seen = read.append
        try:
            self._open(path, name)
        finally:
            for block in read:
                if block not in self._known:
                    self._known.add(block)
                    self._blocks.append(block)
        return read

    def _open(self, path: str, name: bytes) -> None:
        if self._file is None:
            access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)  # as h5py.File, whose other settings take longer
            access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
            access.set_fileobj_driver(h5py.h5fd.fileobj_driver, self._guard)
            self._file = h5py.h5f.open(b"model", h5py.h5f.ACC_RDONLY, fapl=access)
        h5py.h5a.open(h5py.h5o.open(self._file, path.encode()), name)

    def _references(self, block: bytes, points: int) -> Iterator[NDArray[np.uint64]]:
        """What ``points`` references in a row say of their sizes, wherever there is such a row."""
        places = len(block) - _REFERENCE.itemsize * points + 1
        if places <= 0:
            return
        every = np.ndarray((places,), _REFERENCE, block, strides=(1,))  # from every byte on
        heaps = every["heap"]
        likely = np.flatnonzero((heaps > 0) & (heaps < self._length) & (every["number"] > 0))
        for at, heap in zip(likely.tolist(), heaps[likely].tolist(), strict=True):
            if not self._is_heap(heap):
                continue
            row = np.frombuffer(block, _REFERENCE, points, at)
            if all(map(self._is_heap, set(row["heap"].tolist()))):  # np.unique imports masked arrays
                yield row["size"].astype(np.uint64)

    def _is_heap(self, at: int) -> bool:
        if at not in self._heaps:
            start = bytearray(len(HEAP))
            if at + len(start) <= self._length:
                self._peek.seek(at)
                self._peek.readinto(start)
            self._heaps[at] = start == HEAP
        return self._heaps[at]
