"""The command line in this process, and a model taken through it: what it reports and what it writes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from click.testing import CliRunner, Result

from bnfuse.cli import main

ROOT = Path(__file__).resolve().parents[1]
FAST = ("--verify-time", "0.2", "--bench-time", "0.2")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]  # the fixture ``bnfuse_cli``


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
    """Save a model and optimise it without a bench; the run succeeds, its proof as told."""
    before = folder / "before.onnx"
    before.write_bytes(model.SerializeToString())
    after = folder / "after.onnx"
    wanted = ("--no-verify",) if proof == "skipped" else FAST
    done = call("optimize", before, "-o", after, "--json", "--no-bench", *wanted, *options)
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verification"]["status"] == proof
    return Optimized(before, after, report)
