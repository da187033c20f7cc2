"""Many calls over an executor: a few at a time, and what becomes of those over which a process died.

No more calls are handed over than ``window``, so that an executor never holds a thousand of them, and what
is not handed over need not be called off. Where a process of a pool dies, all calls that were handed over
fail, and nobody knows which of them was to blame. So each is tried once more, alone; the one over which the
process dies twice when it is alone is lost, and all others are none the worse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from typing import Any

from msgspec import Struct

from bnfuse.results.many import Outcome
from bnfuse.use_cases.many.tasks import Task, lost
from bnfuse.use_cases.many.workers import Workers

_TWICE = "the process that worked on it ended twice over it (killed, crashed, or out of memory): try it alone"


class Call(Struct, frozen=True, eq=False):
    """One call for the task number ``at``; what it returns is that task's outcome."""

    at: int
    task: Task
    function: Callable[..., Outcome]
    arguments: tuple[Any, ...]


def outcomes(calls: Iterable[Call], crew: Workers | Executor, window: int) -> Iterator[tuple[int, Outcome]]:
    """(number of the task, its outcome) of each call, as they are done."""
    return _Run(deque(calls), crew, window).outcomes()


class _Run:
    def __init__(self, waiting: deque[Call], crew: Workers | Executor, window: int) -> None:
        self._waiting, self._crew, self._window = waiting, crew, window
        self._doubtful: deque[Call] = deque()  # a process died while they were handed over
        self._running: dict[Future[Outcome], Call] = {}
        self._alone = False
        self._died_alone: set[int] = set()  # tasks over which a process died with nothing beside them

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        try:
            while self._waiting or self._doubtful or self._running:
                self._hand_over()
                done, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for future in done:
                    call = self._running.pop(future)
                    outcome = self._outcome(future, call)
                    if outcome is not None:
                        yield call.at, outcome
                if self._doubtful and not self._running:
                    self._renew()
        finally:
            for future in self._running:
                future.cancel()

    def _hand_over(self) -> None:
        """Fill the window; while one is in doubt, nothing runs beside it."""
        if self._doubtful:
            if not self._running:
                self._alone = self._submit(self._doubtful)
            return
        self._alone = False
        while self._waiting and len(self._running) < self._window:
            if not self._submit(self._waiting):
                return

    def _submit(self, calls: deque[Call]) -> bool:
        """Hand over the first; False where a process has died meanwhile, of which the others will tell."""
        call = calls[0]
        try:
            future = self._crew.submit(call.function, *call.arguments)
        except BrokenExecutor:
            if not self._running:
                self._renew()
            return False
        calls.popleft()
        self._running[future] = call
        return True

    def _outcome(self, future: Future[Outcome], call: Call) -> Outcome | None:
        """What came back; None where it is to be tried once more."""
        try:
            return future.result()
        except BrokenExecutor as error:
            if not isinstance(self._crew, Workers):
                return lost(call.task, f"the executor is broken: {error}")
            if not self._alone:
                self._doubtful.append(call)
                return None
            self._renew()
            if call.at in self._died_alone:
                return lost(call.task, _TWICE)
            self._died_alone.add(call.at)
            self._doubtful.appendleft(call)
            return None
        except CancelledError:
            return lost(call.task, "it was cancelled before it was done")
        except Exception as error:  # noqa: BLE001  (an executor's own: a worker that was lost, for one)
            return lost(call.task, f"the executor lost it: {type(error).__name__}: {error}")

    def _renew(self) -> None:
        if isinstance(self._crew, Workers):
            self._crew.renew()
