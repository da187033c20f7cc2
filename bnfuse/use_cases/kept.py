"""Models that were loaded to be proved are loaded to be measured, too: they stay for whoever loads them next.

Keeps a model that was closed where it is as it was loaded: no seams opened, no weight moved, no profiler. A
call leaves nothing in a model that the next would see, and an error lets go of all of them, since a runtime
that failed may be gone. Each is kept once: a second copy is loaded anew. Does not keep large models, of which
there is to be one in memory at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from msgspec.structs import replace

from bnfuse.errors import BnfuseError
from bnfuse.formats import load as load_by_content
from bnfuse.formats.base import Loader, Runner, RunSettings, Tensors, TensorSpec
from bnfuse.machine import available_memory_bytes

_PART = 0.05  # of the free memory: a file beyond it is not kept


class KeptModels:
    """A loader. ``close`` closes what it kept."""

    def __init__(self, load: Loader = load_by_content) -> None:
        self._load = load
        self._idle: dict[tuple[Path, RunSettings], Runner] = {}

    def load(self, path: Path, settings: RunSettings) -> Runner:
        """The model that was kept, or load one.

        Raises:
            BnfuseError: as the loader does.
        """
        if settings.probe is not None or settings.profile or not _is_small(path):
            return self._load(path, settings)
        key = path.resolve(), replace(settings, runtime="")
        kept = self._idle.pop(key, None)
        if kept is not None and settings.runtime in ("", kept.runtime):
            return _Lent(kept, self, key)
        if kept is not None:
            _close(kept)
        return _Lent(self._load(path, settings), self, key)

    def keep(self, key: tuple[Path, RunSettings], runner: Runner) -> None:
        """Take back a model, unless there is one of it already."""
        if key in self._idle:
            _close(runner)
        else:
            self._idle[key] = runner

    def close(self) -> None:
        """Let go of all that were kept."""
        with ExitStack() as stack:
            while self._idle:
                stack.callback(_close, self._idle.popitem()[1])


class _Lent:
    """A runner that goes back to where it was kept, but after an error."""

    def __init__(self, runner: Runner, home: KeptModels, key: tuple[Path, RunSettings]) -> None:
        self._runner, self._home, self._key = runner, home, key
        self._open = True
        self.inputs: Sequence[TensorSpec] = runner.inputs
        self.outputs: Sequence[TensorSpec] = runner.outputs
        self.providers: Sequence[str] = runner.providers
        self.runtime: str = runner.runtime
        self.versions: Mapping[str, str] = runner.versions
        self.optimises: str = runner.optimises

    def run(self, feeds: Tensors) -> dict[str, np.ndarray]:
        """See ``Runner.run``."""
        return self._asked().run(feeds)

    def time(self, feeds: Tensors, calls: int) -> list[int]:
        """See ``Runner.time``."""
        return self._asked().time(feeds, calls)

    def _asked(self) -> Runner:
        if not self._open:
            raise BnfuseError("this model was closed before it was run")
        return self._runner

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        self._open = False
        if kind is None:
            self._home.keep(self._key, self._runner)
            return
        self._home.close()
        self._runner.__exit__(kind, value, trace)


def of_the_formats(load: Loader) -> bool:
    """Whether models are loaded as the formats do it, so that another process can do the same."""
    return load is load_by_content or isinstance(getattr(load, "__self__", None), KeptModels)


def _is_small(path: Path) -> bool:
    free = available_memory_bytes()
    try:
        return free is None or path.stat().st_size <= _PART * free
    except OSError:  # told where it is loaded
        return False


def _close(runner: Runner) -> None:
    runner.__exit__(None, None, None)
