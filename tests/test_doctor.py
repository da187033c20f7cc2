"""`bnfuse doctor`: what is here, what does not work, and how to get what is missing."""

from __future__ import annotations

import json
from importlib import import_module, metadata

import onnxruntime
import pytest
from msgspec.structs import replace

from bnfuse.results import Machine
from bnfuse.use_cases.doctor import RUNTIMES, Diagnosis, Found, _asked, doctor
from tests.command import call

doctor_module = import_module("bnfuse.use_cases.doctor")
PLAIN = Machine("cpu", 2, 8 << 30, "Linux")


def here(monkeypatch: pytest.MonkeyPatch, *packages: str, gpu: str = "") -> None:
    """Only these packages are installed, on a machine with or without a GPU."""
    monkeypatch.setattr(doctor_module, "_version", lambda name: "1.0" if name in packages else "")
    monkeypatch.setattr(doctor_module, "gpu_name", lambda: gpu)
    monkeypatch.setattr(doctor_module, "describe", lambda _: replace(PLAIN, gpu=gpu))


ONNX = ("CPUExecutionProvider",), ""
CASES = [  # packages, GPU, what the probe answers, part of each note
    (("onnxruntime", "tensorflow", "keras"), "", ONNX, []),
    (("onnxruntime",), "", ONNX, ["Keras models fold"]),
    (("onnxruntime", "keras"), "", ONNX, ["Keras models fold"]),
    (("jax", "keras"), "", ONNX, ["ONNX models fold"]),
    ((), "", ONNX, ["ONNX models fold", "Keras models fold"]),
    (("onnxruntime", "torch", "keras"), "H100", ONNX, ["no runtime here uses the GPU (H100)"]),
    (("onnxruntime", "torch", "keras"), "H100", (("CUDAExecutionProvider",), ""), []),
]


@pytest.mark.parametrize(("packages", "gpu", "answer", "notes"), CASES)
def test_what_is_missing_is_told(
    monkeypatch: pytest.MonkeyPatch,
    packages: tuple[str, ...],
    gpu: str,
    answer: tuple[tuple[str, ...], str],
    notes: list[str],
) -> None:
    here(monkeypatch, *packages, gpu=gpu)
    found = doctor(lambda _: answer)
    assert [note for note, part in zip(found.notes, notes, strict=True) if part in note] == list(found.notes)
    assert {one.package for one in found.runtimes if one.version} == set(packages)


def test_what_is_not_installed_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, "jax")
    asked: list[str] = []

    def probe(code: str) -> tuple[tuple[str, ...], str]:
        asked.append(code)
        return ("cpu",), ""

    doctor(probe)
    assert len(asked) == 1 and "jax" in asked[0]


PROBES = [
    ("print('a'); print('b'); print('a')", ("a", "b"), ""),
    ("raise ImportError('libfoo.so is missing')", (), "ImportError: libfoo.so is missing"),
    ("import os; os.abort()", (), "its process crashed (signal 6)"),
    ("import sys; sys.exit(3)", (), "it cannot be imported"),
]


@pytest.mark.parametrize(("code", "devices", "problem"), PROBES)
def test_a_runtime_that_does_not_work_takes_nothing_with_it(
    code: str, devices: tuple[str, ...], problem: str
) -> None:
    assert _asked(code) == (devices, problem)


def test_onnxruntime_for_real() -> None:
    (wanted,) = [one for one in RUNTIMES if one.package == "onnxruntime"]
    assert _asked(wanted.code) == (tuple(onnxruntime.get_available_providers()), "")


FOUND = Diagnosis(
    PLAIN,
    (
        Found("onnxruntime", ".onnx", "1.32", ("CPUExecutionProvider",), "", "pip install onnxruntime"),
        Found("jax", "Keras", "", (), "", "pip install keras jax"),
        Found("torch", "Keras", "2.4", (), "its process crashed (signal 6)", "pip install torch"),
    ),
    {"bnfuse": "1"},
    ("a note",),
)


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "doctor", lambda: FOUND)
    shown = call("doctor")
    assert shown.exit_code == 0
    for part in (
        "works on CPUExecutionProvider",
        "not installed",
        "pip install keras jax",
        "crashed",
        "a note",
    ):
        assert part in shown.stdout
    document = json.loads(call("doctor", "--json").stdout)
    assert document["schema"] == "bnfuse.doctor/1"
    assert [one["version"] for one in document["runtimes"]] == ["1.32", "", "2.4"]
    assert document["runtimes"][2]["problem"] and document["notes"] == ["a note"]
    assert call("doctor", "-q").stdout == ""


def test_versions_are_those_of_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor(lambda _: ((), ""))
    assert found.versions["onnx"] == metadata.version("onnx")
