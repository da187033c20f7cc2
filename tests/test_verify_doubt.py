"""``verify``: doubt is said to be doubt, and one model is in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel
from bnfuse.formats.base import RunSettings
from bnfuse.formats.onnx.runtime.run import load
from bnfuse.results import Status
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.clockwork import Clock
from tests.fake_runner import Fake, confront
from tests.tiny_models import model, net, save
from tests.verify_nets import compare, mlp

EQUAL, DIFFERENT, INCONCLUSIVE = Status.EQUAL, Status.DIFFERENT, Status.INCONCLUSIVE


def _one_op(
    op: str, element: int = TensorProto.FLOAT, out: int | None = None, **attributes: Any
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", element, [2, 4])
    y = helper.make_tensor_value_info("y", out or element, None)
    return model([helper.make_node(op, ["x"], ["y"], **attributes)], [x], [y])


def test_a_reference_that_does_not_load_is_inconclusive(tmp_path: Path) -> None:
    custom = model(
        [helper.make_node("Quant", ["x"], ["y"], domain="my.ops")],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    found = compare(tmp_path, custom, custom)
    assert found.status is INCONCLUSIVE
    assert "Quant" in found.detail


def test_matching_nans_are_no_pass(tmp_path: Path) -> None:
    """log(−|x| − 1) is NaN everywhere, in both models alike."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])
    one = numpy_helper.from_array(np.array(-1.0, np.float32), "c")
    nodes = [
        helper.make_node("Abs", ["x"], ["p"]),
        helper.make_node("Neg", ["p"], ["q"]),
        helper.make_node("Add", ["q", "c"], ["r"]),
        helper.make_node("Log", ["r"], ["y"]),
    ]
    proto = model(nodes, [x], [y], [one])
    found = compare(tmp_path, proto, proto)
    assert found.status is INCONCLUSIVE
    assert "not finite" in found.detail


def test_some_input_sets_without_finite_outputs_are_left_out(tmp_path: Path) -> None:
    """log(x) is NaN for the normal sets, finite for the uniform ones."""
    found = compare(tmp_path, _one_op("Log"), _one_op("Log"))
    assert found.status is EQUAL
    assert math.isfinite(found.outputs[0].max_rel)


def test_a_constant_output_is_told(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1])
    proto = model([helper.make_node("Softmax", ["s"], ["y"])], [x], [y])  # softmax of one value is 1
    proto.graph.node.insert(0, helper.make_node("ReduceSum", ["x", "axes"], ["s"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    found = compare(tmp_path, proto, proto)
    assert found.status is EQUAL
    assert "does not vary" in found.detail


def test_too_big_for_memory_is_inconclusive(tmp_path: Path) -> None:
    proto = net(mlp(), folded=False)
    found = compare(tmp_path, proto, proto, model_bytes=1 << 60)
    assert found.status is INCONCLUSIVE
    assert "memory" in found.detail


def test_missing_files_and_devices_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = save(net(mlp(), folded=False), tmp_path / "a.onnx")
    with pytest.raises(UnreadableModel, match=r"none\.onnx"):
        verify(there, tmp_path / "none.onnx", load=load)

    def no_gpu(path: Path, settings: RunSettings) -> Any:
        assert settings.device == "gpu"
        raise RuntimeMissing("no GPU")

    with pytest.raises(RuntimeMissing):
        verify(there, there, request=VerifyRequest(device="gpu"), load=no_gpu)


def test_one_model_is_in_memory_at_a_time(tmp_path: Path) -> None:
    found, log = confront(tmp_path, lambda x: 2 * x, lambda x: x + x)
    assert found.status is EQUAL
    assert log == ["open a", "close a", "open b", "close b"]


def test_an_unstable_reference_is_inconclusive(tmp_path: Path) -> None:
    """A steep step: rounding of the input alone moves the output by more than the limit."""

    def steep(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(x.astype(np.float64) * 1e6)).astype(np.float32)

    found, _ = confront(tmp_path, steep, lambda x: steep(x * np.float32(1 + 2e-7)))
    assert found.status is INCONCLUSIVE
    assert "unstable" in found.detail


def test_instability_does_not_excuse_a_gross_error(tmp_path: Path) -> None:
    def steep(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(x.astype(np.float64) * 300)).astype(np.float32)

    assert confront(tmp_path, steep, steep)[0].status is EQUAL
    found, _ = confront(tmp_path, steep, lambda x: steep(x) + np.float32(0.5))
    assert found.status is DIFFERENT


def test_integers_compare_exactly_and_say_so(tmp_path: Path) -> None:
    def picks(x: np.ndarray) -> np.ndarray:
        return np.asarray(x.argmax(axis=1))

    found, _ = confront(tmp_path, picks, lambda x: np.where(picks(x) == 3, 0, picks(x)))
    assert found.status is DIFFERENT
    assert "of the values of output 'y' differ" in found.detail
    assert found.tolerance == 0.0


def test_an_integer_that_rounding_flips_is_inconclusive(tmp_path: Path) -> None:
    """On all-zero inputs every arg-max is a tie; only there do the two differ."""

    def first(x: np.ndarray) -> np.ndarray:
        return np.asarray(x.argmax(axis=1))

    def last(x: np.ndarray) -> np.ndarray:
        return np.asarray(x.shape[1] - 1 - x[:, ::-1].argmax(axis=1))

    found, _ = confront(tmp_path, first, last)
    assert found.status is INCONCLUSIVE
    assert "rounding alone changes" in found.detail


def test_strings_and_maps_compare_exactly(tmp_path: Path) -> None:
    def maps(scale: float) -> Callable[[np.ndarray], np.ndarray]:
        def run(x: np.ndarray) -> np.ndarray:
            rows = np.empty(len(x), object)
            for i, row in enumerate(x):
                rows[i] = {7: float(row[0]) * scale, 9: [row * scale]}
            return rows

        return run

    assert confront(tmp_path, maps(1.0), maps(1.0))[0].status is EQUAL
    assert confront(tmp_path, maps(1.0), maps(1.01))[0].status is DIFFERENT


def test_inputs_that_stop_the_model_are_left_out(tmp_path: Path) -> None:
    """Like a decoder that refuses what is out of its range: only the sets that run count."""

    def below_5(x: np.ndarray) -> np.ndarray:
        if x.max() >= 5:
            raise BnfuseError("out of range")
        return x.astype(np.float32)

    found, _ = confront(tmp_path, below_5, below_5)
    assert found.status is EQUAL
    assert 1 <= found.samples < 8


def test_a_candidate_that_stops_where_the_reference_runs_is_different(tmp_path: Path) -> None:
    def stops(x: np.ndarray) -> np.ndarray:
        raise BnfuseError("bad node")

    found, _ = confront(tmp_path, lambda x: x, stops)
    assert found.status is DIFFERENT
    assert "bad node" in found.detail


def test_another_shape_at_run_time_is_different(tmp_path: Path) -> None:
    found, _ = confront(tmp_path, lambda x: x, lambda x: x[None])
    assert found.status is DIFFERENT
    assert "shape" in found.detail


def test_the_budget_bounds_the_samples(clock: Clock, tmp_path: Path) -> None:
    def slow(x: np.ndarray) -> np.ndarray:
        clock.work(50.0)
        return x

    path = tmp_path / "m"
    path.write_bytes(b"")
    found = verify(
        path, path, request=VerifyRequest(verify_time=0.3, samples=100), load=lambda p, s: Fake(slow)
    )
    assert found.status is EQUAL
    assert 1 <= found.samples <= 3
    assert clock.seconds < 0.6
    assert (found.planned, found.cut, found.partial) == (100, "time", True)


@pytest.mark.parametrize("load_s", [0.0, 60.0])
def test_loading_takes_nothing_of_the_time_for_the_proof(clock: Clock, tmp_path: Path, load_s: float) -> None:
    """A runtime that takes a minute to load leaves as many input sets as one that is there at once."""

    def load(path: Path, _: RunSettings) -> Fake:
        clock.work(1000 * load_s)
        return Fake(slow)

    def slow(x: np.ndarray) -> np.ndarray:
        clock.work(100.0)
        return x

    path = tmp_path / "m"
    path.write_bytes(b"")
    found = verify(path, path, request=VerifyRequest(verify_time=10.0), load=load)
    assert (found.status, found.samples, found.planned, found.cut) == (EQUAL, 8, 8, "")
