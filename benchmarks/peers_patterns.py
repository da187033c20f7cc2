"""Small patterns: what each tool leaves of them, every result run: ``python -m benchmarks.peers_patterns``.

    python -m benchmarks.peers_patterns --peers-python PEERS/bin/python [--every] [--json FILE]

A pattern is one BatchNormalization between operators of one kind, with random statistics; the tables of the
tests build it. ``--every`` takes all rows of these tables instead of the 41 named here. Each tool folds all
patterns in one process (begun anew where it dies); then original and result run in onnxruntime, its own graph
optimisation off, on the same inputs. A cell reads *BN + per-channel arithmetic left*, ✗ where the result
computes something else, "invalid" where onnxruntime does not load it, "fails" where there is none. Of a tool
that inlines a function what is then in the graph is counted (``peers_count``).

A tool is ahead on a pattern where its result is right and has fewer BatchNormalizations left, or as many,
less arithmetic and fewer nodes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.peers import SOURCES, short
from benchmarks.peers_count import left_over
from tests import peer_rows_linear, peer_rows_passing
from tests.onnx_graphs import Net
from tests.random_nets import feeds
from tests.test_onnx_functions import ROWS as FUNCTIONS
from tests.test_table_rows import CASES, model_around
from tests.test_worked_out_weights import _OPSETS, WEIGHTS

# (case of the tables, where the BatchNormalization stands, what it does), by what they are about.
NAMED: dict[str, tuple[tuple[str, str, str], ...]] = {
    "recurrent": (("LSTM, bidirectional bias", "before", "both"), ("GRU, 0 bias", "before", "both")),
    "deformable": (("DeformConv", "behind", "both"), ("DeformConv, groups, mask", "before", "scale")),
    "C of Gemm": tuple(
        (f"Gemm, {c} as C", place, "both")
        for c, place in (("a matrix", "behind"), ("a column", "behind"), ("a matrix of one", "before"))
    ),
    "padding of nothing": (
        ("Conv, SAME in whole steps", "before", "both"),
        ("Conv, padded where no window comes", "before", "both"),
        ("ConvTranspose, 1×1", "before", "both"),
    ),
    "passing": (
        ("Resize, cubic", "behind", "both"),
        ("Resize, cubic, antialiased", "before", "both"),
        ("Tile", "behind", "both"),
        ("Tile, of channels that are alike", "behind", "both"),
        ("Expand", "before", "both"),
        ("Gather, of repeated channels", "before", "both"),
        ("Gather, of repeated columns", "behind", "both"),
        ("ReverseSequence", "behind", "both"),
        ("CumSum", "behind", "scale"),
        ("ReduceSum, of space", "behind", "both"),
        ("ReduceSum, to rank 2", "before", "both"),
        ("TopK", "behind", "both"),
        ("RoiAlign", "behind", "scale"),
        ("GridSample, linear zeros", "behind", "scale"),
        ("GridSample, linear border", "before", "both"),
        ("CastLike", "behind", "both"),
        ("Concat, with a constant", "behind", "both"),
        ("Add, of a constant map", "behind", "both"),
    ),
    "norms": (
        ("RMSNormalization", "behind", "scale"),
        ("GroupNormalization", "behind", "both"),
        ("LpNormalization", "before", "scale"),
    ),
    "other domains": (
        ("com.microsoft.FusedMatMul", "behind", "both"),
        ("com.microsoft.FusedGemm", "before", "both"),
        ("com.microsoft.FusedConv", "before", "both"),
        ("ai.onnx.ml.Scaler", "behind", "both"),
    ),
}
_WEIGHTS = ("weight normalisation", "standardised", "low-rank update", "times a dequantised vector")
_FUNCTIONS = ("called once, by a call without a name", "ε is an attribute that the callers give")
_TOLERANCE = 1e-4
_LOOP = """
import sys
for line in open(sys.argv[1]).read().splitlines():
    source, target = line.split("\\t")
    sys.argv[1:] = [source, target]
    print(source, flush=True)
    try:
        exec(CODE, {"__name__": "__main__"})
    except BaseException as error:
        print("failed", source, type(error).__name__, " ".join(str(error).split())[:80], flush=True)
"""
_OURS = """
import sys, bnfuse
bnfuse.optimize(sys.argv[1], sys.argv[2], verify=False, bench=False, force=True)
"""


def patterns(every: bool) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Names and models."""
    cases = {case.name: case for case in CASES if not case.moves_bounds}
    if every:
        for row in (*peer_rows_linear.ROWS, *peer_rows_passing.ROWS):
            yield row.name, row.build(Net(sum(row.name.encode())))
        for case in cases.values():
            for place, told in (("before", case.before), ("behind", case.behind)):
                for kind in ("both", "scale") if told is not None else ():
                    yield f"{place} {case.name}, {kind}", model_around(case, place, kind)  # type: ignore[arg-type]
        return
    for group, named in NAMED.items():
        for name, place, kind in named:
            yield f"{group}: {place} {name}", model_around(cases[name], place, kind)  # type: ignore[arg-type]
    for name in _WEIGHTS:
        net = Net(19)
        _OPSETS[id(net)] = 18
        y = net.op("Conv", "x", WEIGHTS[name](net, net.weight(4, 3, 2, 2, fan_in=12)))
        yield f"weights: {name}", net.build({"x": (2, 3, 6, 5)}, net.op("Tanh", net.bn(y, 4)), opset=18)
    for each in FUNCTIONS:
        if each.name in _FUNCTIONS:
            yield f"formals: {each.name}", each.build(Net(7))


@dataclass(frozen=True, slots=True)
class Cell:
    """What one tool left of one pattern; ``verdict`` is "" where that computes the same."""

    pattern: str
    tool: str
    batchnorms: int = 0
    affines: int = 0
    nodes: int = 0
    verdict: str = ""

    @property
    def markdown(self) -> str:
        """``0 + 2``, marked where it is wrong."""
        return f"{self.batchnorms} + {self.affines}" if not self.verdict else self.verdict

    def ahead_of(self, ours: Cell) -> bool:
        """Whether a right result has less of it."""
        if self.verdict or (ours.verdict and self.batchnorms == 0):
            return not self.verdict
        if self.batchnorms != ours.batchnorms:
            return self.batchnorms < ours.batchnorms
        return self.affines < ours.affines and self.nodes < ours.nodes


def fold_all(python: str, code: str, pairs: list[tuple[Path, Path]], folder: Path) -> dict[Path, str]:
    """Fold each source into its target; why there is none, by source."""
    failed: dict[Path, str] = {}
    left = list(pairs)
    while left:
        listed = folder / "list.txt"
        listed.write_text("\n".join(f"{a}\t{b}" for a, b in left))
        loop = _LOOP.replace("CODE", repr(code))
        done = subprocess.run([python, "-c", loop, str(listed)], capture_output=True, text=True, check=False)
        begun = [Path(line) for line in done.stdout.splitlines() if line.endswith(".onnx")]
        for line in done.stdout.splitlines():
            if line.startswith("failed "):
                _, source, why = line.split(" ", 2)
                failed[Path(source)] = short(why)
        if not done.returncode:
            break
        if not begun:
            raise SystemExit(f"the tool does not start: {done.stderr[-500:]}")
        failed[begun[-1]] = f"ends by {done.returncode}"
        left = left[len(begun) :]
    return failed


def verdict(before: Path, after: Path) -> str:
    """Whether both compute the same: then it is empty."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    fed = feeds(onnx.load(before), 3)
    try:
        new = ort.InferenceSession(after, options, providers=["CPUExecutionProvider"])
        got = new.run(None, fed)
    except Exception:  # noqa: BLE001 - whatever it says, the result does not run
        return "invalid"
    want = ort.InferenceSession(before, options, providers=["CPUExecutionProvider"]).run(None, fed)
    for a, b in zip(want, got, strict=True):
        size = float(np.abs(a).max(initial=0.0)) or 1.0
        if a.shape != b.shape or not float(np.abs(a - b).max(initial=0.0)) <= _TOLERANCE * size:
            return "✗"
    return ""


def run(options: argparse.Namespace, folder: Path) -> None:
    """Make the table."""
    sources: dict[str, Path] = {}
    for number, (name, model) in enumerate(patterns(options.every)):
        sources[name] = folder / f"p{number}.onnx"
        onnx.save(model, sources[name])
    tools = {"bnfuse": (sys.executable, _OURS)}
    tools |= {n: (options.peers_python, code) for n, code in SOURCES.items() if n != "OpenVINO"}
    cells: dict[str, list[Cell]] = {name: [] for name in sources}
    for tool, (python, code) in tools.items():
        pairs = [(source, source.with_suffix(f".{tool.split()[0]}.onnx")) for source in sources.values()]
        failed = fold_all(python, code, pairs, folder)
        for name, (source, target) in zip(sources, pairs, strict=True):
            if source in failed or not target.exists():
                cells[name].append(Cell(name, tool, verdict="fails"))
                continue
            counts = left_over(onnx.load(target))
            cells[name].append(Cell(name, tool, **counts, verdict=verdict(source, target)))
    _print(cells, list(tools))
    if options.json:
        options.json.write_text(json.dumps([asdict(c) for row in cells.values() for c in row], indent=1))


def _print(cells: dict[str, list[Cell]], tools: list[str]) -> None:
    print(f"| pattern | {' | '.join(tools)} |\n|{'---|' * (len(tools) + 1)}")
    for name, row in cells.items():
        print(f"| {name} | {' | '.join(c.markdown for c in row)} |")
    columns = list(zip(*cells.values(), strict=True))
    for title, counts in {
        "BN left": lambda c: c.batchnorms if not c.verdict else 1,
        "wrong": lambda c: c.verdict == "✗",
        "invalid": lambda c: c.verdict == "invalid",
        "no result": lambda c: c.verdict == "fails",
    }.items():
        print(f"| **{title}** | {' | '.join(str(sum(map(counts, column))) for column in columns)} |")
    for name, (ours, *others) in cells.items():
        for cell in others:
            if cell.ahead_of(ours):
                print(f"ahead: {cell.tool} on {name}: {cell.markdown} against {ours.markdown}")


def main() -> None:
    """In a temporary folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the other tools")
    parser.add_argument("--every", action="store_true", help="all rows of the tables")
    parser.add_argument("--json", type=Path, help="also write the cells to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bnfuse-patterns-") as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
