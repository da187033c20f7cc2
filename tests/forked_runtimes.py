"""Processes that run Keras models, forked from one that has imported Keras: to import it takes three seconds.

They are what the product would start, but for that: ``bnfuse.formats.child.process`` talks to them through
pipes, sees them crash and kills them. What is started with other modules to be found, or runs anything
but ``tests.keras_child``, is started as the product starts it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import IO, Any

import pytest

from bnfuse.formats.child import process
from bnfuse.formats.keras.runtime.process import KerasSetup
from tests.keras_child import serve_forked

_MODULE = "tests.keras_child"
_SERVER = get_context("forkserver")


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """In here processes for Keras models are forked, where this system can."""
    with pytest.MonkeyPatch.context() as here:
        here.setattr(KerasSetup, "module", _MODULE)
        if sys.platform == "linux":
            _SERVER.set_forkserver_preload(["tests.keras_preloaded"])
            starter = _Starter(tuple(sys.path))
            here.setattr(process, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": starter}))
        yield


class _Starter:
    """``subprocess.Popen``, which forks where the same modules are found as in the process to fork."""

    def __init__(self, found_in: Sequence[str]) -> None:
        self._found_in = found_in

    def __call__(self, command: Sequence[str], *, env: Mapping[str, str], **pipes: Any) -> Any:
        alike = tuple(sys.path) == self._found_in and env.get("KERAS_BACKEND") == "tensorflow"
        if alike and f"from {_MODULE} import" in command[2]:
            return Forked(command[-1], env)
        return subprocess.Popen(command, env=env, **pipes)


class Forked:
    """As much of a ``subprocess.Popen`` with three pipes as is asked of it."""

    def __init__(self, token: str, env: Mapping[str, str]) -> None:
        (stdin, requests), (answers, stdout), (errors, stderr) = (os.pipe() for _ in range(3))
        theirs = (
            Connection(stdin, writable=False),
            Connection(stdout, readable=False),
            Connection(stderr, readable=False),
        )
        self._process = _SERVER.Process(target=serve_forked, args=(token, dict(env), *theirs), daemon=True)
        self._process.start()
        for end in theirs:
            end.close()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.stdin: IO[bytes] = os.fdopen(requests, "wb")
        self.stdout: IO[bytes] = os.fdopen(answers, "rb")
        self.stderr: IO[bytes] = os.fdopen(errors, "rb")

    @property
    def returncode(self) -> int | None:
        """As the process ended, −n by signal n; None before it is waited for."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Until it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(_MODULE, timeout or 0.0)
        return self._process.exitcode

    def kill(self) -> None:
        """At once."""
        if self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
