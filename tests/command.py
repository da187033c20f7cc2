"""The command line in this process, and a model taken through it: what it reports and what it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from click.testing import CliRunner, Result

from bnfuse.cli import main
from tests.runtime_here import onnxruntime_here

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 300.0  # what hangs takes longer; what only has to wait for a processor does not
FAST = ("--verify-time", "0.1", "--bench-time", "0.1")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]  # the fixture ``bnfuse_cli``


@contextmanager
def interruptible() -> Iterator[None]:
    """Programs started in here end by Ctrl-C, even where SIGINT is ignored, as it is in a background job.

    A handler is not inherited by what is started: that gets the default in its place.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def gone(pid: int, within_s: float = PATIENCE_S) -> bool:
    """Whether the process has ended (one that nobody has buried yet counts as ended)."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with suppress(OSError):  # elsewhere than on Linux nobody tells
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        time.sleep(0.05)
    return False


def call(*arguments: object) -> Result:
    """``bnfuse`` with these arguments, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="bnfuse")


@dataclass(frozen=True)
class Optimized:
    """One ``bnfuse optimize``: its report as JSON holds it, and both files."""

    before: Path
    after: Path
    report: dict[str, Any]

    @property
    def decisions(self) -> dict[str, str | None]:
        """By node: None where it folds, else the code of the first reason it stays."""
        return {d["name"]: d["reason"] for d in self.report["decisions"]}

    @property
    def operators(self) -> dict[str, int]:
        """Nodes of the result by operator, over all scopes."""
        return dict(self.report["operators"]["after"])


def optimized(model: onnx.ModelProto, folder: Path, *options: str, proof: str = "equal") -> Optimized:
    """Save a model and optimise it without a bench, proved in this process: as told, and with success."""
    before = folder / "before.onnx"
    before.write_bytes(model.SerializeToString())
    after = folder / "after.onnx"
    wanted = ("--no-verify",) if proof == "skipped" else FAST
    with onnxruntime_here():
        done = call("optimize", before, "-o", after, "--json", "--no-bench", *wanted, *options)
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verification"]["status"] == proof
    return Optimized(before, after, report)
