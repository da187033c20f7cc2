"""Files that must not change while they are read: what was planned, hashed and proved is one and the same.

A file's stamp is its size and the times at which its content and its entry last changed; the second one no
program can set back. Numbers of inodes are left out: some network file systems make them up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bnfuse.errors import UnreadableModel

Stamp = tuple[int, int, int]  # size in bytes, when the content changed, when the entry did (ns)


def stamp_of(info: os.stat_result) -> Stamp:
    """What changes when a file does."""
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


class Watched:
    """Files as they were when they were first looked at."""

    def __init__(self) -> None:
        self._stamps: dict[Path, Stamp] = {}

    def add(self, *paths: Path) -> None:
        """Watch more files from now on; what is not there is somebody else's to tell."""
        for path in paths:
            with suppress(OSError, ValueError):
                self._stamps.setdefault(path, stamp_of(path.stat()))

    def check(self) -> None:
        """Refuse to go on where one has changed.

        Raises:
            UnreadableModel: it has, or is gone.
        """
        for path, stamp in self._stamps.items():
            check_stamp(path, stamp)


def check_stamp(path: Path, stamp: Stamp) -> None:
    """Compare a file with its stamp.

    Raises:
        UnreadableModel: it changed, or is gone.
    """
    try:
        same = stamp_of(path.stat()) == stamp
    except OSError:
        same = False
    if not same:
        raise UnreadableModel(f"'{path}' changed while it was read: run again when nothing writes to it")


@contextmanager
def watched(*paths: Path) -> Iterator[Watched]:
    """Watch files. Where an error comes of it that one has changed, that is what is told.

    Raises:
        UnreadableModel: an error came up, and a file has changed.
    """
    files = Watched()
    files.add(*paths)
    try:
        yield files
    except Exception as error:
        try:
            files.check()
        except UnreadableModel as changed:
            raise changed from error
        raise
