"""A child process that answers questions: started, asked, and ended, whatever becomes of it.

A runtime may crash, hang, take all memory, or print what it likes; in a process of its own, each of these
is one sentence to the user. The other end is ``bnfuse.formats.child.loop``; what they say to each other is
``bnfuse.formats.child.messages``. Decides how an answer that does not come ends: the process is killed
when its time is up or it grows too large (``bnfuse.formats.child.watch``), and when whoever waited for it
is interrupted. The other end stops by itself as soon as its input is closed, so nothing is left behind even
where this program is killed.

Does not decide what is asked, nor how long a process lives: that is up to its users.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from io import BufferedReader
from typing import IO, cast

import numpy as np

from bnfuse import errors
from bnfuse.errors import BnfuseError
from bnfuse.formats.child.limits import Limits, answer_limit_s, current
from bnfuse.formats.child.messages import Arrays, Head, read_message, write_message
from bnfuse.formats.child.watch import Watchdog

_STOP_S = 5.0
_MAX_NOISE = 1 << 16
_KEPT_LINES = 40
_PIPE_BYTES = 1 << 20

# The child sees the same modules as this program, and none that lie in the current folder by chance.
_BOOT = "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); from {} import main; main(sys.argv[1])"


class ProcessLost(BnfuseError):
    """The process crashed, hung, grew or was stopped. The message ends a sentence: "crashed (…)"."""


class Reply(BnfuseError):
    """The process answered with an error. ``kind`` says of what, the message why."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind

    def as_raised(self) -> BnfuseError | None:
        """The error of bnfuse's own that ``kind`` names, as it was raised there; None if it names none."""
        named = getattr(errors, self.kind, None)
        return named(str(self)) if isinstance(named, type) and issubclass(named, BnfuseError) else None


class ChildProcess:
    """One child process. ``ask`` is thread-safe; answers come in the order of the questions.

    While it is asked, it may hold ``memory_bytes``; None where that is not watched.
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        """Start ``main(token)`` of a module.

        Raises:
            UsageError: the environment says no number where it says a limit.
        """
        self.memory_bytes = current().memory_bytes
        self._lock = threading.RLock()
        self._stderr: deque[str] = deque(maxlen=_KEPT_LINES)
        token = secrets.token_hex(16)
        paths = "\n".join(path for path in sys.path if path) or "."
        self._popen = subprocess.Popen(
            [sys.executable, "-c", _BOOT.format(module), paths, token],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
        )
        assert self._popen.stdin is not None
        self._requests = self._popen.stdin
        self._answers = cast(BufferedReader, self._popen.stdout)
        for stream in (self._requests, self._answers):
            _widen(stream)
        self._watchdog = Watchdog(self._popen)
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

    def ask(
        self, head: Head, arrays: Mapping[str, np.ndarray] | None = None, *, extra_s: float = 0.0
    ) -> tuple[Head, Arrays]:
        """Ask, and wait for the answer as long as the environment says, and ``extra_s``.

        Raises:
            ProcessLost: it crashed, or took too long or too much memory and was killed.
            Answer: it answered with an error.
            MemoryError: its memory ran out.
            UsageError: the environment says no number of seconds.
        """
        limits = Limits(answer_limit_s() + extra_s, self.memory_bytes)
        with self._lock, self._watchdog.watching(limits):
            try:
                write_message(self._requests, head, arrays)
                self._skip_noise()
                answer, results = read_message(self._answers)
            except (OSError, EOFError, ValueError) as error:
                self.kill()
                raise ProcessLost(self._epitaph()) from error
            except BaseException:
                self.kill()  # an answer that nobody waited for would be taken for the next one
                raise
        return checked(answer), results

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
        self._watchdog.end()
        self._drain.join(_STOP_S)
        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                stream.close()

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

    def _epitaph(self) -> str:
        if self._watchdog.verdict:
            return self._watchdog.verdict
        code = self._popen.returncode
        how = f"signal {_signal_name(-code)}" if code is not None and code < 0 else f"exit code {code}"
        last = next((line for line in reversed(self._stderr) if line), "")
        return f"crashed ({how}{': ' if last else ''}{last[:200]})"


def _widen(pipe: IO[bytes]) -> None:
    """Let a pipe take more at once, where the system can: outputs of 100 MB come in half the time."""
    with contextlib.suppress(ImportError, AttributeError, OSError):  # not Linux, or too many pipes already
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def checked(answer: Head) -> Head:
    """The answer, unless it is an error.

    Raises:
        Answer: it is one.
        MemoryError: its memory ran out.
    """
    kind = answer.get("error")
    if kind == "memory":
        raise MemoryError
    if kind is not None:
        raise Reply(str(kind), str(answer.get("text", "")))
    return answer


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
