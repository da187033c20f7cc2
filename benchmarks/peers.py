"""How many BatchNormalizations each tool leaves: ``python -m benchmarks.peers``, as Markdown and JSON.

Every tool folds every model in a process of its own, with a time limit; what fails is a cell that says so.
A cell reads *BN left + per-channel arithmetic left / all nodes left*; ``peers_count`` says what is counted.
OpenVINO has operations of its own: its cell counts BatchNormInference, Multiply, Divide, Add and Subtract
of the converted model by the same rule, and all of its operations except constants, inputs and outputs.

Models: the ``.onnx`` files of a folder, and networks of ``peers_models``. Counts are all that is compared:
no result is run here, bnfuse's neither (``--no-verify``; ``bnfuse verify`` proves it).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import cost_peers
from benchmarks.process_cost import measure

# ``peers_models.NAMES``; that module imports numpy, which this process does without.
EXPORTS = ("ResNet50", "MobileNetV2", "ResNet50V2+", "DenseNet121", "NASNetMobile", "EfficientNetB0")
MOST_CHARACTERS = 60
MODELS = Path(__file__).resolve().parents[2] / "shared" / "models" / "onnx"

# Here node counts matter, so tools run with their default passes, not with BN fusion alone.
SOURCES = {
    "onnxruntime basic": """
import sys, onnxruntime as ort
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
options.optimized_model_filepath = sys.argv[2]
options.log_severity_level = 4
ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
""",
    "onnxsim": cost_peers.SOURCES["onnxsim"],
    "onnxslim": cost_peers.SOURCES["onnxslim"].replace("{external}", "False"),
    "onnxoptimizer": """
import sys, onnx, onnxoptimizer
model = onnxoptimizer.optimize(onnx.load(sys.argv[1]))
assert len(model.graph.node), "the result is empty"
onnx.save(model, sys.argv[2])
""",
    "onnxscript": """
import sys, onnx_ir
from onnxscript import optimizer
"""
    + cost_peers.SOURCES["onnxscript"]
    .replace("{external}", "False")
    .replace("rewrite(onnx_ir.load(sys.argv[1]), rules)", "onnx_ir.load(sys.argv[1])")
    .replace("side =", "optimizer.optimize(model)\nmodel = rewrite(model, rules)\nside ="),
    "OpenVINO": """
import json, sys, openvino
model = openvino.convert_model(sys.argv[1])
LINEAR = {"Convolution", "GroupConvolution", "MatMul"}
LINEAR |= {"ConvolutionBackpropData", "GroupConvolutionBackpropData"}
def constant(value):
    node = value.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant"
def vector(value):
    shape = value.get_partial_shape()
    return constant(value) and shape.is_static and sum(d.get_length() > 1 for d in shape) == 1
counts = {"batchnorms": 0, "affines": 0, "nodes": 0}
for op in model.get_ordered_ops():
    kind = op.get_type_name()
    if kind in ("Constant", "Parameter", "Result"):
        continue
    counts["nodes"] += 1
    counts["batchnorms"] += kind == "BatchNormInference"
    if kind in ("Multiply", "Divide", "Add", "Subtract"):
        inputs = [op.input_value(i) for i in range(op.get_input_size())]
        behind_linear = any(i.get_node().get_type_name() in LINEAR for i in inputs if not constant(i))
        counts["affines"] += any(map(vector, inputs)) and (
            kind in ("Multiply", "Divide") or not behind_linear
        )
open(sys.argv[2], "w").write(json.dumps(counts))
""",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """What one tool left of one model; ``failure`` is empty where it did not fail."""

    model: str
    tool: str
    batchnorms: int = 0
    affines: int = 0
    nodes: int = 0
    failure: str = ""

    @property
    def markdown(self) -> str:
        """``0 + 2 / 123``, or why there is nothing to count."""
        if self.failure:
            return f"fails: {self.failure}"
        return f"{self.batchnorms} + {self.affines} / {self.nodes}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are and how long a process may take, in seconds."""

    peers_python: str
    work: Path
    timeout_s: float


def short(failure: str) -> str:
    """A failure as a cell of a table: without paths, in a few words."""
    words = " ".join(word for word in failure.split() if "/" not in word).replace("|", "/")
    return words if len(words) <= MOST_CHARACTERS else words[: MOST_CHARACTERS - 1] + "…"


def commands(settings: Settings, source: Path, target: Path) -> dict[str, list[str]]:
    """The process of every tool, bnfuse first."""
    ours = [sys.executable, "-m", "bnfuse", "optimize", str(source), "-o", str(target), "--force"]
    made = {"bnfuse": [*ours, "--no-verify", "--no-bench", "--quiet"]}
    for tool, code in SOURCES.items():
        made[tool] = [settings.peers_python, "-c", code, str(source), str(target)]
    return made


def cell(settings: Settings, model: Path, tool: str, command: Sequence[str], target: Path) -> Cell:
    """Run one tool on one model and count what it left."""
    target.unlink(missing_ok=True)
    log = settings.work / "log.txt"
    cost = measure(command, log, timeout_s=settings.timeout_s)
    if cost.failure or not target.exists():
        return Cell(model.stem, tool, failure=short(cost.failure) or "wrote nothing")
    return counted(model.stem, tool, target)


def counted(model: str, tool: str, target: Path) -> Cell:
    """What is left in a result."""
    if tool == "OpenVINO":
        return Cell(model, tool, **json.loads(target.read_text()))
    command = [sys.executable, "-m", "benchmarks.peers_count", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return Cell(model, tool, failure="the result cannot be read")
    return Cell(model, tool, **json.loads(done.stdout))


def row(settings: Settings, model: Path) -> list[Cell]:
    """The model as it is, then what every tool leaves of it."""
    target = settings.work / "result.onnx"
    made = [counted(model.stem, "before", model)]
    for tool, command in commands(settings, model, target).items():
        made.append(cell(settings, model, tool, command, target))
    print(f"| {model.stem} | {' | '.join(c.markdown for c in made)} |", flush=True)
    return made


def exported(settings: Settings, name: str, python: str) -> Path | str:
    """The file of a network, or why there is none."""
    folder = settings.work / "models"
    folder.mkdir(exist_ok=True)
    target = folder / f"{name}.onnx"
    if target.exists():
        return target
    command = [python, "-m", "benchmarks.peers_models", name, str(target)]
    cost = measure(command, settings.work / "log.txt", timeout_s=4 * settings.timeout_s)
    return target if not cost.failure and target.exists() else short(cost.failure) or "wrote nothing"


def versions(python: str, log: Path) -> str:
    """The tools with their versions, as far as they are there."""
    found = []
    for tool in ("onnxruntime", "onnxsim", "onnxslim", "onnxoptimizer", "onnxscript", "openvino"):
        command = [python, "-c", f"import importlib.metadata as m; print(m.version({tool!r}))"]
        if not measure(command, log, timeout_s=60).failure:
            found.append(f"{tool} {log.read_text().strip()}")
    return ", ".join(found)


def run(options: argparse.Namespace, work: Path) -> None:
    """Make the table, line by line."""
    settings = Settings(options.peers_python, work, options.timeout)
    print(f"{versions(options.peers_python, work / 'log.txt')}\n")
    head = ["model", "before", "bnfuse", *SOURCES]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    cells: list[Cell] = []
    for model in sorted(options.models.glob("*.onnx")):
        cells += row(settings, model)
    for name in options.exports:
        made = exported(settings, name, options.export_python)
        if isinstance(made, Path):
            cells += row(settings, made)
        else:
            print(f"| {name} | could not be exported: {made} |{' |' * (len(head) - 2)}")
            cells.append(Cell(name, "before", failure=made))
    if options.json:
        options.json.write_text(json.dumps([asdict(c) for c in cells], indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What bnfuse and other tools leave of BatchNormalization.")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of .onnx files")
    parser.add_argument("--exports", nargs="*", choices=EXPORTS, default=EXPORTS, metavar="NAME")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the other tools")
    parser.add_argument(
        "--export-python", default=sys.executable, help="one with TensorFlow, tf_keras and tf2onnx"
    )
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one run")
    parser.add_argument("--work", type=Path, help="scratch folder, kept (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="also write the cells to this file")
    return parser.parse_args()


def main() -> None:
    """Run in the folder asked for, or in a temporary one."""
    options = arguments()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        run(options, options.work.resolve())
        return
    with tempfile.TemporaryDirectory(prefix="bnfuse-peers-") as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
