"""The onnxruntime runner: dtypes, settings, times, and what it says when something is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from ml_dtypes import bfloat16
from onnx import TensorProto, helper, numpy_helper

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.formats.onnx.runtime import run
from bnfuse.formats.onnx.runtime import session as session_module
from bnfuse.formats.onnx.runtime.session import load_session
from tests.clockwork import Clock
from tests.tiny_models import identity, layer, model, net, save

VALUES: list[tuple[int, str, Any]] = [
    (TensorProto.FLOAT, "float32", np.array([[1.5, -2, 3]], np.float32)),
    (TensorProto.FLOAT16, "float16", np.array([[1.5, -2, 3]], np.float16)),
    (TensorProto.BFLOAT16, "bfloat16", np.array([[1.5, -2, 3], [4, 5, 1e30]], bfloat16)),
    (TensorProto.DOUBLE, "float64", np.array([[1.5, -2, 3]], np.float64)),
    (TensorProto.INT64, "int64", np.array([[1, -2, 3]], np.int64)),
    (TensorProto.UINT8, "uint8", np.array([[1, 2, 255]], np.uint8)),
    (TensorProto.BOOL, "bool", np.array([[True, False, True]])),
    (TensorProto.STRING, "string", np.array([["a", "", "ä"]], object)),
]


@pytest.mark.parametrize(("element", "dtype", "value"), VALUES, ids=[v[1] for v in VALUES])
def test_every_dtype_goes_in_and_comes_out(tmp_path: Path, element: int, dtype: str, value: Any) -> None:
    with run.load(identity(element, tmp_path / "m.onnx"), RunSettings()) as runner:
        assert [(s.name, s.dtype, s.shape) for s in runner.inputs] == [("x", dtype, ("N", 3))]
        got = runner.run({"x": value})["y"]
    assert got.dtype == value.dtype
    assert got.shape == value.shape
    assert got.tolist() == value.tolist()


def test_declared_axes_keep_number_symbol_and_none(tmp_path: Path) -> None:
    path = identity(TensorProto.FLOAT, tmp_path / "m.onnx", [None, "seq", 7])
    with run.load(path, RunSettings()) as runner:
        assert runner.inputs[0].shape == (None, "seq", 7)


@pytest.mark.parametrize("ir_version", [3, 9])
def test_initializers_listed_as_inputs_are_no_inputs(tmp_path: Path, ir_version: int) -> None:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "w")]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    weight = numpy_helper.from_array(np.array([3, 4], np.float32), "w")
    proto = model([helper.make_node("Mul", ["x", "w"], ["y"])], infos, [out], [weight], opset=8)
    proto.ir_version = ir_version
    with run.load(save(proto, tmp_path / "m.onnx"), RunSettings()) as runner:
        assert [spec.name for spec in runner.inputs] == ["x"]
        assert runner.run({"x": np.array([1, 2], np.float32)})["y"].tolist() == [3, 8]


def test_external_data_is_found_beside_the_model(tmp_path: Path) -> None:
    proto = net([layer(np.random.default_rng(0), 5, 3)], folded=False)
    feeds = {"x": np.ones((1, 3), np.float32)}
    with run.load(save(proto, tmp_path / "a.onnx"), RunSettings()) as runner:
        want = runner.run(feeds)["y"]
    split = tmp_path / "b.onnx"
    onnx.save(proto, split, save_as_external_data=True, location="b.data", size_threshold=0)
    with run.load(split, RunSettings()) as runner:
        assert np.array_equal(runner.run(feeds)["y"], want)


@pytest.mark.parametrize("optimise", [False, True])
def test_settings_reach_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimise: bool) -> None:
    seen: dict[str, Any] = {}
    real = ort.InferenceSession

    def spy(path: str, options: Any, **kwargs: Any) -> Any:
        seen.update(path=path, options=options, **kwargs)
        return real(path, options, **kwargs)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    path = identity(TensorProto.FLOAT, tmp_path / "m.onnx")
    with load_session(path, RunSettings(optimise=optimise, threads=2)) as runner:
        assert runner.providers == ("CPUExecutionProvider",)
        assert runner.runtime == f"onnxruntime {ort.__version__}"
    level = ort.GraphOptimizationLevel
    assert seen["options"].graph_optimization_level == (
        level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    )
    assert (seen["options"].intra_op_num_threads, seen["options"].inter_op_num_threads) == (2, 1)
    assert seen["options"].get_session_config_entry("session.force_spinning_stop") == "1"
    assert seen["providers"] == ["CPUExecutionProvider"]
    assert seen["path"] == str(path)


def test_optimisation_off_leaves_the_graph_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it on, onnxruntime folds Conv+BN by itself, and a proof would compare two folded models."""
    path = save(net([layer(np.random.default_rng(0), 5, 3, 3, 3)], folded=False), tmp_path / "m.onnx")
    real = session_module._options

    def dumping(name: str) -> Any:
        def options(module: Any, settings: RunSettings) -> Any:
            made = real(module, settings)
            made.optimized_model_filepath = str(tmp_path / name)
            return made

        return options

    operators = {}
    for optimise in (False, True):
        monkeypatch.setattr(session_module, "_options", dumping(f"{optimise}.onnx"))
        load_session(path, RunSettings(optimise=optimise))
        operators[optimise] = {n.op_type for n in onnx.load(tmp_path / f"{optimise}.onnx").graph.node}
    assert "BatchNormalization" in operators[False]
    assert "BatchNormalization" not in operators[True]


def test_sequence_and_map_outputs_are_object_arrays(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    scores = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    )
    y = helper.make_value_info("y", helper.make_sequence_type_proto(scores))
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[7, 9])
    with run.load(save(model([node], [x], [y], ml=True), tmp_path / "m.onnx"), RunSettings()) as runner:
        assert runner.outputs[0].dtype == "seq(map(int64,tensor(float)))"
        got = runner.run({"x": np.array([[1, 2], [3, 4]], np.float32)})["y"]
    assert got.dtype == object
    assert list(got) == [{7: 1.0, 9: 2.0}, {7: 3.0, 9: 4.0}]


UNREADABLE = [
    ("garbage", b"garbage", "Protobuf parsing failed"),
    ("empty", b"", "No graph was found|does not have a graph"),
    (
        "custom op",
        model(
            [helper.make_node("Quant", ["x"], ["y"], domain="my.ops")],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        ).SerializeToString(),
        "Quant",
    ),
]


@pytest.mark.parametrize(("name", "content", "reason"), UNREADABLE, ids=[u[0] for u in UNREADABLE])
def test_what_cannot_be_loaded(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(UnreadableModel, match=reason) as caught:
        run.load(path, RunSettings())
    assert "broken.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match="does not exist"):
        run.load(tmp_path / "none.onnx", RunSettings())


FEEDS: list[tuple[str, dict[str, Any], type[BnfuseError], str]] = [
    ("missing", {}, UsageError, "'x'"),
    ("dtype", {"x": np.ones((1, 3))}, BnfuseError, "double"),
    ("shape", {"x": np.ones((1, 4), np.float32)}, BnfuseError, "dimensions"),
]


@pytest.mark.parametrize(("name", "feeds", "kind", "reason"), FEEDS, ids=[f[0] for f in FEEDS])
def test_feeds_that_do_not_fit(
    tmp_path: Path, name: str, feeds: dict[str, Any], kind: type[BnfuseError], reason: str
) -> None:
    path = identity(TensorProto.FLOAT, tmp_path / "m.onnx")
    with run.load(path, RunSettings()) as runner, pytest.raises(kind, match=reason):
        runner.run(feeds)


def test_a_failing_run_is_one_sentence_and_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = numpy_helper.from_array(np.ones((3, 2), np.float32), "table")
    x = helper.make_tensor_value_info("x", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    path = save(
        model([helper.make_node("Gather", ["table", "x"], ["y"])], [x], [y], [table]), tmp_path / "m.onnx"
    )
    with (
        run.load(path, RunSettings()) as runner,
        pytest.raises(BnfuseError, match="out of data bounds") as caught,
    ):
        runner.run({"x": np.array([5])})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_closed_runner_holds_no_session(tmp_path: Path) -> None:
    with run.load(identity(TensorProto.FLOAT, tmp_path / "m.onnx"), RunSettings()) as runner:
        pass
    with pytest.raises(BnfuseError, match="closed"):
        runner.run({"x": np.ones((1, 3), np.float32)})


def test_time_is_that_of_the_calls_alone(clock: Clock, tmp_path: Path) -> None:
    """A session that takes 1, 2, 3, 4 × 5 ms is told apart call by call, and is called as ``run`` does."""
    path = identity(TensorProto.FLOAT, tmp_path / "m.onnx")
    x = np.ones((1, 3), np.float32)
    with load_session(path, RunSettings()) as runner:
        assert len(runner.time({"x": x}, 3)) == 3
        session, seen = runner._session, []

        class Slow:
            def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> Any:
                seen.append((names, list(feeds)))
                clock.work(5.0 * len(seen))
                return session.run(names, feeds)

        runner._session = Slow()
        times = runner.time({"x": x}, 4)
    assert seen == [(["y"], ["x"])] * 4
    assert times == [5_000_000 * n for n in (1, 2, 3, 4)]


def test_onnxruntime_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeMissing, match="pip install onnxruntime"):
        load_session(tmp_path / "m.onnx", RunSettings())
