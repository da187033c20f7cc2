"""Runners whose time is known: calls that actively wait, for tests of measuring."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bnfuse.formats.base import Runner, RunSettings, TensorSpec

Loaded = Callable[[Path, RunSettings], Any]


@dataclass
class Clockwork:
    """A Runner whose calls take a known time. ``log`` gets its name per call, +name and -name per life."""

    milliseconds: float
    log: list[str]
    name: str
    shape: tuple[int | str | None, ...] = ("N", 4)
    providers: Sequence[str] = ("Clockwork",)
    runtime: str = "clockwork 1"
    versions: Mapping[str, str] = field(default_factory=lambda: {"clockwork": "1"})
    outputs: Sequence[TensorSpec] = ()
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inputs: Sequence[TensorSpec] = (TensorSpec("x", "float32", self.shape),)

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        end = time.perf_counter_ns() + int(self.milliseconds * 1e6)
        self.log.append(self.name)
        self.batches.append(len(feeds["x"]))
        while time.perf_counter_ns() < end:
            pass
        return {}

    def time(self, feeds: Any, calls: int) -> list[int]:
        times = []
        for _ in range(calls):
            begin = time.perf_counter_ns()
            self.run(feeds)
            times.append(time.perf_counter_ns() - begin)
        return times

    def __enter__(self) -> Runner:
        self.log.append(f"+{self.name}")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append(f"-{self.name}")


@dataclass
class Told(Clockwork):
    """A Clockwork that says how long its calls took instead of taking so long: ``draw()`` ms."""

    draw: Callable[[], float] = lambda: 1.0

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        self.log.append(self.name)
        self.batches.append(len(feeds["x"]))
        return {}

    def time(self, feeds: Any, calls: int) -> list[int]:
        for _ in range(calls):
            self.run(feeds)
        return [int(1e6 * self.draw()) for _ in range(calls)]


def files(folder: Path) -> tuple[Path, Path]:
    """Two empty files, ``a`` and ``b``."""
    paths = folder / "a", folder / "b"
    for path in paths:
        path.write_bytes(b"")
    return paths


def clockworks(
    tmp_path: Path, before_ms: float, after_ms: float
) -> tuple[Path, Path, Loaded, list[str], list[RunSettings]]:
    """Two files, a loader of their Clockworks, the log of calls, and the settings that were loaded with."""
    log: list[str] = []
    seen: list[RunSettings] = []
    paths = files(tmp_path)
    times = dict(zip(paths, (before_ms, after_ms), strict=True))

    def load_clockwork(path: Path, settings: RunSettings) -> Clockwork:
        seen.append(settings)
        return Clockwork(times[path], log, path.name)

    return *paths, load_clockwork, log, seen


def most_open(log: Sequence[str]) -> int:
    """How many runners were open at the same time, at most."""
    open_now = most = 0
    for entry in log:
        open_now += entry.startswith("+") - entry.startswith("-")
        most = max(most, open_now)
    return most
