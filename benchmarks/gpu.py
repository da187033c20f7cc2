"""What folding gains on a GPU, and whether the GPU really ran: one script of at most eight minutes.

    pip install 'bnfuse[tensorflow]' tf2onnx 'tensorflow[and-cuda]' 'jax[cuda12]' torch      # and docs/gpu.md
    python -m benchmarks.gpu --make MODELS                       # on any machine; needs no GPU
    python -m benchmarks.gpu MODELS --json gpu.json              # on the one with the GPU

For every model, runtime and precision: ``optimize --device gpu`` (its proof runs on the device), then
``bench --device gpu`` of the original beside the result, batch 1 and 32, in interleaved rounds with a
second copy of the original (A/A, ``control``). For ONNX, how many nodes each execution provider ran, by
onnxruntime's own profile. That a device which is not there ends with exit code 5 is checked with the device
hidden. The JSON is written anew after every step, so that a run that is cut off leaves what it found; what
the time did not suffice for is named in it.

``--device cpu`` puts the processor in the GPU's place: the same steps, to try the script where no GPU is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_models import FORMATS, NAMES, PRECISIONS

BACKENDS = {"onnx": ("onnxruntime",), "keras": ("tensorflow", "jax", "torch")}
BATCHES = (1, 32)
_MISSING_DEVICE = 5  # docs/exit-codes.md
_CHECK_S = 60.0
_HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1", "NVIDIA_VISIBLE_DEVICES": "none"}


@dataclass(frozen=True, slots=True)
class Case:
    """One model on one runtime."""

    form: str
    name: str
    precision: str
    backend: str

    @property
    def file(self) -> str:
        """Its file's name."""
        return f"{self.name}.{self.precision}.{self.form}"

    @property
    def environment(self) -> dict[str, str]:
        """What bnfuse is started with, so that it takes this backend."""
        chosen = {} if self.form == "onnx" else {"BNFUSE_KERAS_BACKEND": self.backend}
        return {**os.environ, **chosen}


def cases() -> Iterator[Case]:
    """The most telling ones first: time may not suffice for all."""
    for precision in PRECISIONS:
        for form in FORMATS:
            for backend in BACKENDS[form]:
                for name in NAMES:
                    yield Case(form, name, precision, backend)


def made(folder: Path) -> None:
    """Every model, where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in {case.file: case for case in cases()}.values():
        if not (folder / case.file).exists():
            print("making", case.file, flush=True)
            command = [sys.executable, "-m", "benchmarks.gpu_models", case.form, case.name, case.precision]
            subprocess.run([*command, str(folder / case.file)], check=True)


def called(case: Case, *arguments: object, timeout_s: float, hidden: bool = False) -> dict[str, Any]:
    """What ``bnfuse … --json`` says, with its exit code and seconds; the sentence where it failed.

    ``hidden``: with no GPU to be seen.
    """
    environment = {**case.environment, **(_HIDDEN if hidden else {})}
    command = [sys.executable, "-m", "bnfuse", *map(str, arguments), "--json"]
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"exit": None, "seconds": timeout_s, "error": f"took more than {timeout_s:.0f} s"}
    said: dict[str, Any] = {"exit": done.returncode, "seconds": time.perf_counter() - begin}
    try:
        return said | {"document": json.loads(done.stdout)}
    except ValueError:
        return said | {"error": done.stderr.strip().splitlines()[-1:]}


def placed(case: Case, path: Path, device: str) -> dict[str, Any]:
    """How many nodes each execution provider ran, as onnxruntime's own profile has it."""
    limits = ("--device", device, "--batch", 1, "--max-time", 4)
    said = called(case, "bench", path, *limits, "--profile", timeout_s=_CHECK_S)
    profile = said.get("document", {}).get("benchmark", {}).get("profile") or {}
    return {"exit": said["exit"], "nodes": profile.get("before_placed")}


def rows(bench: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of every setting."""
    runs = bench.get("document", {}).get("benchmark", {}).get("runs", ())
    kept = ("setting", "batch", "before_ms", "after_ms", "speedup", "ci95", "control", "verdict", "pairs")
    return [{key: run.get(key) for key in kept} for run in runs]


def measured(case: Case, folder: Path, work: Path, device: str, time_s: float) -> dict[str, Any]:
    """Optimised, proved on the device, and timed beside the original."""
    original, result = folder / case.file, work / f"{case.backend}.{case.file}"
    optimised = called(
        case, "optimize", original, "-o", result, "--force", "--no-bench", "--device", device, timeout_s=240.0
    )
    proof = optimised.get("document", {}).get("verification", {})
    found: dict[str, Any] = {
        "exit": optimised["exit"],
        "seconds": optimised["seconds"],
        "proof": {key: proof.get(key) for key in ("status", "evidence", "max_error", "providers")},
        "error": optimised.get("error") or optimised.get("document", {}).get("message"),
    }
    if optimised["exit"] != 0:
        return found
    batches = ",".join(map(str, BATCHES))
    limits = ("--max-time", f"{time_s:.0f}", "--device", device)
    bench = called(case, "bench", original, result, "--batch", batches, *limits, timeout_s=time_s + _CHECK_S)
    ran = bench.get("document", {}).get("benchmark", {})
    found |= {"bench_exit": bench["exit"], "providers": ran.get("providers"), "runs": rows(bench)}
    found |= {"versions": bench.get("document", {}).get("versions"), "machine": ran.get("machine")}
    if case.form == "onnx":
        found["placed"] = placed(case, result, device)
    return found


def missing_device(folder: Path) -> dict[str, Any]:
    """Exit codes with the devices hidden: 5 for each runtime, never a silent run on the processor."""
    codes = {}
    for case in cases():
        if case.name != NAMES[1] or case.precision != "float32":
            continue
        said = called(case, "bench", folder / case.file, "--device", "gpu", timeout_s=_CHECK_S, hidden=True)
        codes[case.backend] = said["exit"]
    return {"codes": codes, "right": all(code == _MISSING_DEVICE for code in codes.values())}


def main() -> None:
    """Make the models, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the models")
    parser.add_argument("--make", action="store_true", help="only make the models that are missing")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=8.0, help="the most that all may take")
    parser.add_argument("--bench-time", type=float, default=8.0, help="seconds for each bench")
    wanted = parser.parse_args()
    if wanted.make:
        made(wanted.folder)
        return
    end = time.perf_counter() + 60 * wanted.minutes
    found: dict[str, Any] = {"device": wanted.device, "cases": [], "left_out": []}
    with tempfile.TemporaryDirectory() as work:
        found["missing_device"] = missing_device(wanted.folder)
        for case in cases():
            if time.perf_counter() + 2 * wanted.bench_time > end:
                found["left_out"].append(f"{case.file} on {case.backend}")
                continue
            result = measured(case, wanted.folder, Path(work), wanted.device, wanted.bench_time)
            found["cases"].append({"file": case.file, "backend": case.backend} | result)
            wanted.json.write_text(json.dumps(found, indent=1))
            print(case.file, case.backend, "exit", result["exit"], result.get("providers"), flush=True)
            for row in result.get("runs", ()):
                print("   ", row["setting"], row["batch"], row["speedup"], row["ci95"], row["control"])
    wanted.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
