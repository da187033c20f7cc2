"""Child processes that hold models of a runtime: what they start with, who shares them, and when they end.

Starting, asking and losing one is ``bnfuse.formats.child.process``; the other end is
``bnfuse.formats.child.server``. Decides when a process ends:

- models with the same ``Setup`` share one process, because importing a runtime takes its time;
- a process that no model uses lives on for a while, since the next model mostly comes soon
  (``verify`` closes the original before it loads the result), but not beside a process for
  another ``Setup`` of the same runtime, and not beyond this program.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import ClassVar, Protocol

import numpy as np
from msgspec import to_builtins

from bnfuse.formats.child.limits import held_bytes, memory_limit_bytes
from bnfuse.formats.child.messages import Arrays, Head
from bnfuse.formats.child.process import ChildProcess, ProcessLost, Reply

_LINGER_S = 30.0  # `keep_alive` makes it longer


class Setup(Protocol):
    """What is fixed when a process starts: a frozen struct, whose fields the process is told."""

    __struct_fields__: ClassVar[tuple[str, ...]]
    module: ClassVar[str]  # whose ``main`` the process runs

    def environment(self) -> dict[str, str]:
        """The process's environment."""


class Process(ChildProcess):
    """A child process that holds models. ``facts`` is what it says of its runtime."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.users = 0
        self.uses = 0
        self.facts: Head = {}  # filled by ``acquire``
        self.ending: threading.Timer | None = None  # ends it where no model came until then
        self._kept: dict[str, np.ndarray] = {}
        super().__init__(setup.module, setup.environment())

    def ask_again(
        self, head: Head, arrays: Mapping[str, np.ndarray], *, extra_s: float = 0.0
    ) -> tuple[Head, Arrays]:
        """As ``ask``, but arrays that were sent so last are there already, and not sent a second time.

        By identity: they must not have been changed in place since.
        """
        with self._lock:
            same = self._kept.keys() == arrays.keys() and all(
                self._kept[name] is array for name, array in arrays.items()
            )
            self._kept = dict(arrays)
            return self.ask({**head, "kept": same}, {} if same else arrays, extra_s=extra_s)

    def close_model(self, number: int, *, keep: bool) -> None:
        """Let it close a model, which may stay for another load, and forget the arrays that it keeps.

        Raises:
            ProcessLost, Answer: as ``ask``.
        """
        with self._lock:
            self._kept = {}
            self.ask({"op": "close", "model": number, "keep": keep and _keeping > 0})


_processes: dict[Setup, Process] = {}
_keeping = 0  # how many ``keeping_models`` are open
_pool_lock = threading.RLock()


def prepare(setup: Setup) -> Process:
    """A process of this setup, started if there is none; its runtime may still be on its way."""
    with _pool_lock:
        process = _processes.get(setup)
        if process is None or not process.alive():
            for idle in _in_the_way(setup):
                _drop(idle)
            process = _processes[setup] = Process(setup)
        return process


def _in_the_way(setup: Setup) -> list[Process]:
    """Processes of the same runtime that hold its memory, and no model."""
    return [p for p in _processes.values() if p.users == 0 and p.setup.module == setup.module]


def acquire(setup: Setup) -> Process:
    """A running process of this setup, started if there is none; the runtime is imported in it.

    Raises:
        ProcessLost: it crashed or hung while it was starting.
        Answer: the runtime cannot be imported, or has no such device.
    """
    with _pool_lock:
        process = prepare(setup)
        try:
            if not process.facts:
                process.facts, _ = process.ask({"op": "start", "setup": to_builtins(setup)})
        except BaseException:
            _drop(process)
            raise
        if process.users == 0:
            process.memory_bytes = memory_limit_bytes(held_bytes(process.pid))
        process.users += 1
        process.uses += 1
        return process


def release(process: Process) -> None:
    """One model less in this process; without any, it ends in a while."""
    with _pool_lock:
        process.users -= 1
        if process.users > 0:
            return
        if process.ending is not None:  # each is a thread: a thousand models must not leave a thousand
            process.ending.cancel()
        process.ending = threading.Timer(_LINGER_S, _end_if_idle, [process, process.uses])
        process.ending.daemon = True
        process.ending.start()


@contextmanager
def keeping_models() -> Iterator[None]:
    """Models that are closed meanwhile stay loaded for whoever loads the same file, which must not change."""
    global _keeping
    with _pool_lock:
        _keeping += 1
    try:
        yield
    finally:
        with _pool_lock:
            _keeping -= 1
            for process in () if _keeping else list(_processes.values()):
                if process.facts and process.alive():
                    with suppress(ProcessLost, Reply):  # it is gone, and its models with it
                        process.ask({"op": "forget"})


def keep_alive(seconds: float) -> None:
    """Let a process live on for so long without a model: where many models are worked on, one will come."""
    global _LINGER_S
    _LINGER_S = max(_LINGER_S, seconds)


def stop_all() -> None:
    """End every process; also called when this program ends."""
    with _pool_lock:
        for process in list(_processes.values()):
            _drop(process)


atexit.register(stop_all)


def _end_if_idle(process: Process, uses: int) -> None:
    with _pool_lock:
        if process.users == 0 and process.uses == uses:
            _drop(process)


def _drop(process: Process) -> None:
    if process.ending is not None:
        process.ending.cancel()
    if _processes.get(process.setup) is process:
        del _processes[process.setup]
    process.stop()
