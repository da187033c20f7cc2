"""What a plain fold, moving activations and ``--target no-bn`` leave of networks and of published files.

    python -m benchmarks.moved DenseNet121+ ResNet50V2 --onnx --json moved.jsonl
    python -m benchmarks.moved FOLDER/*.onnx FOLDER/*.h5

A name is a network of ``keras.applications`` with random weights and statistics at 96×96; a tenth of the
channels has a negative γ unless the name ends in ``+``. Each result is loaded by Keras and compared on one
batch; errors are of the range of what the original puts out. ``--onnx`` does the same with
``tf_keras.applications`` exported by tf2onnx, in onnxruntime with its optimisation off. A path is a file,
taken through ``bnfuse optimize`` as users do: the error is that of its proof. One process per network: their
memory is given back. ``--json`` adds a line for each network as it is done, and skips those that have one.
``benchmarks.moved_speed`` times the results.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.converters_models import SIZE
from benchmarks.converters_steps import keras_loaded
from benchmarks.peers_models import SEED, export, randomise
from bnfuse.core.apply import apply
from bnfuse.core.decisions import Keep
from bnfuse.core.planning.plan import plan
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions

_DENSE = ("DenseNet121", "DenseNet169", "DenseNet201")
_OTHERS = ("ResNet50V2", "ResNet101V2", "ResNet152V2", "NASNetMobile")
NAMES = tuple(f"{name}{gamma}" for name in (*_DENSE, *_OTHERS) for gamma in ("+", ""))
WAYS = {
    "plain": ReadOptions(),
    "move": ReadOptions(activations="move"),
    "no-bn": ReadOptions(target="no-bn"),
}
_FLAGS: dict[str, list[str]] = {
    "plain": [],
    "move": ["--activations", "move"],
    "no-bn": ["--target", "no-bn"],
}


@dataclass(frozen=True)
class Left:
    """What one way leaves of a network.

    Attributes:
        found, folded: BatchNormalizations.
        spelled: of those that stay, how many are arithmetic (Mul and Add, a Rescaling).
        before, after: nodes.
        error: of the range of what the original puts out; for a file its proof's; None where nothing was run.
        why: how many stay for which reason.
        proof: for a file, what became of it.
    """

    network: str
    form: str
    way: str
    found: int
    folded: int
    spelled: int
    before: int
    after: int
    error: float | None
    why: dict[str, int]
    proof: str = ""

    @property
    def row(self) -> str:
        """The row of the table."""
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(self.why.items()))
        error = "–" if self.error is None else f"{self.error:.1e}"
        return (
            f"| {self.network} | {self.form} | {self.way} | {self.folded} of {self.found} | {self.spelled} | "
            f"{self.before} → {self.after} | {error}{self.proof and f', {self.proof}'} | {why} |"
        )


HEAD = (
    "| network | form | way | folded | spelled out | nodes | error of the range | why they stay |\n"
    "|---|---|---|---|---|---|---|---|"
)


def folded(source: Path, target: Path, way: str, name: str, error: Callable[[], float]) -> Left:
    """Fold a file; what is left."""
    with closing(detect(source).read(source, WAYS[way])) as model:
        planned = plan(model.graph)
        patch = apply(model.graph, planned)
        model.write(patch, target)
        norms = [decision for decision in planned.plan.decisions if decision.is_batchnorm]
        why = collections.Counter(d.primary.reason.name for d in norms if isinstance(d, Keep))
        gone = sum(node.is_batchnorm for node in patch.removed)
        before, after = (sum(ops.values()) for ops in (model.operators(), model.operators_after(patch)))
        spelled = len(planned.plan.arithmetic)
        return Left(
            name, source.suffix[1:], way, len(norms), gone, spelled, before, after, error(), dict(why)
        )


def keras_network(name: str, target: Path) -> None:
    """Build, randomise and write one network."""
    import keras

    keras.utils.set_random_seed(SEED)
    model = getattr(keras.applications, name.rstrip("+"))(weights=None, input_shape=(SIZE, SIZE, 3))
    # The last softmax would hide what the layers before it do.
    model.layers[-1].activation = keras.activations.linear
    randomise(model, positive=name.endswith("+"))
    model.save(target)


def put_out(path: Path) -> np.ndarray:
    """What a model makes of one batch of random images, its runtime's optimisation off."""
    images = np.random.default_rng(SEED).random((2, SIZE, SIZE, 3), dtype=np.float32)
    if path.suffix == ".keras":
        return np.asarray(keras_loaded(path)(images, training=False), np.float64)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0], np.float64)


def of_network(name: str, folder: Path, form: str) -> list[Left]:
    """What each way leaves of a network of ``keras.applications``."""
    source = folder / f"network.{form}"
    if form == "onnx":
        export(name, source, SIZE)
    else:
        keras_network(name, source)
    want, found = put_out(source), []
    for way in WAYS:
        target = folder / f"{way}.{form}"

        def error(target: Path = target) -> float:
            return float(np.abs(put_out(target) - want).max() / np.abs(want).max())

        found.append(folded(source, target, way, name, error))
    return found


def optimized(source: Path, target: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    """``bnfuse optimize`` on a file: exit code and report."""
    command = [sys.executable, "-m", "bnfuse", "optimize", str(source), "-o", str(target), "--force"]
    command += ["--json", "--no-bench", "--allow-growth", *flags]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(said.stdout or "{}")
    if "decisions" not in report:
        raise SystemExit(f"{source.name} {flags}: exit {said.returncode}: {said.stderr.strip()[-300:]}")
    return said.returncode, report


def of_file(source: Path, folder: Path) -> list[Left]:
    """What each way leaves of a published file; a result of the same bytes as another is proved once."""
    found, proofs = [], {}
    for way, flags in _FLAGS.items():
        target = folder / f"{way}{source.suffix}"
        code, report = optimized(source, target, *flags, "--no-verify")
        made = report["output"] and report["output"]["sha256"]
        if made not in proofs:
            proofs[made] = (code, report["verification"])
            if made:
                code, proved = optimized(source, target, *flags, "--verify-time", "2")
                proofs[made] = (code, proved["verification"])
        code, proof = proofs[made]
        norms = report["batchnorms"]
        kept = [d for d in report["decisions"] if d["action"] == "keep" and d["kind"] == "batchnorm"]
        before, after = (sum(report["operators"][at].values()) for at in ("before", "after"))
        found.append(
            Left(
                source.stem, source.suffix[1:], way, norms["found"], norms["folded"],
                sum(bool(d.get("becomes")) for d in kept), before, after,
                max((out["max_rel"] or 0.0 for out in proof["outputs"]), default=None),
                dict(collections.Counter(d["reason"] for d in kept)), f"exit {code}, {proof['status']}",
            )
        )  # fmt: skip
    return found


def main() -> None:
    """A table of all that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME|FILE", help=f"default: {' '.join(NAMES)}")
    parser.add_argument("--onnx", action="store_true", help="networks as ONNX (needs tf_keras, tf2onnx)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add what was found; skip what is in there")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    form = "onnx" if asked.onnx else "keras"
    if asked.one:
        name = asked.names[0]
        with tempfile.TemporaryDirectory() as folder:
            found = (
                of_file(Path(name), Path(folder))
                if Path(name).suffix
                else of_network(name, Path(folder), form)
            )
        print(json.dumps([asdict(left) for left in found]))
        return
    print(HEAD, flush=True)
    lines = asked.json.read_text().splitlines() if asked.json and asked.json.exists() else []
    done = {(each["network"], each["form"]): json.loads(line) for line in lines for each in json.loads(line)}
    for name in asked.names or NAMES:
        path = Path(name)
        key = (path.stem, path.suffix[1:]) if path.suffix else (name, form)
        if key not in done:
            command = [sys.executable, "-m", "benchmarks.moved", "--one", name]
            said = subprocess.run(
                [*command, *(["--onnx"] if asked.onnx else [])],
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            if said.returncode:
                print(f"| {name} | failed: exit {said.returncode} |", flush=True)
                continue
            line = said.stdout.splitlines()[-1]
            done[key] = json.loads(line)
            if asked.json:
                with asked.json.open("a") as file:
                    file.write(f"{line}\n")
        print("\n".join(Left(**each).row for each in done[key]), flush=True)


if __name__ == "__main__":
    main()
