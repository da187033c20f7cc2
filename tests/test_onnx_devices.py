"""The onnxruntime runner's devices: what was asked for really runs, or is missing."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime as ort
import pytest
from onnx import TensorProto

from bnfuse.errors import RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.formats.onnx.runtime import providers, session
from bnfuse.formats.onnx.runtime.session import load_session
from tests.tiny_models import identity


def test_an_unknown_device_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tpu"):
        load_session(identity(TensorProto.FLOAT, tmp_path / "m.onnx"), RunSettings(device="tpu"))


class FakeSession:
    """A session whose providers are what a test says they are."""

    providers: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    calls: ClassVar[list[Any]] = []

    def __init__(self, path: str, options: Any, providers: Any = None, enable_fallback: int = 1) -> None:
        assert enable_fallback == 0
        type(self).calls.append(providers)

    def get_providers(self) -> list[str]:
        return list(self.providers)

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [types.SimpleNamespace(ep_name=name) for name in self.busy]

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs


def _fake_session(providers: tuple[str, ...], busy: tuple[str, ...]) -> type[FakeSession]:
    facts = {"providers": providers, "busy": busy, "calls": []}
    return type("Fake", (FakeSession,), facts)


def _no_plugins(monkeypatch: pytest.MonkeyPatch, *, cuda: bool) -> None:
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"] if cuda else ["CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: names)
    monkeypatch.setattr(ort, "get_ep_devices", list)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    for package in providers.PLUGINS:
        monkeypatch.setitem(sys.modules, package, None)  # its import fails


def test_a_gpu_that_is_not_there_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_plugins(monkeypatch, cuda=False)
    with pytest.raises(RuntimeMissing, match=r"bnfuse\[gpu\].*onnxruntime-gpu"):
        load_session(identity(TensorProto.FLOAT, tmp_path / "m.onnx"), RunSettings(device="gpu"))


GPU_SESSIONS = [
    ("used", ("CUDAExecutionProvider", "CPUExecutionProvider"), ("CUDAExecutionProvider",), ""),
    ("fell back", ("CPUExecutionProvider",), ("CPUExecutionProvider",), "fell back to the CPU"),
    ("idle", ("CUDAExecutionProvider", "CPUExecutionProvider"), ("CPUExecutionProvider",), "no node"),
]


@pytest.mark.parametrize(
    ("name", "providers", "busy", "reason"), GPU_SESSIONS, ids=[g[0] for g in GPU_SESSIONS]
)
def test_cuda_must_really_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    providers: tuple[str, ...],
    busy: tuple[str, ...],
    reason: str,
) -> None:
    _no_plugins(monkeypatch, cuda=True)
    fake = _fake_session(providers, busy)
    monkeypatch.setattr(ort, "InferenceSession", fake)
    path = identity(TensorProto.FLOAT, tmp_path / "m.onnx")
    if reason:
        with pytest.raises(RuntimeMissing, match=reason):
            load_session(path, RunSettings(device="gpu"))
        return
    with load_session(path, RunSettings(device="gpu")) as runner:
        assert runner.providers == ("CUDAExecutionProvider",)
    assert fake.calls == [[("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]]


def test_cuda_that_fails_to_start_is_missing_but_a_broken_model_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_plugins(monkeypatch, cuda=True)
    real = ort.InferenceSession

    def without_driver(path: str, options: Any, providers: Any, enable_fallback: int) -> Any:
        if providers != ["CPUExecutionProvider"]:
            raise RuntimeError("CUDA failure 35: CUDA driver version is insufficient")
        return real(path, options, providers=providers, enable_fallback=enable_fallback)

    monkeypatch.setattr(ort, "InferenceSession", without_driver)
    with pytest.raises(RuntimeMissing, match="driver version is insufficient"):
        load_session(identity(TensorProto.FLOAT, tmp_path / "m.onnx"), RunSettings(device="gpu"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"garbage")
    with pytest.raises(UnreadableModel):
        load_session(broken, RunSettings(device="gpu"))


def test_a_plugin_gpu_is_registered_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_plugins(monkeypatch, cuda=False)
    registered: list[tuple[str, str]] = []
    added: list[Any] = []
    plugin = types.SimpleNamespace(get_ep_name=lambda: "Rtx", get_library_path=lambda: "/lib/rtx.so")
    gpu = types.SimpleNamespace(
        ep_name="Rtx", device=types.SimpleNamespace(type=ort.OrtHardwareDeviceType.GPU)
    )
    cpu = types.SimpleNamespace(
        ep_name="Cpu", device=types.SimpleNamespace(type=ort.OrtHardwareDeviceType.CPU)
    )
    monkeypatch.setitem(sys.modules, providers.PLUGINS[0], plugin)
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *a: registered.append(a))
    monkeypatch.setattr(ort, "get_ep_devices", lambda: [cpu, gpu] if registered else [cpu])
    fake = type(
        "Fake", (FakeSession,), {"providers": ("Rtx", "CPUExecutionProvider"), "busy": ("Rtx",), "calls": []}
    )
    monkeypatch.setattr(ort, "InferenceSession", fake)
    options = types.SimpleNamespace(add_provider_for_devices=lambda devices, extra: added.append(devices))
    monkeypatch.setattr(session, "_options", lambda module, settings: options)
    with load_session(identity(TensorProto.FLOAT, tmp_path / "m.onnx"), RunSettings(device="gpu")) as runner:
        assert runner.providers == ("Rtx",)
    assert registered == [("Rtx", "/lib/rtx.so")]
    assert added == [[gpu]]
