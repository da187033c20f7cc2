"""What planning costs beside another state of bnfuse: ``python -m benchmarks.planning_cost OTHER_TREE``.

Makes four kinds of ONNX graphs, each in two sizes, in a temporary folder:

    stream    pre-activation residual blocks on one stream, 1 in 10 of γ negative
    densenet  BN → Relu → Conv 1×1 → BN → Relu → Conv 3×3, joined to all before by a Concat
    at once   the same, with one Concat of all before in front of each layer, and a head behind
    chain     blocks of Conv, BN, Relu and Add

and plans them in fresh processes, this tree's and the other's in turn, A B B A, with this one against itself
as A/A. What is told is CPU seconds of ``plan`` alone, as the median of ratios of neighbours: wall seconds of
a busy machine tell nothing. The other tree may be of any age that knows ``FORMAT.read`` and ``plan``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from tests.random_nets import BATCH, Net, Value, model_of, preactivation

HERE = Path(__file__).resolve().parent.parent
KINDS = {"stream": (2500, 5000), "densenet": (500, 1000), "at once": (125, 250), "chain": (24_000, 48_000)}
_CHILD = """
import sys, time
from pathlib import Path
try:
    from bnfuse.core.planning.plan import plan
except ImportError:  # an older tree
    from bnfuse.core.plan import plan
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
options = ReadOptions(activations="move") if sys.argv[2] == "move" else ReadOptions()
model = FORMAT.read(Path(sys.argv[1]), options)
began = time.process_time()
made = plan(model.graph)
print(time.process_time() - began, *getattr(made, "plan", made).counts(batchnorm=True)[:2])
"""


def model(kind: str, size: int) -> onnx.ModelProto:
    """A graph of a kind: so many blocks, layers or nodes."""
    if kind == "stream":
        return preactivation(size, positive=False)
    net = Net(False, 17, np.random.default_rng(0))
    x = Value("x", (BATCH, 8, 4, 4))
    y = _conv(net, x, 8, 1)
    if kind == "at once":
        return model_of(net, x.shape, [_joined_at_once(net, y, size)])
    while len(net.nodes) < size if kind == "chain" else len(net.nodes) < 7 * size:
        y = _residual(net, y) if kind == "chain" else _dense(net, y)
    return model_of(net, x.shape, [y])


def _conv(net: Net, x: Value, out: int, taps: int) -> Value:
    weight = net.const(net.normal(out, x.channels, taps, taps) / np.sqrt(x.channels * taps * taps))
    return net.node("Conv", [x.name, weight], (BATCH, out, *x.space), pads=[taps // 2] * 4)


def _batchnorm(net: Net, x: Value) -> Value:
    c = x.channels
    names = [net.const(v) for v in (np.abs(net.mixed(c)), net.normal(c), net.normal(c), np.ones(c))]
    return net.node("BatchNormalization", [x.name, *names], x.shape)


def _dense(net: Net, x: Value) -> Value:
    return _joined(net, [x, _layer(net, x)])


def _joined_at_once(net: Net, x: Value, layers: int) -> Value:
    parts = [x]
    for _ in range(layers):
        parts.append(_layer(net, _joined(net, parts)))
    y = _batchnorm(net, _joined(net, parts))
    return _conv(net, net.node("Relu", [y.name], y.shape), 4, 1)


def _joined(net: Net, parts: list[Value]) -> Value:
    channels = sum(part.channels for part in parts)
    return net.node("Concat", [part.name for part in parts], (BATCH, channels, *parts[0].space), axis=1)


def _layer(net: Net, x: Value) -> Value:
    y = net.node("Relu", [_batchnorm(net, x).name], x.shape)
    y = _batchnorm(net, _conv(net, y, 4, 1))
    return _conv(net, net.node("Relu", [y.name], y.shape), 2, 3)


def _residual(net: Net, x: Value) -> Value:
    y = _batchnorm(net, _conv(net, x, 8, 3))
    y = _batchnorm(net, _conv(net, net.node("Relu", [y.name], y.shape), 8, 3))
    y = net.node("Add", [x.name, y.name], x.shape)
    return net.node("Relu", [y.name], y.shape)


def planned(tree: Path, path: Path, activations: str) -> tuple[float, int, int]:
    """CPU seconds, BatchNormalizations found and folded."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _CHILD, str(path), activations]
    ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, cwd=tree)
    seconds, found, folded = ran.stdout.split()
    return float(seconds), int(found), int(folded)


def compare(other: Path, path: Path, pairs: int) -> dict[str, float]:
    """Medians: seconds by state, and ratios of neighbours."""
    here, there, moved, same, against, moving = ([0.0] * 0 for _ in range(6))
    for turn in range(pairs):
        order = ("a", "b", "m") if turn % 2 == 0 else ("m", "b", "a")
        how = {"a": (HERE, "keep"), "b": (other, "keep"), "m": (HERE, "move")}
        took = {k: planned(how[k][0], path, how[k][1])[0] for k in order}
        again = planned(HERE, path, "keep")[0]
        here.append(took["a"])
        there.append(took["b"])
        moved.append(took["m"])
        against.append(took["a"] / took["b"])
        moving.append(took["m"] / took["b"])
        same.append(again / took["a"])
    every = {"other": there, "here": here, "move": moved, "ratio": against, "ratio move": moving, "A/A": same}
    return {name: statistics.median(values) for name, values in every.items()}


def main() -> None:
    """Print a Markdown table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("other", type=Path)
    arguments.add_argument("--pairs", type=int, default=5)
    arguments.add_argument("--only", choices=KINDS, default=None)
    arguments.add_argument("--part", type=int, default=1, help="graphs of a so-manieth part of the size")
    given = arguments.parse_args()
    print("| graph | size | found, folded | other s | here s | with move s | here/other | move/other | A/A |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, sizes in KINDS.items():
            for size in [n // given.part for n in sizes] if given.only in (None, kind) else ():
                path = Path(folder) / f"{kind}.onnx"
                onnx.save(model(kind, size), path)
                _, found, folded = planned(HERE, path, "keep")
                told = compare(given.other.resolve(), path, given.pairs)
                figures = " | ".join(f"{figure:.2f}" for figure in told.values())
                print(f"| {kind} | {size:,} | {found}, {folded} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
