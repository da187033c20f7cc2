"""Child processes that run Keras: started, asked, shared, and ended.

A runtime may crash, hang, or print what it likes; in a process of its own, each of these is one
sentence to the user. Decides how long an answer may take, and when a process ends:

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
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BufferedReader
from typing import cast

import numpy as np

from bnfuse.errors import BnfuseError, UsageError
from bnfuse.formats.keras.messages import Arrays, Head, read_message, write_message

LIMIT_S = 300.0
LIMIT_VARIABLE = "BNFUSE_KERAS_TIMEOUT"
_LINGER_S = 30.0
_STOP_S = 5.0
_MAX_NOISE = 1 << 16
_KEPT_LINES = 40

# The child sees the same modules as this program, and none that lie in the current folder by chance.
_BOOT = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); "
    "from bnfuse.formats.keras.child import main; main(sys.argv[1])"
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is fixed when a process starts; ``threads`` 0 is the runtime's default.

    A model that may run code of its own gets a process in which no other models are.
    """

    backend: str  # "tensorflow", "jax", "torch" or "tf_keras"
    device: str
    threads: int
    allow_unsafe: bool = False


class ProcessLost(BnfuseError):
    """The process crashed, hung or was stopped. The message ends a sentence: "crashed (…)"."""


class Answer(BnfuseError):
    """The process answered with an error. ``kind`` says of what, the message why."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Process:
    """One child process. ``ask`` is thread-safe; answers come in the order of the questions."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.users = 0
        self.uses = 0
        self.facts: Head = {}  # what the child says of its runtime: filled by ``acquire``
        self._lock = threading.Lock()
        self._late = False
        self._stderr: deque[str] = deque(maxlen=_KEPT_LINES)
        token = secrets.token_hex(16)
        paths = "\n".join(path for path in sys.path if path) or "."
        self._popen = subprocess.Popen(
            [sys.executable, "-c", _BOOT, paths, token],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(setup),
        )
        assert self._popen.stdin is not None
        self._requests = self._popen.stdin
        self._answers = cast(BufferedReader, self._popen.stdout)
        self._drain = threading.Thread(target=self._keep_last_lines, daemon=True)
        self._drain.start()
        self._token: bytes | None = token.encode("ascii")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def ask(self, head: Head, arrays: Mapping[str, np.ndarray] | None = None) -> tuple[Head, Arrays]:
        """Ask, and wait for the answer.

        Raises:
            ProcessLost: it crashed, or took too long and was killed.
            Answer: it answered with an error.
            MemoryError: its memory ran out.
        """
        limit_s = _limit_s()
        with self._lock:
            timer = threading.Timer(limit_s, self._expire)
            timer.daemon = True
            timer.start()
            try:
                write_message(self._requests, head, arrays)
                self._skip_noise()
                answer, results = read_message(self._answers)
            except (OSError, EOFError, ValueError) as error:
                self.kill()
                raise ProcessLost(self._epitaph(limit_s)) from error
            except BaseException:
                self.kill()  # an answer that nobody waited for would be taken for the next one
                raise
            finally:
                timer.cancel()
        error_kind = answer.get("error")
        if error_kind == "memory":
            raise MemoryError
        if error_kind is not None:
            raise Answer(str(error_kind), str(answer.get("text", "")))
        return answer, results

    def stop(self) -> None:
        """End it: politely, by closing its input, and if that does not help by force."""
        with contextlib.suppress(OSError):
            self._requests.close()
        try:
            self._popen.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
        self._bury()

    def kill(self) -> None:
        """End it at once."""
        self._popen.kill()
        self._bury()

    def _bury(self) -> None:
        self._popen.wait()
        self._drain.join(_STOP_S)
        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                stream.close()

    def _expire(self) -> None:
        self._late = True
        self._popen.kill()

    def _skip_noise(self) -> None:
        """Before its first answer: what start-up code printed to stdout, up to the token we gave."""
        if self._token is None:
            return
        seen = bytearray()
        while not seen.endswith(self._token):
            byte = self._answers.read(1)
            if not byte or len(seen) > _MAX_NOISE:
                raise EOFError("it never answered")
            seen += byte
        self._token = None

    def _keep_last_lines(self) -> None:
        """Read its stderr for as long as it lives: a full pipe would stop it."""
        assert self._popen.stderr is not None
        with self._popen.stderr as stream:
            # Lines may have no end: read(n) bounds them.
            while chunk := stream.readline(4096):
                self._stderr.append(chunk.decode("utf-8", "replace").strip())

    def _epitaph(self, limit_s: float) -> str:
        if self._late:
            return (
                f"did not answer within {limit_s:g} s and was stopped ({LIMIT_VARIABLE} in the environment "
                "is this limit in seconds)"
            )
        code = self._popen.returncode
        how = f"signal {_signal_name(-code)}" if code is not None and code < 0 else f"exit code {code}"
        last = next((line for line in reversed(self._stderr) if line), "")
        return f"crashed ({how}{': ' if last else ''}{last[:200]})"


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


def _limit_s() -> float:
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit_s = float(text or LIMIT_S)
    except ValueError:
        limit_s = 0.0
    if not 0.0 < limit_s < threading.TIMEOUT_MAX:
        raise UsageError(f"{LIMIT_VARIABLE} is '{text}', which is not a number of seconds")
    return limit_s


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
