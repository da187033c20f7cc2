"""Files of which only the size lies here: their bytes are fetched where they are read, range by range.

A file stands for one that is elsewhere (``stands_for``): it has its name and its size, and no bytes but the
first few, by which its format is told. Readers that ask ``fetched`` by a descriptor of it get those of the
other one. All else that opens the file finds zeros, so only ``inspect``
is handed such files, and only of formats that read in no other way (``formats.spread``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Fetch = Callable[[int, int], bytes]  # (first byte, how many) → exactly so many

_by_path: dict[str, Fetch] = {}
_by_descriptor: dict[int, Fetch] = {}


@contextmanager
def stands_for(path: Path, fetch: Fetch) -> Iterator[None]:
    """For as long as the context lasts, the bytes of ``path`` are those that ``fetch`` gives."""
    key = os.path.realpath(path)
    _by_path[key] = fetch
    try:
        yield
    finally:
        del _by_path[key]


def opened(path: Path, descriptor: int) -> None:
    """A reader opened this file."""
    if _by_path and (fetch := _by_path.get(os.path.realpath(path))) is not None:
        _by_descriptor[descriptor] = fetch


def closed(descriptor: int) -> None:
    """A reader closed it."""
    _by_descriptor.pop(descriptor, None)


def fetched(descriptor: int, size: int, position: int) -> bytes | None:
    """``size`` bytes from ``position`` of the other file, fewer at its end; None where there is no other.

    Raises:
        BnfuseError: they cannot be fetched.
    """
    fetch = _by_descriptor.get(descriptor) if _by_descriptor else None
    if fetch is None:
        return None
    left = os.fstat(descriptor).st_size - position
    return fetch(position, min(size, left)) if size > 0 and left > 0 else b""
