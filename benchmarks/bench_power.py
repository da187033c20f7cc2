"""Does `bnfuse bench` find a slow-down of 5 % and of 2 %, and leave equal models alone, and how soon?

Three experiments, each repeated as separate processes of the default command (optimisation off and on,
default precision and time), which end as soon as their verdicts are certain:

- *A/A*: a file against itself. Right is "no significant change" in every setting.
- *5 %*: a network of 20 equal Conv+Relu layers against one of 21, which does exactly 5 % more work. Right
  is "slower".
- *2 %*: the same with 50 layers against 51.

What a planted change is in time is measured apart by one long run, and printed.

    python -m benchmarks.bench_power --runs 100 --threads 1,2

Other load on the machine belongs to the test. Its load average is printed; `--load N` adds N processes that
are busy in bursts of random length.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SAME, SLOWER = "no significant change", "slower"
# layers of both models, and the right verdict
EXPERIMENTS = {"A/A": (20, 20, SAME), "5 %": (20, 21, SLOWER), "2 %": (50, 51, SLOWER)}
# channels, height, width: calls of about 0.2, 2 and 6 ms on one core
SIZES = {"tiny": (16, 16, 16), "small": (24, 32, 32), "mid": (32, 56, 56)}


def network(layers: int, size: tuple[int, int, int]) -> onnx.ModelProto:
    """Equal layers, each Conv 3×3 and Relu, on (1, C, H, W)."""
    channels, height, width = size
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for at in range(layers):
        weight = rng.standard_normal((channels, channels, 3, 3)) / np.sqrt(9 * channels)
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{at}"))
        nodes.append(helper.make_node("Conv", [f"x{at}", f"w{at}"], [f"c{at}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{at}"], [f"x{at + 1}"]))
    shape = [1, channels, height, width]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "power", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


_CHILD = """
import json, sys, time
from pathlib import Path
from bnfuse.use_cases.bench import (BenchRequest, bench)
a, b, threads, seed, budget_s, precision = json.loads(sys.argv[1])
request = BenchRequest(
    threads=(threads,), seed=seed, max_time=budget_s, precision=precision
)
begin = time.perf_counter()
found = bench(Path(a), Path(b), request=request)
runs = [
    {"setting": r.setting, "speedup": r.speedup, "ci95": r.ci95, "control": r.control, "verdict": r.verdict,
     "rounds": r.pairs, "detectable": r.detectable, "p50": r.before_ms.p50}
    for r in found.runs
]
print(json.dumps({"seconds": time.perf_counter() - begin, "runs": runs, "notes": found.notes}))
"""


def one_run(a: Path, b: Path, threads: int, seed: int, budget_s: float, precision: float) -> dict[str, Any]:
    """One bench in a process of its own, and the load average at its end."""
    wanted = json.dumps([str(a), str(b), threads, seed, budget_s, precision])
    done = subprocess.run([sys.executable, "-c", _CHILD, wanted], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"load": os.getloadavg()[0]}


@contextmanager
def bursts(processes: int) -> Iterator[None]:
    """Processes that are busy and idle in turns, 1 ms to 1 s each."""
    code = (
        "import random, time\n"
        "while True:\n"
        "    end = time.perf_counter() + 10 ** random.uniform(-3, 0)\n"
        "    while time.perf_counter() < end: pass\n"
        "    time.sleep(10 ** random.uniform(-3, 0))\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def line(cells: Sequence[object]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def report(found: dict[tuple[str, int], list[dict[str, Any]]], size: str) -> None:
    """A row per experiment, number of threads and setting."""
    head = ("model", "experiment", "threads", "setting", "right", "wrong", "speed-up, median (5–95 %)")
    print(line((*head, "half-width, median", "rounds, median", "seconds, median (95 %)", "load, median")))
    print(line(["---"] * 11))
    for (experiment, threads), results in found.items():
        seconds = np.quantile([result["seconds"] for result in results], (0.5, 0.95))
        for at in range(len(results[0]["runs"])):
            runs = [result["runs"][at] for result in results]
            said = Counter(run["verdict"] for run in runs)
            right = said.pop(EXPERIMENTS[experiment][2], 0)
            ratios = np.quantile([run["speedup"] for run in runs], (0.05, 0.5, 0.95))
            half = median(0.5 * float(np.log(run["ci95"][1] / run["ci95"][0])) for run in runs)
            print(
                line(
                    (
                        f"{size}, {median(run['p50'] for run in runs):.2g} ms",
                        experiment,
                        threads,
                        runs[0]["setting"],
                        f"{right} of {len(runs)}",
                        ", ".join(f"{count} {what}" for what, count in said.items()) or "–",
                        f"{ratios[1]:.3f} ({ratios[0]:.3f}–{ratios[2]:.3f})",
                        f"{half:.1%}",
                        f"{median(run['rounds'] for run in runs):.0f}",
                        f"{seconds[0]:.1f} ({seconds[1]:.1f})",
                        f"{median(result['load'] for result in results):.1f}",
                    )
                )
            )


def main() -> None:
    """Run the experiments in turns, so that load that changes hits all alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--threads", default="1,2", help="numbers of threads, with commas")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument(
        "--max-time", type=float, default=20.0, help="seconds for both settings: as by default"
    )
    parser.add_argument("--precision", type=float, default=0.01)
    parser.add_argument("--true-time", type=float, default=60.0, help="seconds of the long run, 0 for none")
    parser.add_argument("--only", default=",".join(EXPERIMENTS), help="experiments, with commas")
    parser.add_argument("--load", type=int, default=0, help="busy processes to run beside it")
    parser.add_argument("--log", type=Path, help="a line of JSON per run")
    wanted = parser.parse_args()
    threads = [int(part) for part in wanted.threads.split(",")]
    size = SIZES[wanted.size]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder, bursts(wanted.load):
        files = {layers: Path(folder) / f"{layers}.onnx" for layers in (20, 21, 50, 51)}
        for layers, path in files.items():
            path.write_bytes(network(layers, size).SerializeToString())
        kinds = [(kind, count) for kind in wanted.only.split(",") for count in threads]
        for kind, count in kinds if wanted.true_time else ():
            fewer, more, right = EXPERIMENTS[kind]
            if right == SAME:
                continue
            for run in one_run(files[fewer], files[more], count, 0, wanted.true_time, 0.001)["runs"]:
                low, high = (1 / end - 1 for end in reversed(run["ci95"]))
                print(f"{kind}, {count} threads, {run['setting']}: truly {low:.1%} to {high:.1%} slower")
        begin = time.time()
        for turn in range(wanted.runs):
            random.Random(turn).shuffle(kinds)
            for kind, count in kinds:
                fewer, more, _ = EXPERIMENTS[kind]
                result = one_run(files[fewer], files[more], count, turn, wanted.max_time, wanted.precision)
                found.setdefault((kind, count), []).append(result)
                if wanted.log:
                    with wanted.log.open("a") as log:
                        log.write(json.dumps({"kind": kind, "threads": count, **result}) + "\n")
        print(f"{wanted.runs} runs of each in {time.time() - begin:.0f} s\n")
    report(dict(sorted(found.items())), wanted.size)


if __name__ == "__main__":
    main()
