"""Reports to print in tests, and strings of a model that must not escape their place."""

from __future__ import annotations

import math
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from bnfuse.core.decisions import Fold, Keep, Plan, Split
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.report.terminal import show
from bnfuse.results import (
    Agreement,
    BenchRun,
    FileInfo,
    Latency,
    OutputAgreement,
    Percentiles,
    Report,
    Status,
    Typical,
)

HOSTILE = [
    "[red]x[/]",
    "[/nonsense]",
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "a|b||c",
    "`tick` ``two`` ```three",
    "line\nbreak\r\n\ttab",
    "]]> <![CDATA[ & &amp; &lt;",
    "\x00\x01\x1b[31mred\x1b[0m\x07",
    "::error file=a::owned",
    "##[error]owned",
    "@everyone #1 GH-1 https://evil.example",
    "![image](https://evil.example/x.png) [link](javascript:alert(1))",
    "\u202egnp.exe \u2028 \ufffe \udc80",
    "'\"><b onmouseover=x>",
    "",
    "x" * 5000,
]


def fold(name: str, *, into: tuple[str, ...] = ("conv",), batchnorm: bool = True) -> Fold:
    op = "BatchNormalization" if batchnorm else "Mul"
    return Fold(name, op, batchnorm, 8, Split.UP, into, ())


def keep(name: str, reason: Reason = Reason.NONLINEAR, node: str = "Softmax 's'") -> Keep:
    refusals = (
        Refusal(reason, node, "v", split="up"),
        Refusal(Reason.GRAPH_OUTPUT, node, "out", split="down"),
    )
    return Keep(name, "BatchNormalization", True, 4, refusals)


def report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "input": FileInfo(Path("dir/model.onnx"), "ONNX", "a" * 64, 102_400_000),
        "plan": Plan((fold("bn1"), keep("bn2"), fold("mul", batchnorm=False)), (fold("bn1"),)),
        "operators_before": {"Conv": 2, "BatchNormalization": 2, "Mul": 1},
        "operators_after": {"Conv": 2, "BatchNormalization": 1},
        "output": FileInfo(Path("dir/model.fused.onnx"), "ONNX", "b" * 64, 102_300_000),
        "verification": Agreement(
            Status.EQUAL,
            (OutputAgreement("y", 1e-6, 2e-7, 131.5, 1e-5, 1.0), OutputAgreement("z", 0, 0, math.inf, 1e-5)),
            6,
            1e-5,
            "onnxruntime 1.32, graph optimisation off, 6 input sets",
        ),
        "benchmark": Latency(
            "cpu", 2, ("CPUExecutionProvider",), (bench_run("optimisation off"), bench_run("optimisation on"))
        ),
        "notes": ("a note",),
        "versions": {"bnfuse": "0.1.0"},
        "seconds": {"read": 0.1, "verify": 1.5},
    }
    return Report(**(values | changes))


def bench_run(setting: str, **changes: Any) -> BenchRun:
    values: dict[str, Any] = {
        "setting": setting,
        "batch": 1,
        "before_ms": Percentiles(1.5, 1.75, 2.125),
        "after_ms": Percentiles(1.25, 1.5, 2.0),
        "speedup": 1.2,
        "ci95": (1.15, 1.25),
        "control": (0.99, 1.01),
        "pairs": 100,
        "verdict": "faster",
        "before_typical": Typical(1.44, (1.42, 1.46)),
        "after_typical": Typical(1.2, (1.19, 1.21)),
    }
    return BenchRun(**(values | changes))


def hostile_report(name: str) -> Report:
    """A report in which every string that a model can choose is ``name``."""
    return report(
        input=FileInfo(Path("model.onnx"), "ONNX", "", 1),
        plan=Plan((fold(name, into=(name,)), keep(name, node=name), fold(name, batchnorm=False))),
        operators_before={name: 3, "Conv": 1},
        operators_after={"Conv": 1},
        verification=Agreement(
            Status.DIFFERENT, (OutputAgreement(name, 1.0, 1.0, 1.0, 1e-5),), 1, 1e-5, name, f"output '{name}'"
        ),
        notes=(f"about {name}",),
    )


def in_terminal(value: Report, *, verbose: bool = False, width: int = 200) -> str:
    stream = StringIO()
    show(value, Console(file=stream, width=width, markup=False, highlight=False), verbose=verbose)
    return stream.getvalue()


def on_terminal(value: Report, width: int, *, verbose: bool = False) -> str:
    """As somebody sees it who looks on: a terminal, without its colours."""
    stream = StringIO()
    out = Console(
        file=stream, width=width, force_terminal=True, color_system=None, markup=False, highlight=False
    )
    show(value, out, verbose=verbose)
    return stream.getvalue()
