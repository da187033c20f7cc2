"""Which runtimes and devices are here, in which versions, what is missing, and how to get it.

What is installed is asked of the packages' own metadata; whether it works, of a process that imports it, so
that a runtime that crashes is told and takes nothing with it. Runs no model.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

from msgspec import Struct

from bnfuse.machine import describe, gpu_name
from bnfuse.results import Machine
from bnfuse.use_cases.provenance import versions

_PATIENCE_S = 120.0
# Prints one line for each device; what TensorFlow and others print besides goes to stderr.
_ONNXRUNTIME = "import onnxruntime as o; print('\\n'.join(o.get_available_providers()))"
_TENSORFLOW = (
    "import tensorflow as t; print('\\n'.join(d.device_type for d in t.config.list_physical_devices()))"
)
_JAX = "import jax; print('\\n'.join(sorted({d.platform for d in jax.devices()})))"
_TORCH = "import torch; print('cpu'); torch.cuda.is_available() and print('cuda')"


class Wanted(Struct, frozen=True):
    """One package, as it is looked for: ``serves`` says for what, ``get`` how to get it."""

    package: str
    serves: str
    get: str
    code: str


class Found(Struct, frozen=True):
    """What came of it: ``version`` is "" where it is not installed, ``problem`` "" where it works."""

    package: str
    serves: str
    version: str
    devices: tuple[str, ...]
    problem: str
    get: str


class Diagnosis(Struct, frozen=True):
    """All of it. ``notes`` are sentences on what is missing and matters."""

    machine: Machine
    runtimes: tuple[Found, ...]
    versions: dict[str, str]
    notes: tuple[str, ...] = ()


RUNTIMES = (
    Wanted("onnxruntime", "proof and latency of .onnx", "pip install onnxruntime", _ONNXRUNTIME),
    Wanted("tensorflow", "proof and latency of .keras, .h5", "pip install 'bnfuse[tensorflow]'", _TENSORFLOW),
    Wanted("keras", "models of Keras 3", "pip install 'bnfuse[tensorflow]'", ""),
    Wanted("tf_keras", "models of Keras 2", "pip install 'bnfuse[keras2]'", ""),
    Wanted("jax", "Keras models, in place of TensorFlow", "pip install keras jax", _JAX),
    Wanted("torch", "Keras models, in place of TensorFlow", "pip install keras torch", _TORCH),
)
_LIBRARIES = ("onnx", "h5py", "ml_dtypes", "click", "rich")

Probe = Callable[[str], tuple[tuple[str, ...], str]]


def doctor(probe: Probe | None = None) -> Diagnosis:
    """Look at everything; ``probe`` runs a line of Python and answers (lines printed, problem or "")."""
    ask = probe or _asked
    with ThreadPoolExecutor() as pool:
        runtimes = tuple(pool.map(lambda wanted: _found(wanted, ask), RUNTIMES))
    libraries = {name: found for name in _LIBRARIES if (found := _version(name))}
    machine = describe("gpu" if gpu_name() else "cpu")
    return Diagnosis(machine, runtimes, versions(libraries), tuple(_notes(machine, runtimes)))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _found(wanted: Wanted, probe: Probe) -> Found:
    version = _version(wanted.package)
    devices, problem = probe(wanted.code) if version and wanted.code else ((), "")
    return Found(wanted.package, wanted.serves, version, devices, problem, wanted.get)


def _asked(code: str) -> tuple[tuple[str, ...], str]:
    """A line of Python in a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return (), f"did not answer within {_PATIENCE_S:.0f} s"
    if done.returncode < 0:
        return (), f"its process crashed (signal {-done.returncode})"
    if done.returncode:
        return (), (done.stderr.strip().splitlines() or ["it cannot be imported"])[-1]
    return tuple(dict.fromkeys(done.stdout.split())), ""


def _notes(machine: Machine, runtimes: tuple[Found, ...]) -> list[str]:
    by_name = {found.package: found for found in runtimes}
    notes = []
    if not by_name["onnxruntime"].version:
        notes.append("ONNX models fold, but are neither proved nor measured: there is no onnxruntime")
    keras = [by_name[name] for name in ("tensorflow", "jax", "torch")]
    if not any(found.version for found in keras) or not (
        by_name["keras"].version or by_name["tf_keras"].version
    ):
        notes.append(
            "Keras models fold, but are neither proved nor measured: there is no Keras with a backend"
        )
    devices = {device.lower() for found in runtimes for device in found.devices}
    if machine.gpu and not any(
        "cuda" in device or "gpu" in device or "tensorrt" in device for device in devices
    ):
        notes.append(
            f"no runtime here uses the GPU ({machine.gpu}): pip install 'bnfuse[gpu]', see docs/gpu.md"
        )
    return notes
