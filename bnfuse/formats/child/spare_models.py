"""Models that were closed and stay loaded for whoever loads the same file next (``pool.keeping_models``).

Loading often takes longer than what is then asked of a model, and a proof and a bench ask for each of two
files up to eight times: plain, opened up, with moved weights, compiled. A closed model is as it was loaded,
so the next one is made of it. Does not keep large ones, more of a file than a bench needs at once, or those
of any but the last two files. Which models are alike is for the engine to say.

Imported by child processes only.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct

from bnfuse.files.stamps import stamp_of
from bnfuse.machine import available_memory_bytes

M = TypeVar("M")

_FILES = 2  # the original and its result
_COPIES = 2  # a bench holds two of each
_PART = 0.05  # of the free memory: a file beyond it is not kept


class FileIdentity(Struct, frozen=True):
    """A file as it is now; through a link, the file itself."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int  # which no program can set back

    @classmethod
    def of(cls, path: str) -> FileIdentity:
        """Look."""
        file = Path(path).resolve()
        return cls(str(file), *stamp_of(file.stat()))

    @property
    def is_small(self) -> bool:
        """Whether a model of it may stay in memory unused."""
        free = available_memory_bytes()
        return free is None or self.size <= _PART * free


class SpareModels(Generic[M]):
    """Closed models by file and by how they were loaded."""

    def __init__(self) -> None:
        self._idle: dict[FileIdentity, list[tuple[Hashable, M]]] = {}  # the latest file last

    def take(self, file: FileIdentity, how: Hashable) -> M | None:
        """One of this file that was loaded so; None if there is none."""
        idle = self._idle.get(file, [])
        at = next((k for k, (loaded, _) in enumerate(idle) if loaded == how), None)
        return None if at is None else idle.pop(at)[1]

    def put(self, file: FileIdentity, how: Hashable, model: M) -> list[M]:
        """Take a model in; what there is no room for, perhaps this very one, is to be let go."""
        if not file.is_small:
            return [model]
        idle = self._idle.pop(file, [])
        self._idle[file] = idle
        if sum(loaded == how for loaded, _ in idle) >= _COPIES:
            return [model]
        idle.append((how, model))
        oldest = next(iter(self._idle))
        return [other for _, other in self._idle.pop(oldest)] if len(self._idle) > _FILES else []

    def clear(self) -> list[M]:
        """All that are to be let go."""
        idle, self._idle = self._idle, {}
        return [model for models in idle.values() for _, model in models]

    def __len__(self) -> int:
        return sum(map(len, self._idle.values()))
