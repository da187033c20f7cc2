"""What the reference holds at the seams is noted while it runs for its outputs: it need not run once more.

Only where opening it up changes nothing but that more is shown (``SeamPair.exact``), and where all of that is
small. A model that was closed is opened up at next to no cost, as it stays loaded; what it costs where it
does not is counted, since loading is no part of a proof's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import numpy as np
from msgspec import Struct, field

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import Runner, Tensors
from bnfuse.inputs.samples import Feeds


class Noted(Struct, eq=False):
    """Runs of a model that was opened up: inputs, and outputs and values at the seams by name."""

    runs: list[tuple[Tensors, Feeds]] = field(default_factory=list)

    def of(self, feeds: Tensors) -> Feeds | None:
        """What came of these inputs, None where they were not run."""
        return next((made for given, made in self.runs if _same(given, feeds)), None)


class Look(Struct, frozen=True, eq=False):
    """``opened`` loads the model opened up at the seams ``names``, for so many ``runs`` of bounded size."""

    opened: Callable[[], Runner]
    names: frozenset[str]
    runs: int
    most_bytes: int


class NotingRunner:
    """A model as a ``Runner``, which notes what the seams hold in the first runs after ``note``.

    ``loading_s`` is what it took to load the model after the first time.
    """

    def __init__(self, load: Callable[[], Runner], look: Look | None) -> None:
        self._load, self._look = load, look
        self._left = 0
        self._now: Runner | None = load().__enter__()
        self._is_open = False
        self.loading_s = 0.0
        self.noted = Noted()
        now = self._now
        self.inputs, self.outputs, self.providers = now.inputs, now.outputs, now.providers
        self.runtime, self.versions, self.optimises = now.runtime, now.versions, now.optimises
        self.load_s = now.load_s

    def note(self, runs: int | None = None) -> None:
        """Note the next runs, as many as are wanted in all, or so many."""
        left = 0 if self._look is None else self._look.runs - len(self.noted.runs)
        self._left = left if runs is None else min(left, runs)

    def run(self, feeds: Tensors) -> dict[str, np.ndarray]:
        """All outputs by name."""
        if self._left and self._look is not None:
            self._left -= 1
            try:
                return self._run_open(self._look, feeds)
            except BnfuseError:  # its runtime may have been lost, for what is shown takes memory
                self._give_up()  # it may run as it is; why it cannot be opened up is told later
        return self._loaded(opened=False).run(feeds)

    def time(self, feeds: Tensors, calls: int) -> list[int]:
        """As ``Runner.time``."""
        return self._loaded(opened=False).time(feeds, calls)

    def _run_open(self, look: Look, feeds: Tensors) -> dict[str, np.ndarray]:
        made = self._loaded(opened=True).run(feeds)
        size = sum(array.nbytes for array in made.values())
        if look.names <= made.keys() and size <= look.most_bytes:
            self.noted.runs.append((feeds, made))
        else:
            self._give_up()  # too much to hold
        return {name: array for name, array in made.items() if name not in look.names}

    def _give_up(self) -> None:
        self._left, self._look = 0, None

    def _loaded(self, *, opened: bool) -> Runner:
        """The model, opened up or not: one of the two is loaded at a time."""
        if self._now is not None and self._is_open is opened:
            return self._now
        begin = time.perf_counter()
        self._close()
        now = self._look.opened() if opened and self._look is not None else self._load()
        self._now = now.__enter__()
        self._is_open = opened
        self.loading_s += time.perf_counter() - begin
        return self._now

    def _close(self) -> None:
        now, self._now = self._now, None
        if now is not None:
            now.__exit__(None, None, None)

    def __enter__(self) -> NotingRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def _same(a: Tensors, b: Tensors) -> bool:
    """Whether inputs are the same, bit by bit."""
    return a.keys() == b.keys() and all(
        x is y or (x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes())
        for x, y in ((a[name], b[name]) for name in a)
    )
