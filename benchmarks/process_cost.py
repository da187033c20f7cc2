"""What one whole child process costs: wall and CPU seconds, and peak memory.

The kernel counts a child's peak from before its ``exec``, when it still is a copy of this process. So this
module, and whoever measures with it, imports no numpy and stays small: its own size is the least peak it
can report (about 15 MiB).
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """One run. ``failure`` is empty where the process ended with exit code 0; peak is resident memory."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    failure: str = ""


def limit_memory(limit_bytes: int) -> None:
    """Cap the memory the calling process may write to; called in the child before ``exec``.

    ``RLIMIT_AS`` would also count files that a tool maps to read them, which cost no memory.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def last_line(path: Path) -> str:
    """The last line that says anything, at most 120 characters."""
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:120] if lines else ""


def failure_of(status: int, timed_out: bool, timeout_s: float, log: Path) -> str:
    """Why a run failed, in a few words; empty where it did not."""
    if timed_out:
        return f"> {timeout_s:.0f} s"
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    code = os.waitstatus_to_exitcode(status)
    return f"exit {code}: {last_line(log)}" if code else ""


def kill(pid: int, told: threading.Event) -> None:
    """End a child that ran too long, and leave word of it."""
    told.set()
    os.kill(pid, signal.SIGKILL)


def measure(command: Sequence[str], log: Path, *, timeout_s: float, limit_bytes: int | None = None) -> Cost:
    """Run ``command`` to its end, or kill it after ``timeout_s``; what it prints goes to ``log``."""
    timed_out = threading.Event()
    with log.open("wb") as out:
        start = time.perf_counter()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=None if limit_bytes is None else lambda: limit_memory(limit_bytes),
        )
        timer = threading.Timer(timeout_s, kill, (child.pid, timed_out))
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
    failure = failure_of(status, timed_out.is_set(), timeout_s, log)
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, failure)


def compile_package() -> None:
    """Byte code for bnfuse's modules, which an installed package has and a changed checkout may lack."""
    package = Path(__file__).resolve().parent.parent / "bnfuse"
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(package)], check=True)
