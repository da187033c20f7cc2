"""What `inspect` of large graphs of many kinds takes: ``python -m benchmarks.large_graphs``.

Makes each kind of ``tests/strange_graphs.py`` in two sizes, one four times the other, and inspects them in
processes of their own. Told are the processor's seconds and the peak of memory, by node of the larger one and
by BatchNormalization (or scale), both beyond what a graph of a few nodes takes, and how many times as long
the larger one took: four times, where work is even.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.process_cost import Cost, measure

# ``measure`` tells no peak below that of the process it is called in, so graphs are made in others.
_MAKE = """
import sys
import onnx
from tests.onnx_graphs import Net
from tests.strange_graphs import C, KINDS
(kind,) = (kind for kind in KINDS if kind.__name__ == sys.argv[1])
net = Net(1)
onnx.save(net.build({"x": (1, C, 2, 2)}, kind(net, int(sys.argv[2]))), sys.argv[3])
print(len(net.nodes), sum(node.op_type in ("BatchNormalization", "Add") for node in net.nodes))
"""
_NAMES = "from tests.strange_graphs import KINDS; print(*(kind.__name__ for kind in KINDS), sep=',')"
_PATIENCE_S = 600.0


def _python(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def inspected(path: Path, options: Sequence[str]) -> Cost:
    """One ``bnfuse inspect``."""
    command = [sys.executable, "-m", "bnfuse", "inspect", str(path), *options]
    return measure(command, path.with_suffix(".log"), timeout_s=_PATIENCE_S)


def row(kind: str, pieces: int, options: Sequence[str], folder: Path) -> str:
    """One kind's line of the table."""
    costs, counts = [], (0, 0)
    for n in (4, pieces, 4 * pieces):
        path = folder / f"{kind}-{n}.onnx"
        nodes, candidates = _python(_MAKE, kind, str(n), str(path)).split()
        counts = int(nodes), int(candidates)
        costs.append(inspected(path, options))
        if costs[-1].failure:
            return f"| {kind} | {counts[0]:,} | {costs[-1].failure} |"
    least, small, large = costs
    seconds, mib = large.cpu_s - least.cpu_s, large.peak_mib - least.peak_mib
    times = seconds / max(0.01, small.cpu_s - least.cpu_s)
    cells = [
        kind, f"{counts[0]:,}", f"{large.cpu_s:.1f}", f"{large.peak_mib:.0f}", f"{times:.1f}",
        *(f"{1e3 * seconds / n:.2f}" for n in counts), *(f"{1024 * mib / n:.1f}" for n in counts),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pieces", type=int, default=500, help="of the smaller graph (500)")
    parser.add_argument("--options", default="", help="of inspect, with spaces")
    parser.add_argument("--only", default="", help="kinds, with commas")
    wanted = parser.parse_args()
    print("| graph | nodes | CPU s | peak MiB | times | ms a node | ms a BN | KiB a node | KiB a BN |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in (wanted.only or _python(_NAMES)).split(","):
            print(row(kind, wanted.pieces, wanted.options.split(), Path(folder)), flush=True)


if __name__ == "__main__":
    main()
