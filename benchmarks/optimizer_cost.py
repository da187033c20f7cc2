"""What folding costs beside ``cp`` and beside other tools: ``python -m benchmarks.optimizer_cost``.

Makes the models of ``cost_models`` in a work folder, then measures whole processes: wall and CPU seconds and
peak resident memory, the median of several runs. Every run of a tool is paired with a ``cp`` of the same
model just before it, since a disk is not the same from one minute to the next; the page cache is warm, all
dirty pages are written back before each run, and results are removed after it. A row ``cp`` against ``cp``
shows the noise. bnfuse runs with ``--no-verify --no-bench``: the other tools neither prove nor measure.

The result is a Markdown table, the targets with pass or fail, and the check of ``cost_check`` on the large
models. The exit code is 0 when every target that was measured is met. This process imports neither numpy
nor onnx (see ``process_cost``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import cost_peers
from benchmarks.process_cost import Cost, compile_package, measure

MODELS = (
    "resnet50",
    "hybrid",
    "touched",
    "external",
    "chain-5000",
    "chain-10000",
    "chain-20000",
    "chain-50000",
)
LARGE = ("hybrid", "touched", "external")
PEER_LIMIT_BYTES = 17 << 30
LONG_RUN_S = 20.0

Command = Callable[[Path, Path], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of one tool on one model and of its ``cp``; ``left`` counts the BN and nodes of the result."""

    model: str
    tool: str
    runs: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    cp_wall_s: float
    failure: str = ""
    left: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """One promise and what was measured."""

    what: str
    limit: float
    measured: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.measured <= self.limit


def files_of(model: Path) -> list[Path]:
    """The model and its side file."""
    return [path for path in (model, model.with_name(model.name + ".data")) if path.exists()]


def bnfuse_command(source: Path, target: Path) -> list[str]:
    """bnfuse without proof and measurement."""
    flags = ["--no-verify", "--no-bench", "--force"]
    return [sys.executable, "-m", "bnfuse", "optimize", str(source), "-o", str(target), *flags]


def cp_command(source: Path, target: Path) -> list[str]:
    """``cp`` of the model and its side file."""
    return ["cp", *map(str, files_of(source)), str(target.parent)]


def peer_command(python: str, tool: str) -> Command:
    """The command of one of the other tools."""

    def command(source: Path, target: Path) -> list[str]:
        external = len(files_of(source)) > 1
        return cost_peers.command(python, tool, str(source), str(target), external=external)

    return command


def fresh(folder: Path) -> Path:
    """The folder, emptied, with nothing left to write back."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.sync()
    return folder


def warm(model: Path) -> None:
    """Read the model once, so that it lies in the page cache."""
    for path in files_of(model):
        subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)


class Bench:
    """Runs processes in one scratch folder and keeps the rows."""

    def __init__(self, work: Path, timeout_s: float) -> None:
        self.work = work
        self.timeout_s = timeout_s
        self.rows: list[Row] = []

    def once(self, command: Command, model: Path, limit_bytes: int | None) -> Cost:
        """One run into an empty folder."""
        target = fresh(self.work / "out") / model.name
        log = self.work / "log.txt"
        cost = measure(command(model, target), log, timeout_s=self.timeout_s, limit_bytes=limit_bytes)
        if not cost.failure and not target.exists():
            return Cost(cost.wall_s, cost.cpu_s, cost.peak_mib, "wrote nothing")
        return cost

    def pairs(self, tool: str, command: Command, model: Path, runs: int, limit: int | None = None) -> Row:
        """``runs`` pairs of ``cp`` and the tool; a failure ends them, and for a peer a run above 20 s too."""
        ours: list[Cost] = []
        copies: list[Cost] = []
        while len(ours) < runs:
            copies.append(self.once(cp_command, model, None))
            ours.append(self.once(command, model, limit))
            if ours[-1].failure or (limit is not None and ours[-1].wall_s > LONG_RUN_S):
                break
        row = Row(
            model=model.stem,
            tool=tool,
            runs=len(ours),
            wall_s=statistics.median(cost.wall_s for cost in ours),
            cpu_s=statistics.median(cost.cpu_s for cost in ours),
            peak_mib=statistics.median(cost.peak_mib for cost in ours),
            cp_wall_s=statistics.median(cost.wall_s for cost in copies),
            failure=ours[-1].failure,
            left="" if ours[-1].failure else self.left_over(model),
        )
        self.rows.append(row)
        print(markdown_row(row), flush=True)
        return row

    def left_over(self, model: Path) -> str:
        """BN and nodes left in the last result."""
        code, said = self.child("benchmarks.cost_check", str(self.work / "out" / model.name))
        return "unreadable" if code else said

    def child(self, *arguments: str) -> tuple[int, str]:
        """(exit code, output) of a module of this folder, in a process of its own."""
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()


def markdown_row(row: Row) -> str:
    """One line of the table."""
    if row.failure:
        wall, ratio = f"fails: {row.failure.replace('|', '/')}", ""
    else:
        wall, ratio = f"{row.wall_s:.2f}", f"{row.wall_s / row.cp_wall_s:.2f}"
    cells = (row.model, row.tool, row.runs, wall, f"{row.cpu_s:.2f}", f"{row.peak_mib:.0f}")
    return f"| {' | '.join(map(str, cells))} | {row.cp_wall_s:.2f} | {ratio} | {row.left} |"


def targets(rows: Sequence[Row]) -> list[Target]:
    """The promises, as far as bnfuse was measured for them."""
    ours = {row.model: row for row in rows if row.tool == "bnfuse" and not row.failure}
    found = []
    for name in ("resnet50", *LARGE):
        if row := ours.get(name):
            found.append(
                Target(f"{name}: wall ≤ 0.35 s + 1.3 × cp", 0.35 + 1.3 * row.cp_wall_s, row.wall_s, "s")
            )
            found.append(Target(f"{name}: peak ≤ 100 MiB, its graph being small", 100.0, row.peak_mib, "MiB"))
    if row := ours.get("chain-50000"):
        found.append(Target("chain-50000: wall ≤ 2.5 s", 2.5, row.wall_s, "s"))
        found.append(Target("chain-50000: peak ≤ 250 MiB", 250.0, row.peak_mib, "MiB"))
    if {"chain-5000", "chain-20000", "chain-50000"} <= set(ours):
        at = {nodes: ours[f"chain-{nodes}"].wall_s for nodes in (5000, 20000, 50000)}
        early, late = (at[20000] - at[5000]) / 15, (at[50000] - at[20000]) / 30
        what = "linear: seconds per 1000 nodes from 20 k to 50 k ≤ 1.5 × those from 5 k to 20 k"
        found.append(Target(what, 1.5 * early, late, "s"))
    return found


def versions(peers_python: str, tools: Sequence[str], log: Path) -> dict[str, str]:
    """The tools that can be imported there, with their versions."""
    found = {}
    for tool in tools:
        if not measure(cost_peers.version_command(peers_python, tool), log, timeout_s=60).failure:
            found[tool] = log.read_text().strip()
    return found


def machine() -> str:
    """Processor, cores, memory and system, as one sentence."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = names[0] if names else platform.processor()
    return f"{cpu}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.release()}"


def measure_model(bench: Bench, model: Path, runs: int, peers_python: str, tools: Sequence[str]) -> None:
    """All rows of one model; tools that failed on a smaller chain are not tried on a longer one."""
    warm(model)
    bench.once(cp_command, model, None)  # the first run of a program is not a steady one
    bench.once(bnfuse_command, model, None)
    bench.pairs("cp", cp_command, model, runs)
    bench.pairs("bnfuse", bnfuse_command, model, runs)
    for tool in tools:
        failed = [row.model for row in bench.rows if row.tool == tool and row.failure]
        if model.stem.startswith("chain-") and any(name.startswith("chain-") for name in failed):
            print(
                f"| {model.stem} | {tool} | 0 | not tried, as it failed on {failed[-1]} | | | | | |",
                flush=True,
            )
            continue
        limit = PEER_LIMIT_BYTES
        bench.pairs(tool, peer_command(peers_python, tool), model, min(runs, 3), limit)


def check_model(bench: Bench, model: Path) -> bool:
    """Fold once more and hold the result against the formula."""
    cost = bench.once(bnfuse_command, model, None)
    code, said = bench.child("benchmarks.cost_check", str(model), str(bench.work / "out" / model.name))
    print(f"- {model.stem}: {cost.failure or said}", flush=True)
    return not cost.failure and code == 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Cost of bnfuse beside cp and other tools.")
    parser.add_argument("--work", type=Path, help="scratch folder, kept (default: a temporary one)")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=MODELS, metavar="NAME", help="some models only"
    )
    parser.add_argument(
        "--peers", nargs="*", choices=list(cost_peers.SOURCES), default=list(cost_peers.SOURCES)
    )
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the other tools")
    parser.add_argument("--runs", type=int, default=5, help="pairs per row (at most 3 for the largest model)")
    parser.add_argument("--timeout", type=float, default=100.0, help="seconds for one run")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args()


def report(bench: Bench, right: bool) -> int:
    """Print the targets; 0 when all are met and all results were right."""
    reached = targets(bench.rows)
    print("\n| target | limit | measured | |\n|---|---|---|---|")
    for target in reached:
        verdict = "pass" if target.met else "FAIL"
        numbers = f"{target.limit:.3g} {target.unit} | {target.measured:.3g} {target.unit}"
        print(f"| {target.what} | {numbers} | {verdict} |")
    broken = any(row.tool == "bnfuse" and row.failure for row in bench.rows)
    return 0 if right and not broken and all(target.met for target in reached) else 1


def run(options: argparse.Namespace, work: Path) -> int:
    """Make, measure, check, report."""
    bench = Bench(work, options.timeout)
    tools = versions(options.peers_python, options.peers, work / "log.txt")
    print(
        f"{machine()}; Python {platform.python_version()}; " + ", ".join(f"{t} {v}" for t, v in tools.items())
    )
    for missing in sorted(set(options.peers) - set(tools)):
        print(f"{missing} cannot be imported by {options.peers_python}: left out")
    print(
        "\n| model | tool | runs | wall s | CPU s | peak MiB | cp beside it s | wall / cp | BN / nodes left |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    made = {}
    for name in options.models:
        code, said = bench.child("benchmarks.cost_models", name, str(work / "models"))
        if code:
            raise SystemExit(said)
        made[name] = Path(said)
        runs = min(options.runs, 3) if name == "external" else options.runs
        measure_model(bench, made[name], runs, options.peers_python, list(tools))
    print("\nTensor by tensor against numpy in float64:\n")
    checks = [check_model(bench, made[name]) for name in options.models]
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in bench.rows], indent=1) + "\n")
    shutil.rmtree(work / "out", ignore_errors=True)
    return report(bench, all(checks))


def main() -> None:
    """Run in the folder asked for, or in a temporary one."""
    options = arguments()
    compile_package()
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        sys.exit(run(options, options.work.resolve()))
    with tempfile.TemporaryDirectory(prefix="bnfuse-cost-") as folder:
        sys.exit(run(options, Path(folder)))


if __name__ == "__main__":
    main()
