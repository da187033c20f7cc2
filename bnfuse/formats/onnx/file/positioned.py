"""Reading and writing open files at positions, on every system, and reading those that are elsewhere.

Where the system has calls for it (POSIX; not all have ``preadv``), threads share a descriptor freely. Where
it has none (Windows), a position is set and used under one lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from bnfuse.formats.elsewhere import fetched

BINARY = getattr(os, "O_BINARY", 0)  # without it Windows changes ends of lines, and 0x1A ends a file

_MOST_AT_ONCE = 1 << 30  # what one call of Windows reads or writes fits 32 bits
_ONE_AT_A_TIME = threading.Lock()
_pread: Callable[[int, int, int], bytes] | None = getattr(os, "pread", None)
_preadv: Callable[[int, list[memoryview], int], int] | None = getattr(os, "preadv", None)
_pwrite: Callable[[int, memoryview, int], int] | None = getattr(os, "pwrite", None)


def read_at(descriptor: int, size: int, position: int) -> bytes:
    """Up to ``size`` bytes from ``position``; b"" at the end.

    Raises:
        OSError: it cannot be read.
    """
    elsewhere = fetched(descriptor, size, position)
    if elsewhere is not None:
        return elsewhere
    if _pread is not None:
        return _pread(descriptor, size, position)
    with _ONE_AT_A_TIME:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, min(size, _MOST_AT_ONCE))


def read_into(descriptor: int, view: memoryview, position: int) -> int:
    """Fill ``view`` from ``position``, as far as one call does.

    Returns:
        How many bytes were read; 0 at the end.

    Raises:
        OSError: it cannot be read.
    """
    block = fetched(descriptor, len(view), position)
    if block is None:
        if _preadv is not None:
            return _preadv(descriptor, [view], position)
        block = read_at(descriptor, len(view), position)
    view[: len(block)] = block
    return len(block)


def write_at(descriptor: int, view: memoryview, position: int) -> int:
    """Write at ``position``, as far as one call does.

    Returns:
        How many bytes were written.

    Raises:
        OSError: it cannot be written.
    """
    if _pwrite is not None:
        return _pwrite(descriptor, view, position)
    with _ONE_AT_A_TIME:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.write(descriptor, view[:_MOST_AT_ONCE])
