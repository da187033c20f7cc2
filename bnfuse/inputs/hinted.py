"""What the file of a model tells of its inputs, asked for when something must be made up.

Nothing is told where there is no file, where it is of no known format, or does not hold together: what is
wrong with it is told by who loads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct, field

from bnfuse.errors import BnfuseError
from bnfuse.formats import detect
from bnfuse.formats.hints import Hints

if TYPE_CHECKING:
    from bnfuse.formats.base import TensorSpec

_T = TypeVar("_T")


class FileHints(Struct):
    """The hints of the file at ``path`` for inputs as a runtime calls them; read at the first question."""

    path: Path | None
    specs: Sequence[TensorSpec]
    _read: Hints | None = field(default=None)

    @property
    def all(self) -> Hints:
        """Everything that the file tells."""
        if self._read is None:
            state = file_state(self.path)
            self._read = Hints() if state is None else _read(state)
        return self._read

    def sizes(self, spec: TensorSpec) -> tuple[tuple[int | None, ...], ...]:
        """Whole shapes for an input, the likeliest first, that fit what its runtime declares."""
        found = self._of(self.all.sizes, spec)
        return tuple(shape for shape in found or () if spec.shape is None or len(shape) == len(spec.shape))

    def _of(self, found: Mapping[str, _T], spec: TensorSpec) -> _T | None:
        """Of an input by its name; of the only one, whatever it is called."""
        if spec.name in found or len(self.specs) > 1 or len(found) != 1:
            return found.get(spec.name)
        return next(iter(found.values()))

    def values(self, spec: TensorSpec) -> tuple[int, int] | None:
        """The least whole number that an input may hold, and the least that is too large."""
        found = self._of(self.all.values, spec)
        return None if found is None else (found.least, found.beyond)


def file_state(path: Path | None) -> tuple[Path, int, int] | None:
    """A file as it is now; None where there is none."""
    try:
        state = path.stat() if path is not None else None
    except OSError:
        return None
    return None if path is None or state is None else (path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _read(state: tuple[Path, int, int]) -> Hints:
    """Of a file as it is now: a bench asks at every setting."""
    try:
        return detect(state[0]).hints(state[0])
    except BnfuseError:
        return Hints()
