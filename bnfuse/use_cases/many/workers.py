"""Processes of this machine that work on models, one model at a time each.

Each is a fresh interpreter (``spawn``: forking beside threads is no option) and lives for many models, and
so do the runtimes that it started. Decides how they end:

- with the pool, when all is done;
- in the middle of their work, when the pool is left by an interruption, or this program is gone, killed even:
  their end of a pipe, the *lifeline*, closes then. Whatever they do is unwound as by Ctrl-C, so that no
  temporary file is left; Ctrl-C itself is for this program alone to answer.

A worker that is killed, or crashes, takes the whole pool of the standard library with it: ``renew`` makes
another. Who was working on what then, and is to blame, is for ``scheduling`` to say.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

from bnfuse.packages import defer_onnx, import_numpy

P = ParamSpec("P")
T = TypeVar("T")

_MOST_ON_WINDOWS = 61  # handles that it waits for at once
_FINISH_S = 0.2  # that a worker may go on, so that what is nearly done is not disturbed
_UNWIND_S = 30.0  # that it may take to clean up
_TERMINATED = 143


class Workers:
    """So many processes, started as they are needed. Use as a context manager."""

    def __init__(self, count: int) -> None:
        self._count = count if os.name != "nt" else min(count, _MOST_ON_WINDOWS)
        self._lifeline, self._held = get_context("spawn").Pipe(duplex=False)
        self._pool = self._made()

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker call this.

        Raises:
            BrokenExecutor: a worker has died.
        """
        return self._pool.submit(_at_work, call, *args, **kwargs)

    def renew(self) -> None:
        """New processes in place of those that went with one that died."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._made()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._held.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._held.close()
        self._lifeline.close()

    def _made(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._count, get_context("spawn"), _enlist, (self._lifeline,))


class _Ended(BaseException):
    """This process is to end: not an ``Exception``, so that nothing takes it for a fault of a model."""


_idle = threading.Event()
_idle.set()
_ending = threading.Event()  # nothing more is begun
_unwinding = threading.Event()


def _enlist(lifeline: Connection) -> None:
    """What a worker does first: how it ends, and what it imports for whatever it is going to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _unwind)
    threading.Thread(target=_watch, args=(lifeline,), name="bnfuse-lifeline", daemon=True).start()
    import_numpy()
    defer_onnx()


def _at_work(call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    _idle.clear()
    try:
        if _ending.is_set():
            raise _Ended
        return call(*args, **kwargs)
    finally:
        _idle.set()


def _unwind(_signal: int, _frame: FrameType | None) -> None:
    """Once: a second signal must not disturb the cleaning up.

    That it ends is left to a thread: the pool takes what is raised here for the outcome of a call, and waits
    for the next, for ever where a worker that was killed held the lock of the queue.
    """
    if _unwinding.is_set():
        return
    _unwinding.set()
    _ending.set()
    threading.Thread(target=_end, name="bnfuse-end", daemon=True).start()
    if _idle.is_set():
        sys.exit(_TERMINATED)
    raise _Ended


def _watch(lifeline: Connection) -> None:
    """Wait for the end of the lifeline, on which nothing is ever sent, then end what is done here."""
    with suppress(OSError, EOFError):
        lifeline.poll(None)
    _ending.set()
    main = threading.main_thread().ident
    if not _idle.wait(_FINISH_S) and main is not None:
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main, signal.SIGTERM)  # a call that waits in it wakes up
        else:  # Windows
            interrupt_main(signal.SIGTERM)
    _end()


def _end() -> None:
    """Once nothing is being done, or it has had its time to clean up."""
    _idle.wait(_UNWIND_S)
    from bnfuse.formats.child.pool import stop_all

    stop_all()
    os._exit(_TERMINATED)
