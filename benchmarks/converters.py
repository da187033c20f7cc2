"""What converters and quantisers leave of BatchNormalization, without and with bnfuse before them.

    pip install bnfuse tensorflow openvino nncf 'jax[cpu]' jax2onnx torch tf2onnx onnxscript scikit-learn
    python -m benchmarks.converters --work FOLDER --json converters.json

Prints the tables of docs/before-you-convert.md. Keras models are optimised before they are converted;
PyTorch's, which bnfuse does not read, after their export and before what follows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

KERAS = ("MobileNetV2", "ResNet50V2", "DenseNet121")
TORCH = ("inverted", "preactivation", "dense")
TOOLS = ("tensorflow", "keras", "openvino", "nncf", "jax", "torch", "tf2onnx", "onnxscript", "onnxruntime")
_TIMEOUT_S = 400.0


@dataclass(frozen=True, slots=True)
class Way:
    """One converter behind the file that bnfuse optimises. ``backend`` is what Keras runs on."""

    title: str
    step: str
    suffix: str
    backend: str = "tensorflow"


FROM_KERAS = (
    Way("LiteRT, float32", "litert", ".tflite"),
    Way("LiteRT, int8", "litert_int8", ".tflite"),
    Way("OpenVINO", "openvino", ".xml"),
    Way("ONNX, by TensorFlow", "onnx_from_keras", ".onnx"),
    Way("ONNX, by JAX", "onnx_from_keras", ".onnx", "jax"),
    Way("ONNX, by PyTorch", "onnx_from_keras", ".onnx", "torch"),
)
EXPORTS = (
    Way("exporter on torch.export", "torch_dynamo", ".onnx"),
    Way("older exporter, folding off", "torch_script", ".onnx"),
)
FROM_ONNX = (
    Way("onnxruntime QDQ", "qdq", ".onnx"),
    Way("onnxruntime QDQ, pre-processed", "qdq_prepared", ".onnx"),
    Way("OpenVINO, NNCF int8", "nncf", ".xml"),
)


@dataclass
class Row:
    """One converter on one model."""

    model: str
    way: str
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    time: dict[str, Any] = field(default_factory=dict)

    @property
    def markdown(self) -> str:
        """The row of the table."""
        before, after = (self.said(found) for found in (self.before, self.after))
        took = self.time
        timed = (
            f"{took['before_ms']:.2f} → {took['after_ms']:.2f} | {took['ratio']:.2f} ({took['control']:.2f})"
            if "ratio" in took
            else "– | –"
        )
        return f"| {self.model} | {self.way} | {before} | {after} | {timed} |"

    @staticmethod
    def said(found: dict[str, Any]) -> str:
        """Left, operations and size; or why there is nothing."""
        if "left" not in found:
            return str(found.get("failure", "–"))
        return f"{found['left']} / {found['ops']}, {found['bytes'] / 1e6:.1f} MB"


def ran(*arguments: object, backend: str = "tensorflow") -> tuple[str, str]:
    """Standard output of a module of this package, and why it failed."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return "", f"> {_TIMEOUT_S:.0f} s"
    if done.returncode == 0:
        return done.stdout, ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return "", f"fails: {lines[-1][:60].replace('|', '/') if lines else done.returncode}"


def converted(source: Path, target: Path, way: Way) -> dict[str, Any]:
    """The file that a converter makes, and what it left."""
    if not target.exists():
        _, failure = ran("benchmarks.converters_steps", way.step, source, target, backend=way.backend)
        if failure or not target.exists():
            return {"failure": failure or "wrote nothing"}
    said, failure = ran("benchmarks.converters_count", "left", target)
    return json.loads(said.splitlines()[-1]) if said else {"failure": failure}


def folded(source: Path, target: Path) -> str:
    """bnfuse on one file, proved; why it failed."""
    if target.exists():
        return ""
    return ran("bnfuse", "optimize", source, "-o", target, "--no-bench", "-q")[1]


def row(model: str, source: Path, result: Path, way: Way, work: Path) -> Row:
    """One converter on the original and on the result."""
    found = Row(model, way.title)
    name = f"{source.stem}.{way.step}.{way.backend}"
    targets = [work / f"{name}{kind}{way.suffix}" for kind in ("", ".fused")]
    found.before = converted(source, targets[0], way)
    found.after = converted(result, targets[1], way)
    if "left" in found.before and "left" in found.after:
        said, failure = ran("benchmarks.converters_count", "time", *targets)
        found.time = json.loads(said.splitlines()[-1]) if said else {"failure": failure}
    print(found.markdown, flush=True)
    return found


def failed(model: str, way: str, failure: str) -> Row:
    """A row that says why there is nothing to compare."""
    found = Row(model, way, {"failure": failure})
    print(found.markdown, flush=True)
    return found


def rows_of(kind: str, name: str, work: Path) -> list[Row]:
    """All converters of one model."""
    source = work / f"{name}{'.keras' if kind == 'keras' else '.pt2'}"
    if not source.exists():
        failure = ran("benchmarks.converters_models", kind, name, source)[1]
        if failure:
            return [failed(name, "made", failure)]
    if kind == "keras":
        result = work / f"{name}.fused.keras"
        failure = folded(source, result)
        if failure:
            return [failed(name, "bnfuse", failure)]
        return [row(name, source, result, way, work) for way in FROM_KERAS]
    found = []
    for export in EXPORTS:
        exported = work / f"{name}.{export.step}.onnx"
        result = exported.with_suffix(".fused.onnx")
        made = converted(source, exported, export)
        failure = made.get("failure") or folded(exported, result)
        if failure:
            found.append(failed(name, export.title, failure))
            continue
        alone = Row(
            name, export.title, made, json.loads(ran("benchmarks.converters_count", "left", result)[0])
        )
        said = ran("benchmarks.converters_count", "time", exported, result)[0]
        alone.time = json.loads(said) if said else {}
        print(alone.markdown, flush=True)
        found.append(alone)
        if export is EXPORTS[-1]:
            found += [row(name, exported, result, way, work) for way in FROM_ONNX]
    return found


def versions() -> str:
    """The tools, as far as they are there."""
    there = {one.metadata["Name"].lower(): one.version for one in metadata.distributions()}
    return ", ".join(f"{tool} {there[tool]}" for tool in TOOLS if tool in there)


def main() -> None:
    """Make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of models and results; kept")
    parser.add_argument("--models", nargs="*", default=(*KERAS, *TORCH))
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    wanted.work.mkdir(parents=True, exist_ok=True)
    print(versions(), "\n", flush=True)
    print("| model | way | left / ops, size | with bnfuse before it | ms | ratio (A/A) |")
    print("|---|---|---|---|---|---|", flush=True)
    found: list[Row] = []
    for name in wanted.models:
        found += rows_of("keras" if name in KERAS else "torch", name, wanted.work)
        if wanted.json:
            wanted.json.write_text(json.dumps([vars(one) for one in found], indent=1))


if __name__ == "__main__":
    main()
