"""What folding and `--equalize` are worth to those who quantise the result: outputs in 8 bits against float.

    python -m benchmarks.quantise_power [--models FOLDER] [--draws 8]

Networks trained on digits (fixtures/), and where their folder is given two face detectors. Each is taken as
it is, folded, equalised by AIMET (cross-layer equalisation and high-bias folding; ``pip install
aimet-onnx``), folded and equalised by bnfuse in one run, and equalised after it was folded, when no
BatchNormalization is left to tell how large values are. "powers of two" rounds bnfuse's scales so.

One quantised model says little: which way weights are rounded is luck, worth ±1 dB and more. So every
model is drawn anew: the same function, each channel that is free held 5 % larger or smaller at random (its
standard deviation), quantised, compared. A cell is the mean of the draws ± its standard error.

"rescaled" takes the folded model with random scales over four decades. What `--equalize` makes of that is
compared with what it makes of the folded model itself, without any draw.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.quantising import Array, modernised, outputs, pictures, quantised, redrawn, snr_db
from bnfuse import optimize
from bnfuse.core.quantising import equalize as equalising
from bnfuse.core.reparam import Vector

FIXTURES = Path(__file__).parent.parent / "fixtures"
_JITTER = 0.05
_AIMET = """
import sys, onnx
from aimet_onnx.cross_layer_equalization import equalize_model
from aimet_onnx.meta.connectedgraph import ONNXModel
model = ONNXModel(onnx.load(sys.argv[1]))
equalize_model(model)
onnx.save(model.model, sys.argv[2])
"""


@dataclass(frozen=True)
class Subject:
    """A model with images to calibrate on, others to compare on, and their labels where there are any."""

    name: str
    model: Path
    calibration: Sequence[Array]
    samples: Sequence[Array]
    labels: Sequence[int] = ()


def subjects(folder: Path | None) -> Iterator[Subject]:
    """What is measured."""
    with np.load(FIXTURES / "digits_test.npz") as test:
        images, labels = test["image"], test["label"]
    parts = [images[k : k + 1] for k in range(len(images))]
    for name in ("digits_cnn", "digits_separable"):
        path = FIXTURES / f"{name}.onnx"
        yield Subject(name, path, parts[:64], [images[64:]], labels[64:].tolist())
    for name in ("ultraface_slim_320_raw", "ultraface_rfb_320") if folder else ():
        assert folder is not None
        every = [(picture - 127.0) / 128.0 for picture in pictures(240, 320)]
        yield Subject(name, folder / f"{name}.onnx", every[::2], every[1::2])


@contextmanager
def powers_of_two() -> Iterator[None]:
    """Whatever is equalised meanwhile gets the nearest powers of two for scales."""
    exact = equalising.__dict__["quietest"]

    def rounded(*given: object) -> Vector:
        found: Vector = np.exp2(np.rint(np.log2(exact(*given))))
        return found

    vars(equalising)["quietest"] = rounded
    try:
        yield
    finally:
        vars(equalising)["quietest"] = exact


def made(model: Path, target: Path, *, equalize: bool) -> Path:
    """What bnfuse makes of a model."""
    optimize(model, target, equalize=equalize, verify=False, bench=False, force=True)
    return target


def by_aimet(model: Path, target: Path) -> Path | None:
    """What AIMET makes of it; None where it cannot."""
    done = subprocess.run(
        [sys.executable, "-c", _AIMET, str(model), str(target)], capture_output=True, text=True
    )
    if done.returncode:
        print(f"AIMET: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
    return target if target.exists() else None


def variants(subject: Subject, folder: Path) -> dict[str, Path]:
    """Models that compute the same, by what was done to them."""
    folded = made(subject.model, folder / "folded.onnx", equalize=False)
    found = {"as it is": subject.model, "folded": folded}
    cle = by_aimet(modernised(subject.model, folder / "modern.onnx"), folder / "aimet.onnx")
    if cle is not None:
        found["AIMET's equalisation"] = cle
    with powers_of_two():
        found["bnfuse, powers of two"] = made(subject.model, folder / "powers.onnx", equalize=True)
    found["folded, then --equalize"] = made(folded, folder / "after.onnx", equalize=True)
    found["--equalize"] = made(subject.model, folder / "equalised.onnx", equalize=True)
    return found


def compared(subject: Subject, model: Path, folder: Path, *, per_channel: bool) -> tuple[float, float]:
    """SNR in dB, and the share of right answers (NaN without labels), of a model in 8 bits."""
    new = modernised(model, folder / "modern.onnx")
    small = quantised(new, folder / "int8.onnx", subject.calibration, per_channel=per_channel)
    wanted = outputs(subject.model, subject.samples, optimise=False)
    found = outputs(small, subject.samples, optimise=True)
    right = float("nan")
    if subject.labels:
        right = float((found[0][0].argmax(axis=1) == np.array(subject.labels)).mean())
    return snr_db(wanted, found), right


def drawn(subject: Subject, model: Path, draws: int, *, per_channel: bool) -> list[tuple[float, float]]:
    """``compared`` for each draw."""
    found = []
    for seed in range(draws):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "draw").mkdir()
            draw = redrawn(model, folder / "draw" / "model.onnx", seed, deviation=_JITTER)
            found.append(compared(subject, draw, folder, per_channel=per_channel))
    return found


def told(values: Sequence[float]) -> str:
    """``41.23 ± 0.10``."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return f"{np.mean(values):.2f} ± {error:.2f}"


def measured(subject: Subject, draws: int) -> None:
    """The rows of one model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        every = variants(subject, folder)
        for variant, model in every.items():
            tensor = drawn(subject, model, draws, per_channel=False)
            channel = drawn(subject, model, draws, per_channel=True)
            right = f"{100 * np.mean([r for _, r in tensor]):.2f}" if subject.labels else "-"
            cells = (told([snr for snr, _ in tensor]), told([snr for snr, _ in channel]), right)
            print(f"| {subject.name} | {variant} | {' | '.join(cells)} |", flush=True)
        rescaled_too(subject, folder, every)


def rescaled_too(subject: Subject, folder: Path, every: Mapping[str, Path]) -> None:
    """How much what is made of a model depends on the scales that it came with."""
    (folder / "wild").mkdir()
    wild = redrawn(every["folded"], folder / "wild" / "model.onnx", 0, decades=4.0)
    again = made(wild, folder / "again.onnx", equalize=True)
    measure: Callable[[Path], float] = lambda model: compared(  # noqa: E731
        subject, model, folder, per_channel=False
    )[0]
    plain, rough, tamed = measure(every["folded, then --equalize"]), measure(wild), measure(again)
    print(
        f"| {subject.name} | rescaled: {rough:.2f}, then --equalize: {tamed:.2f} dB, "
        f"without rescaling {plain:.2f} dB | | | |",
        flush=True,
    )


def asked(told: str) -> argparse.Namespace:
    """The options of a script whose docstring this is: models, draws, only."""
    made = argparse.ArgumentParser(description=told.split("\n\n")[0])
    made.add_argument("--models", type=Path, default=os.environ.get("BNFUSE_MODELS"))
    made.add_argument("--draws", type=int, default=8)
    made.add_argument("--only", default="", help="models with this in their name")
    return made.parse_args()


def main() -> int:
    """Print the table."""
    given = asked(__doc__)
    folder = None if given.models is None else Path(given.models)
    print("| model | made by | per tensor, dB | per channel, dB | right, % |")
    print("|---|---|---:|---:|---:|")
    for subject in subjects(folder):
        if given.only in subject.name:
            measured(subject, given.draws)
    return 0


if __name__ == "__main__":
    sys.exit(main())
