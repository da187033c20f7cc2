"""Timing with inputs and outputs on the device: the binding itself on the CPU, CUDA with a faked session."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from bnfuse.errors import BnfuseError, UsageError
from bnfuse.formats.base import RunSettings, TensorSpec
from bnfuse.formats.onnx.runtime import session as session_module
from bnfuse.formats.onnx.runtime.io_binding import bind, bindable, time_bound
from bnfuse.formats.onnx.runtime.session import OrtRunner, load_session
from tests.tiny_models import identity, layer, net, save


def test_bound_calls_compute_what_run_computes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = save(net([layer(rng, 4, 3, 3, 3)], folded=False), tmp_path / "m.onnx")
    # a view with strides of its own: what is bound must be laid out anew
    feeds = {"x": rng.standard_normal((2, 9, 7, 3)).astype(np.float32).transpose(0, 3, 1, 2)}
    with load_session(path, RunSettings()) as runner:
        session = runner._session
        place = ort.OrtValue.ortvalue_from_numpy
        bound = bind(session, runner.inputs, runner.outputs, feeds, "cpu", place)
        times = time_bound(session, bound, 3)
        (found,) = bound.binding.copy_outputs_to_cpu()
        assert np.array_equal(found, runner.run(feeds)["y"])
    assert len(times) == 3
    assert min(times) > 0


KINDS = [
    (("float32", "int64"), True),
    (("float16", "bool", "uint8"), True),
    (("string",), False),
    (("float32", "bfloat16"), False),
    (("seq(map(int64,tensor(float)))",), False),
]


@pytest.mark.parametrize(("dtypes", "expected"), KINDS)
def test_what_a_device_can_hold(dtypes: tuple[str, ...], expected: bool) -> None:
    assert bindable([TensorSpec(f"x{at}", dtype, (1,)) for at, dtype in enumerate(dtypes)]) == expected


class Binding:
    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.log.append(("input", name, value))

    def bind_output(self, name: str, device: str) -> None:
        self.log.append(("output", name, device))

    def synchronize_inputs(self) -> None:
        self.log.append("inputs there")

    def synchronize_outputs(self) -> None:
        time.sleep(0.01)
        self.log.append("finished")


class OnCuda:
    """A session whose calls return at once, while the device takes 10 ms."""

    def __init__(self, log: list[Any], error: str = "") -> None:
        self.log, self.error = log, error

    def io_binding(self) -> Binding:
        return Binding(self.log)

    def run_with_iobinding(self, binding: Binding) -> None:
        if self.error:
            raise RuntimeError(self.error)
        self.log.append("called")

    def run(self, *_: Any) -> Any:
        raise AssertionError("copies from and to the CPU")


@pytest.fixture
def on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OrtRunner:
    monkeypatch.setattr(session_module, "on_cuda", lambda array: ("on cuda", array.tolist()))
    runner = load_session(identity(TensorProto.FLOAT, tmp_path / "m.onnx"), RunSettings())
    runner.providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return runner


def test_on_cuda_inputs_are_copied_once_and_the_clock_waits_for_the_device(on_cuda: OrtRunner) -> None:
    log: list[Any] = []
    on_cuda._session = OnCuda(log)
    times = on_cuda.time({"x": np.ones((1, 3), np.float32)}, 2)
    assert log == [
        ("input", "x", ("on cuda", [[1.0, 1.0, 1.0]])),
        ("output", "y", "cuda"),
        "inputs there",
        "called",
        "finished",
        "called",
        "finished",
    ]
    assert min(times) >= 9_000_000


def test_failures_on_cuda_are_told_as_those_of_run(on_cuda: OrtRunner) -> None:
    on_cuda._session = OnCuda([], "CUDA failure 2: out of memory")
    with pytest.raises(BnfuseError, match="stopped while running in onnxruntime: CUDA failure 2"):
        on_cuda.time({"x": np.ones((1, 3), np.float32)}, 1)
    with pytest.raises(UsageError, match="'x'"):
        on_cuda.time({}, 1)


def test_on_the_cpu_nothing_is_bound(tmp_path: Path) -> None:
    with load_session(identity(TensorProto.FLOAT, tmp_path / "m.onnx"), RunSettings()) as runner:
        session, seen = runner._session, []

        class Plain:
            def run(self, names: list[str], feeds: Any) -> Any:
                seen.append(names)
                return session.run(names, feeds)

        runner._session = Plain()
        assert len(runner.time({"x": np.ones((1, 3), np.float32)}, 2)) == 2
    assert seen == [["y"], ["y"]]
