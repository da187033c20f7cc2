"""How fast a fold with ``--activations move`` runs beside a plain one, on one thread.

    python -m benchmarks.moved_speed DenseNet121+ ResNet50V2 --work FOLDER

The networks of ``benchmarks.moved``, folded both ways, in LiteRT, in onnxruntime with its optimisation on
(both batch 1), and in Keras under ``tf.function`` (batch 1 and 8). Calls are interleaved, the plain fold, the
moved one and a second load of the plain one (A/A), in turning order. Times are processor seconds of the
process: others on the machine disturb those less. A ratio above 1: the moved fold is faster; the median of
the pairs, with a bootstrap interval of 95 %. FOLDER keeps the models: what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

from benchmarks.converters_count import caller
from benchmarks.converters_models import SIZE
from benchmarks.converters_steps import keras_loaded, litert
from benchmarks.moved import folded, keras_network
from benchmarks.peers_models import export

_WAYS = ("plain", "move")
_WARM, _LEAST, _DRAWS = 3, 15, 2000
# What is told, by which file's suffix, with which batch.
_RUNTIMES = (
    ("LiteRT", ".tflite", 1),
    ("onnxruntime, optimisation on", ".onnx", 1),
    ("tf.function", ".keras", 1),
    ("tf.function", ".keras", 8),
)


def tf_function(path: Path, batch: int) -> Callable[[], object]:
    """A call of a Keras model under ``tf.function`` on one thread."""
    tf = import_module("tensorflow")
    for pool in ("intra", "inter"):
        getattr(tf.config.threading, f"set_{pool}_op_parallelism_threads")(1)
    model = keras_loaded(path)
    images = tf.constant(np.random.default_rng(0).random((batch, SIZE, SIZE, 3), dtype=np.float32))
    run = tf.function(lambda x: model(x, training=False))
    return lambda: run(images).numpy()


def made(name: str, suffix: str, work: Path) -> list[Path]:
    """The plain and the moved fold of a network as files of a runtime."""
    form = "onnx" if suffix == ".onnx" else "keras"
    source = work / f"{name}.{form}"
    if not source.exists():
        export(name, source, SIZE) if form == "onnx" else keras_network(name, source)
    files = []
    for way in _WAYS:
        target = work / f"{name}.{way}.{form}"
        if not target.exists():
            folded(source, target, way, name, lambda: 0.0)
        files.append(target.with_suffix(suffix))
        if not files[-1].exists():
            litert(target, files[-1])
    return files


def paired(files: list[Path], batch: int, seconds: float) -> np.ndarray:
    """Processor milliseconds of rounds (round, [plain, moved, plain again])."""
    calls = [
        tf_function(file, batch) if file.suffix == ".keras" else caller(file, 1)
        for file in (*files, files[0])
    ]
    for call in calls:
        for _ in range(_WARM):
            call()
    rounds: list[list[float]] = []
    end = time.monotonic() + seconds
    while len(rounds) < _LEAST or time.monotonic() < end:
        took = [0.0, 0.0, 0.0]
        for at in np.roll((0, 1, 2), len(rounds))[:: 1 if len(rounds) % 2 else -1]:
            begin = time.process_time()
            calls[at]()
            took[at] = 1e3 * (time.process_time() - begin)
        rounds.append(took)
    return np.array(rounds)


def told(ratios: np.ndarray) -> str:
    """The median of ratios (round,) and its interval."""
    drawn = np.random.default_rng(0).integers(0, len(ratios), (_DRAWS, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """A row for every network and runtime."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each row")
    parser.add_argument("--make", action="store_true", help="make the models only")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row is not None:
        runtime, suffix, batch = _RUNTIMES[asked.row]
        files = made(asked.names[0], suffix, asked.work)
        if not asked.make:
            print(json.dumps(paired(files, batch, asked.seconds).tolist()))
        return
    asked.work.mkdir(parents=True, exist_ok=True)
    print("| network | runtime, batch | rounds | plain ms | moved ms | faster | A/A |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in asked.names:
        for row, (runtime, _, batch) in enumerate(_RUNTIMES):
            command = [sys.executable, "-m", "benchmarks.moved_speed", name, "--row", str(row)]
            command += ["--work", str(asked.work), "--seconds", str(asked.seconds)]
            command += ["--make"] if asked.make else []
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            if asked.make:
                continue
            took = np.array(json.loads(said.splitlines()[-1]))
            plain, moved, again = took.T
            cells = [name, f"{runtime}, {batch}", str(len(took))]
            cells += [f"{np.median(milliseconds):.1f}" for milliseconds in (plain, moved)]
            cells += [told(plain / moved), told(plain / again)]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
