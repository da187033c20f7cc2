"""Watches a process while somebody waits for its answer, and kills it when it takes too long or too much.

One thread per process, asleep while nothing is asked. It looks twenty times a second, which finds a process
that fills memory as fast as memory can be filled before it has taken a few hundred MB more than it may.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator

from bnfuse.formats.child.limits import Limits, held_bytes

_EVERY_S = 0.05


class Watchdog:
    """``verdict`` says why the process was killed, "" while it was not."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.verdict = ""
        self._process = process
        self._asked: tuple[Limits, float] | None = None
        self._busy, self._over = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def watching(self, limits: Limits) -> Iterator[None]:
        """Hold the process to these limits."""
        self._asked = limits, time.monotonic() + limits.answer_s
        self._busy.set()
        try:
            yield
        finally:
            self._asked = None

    def end(self) -> None:
        """The process is gone."""
        self._over.set()
        self._busy.set()

    def _watch(self) -> None:
        while True:
            self._busy.wait()
            if self._over.wait(_EVERY_S):
                return
            asked = self._asked
            if asked is not None:
                self._check(*asked)
                continue
            self._busy.clear()
            if self._asked is not None or self._over.is_set():  # asked just before the line above
                self._busy.set()

    def _check(self, limits: Limits, deadline: float) -> None:
        if time.monotonic() > deadline:
            self.verdict = limits.late
        elif limits.memory_bytes is not None and held_bytes(self._process.pid) > limits.memory_bytes:
            self.verdict = limits.hungry
        if self.verdict:
            self._process.kill()
            self.end()
