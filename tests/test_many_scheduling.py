"""Calls handed to processes: how many at once, what happens when a process dies, how all of them end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from bnfuse.results.many import Outcome
from bnfuse.use_cases.many.scheduling import Call, outcomes
from bnfuse.use_cases.many.tasks import Task
from bnfuse.use_cases.many.workers import Workers
from tests.command import PATIENCE_S, ROOT, gone, interruptible
from tests.workers_calls import answer, imported, pid_after, sleep_long


def calls(names: list[str], function: Callable[..., Outcome], *more: object) -> list[Call]:
    return [Call(at, Task(name, None, "inspect"), function, (name, *more)) for at, name in enumerate(names)]


def test_a_model_that_kills_its_process_stops_no_other(tmp_path: Path) -> None:
    names = ["a", "dies", "b", "once", *(f"c{k}" for k in range(6))]
    with Workers(2) as crew:
        done = dict(outcomes(calls(names, answer, str(tmp_path)), crew, 4))
    assert sorted(done) == list(range(len(names)))
    lost = {at: outcome.failure for at, outcome in done.items() if outcome.failure is not None}
    assert list(lost) == [1]
    assert lost[1].exit_code == 3
    assert "ended twice over it" in lost[1].message
    workers = {outcome.model.split()[-1] for at, outcome in done.items() if at not in lost}
    assert len(workers) < len(names) - 1  # a process lives for more than one


def test_an_idle_process_that_is_killed_stops_none_that_works(tmp_path: Path) -> None:
    """It waits for work, and the queue's lock goes with it."""
    with Workers(2) as crew:
        both = {crew.submit(pid_after, 0.5) for _ in range(2)}
        first, second = (found.result(PATIENCE_S) for found in both)
        working = crew.submit(sleep_long, str(tmp_path), "a")
        mark = tmp_path / "a.pid"
        end = time.monotonic() + PATIENCE_S
        while not (mark.exists() and mark.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        (idle,) = {first, second} - {int(mark.read_text())}
        os.kill(idle, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            working.result(PATIENCE_S)
        assert gone(int(mark.read_text()), within_s=20)
        crew.renew()
        assert crew.submit(pid_after, 0.0).result(PATIENCE_S) not in (first, second)
    assert (tmp_path / "a.unwound").exists()


def test_a_worker_imports_as_a_command_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the threads of numpy's BLAS, and of onnx no more than is asked for: its process is our own."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with Workers(1) as crew:
        assert crew.submit(imported).result(PATIENCE_S) == (True, "_Deferred", None)


class Slow(Executor):
    """Never answers by itself; the test says when."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.most = 0

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(Future())
        open_now = [future for future in self.futures if not future.done()]
        self.most = max(self.most, len(open_now))
        if len(open_now) == 3:
            open_now[1].set_result(Outcome(str(args[0])))  # not the first: they come as they are done
            open_now[0].set_result(Outcome(str(args[0])))
            open_now[2].set_result(Outcome(str(args[0])))
        return self.futures[-1]


def test_no_more_is_handed_over_than_the_window_holds() -> None:
    executor = Slow()
    done = [at for at, _ in outcomes(calls([str(k) for k in range(9)], answer), executor, 3)]
    assert sorted(done) == list(range(9))
    assert executor.most == 3


def test_what_an_executor_raises_is_that_models_outcome() -> None:
    """A cluster whose worker was lost, a call that was cancelled, a pool of somebody else that broke."""
    errors: list[BaseException] = [RuntimeError("KilledWorker: 3 times"), BrokenProcessPool("gone")]

    class Losing(Executor):
        def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            if args[0] == "cancelled":
                future.cancel()
                future.set_running_or_notify_cancel()
            elif args[0].isdigit():
                future.set_exception(errors[int(args[0])])
            else:
                future.set_result(Outcome(args[0]))
            return future

    done = dict(outcomes(calls(["0", "fine", "1", "cancelled"], answer), Losing(), 8))
    said = [done[at].failure.message if done[at].failure else "" for at in range(4)]  # type: ignore[union-attr]
    assert said[0] == "the executor lost it: RuntimeError: KilledWorker: 3 times"
    assert said[1] == ""
    assert "broken" in said[2]
    assert "cancelled" in said[3]


def test_who_stops_to_listen_calls_off_what_has_not_begun() -> None:
    begun: list[str] = []

    def slow(name: str) -> Outcome:
        begun.append(name)
        time.sleep(0.05)
        return Outcome(name)

    with ThreadPoolExecutor(1) as executor:
        every = outcomes(calls([str(k) for k in range(50)], slow), executor, 50)
        next(every)
        every.close()  # type: ignore[attr-defined]
    assert len(begun) < 10


_SLEEPERS = """
import sys, time
from pathlib import Path
from bnfuse.use_cases.many.workers import Workers
from tests.workers_calls import sleep_long

if __name__ == "__main__":
    with Workers(2) as crew:
        for name in ("a", "b"):
            crew.submit(sleep_long, sys.argv[1], name)
        time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_clean_up_and_end_with_their_program(tmp_path: Path, how: signal.Signals) -> None:
    """Also where it is killed: nobody is left, and what they were doing was unwound."""
    script = tmp_path / "sleepers.py"
    script.write_text(_SLEEPERS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with interruptible():
        program = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path)], env=environment, stderr=subprocess.DEVNULL
        )
    end = time.monotonic() + PATIENCE_S
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.1)
    pids = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    program.send_signal(how)
    program.wait(PATIENCE_S)
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
    assert sorted(path.name for path in tmp_path.glob("*.unwound")) == ["a.unwound", "b.unwound"]
