"""What a plain fold, moving activations and ``--target no-bn`` leave of networks of ``keras.applications``.

    python -m benchmarks.moved DenseNet121+ ResNet50V2 --litert

Networks with random weights and statistics at 96×96; a tenth of the channels has a negative γ unless the name
ends in ``+``. Each result is loaded by Keras and compared on one batch; errors are of the range of what the
original puts out. ``--litert`` converts the plain and the moved fold and times the pair on one thread, with a
second interpreter of the plain one beside them (A/A). One process per network: their memory is given back.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.converters_count import timed
from benchmarks.converters_models import SIZE
from benchmarks.converters_steps import keras_loaded, litert
from benchmarks.peers_models import SEED, randomise
from bnfuse.core.apply import apply
from bnfuse.core.plan import plan
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.keras import FORMAT

_LARGE = ("DenseNet121", "DenseNet169", "DenseNet201", "ResNet50V2", "ResNet101V2", "ResNet152V2")
NAMES = (*(f"{name}{gamma}" for name in _LARGE for gamma in ("+", "")), "NASNetMobile")
WAYS = {
    "plain": ReadOptions(),
    "move": ReadOptions(activations="move"),
    "no-bn": ReadOptions(target="no-bn"),
}


@dataclass(frozen=True)
class Left:
    """What one way leaves of a network.

    Attributes:
        found, folded: BatchNormalizations.
        spelled: of those that stay, how many are a Rescaling.
        before, after: nodes.
    """

    found: int
    folded: int
    spelled: int
    before: int
    after: int


def folded(source: Path, target: Path, options: ReadOptions) -> Left:
    """Fold a file; what is left."""
    with closing(FORMAT.read(source, options)) as model:
        planned = plan(model.graph)
        patch = apply(model.graph, planned)
        model.write(patch, target)
        norms = [d for d in planned.plan.decisions if d.is_batchnorm]
        gone = sum(node.is_batchnorm for node in patch.removed)
        before, after = (sum(ops.values()) for ops in (model.operators(), model.operators_after(patch)))
        return Left(len(norms), gone, len(planned.plan.arithmetic), before, after)


def network(name: str, target: Path) -> None:
    """Build, randomise and write one network."""
    import keras

    keras.utils.set_random_seed(SEED)
    model = getattr(keras.applications, name.rstrip("+"))(weights=None, input_shape=(SIZE, SIZE, 3))
    # The last softmax would hide what the layers before it do.
    model.layers[-1].activation = keras.activations.linear
    randomise(model, positive=name.endswith("+"))
    model.save(target)


def put_out(path: Path) -> np.ndarray:
    """What a model makes of one batch of random images."""
    images = np.random.default_rng(SEED).random((2, SIZE, SIZE, 3), dtype=np.float32)
    return np.asarray(keras_loaded(path)(images, training=False), np.float64)


def rows(name: str, folder: Path, *, converts: bool) -> list[str]:
    """The lines of one network."""
    source = folder / "network.keras"
    network(name, source)
    want, lines = put_out(source), []
    for way, options in WAYS.items():
        target = folder / f"{way}.keras"
        left = folded(source, target, options)
        error = np.abs(put_out(target) - want).max() / np.abs(want).max()
        lines.append(
            f"| {name} | {way} | {left.folded} of {left.found} | {left.spelled} | "
            f"{left.before} → {left.after} | {error:.1e} |"
        )
    if converts:
        files = [folder / f"{way}.tflite" for way in ("plain", "move")]
        for file in files:
            litert(file.with_suffix(".keras"), file)
        took = timed(files[0], files[1], 1)
        lines.append(
            f"| {name} | LiteRT, 1 thread | {took['before_ms']:.1f} ms | {took['after_ms']:.1f} ms | "
            f"{took['ratio']:.2f} | A/A {took['control']:.2f} |"
        )
    return lines


def main() -> None:
    """A table of all that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NAMES)}")
    parser.add_argument("--litert", action="store_true", help="time the plain and the moved fold")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(rows(asked.names[0], Path(folder), converts=asked.litert)), flush=True)
        return
    print(
        "| network | way | folded | spelled out | nodes | error of the range |\n|---|---|---|---|---|---|",
        flush=True,
    )
    command = [sys.executable, "-m", "benchmarks.moved", "--one", *(["--litert"] if asked.litert else [])]
    for name in asked.names or NAMES:
        subprocess.run([*command, name], check=True)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
