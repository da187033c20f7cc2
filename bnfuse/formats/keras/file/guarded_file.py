"""A part of a file as a file of its own, for HDF5 to read, guarded against what HDF5 does not check.

HDF5 trusts what a file says about itself: it uses bytes beyond the file's end as they happen to be in memory,
and walks a heap of texts by the sizes stored in it, for ever if one is zero. All its reading passes here,
so both are noticed here, as an OSError that h5py hands on.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO

HEAP = b"GCOL"
_HEAP_MIN_BYTES = 4096  # what HDF5 reads first
_HEAP_HEADER_BYTES = 16


class FileForHdf5(io.RawIOBase):
    """What every file of our own that HDF5 is handed has: a position, and an end, in bytes."""

    def __init__(self, end: int) -> None:
        self._at, self._end = 0, end

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """As of any file; positions count from its start, which need not be that of the file below."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = max(0, base + offset)
        return self._at


class GuardedFile(FileForHdf5):
    """Bytes [start, start + length) of an open file, as a read-only file of their own."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        super().__init__(length)
        self._file, self._start = file, start
        self.seen: Callable[[bytes], object] | None = None  # is told every block

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer``.

        Raises:
            OSError: that would take more than there is (HDF5 would not look at the count, and use what
                happens to be in memory), or a heap on which HDF5 would loop.
        """
        view = memoryview(buffer).cast("B")
        if self._at + len(view) > self._end:
            raise OSError("it refers to something beyond its end")
        done = self._fill(view)
        if done < len(view):
            raise OSError("it ended while it was read")
        if bytes(view[:4]) == HEAP:
            self._check_heap(view)
        if self.seen is not None:
            self.seen(bytes(view))
        self._at += done
        return done

    def _fill(self, view: memoryview) -> int:
        """Read at the position, which stays where it is."""
        wanted = max(0, min(len(view), self._end - self._at))
        self._file.seek(self._start + self._at)
        done = 0
        while done < wanted:
            got = self._file.readinto(view[done:wanted])  # type: ignore[attr-defined]
            if not got:
                break
            done += got
        return done

    def _check_heap(self, start: memoryview) -> None:
        """Refuse a heap of texts on which HDF5 would loop for ever or read past its end.

        HDF5 walks the objects of a heap by the sizes they state, and does not mind a size of zero.
        """
        size = int.from_bytes(start[8:16], "little")
        if len(start) < _HEAP_MIN_BYTES or not _HEAP_MIN_BYTES <= size <= self._end - self._at:
            return  # not a heap, but numbers that look like one: HDF5 reads heaps in whole blocks
        heap = memoryview(bytearray(size))
        self._fill(heap)
        at = _HEAP_HEADER_BYTES
        while at + _HEAP_HEADER_BYTES <= size:
            index = int.from_bytes(heap[at : at + 2], "little")
            length = int.from_bytes(heap[at + 8 : at + 16], "little")
            step = length if index == 0 else _HEAP_HEADER_BYTES + (length + 7) // 8 * 8
            if step < _HEAP_HEADER_BYTES or at + step > size:
                raise OSError("a heap of texts is damaged")
            at += step
