"""Reading onnxruntime's profile: which node cost what, and that real profiles account for every node."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import CallTimes, Profiling, RunSettings
from bnfuse.formats.onnx.runtime.profile_trace import read_trace
from bnfuse.formats.onnx.runtime.run import load
from tests.tiny_models import layer, model, net, save


def event(cat: str, name: str, start: int, spent: int, **args: str) -> dict[str, Any]:
    return {"cat": cat, "pid": 1, "tid": 1, "dur": spent, "ts": start, "ph": "X", "name": name, "args": args}


def kernel(
    name: str, op: str, start: int, spent: int, provider: str = "CPUExecutionProvider"
) -> dict[str, Any]:
    return event("Node", f"{name}_kernel_time", start, spent, op_name=op, provider=provider)


def written(tmp_path: Path, *events: dict[str, Any]) -> Path:
    path = tmp_path / "trace.json"
    path.write_text("[\n" + ",\n".join(json.dumps(e) for e in events) + "\n]\n")
    return path


def spent(call: CallTimes) -> list[tuple[str, str, int]]:
    return [(node.op, node.provider, node.ns // 1000) for node in call.nodes]


def test_nodes_belong_to_the_call_that_they_ran_in(tmp_path: Path) -> None:
    """Events of one call are written before the call itself, as onnxruntime does."""
    path = written(
        tmp_path,
        event("Session", "session_initialization", 0, 90),
        kernel("a", "Conv", 110, 30),
        kernel("b", "Relu", 145, 5, "CUDAExecutionProvider"),
        event("Session", "SequentialExecutor::Execute", 105, 50),
        event("Session", "model_run", 100, 60),
        kernel("a", "Conv", 210, 20),
        event("Node", "a_fence_before", 205, 1),
        event("Session", "model_run", 200, 40),
    )
    first, second = read_trace(path)
    assert (first.ns, second.ns) == (60_000, 40_000)
    assert spent(first) == [("Conv", "CPUExecutionProvider", 30), ("Relu", "CUDAExecutionProvider", 5)]
    assert spent(second) == [("Conv", "CPUExecutionProvider", 20)]


def test_a_node_is_not_charged_for_the_nodes_inside_it(tmp_path: Path) -> None:
    """Loop 100 µs around If 40 µs (around Conv 30 µs) and Relu 20 µs; then Add on its own."""
    path = written(
        tmp_path,
        kernel("conv", "Conv", 15, 30),
        kernel("if", "If", 10, 40),
        kernel("relu", "Relu", 60, 20),
        kernel("loop", "Loop", 0, 100),
        kernel("add", "Add", 100, 7),
        event("Session", "model_run", 0, 120),
    )
    (call,) = read_trace(path)
    assert {op: us for op, _, us in spent(call)} == {"Loop": 40, "If": 10, "Conv": 30, "Relu": 20, "Add": 7}


BROKEN = {
    "empty": "",
    "no call": json.dumps([event("Session", "session_initialization", 0, 9)], indent=0).replace("\n", ""),
    "not JSON": "[\n{\n",
    "not events": "[\n1,\n]\n",
    "no numbers": '[\n{"cat": "Session", "name": "model_run", "ts": "x", "dur": null}\n]\n',
    "no operator": json.dumps(event("Node", "a_kernel_time", 0, 1)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_profile_is_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(BROKEN[name])
    with pytest.raises(BnfuseError, match="profile") as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)


# --- with onnxruntime --------------------------------------------------------------------------


def profiled(path: Path, feeds: dict[str, np.ndarray], calls: int, *, optimise: bool) -> list[CallTimes]:
    with load(path, RunSettings(optimise=optimise, threads=1, profile=True)) as runner:
        assert isinstance(runner, Profiling)
        return list(runner.profile(feeds, calls))


def test_every_node_of_every_call_is_there(tmp_path: Path) -> None:
    """Unoptimised, what ran is what the file holds."""
    rng = np.random.default_rng(0)
    path = save(net([layer(rng, 4, 3, 3, 3), layer(rng, 6, 4, 3, 3)], folded=False), tmp_path / "m.onnx")
    x = rng.standard_normal((2, 3, 9, 7)).astype(np.float32)
    calls = profiled(path, {"x": x}, 5, optimise=False)
    expected = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert len(calls) == 5
    for call in calls:
        assert Counter(node.op for node in call.nodes) == expected
        assert {node.provider for node in call.nodes} == {"CPUExecutionProvider"}
        assert len({node.name for node in call.nodes}) == len(call.nodes)
        assert sum(node.ns for node in call.nodes) <= call.ns


def test_a_subgraph_of_onnxruntimes_own_making(tmp_path: Path) -> None:
    """A Loop of 4 rounds: its Add is counted 4 times, and its own time is what its nodes leave."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Add", ["v", "one"], ["w"], name="inside"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    proto = model(
        [helper.make_node("Loop", ["count", "true", "x"], ["y"], name="loop", body=body)],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(np.array(4, np.int64), "count"),
            numpy_helper.from_array(np.array(True), "true"),
            numpy_helper.from_array(np.ones(1, np.float32), "one"),
        ],
    )
    path = save(proto, tmp_path / "loop.onnx")
    for call in profiled(path, {"x": np.ones((1, 4), np.float32)}, 3, optimise=False):
        counts = Counter(node.op for node in call.nodes)
        assert (counts["Loop"], counts["Add"]) == (1, 4)
        assert sum(node.ns for node in call.nodes) <= call.ns


def test_the_folder_is_gone_and_the_current_one_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    path = save(net([layer(np.random.default_rng(0), 4, 3, 3, 3)], folded=True), tmp_path / "m.onnx")
    x = np.zeros((1, 3, 9, 7), np.float32)
    assert len(profiled(path, {"x": x}, 2, optimise=True)) == 2
    with load(path, RunSettings(profile=True)) as runner:  # never asked for its profile
        runner.run({"x": x})
        assert len(list(temporary.iterdir())) == 1
    assert list(here.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_a_model_loaded_without_its_profiler_says_so(tmp_path: Path) -> None:
    path = save(net([layer(np.random.default_rng(0), 4, 3, 3, 3)], folded=True), tmp_path / "m.onnx")
    with load(path, RunSettings()) as runner, pytest.raises(BnfuseError, match="without its profiler"):
        runner.profile({"x": np.zeros((1, 3, 9, 7), np.float32)}, 1)
