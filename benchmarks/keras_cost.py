"""What folding a Keras file costs, beside what any tool costs that loads the model to do it.

    python -m benchmarks.keras_cost [--work DIR] [--models MobileNetV2 ...] [--runs 5]

Makes models of ``keras.applications`` with random weights and random BatchNormalization statistics, saved
as ``.keras`` and ``.h5``, and measures whole processes in turns:

    cp                copying the file
    import            importing TensorFlow, and nothing else
    load + save       ``load_model`` and ``save``: the least a tool needs that works on the loaded model,
                      before it has folded anything
    inspect           ``bnfuse inspect``
    optimize          ``bnfuse optimize --no-verify --no-bench``

Needs the ``tensorflow`` extra. Latencies before and after are ``bnfuse bench``'s business.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks.process_cost import Cost, compile_package, measure

_DEFAULT = ("MobileNetV2", "EfficientNetB0", "ResNet50")
_SUFFIXES = (".keras", ".h5")
_MAKE = """
import sys, keras, numpy as np
name, folder = sys.argv[1:]
rng = np.random.default_rng(1)
model = getattr(keras.applications, name)(weights=None)
for layer in model._flatten_layers():
    if isinstance(layer, keras.layers.BatchNormalization):
        n = layer.moving_mean.shape[0]
        if layer.gamma is not None:
            layer.gamma.assign(rng.uniform(0.5, 1.5, n) * rng.choice([1, -1], n, p=[0.9, 0.1]))
        if layer.beta is not None:
            layer.beta.assign(rng.normal(0, 0.3, n))
        layer.moving_mean.assign(rng.normal(0, 0.3, n))
        layer.moving_variance.assign(rng.uniform(0.5, 2, n))
for suffix in (".keras", ".h5"):
    model.save(f"{folder}/{name}{suffix}")
"""
_LOAD_AND_SAVE = """
import sys, keras
keras.models.load_model(sys.argv[1], compile=False).save(sys.argv[2])
"""
_TIMEOUT_S = 600.0


def made(name: str, work: Path) -> list[Path]:
    """The model's files, made where they are missing."""
    paths = [work / f"{name}{suffix}" for suffix in _SUFFIXES]
    if not all(path.exists() for path in paths):
        cost = measure([sys.executable, "-c", _MAKE, name, str(work)], work / "log.txt", timeout_s=_TIMEOUT_S)
        if cost.failure:
            raise SystemExit(f"{name} could not be made: {cost.failure}")
    return paths


def commands(path: Path, work: Path) -> dict[str, list[str]]:
    """What is measured, by name."""
    bnfuse = [sys.executable, "-m", "bnfuse"]
    out = work / f"out{path.suffix}"
    fold = [*bnfuse, "optimize", str(path), "-o", str(out), "--force", "--no-verify", "--no-bench", "--quiet"]
    return {
        "cp": ["cp", str(path), str(out)],
        "import": [sys.executable, "-c", "import tensorflow"],
        "load + save": [sys.executable, "-c", _LOAD_AND_SAVE, str(path), str(out)],
        "inspect": [*bnfuse, "inspect", str(path), "--quiet"],
        "optimize": fold,
    }


def measured(path: Path, work: Path, runs: int) -> dict[str, list[Cost]]:
    """Every command so many times, in turns, forth and back."""
    wanted = commands(path, work)
    costs: dict[str, list[Cost]] = {name: [] for name in wanted}
    for run in range(runs):
        for name in list(wanted) if run % 2 == 0 else reversed(list(wanted)):
            cost = measure(wanted[name], work / "log.txt", timeout_s=_TIMEOUT_S)
            if cost.failure:
                raise SystemExit(f"{name} of {path.name} failed: {cost.failure}")
            costs[name].append(cost)
    return costs


def main() -> None:
    """Measure and print a Markdown table of medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/keras-cost"))
    parser.add_argument("--models", nargs="+", default=list(_DEFAULT))
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    compile_package()
    print("| file | MB | " + " | ".join(commands(Path("x"), given.work)) + " | optimize / import |")
    print("|---|---|" + "---|" * (len(commands(Path("x"), given.work)) + 1))
    for name in given.models:
        for path in made(name, given.work):
            costs = measured(path, given.work, given.runs)
            cells = [
                f"{statistics.median(c.wall_s for c in each):.2f} s, {max(c.peak_mib for c in each):.0f} MiB"
                for each in costs.values()
            ]
            ratio = statistics.median(
                fold.wall_s / load.wall_s
                for fold, load in zip(costs["optimize"], costs["import"], strict=True)
            )
            size = path.stat().st_size / 1e6
            print(f"| {path.name} | {size:.0f} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
