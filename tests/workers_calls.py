"""What tests have workers do. Each of them imports this file: hence it imports next to nothing, no pytest."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from bnfuse.results.many import Outcome


def answer(name: str, folder: str) -> Outcome:
    """What becomes of a call by its name: it dies always, once, or not."""
    mark = Path(folder, name)
    if name.startswith("dies") or (name.startswith("once") and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(f"{name} by {os.getpid()}")


def pid_after(seconds: float) -> int:
    """Who it is, after a while."""
    time.sleep(seconds)
    return os.getpid()


def imported() -> tuple[bool, str, str | None]:
    """Whether numpy is there, what stands for onnx, and how many threads a runtime's BLAS would be told."""
    kind = type(sys.modules.get("onnx")).__name__
    return "numpy" in sys.modules, kind, os.environ.get("OPENBLAS_NUM_THREADS")


def sleep_long(folder: str, name: str) -> None:
    """Says who it is, and that it cleaned up when it was interrupted."""
    Path(folder, f"{name}.pid").write_text(str(os.getpid()))
    try:
        time.sleep(600)
    finally:
        Path(folder, f"{name}.unwound").touch()
