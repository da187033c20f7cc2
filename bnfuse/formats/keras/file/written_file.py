"""A new file for HDF5 to write, whose failures HDF5 never sees.

Where a write fails while HDF5 closes a file, it leaves objects half closed and ends the process when it
looks for them at exit. So the first failure is kept here, for ``check`` to raise, and all writes from then on
seem to succeed: small ones, HDF5's own records, are kept in memory, since it may read them again; arrays
are dropped.

When it does not act: as long as nothing fails, memory holds nothing, and each write goes to the system.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from bnfuse.formats.keras.file.guarded_file import FileForHdf5

_RECORD_BYTES = 1 << 16  # HDF5's records are smaller


class WrittenFile(FileForHdf5):
    """A file that is made, written and read by HDF5's calls. ``failure`` is the first one."""

    def __init__(self, path: Path) -> None:
        """Make the file.

        Raises:
            OSError: it cannot be made.
        """
        self._file = path.open("w+b", buffering=0)
        super().__init__(0)
        self._late: dict[int, bytes] = {}
        self.failure: OSError | None = None

    def check(self) -> None:
        """Raise the first failure.

        Raises:
            OSError: there was one.
        """
        if self.failure is not None:
            raise self.failure

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any, /) -> int:
        """All of it, always."""
        view = memoryview(data).cast("B")
        if self.failure is None:
            self._try(self._put, view)
        if self.failure is not None and len(view) <= _RECORD_BYTES:
            self._late[self._at] = bytes(view)
        self._at += len(view)
        self._end = max(self._end, self._at)
        return len(view)

    def readinto(self, buffer: Any, /) -> int:
        """What was written; zeros where that was lost."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        self._file.seek(self._at)
        done = 0
        while done < len(view) and (got := self._file.readinto(view[done:])):
            done += got
        for start, data in self._late.items():
            first, last = max(start, self._at), min(start + len(data), self._at + len(view))
            if first < last:
                view[first - self._at : last - self._at] = data[first - start : last - start]
        self._at += len(view)
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """To a size, or to the position."""
        self._end = self._at if size is None else size
        if self.failure is None:
            self._try(self._file.truncate, self._end)
        return self._end

    def close(self) -> None:
        """Close the file; some systems tell of a full disk only now.

        Python calls this for an object that is let go, also for one whose file could not be made.
        """
        if hasattr(self, "failure"):
            self._try(self._file.close)
        super().close()

    def _put(self, view: memoryview) -> None:
        self._file.seek(self._at)
        done = 0
        while done < len(view):
            done += self._file.write(view[done:])

    def _try(self, act: Any, *given: Any) -> None:
        try:
            act(*given)
        except OSError as error:
            self.failure = self.failure or error


@contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, WrittenFile]]:
    """A new HDF5 file, and what it is written to: whose ``check`` is to be asked now and then.

    Raises:
        OSError: it could not be written.
    """
    file = WrittenFile(path)
    try:
        with h5py.File(file, "w") as target:
            yield target, file
    finally:
        file.close()
    file.check()
