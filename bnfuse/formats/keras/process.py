"""Child processes that run Keras: what they start with, who shares them, and when they end.

Starting, asking and losing one is ``bnfuse.formats.child.process``. Decides how long an answer may
take, and when a process ends:

- models with the same ``Setup`` share one process, because importing a runtime takes seconds;
- a process that no model uses lives on for a while, since the next model mostly comes soon
  (``verify`` closes the original before it loads the result), but not beside a process for
  another ``Setup``, and not beyond this program;
- a process that does not answer in time is killed, as is one whose answer was interrupted.

The other end (``bnfuse.formats.keras.child``) ends by itself as soon as its input is closed, so
nothing is left behind even where this program is killed.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from bnfuse.errors import UsageError
from bnfuse.formats.child.messages import Arrays, Head
from bnfuse.formats.child.process import LIMIT_S, Answer, ChildProcess, ProcessLost

__all__ = ["Answer", "Process", "ProcessLost", "Setup", "acquire", "environment", "release", "stop_all"]

LIMIT_VARIABLE = "BNFUSE_KERAS_TIMEOUT"
_ABOUT_LIMIT = f"{LIMIT_VARIABLE} in the environment is this limit in seconds"
_LINGER_S = 30.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What is fixed when a process starts; ``threads`` 0 is the runtime's default.

    A model that may run code of its own gets a process in which no other models are.
    """

    backend: str  # "tensorflow", "jax", "torch" or "tf_keras"
    device: str
    threads: int
    allow_unsafe: bool = False


class Process(ChildProcess):
    """A child process that runs Keras models."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.users = 0
        self.uses = 0
        self.facts: Head = {}  # what the child says of its runtime: filled by ``acquire``
        super().__init__("bnfuse.formats.keras.child", environment(setup), about_limit=_ABOUT_LIMIT)

    def ask(
        self, head: Head, arrays: Mapping[str, np.ndarray] | None = None, *, limit_s: float | None = None
    ) -> tuple[Head, Arrays]:
        """Ask, and wait for the answer as long as the environment says; see ``ChildProcess.ask``."""
        return super().ask(head, arrays, limit_s=answer_limit_s() if limit_s is None else limit_s)


def environment(setup: Setup) -> dict[str, str]:
    """The child's environment: backend, device and threads are fixed before its imports begin."""
    env = dict(os.environ)
    env.pop("TF_USE_LEGACY_KERAS", None)
    env["KERAS_BACKEND"] = "tensorflow" if setup.backend == "tf_keras" else setup.backend
    env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    env["PYTHONIOENCODING"] = "utf-8"
    env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # jax would take three quarters of a GPU's memory
    if setup.device == "cpu":
        env.update(CUDA_VISIBLE_DEVICES="-1", HIP_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
    if setup.threads:
        count = str(setup.threads)
        # NPROC is what XLA's CPU client sizes its thread pool by.
        env.update(OMP_NUM_THREADS=count, TF_NUM_INTRAOP_THREADS=count, MKL_NUM_THREADS=count, NPROC=count)
    return env


_processes: dict[Setup, Process] = {}
_pool_lock = threading.RLock()


def acquire(setup: Setup) -> Process:
    """A running process of this setup, started if there is none; the runtime is imported in it.

    Raises:
        ProcessLost: it crashed or hung while it was starting.
        Answer: the runtime cannot be imported, or has no such device.
    """
    with _pool_lock:
        process = _processes.get(setup)
        if process is None or not process.alive():
            for idle in [p for p in _processes.values() if p.users == 0]:
                _drop(idle)
            process = _processes[setup] = Process(setup)
        try:
            if not process.facts:
                process.facts, _ = process.ask({"op": "start", **asdict(setup)})
        except BaseException:
            _drop(process)
            raise
        process.users += 1
        process.uses += 1
        return process


def release(process: Process) -> None:
    """One model less in this process; without any, it ends in a while."""
    with _pool_lock:
        process.users -= 1
        if process.users > 0:
            return
        timer = threading.Timer(_LINGER_S, _end_if_idle, [process, process.uses])
        timer.daemon = True
        timer.start()


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
    if _processes.get(process.setup) is process:
        del _processes[process.setup]
    process.stop()


def answer_limit_s() -> float:
    """How long an answer may take, by the environment.

    Raises:
        UsageError: the environment says no number of seconds.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit_s = float(text or LIMIT_S)
    except ValueError:
        limit_s = 0.0
    if not 0.0 < limit_s < threading.TIMEOUT_MAX:
        raise UsageError(f"{LIMIT_VARIABLE} is '{text}', which is not a number of seconds")
    return limit_s
