"""Outcomes on disk, so that a thousand of them take no memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bnfuse.results.archive import archived, restored
from bnfuse.results.many import Outcome


class Spool:
    """Outcomes by the number of their model, gone through in that order."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="bnfuse-")
        self._at: set[int] = set()

    def add(self, at: int, outcome: Outcome) -> None:
        """Keep an outcome; another of the same number goes."""
        self._path(at).write_text(archived(outcome), encoding="ascii")
        self._at.add(at)

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[Outcome]:
        return (outcome for _, outcome in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Outcome]]:
        """Each with the number of its model."""
        for at in sorted(self._at):
            yield at, restored(self._path(at).read_text(encoding="ascii"))

    def _path(self, at: int) -> Path:
        return Path(self._folder.name, f"{at}.json")

    def close(self) -> None:
        """Remove the files."""
        self._folder.cleanup()
