"""Runners whose calls take a known time, by a clock that only their work moves.

What is measured then depends on the work alone, neither on the machine nor on what else runs there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.formats.base import Runner, RunSettings, TensorSpec
from bnfuse.measure.cold import Start

Loaded = Callable[[Path, RunSettings], Any]


@dataclass
class Clock:
    """A clock that stands still but for work."""

    ns: int = 0

    def work(self, milliseconds: float) -> None:
        """Let this time pass."""
        self.ns += round(milliseconds * 1e6)

    @property
    def seconds(self) -> float:
        """Since the clock was made."""
        return self.ns / 1e9

    def rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From here on it is what ``time.perf_counter`` reads, whoever asks."""
        monkeypatch.setattr("time.perf_counter", lambda: self.seconds)
        monkeypatch.setattr("time.perf_counter_ns", lambda: self.ns)


@dataclass
class Clockwork:
    """A Runner whose next call takes ``draw()`` ms. ``log`` gets its name a call, +name and -name a life."""

    clock: Clock
    log: list[str]
    name: str
    draw: Callable[[], float]
    shape: tuple[int | str | None, ...] = ("N", 4)
    providers: Sequence[str] = ("Clockwork",)
    runtime: str = "clockwork 1"
    versions: Mapping[str, str] = field(default_factory=lambda: {"clockwork": "1"})
    optimises: str = ""
    load_s: float = 0.0
    outputs: Sequence[TensorSpec] = ()
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inputs: Sequence[TensorSpec] = (TensorSpec("x", "float32", self.shape),)

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        self.log.append(self.name)
        self.batches.append(len(feeds["x"]))
        self.clock.work(self.draw())
        return {}

    def time(self, feeds: Any, calls: int) -> list[int]:
        times = []
        for _ in range(calls):
            begin = self.clock.ns
            self.run(feeds)
            times.append(self.clock.ns - begin)
        return times

    def __enter__(self) -> Runner:
        self.log.append(f"+{self.name}")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append(f"-{self.name}")


def starts(clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[str], float]) -> list[str]:
    """Cold starts that take ``seconds`` of the file's name; returns the log of names."""
    log: list[str] = []

    def start(path: Path, settings: RunSettings, feeds: Any) -> Start:
        log.append(path.name)
        took_ms = 1e3 * seconds(path.name)
        clock.work(took_ms)
        return Start(round(took_ms * 1e6), 10**6, 2 * 10**6, 3 * 10**6, 10**6 * len(log))

    monkeypatch.setattr("bnfuse.measure.cold.start_once", start)
    return log


def files(folder: Path) -> tuple[Path, Path]:
    """Two empty files, ``a`` and ``b``."""
    paths = folder / "a", folder / "b"
    for path in paths:
        path.write_bytes(b"")
    return paths


def clockworks(
    clock: Clock, tmp_path: Path, before_ms: float, after_ms: float
) -> tuple[Path, Path, Loaded, list[str], list[RunSettings]]:
    """Two files, a loader of their Clockworks, the log of calls, and the settings that were loaded with."""
    log: list[str] = []
    seen: list[RunSettings] = []
    paths = files(tmp_path)
    times = dict(zip(paths, (before_ms, after_ms), strict=True))

    def load_clockwork(path: Path, settings: RunSettings) -> Clockwork:
        seen.append(settings)
        return Clockwork(clock, log, path.name, lambda: times[path])

    return *paths, load_clockwork, log, seen


def most_open(log: Sequence[str]) -> int:
    """How many runners were open at the same time, at most."""
    open_now = most = 0
    for entry in log:
        open_now += entry.startswith("+") - entry.startswith("-")
        most = max(most, open_now)
    return most
