"""What a small file asks for is bounded by its size: weights that it computes, and what a result stores."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfuse.core.reasons import Reason
from bnfuse.errors import OutputError
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx.graph import read
from bnfuse.use_cases.optimize import inspect
from tests.calls import optimize
from tests.command import call
from tests.fake_format import names_in
from tests.onnx_graphs import Net, assert_equal, why

_HALF = numpy_helper.from_array(np.array([0.5], np.float32))
_PAIR = [0.5, 0.25]


def _filled(net: Net, *shape: int) -> str:
    return net.op("ConstantOfShape", net.const(np.array(shape, np.int64)), value=_HALF)


def _expanded(net: Net, *shape: int) -> str:
    pair = net.const(np.reshape(_PAIR, (2, *(1 for _ in shape[1:]))))
    return net.op("Expand", pair, net.const(np.array((1, *shape[1:]), np.int64)))


def _tiled(net: Net, *shape: int) -> str:
    pair = net.const(np.reshape(_PAIR, (2, *(1 for _ in shape[1:]))))
    return net.op("Tile", pair, net.const(np.array((1, *shape[1:]), np.int64)))


def _ranged(net: Net, *shape: int) -> str:
    ends = [net.const(np.array(n, np.int64)) for n in (0, int(np.prod(shape)), 1)]
    return net.op("Reshape", net.op("Cast", net.op("Range", *ends), to=1), net.const(np.array(shape)))


def _chained(net: Net, *shape: int) -> str:
    """Each result is small enough; all together they are not."""
    value = _tiled(net, shape[0], shape[1] // 8, *shape[2:])
    for _ in range(20):
        value = net.op("Neg", value)
    return net.op("Tile", value, net.const(np.array([1, 8, 1, 1])))


def _sparse(net: Net, *shape: int) -> str:
    values = helper.make_tensor("v", 1, [1], [0.5])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("i", 7, [1], [0]), list(shape))
    return net.op("Constant", sparse_value=sparse)


MAKERS: list[Callable[..., str]] = [_filled, _expanded, _tiled, _ranged, _chained, _sparse]


def _model(weight: Callable[..., str], *shape: int) -> onnx.ModelProto:
    net = Net(1)
    x = net.bn(net.op("Conv", "x", weight(net, *shape)), shape[0])
    return net.build({"x": (1, shape[1], 4, 4)}, net.op("Tanh", x))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of any size may compute 512 KiB."""
    monkeypatch.setattr(read, "_LEAST_COMPUTED_BYTES", 1 << 19)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("weight", MAKERS)
def test_weights_that_a_small_file_computes(weight: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_model(weight, 2, 3, 4, 4).SerializeToString())
    (decision,) = inspect(path).plan.decisions
    assert not why(decision)
    path.write_bytes(_model(weight, 2, 1 << 17, 4, 4).SerializeToString())  # 16 MiB
    tracemalloc.start()
    (decision,) = inspect(path).plan.decisions
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Reason.WEIGHT_NOT_CONSTANT in why(decision) and peak < 1 << 22
    (decision,) = inspect(path, read=ReadOptions(allow_growth=True)).plan.decisions
    assert not why(decision)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("steps", "folds"), [(8, True), (20, False)])
def test_all_results_together_are_bounded(steps: int, folds: bool, tmp_path: Path) -> None:
    """Each takes 32 KiB."""

    def chained(net: Net, *shape: int) -> str:
        value = _tiled(net, *shape)
        for _ in range(steps):
            value = net.op("Neg", value)
        return value

    path = tmp_path / "model.onnx"
    path.write_bytes(_model(chained, 2, 256, 4, 4).SerializeToString())
    (decision,) = inspect(path).plan.decisions
    assert (not why(decision)) is folds


@pytest.mark.parametrize("shape", [(1 << 40, 1 << 40, 1, 1), (2,) * 70, (-1, 3, 1, 1), (0, 3, 1, 1)])
@pytest.mark.parametrize("weight", [_filled, _sparse])
def test_sizes_that_are_none(weight: Callable[..., str], shape: tuple[int, ...], tmp_path: Path) -> None:
    net = Net(1)
    x = net.bn(net.op("Conv", "x", weight(net, *shape)), 3)
    made = helper.make_graph(
        net.nodes, "g", [onnx.ValueInfoProto(name="x")], [onnx.ValueInfoProto(name=x)], net.initializers
    )
    path = tmp_path / "model.onnx"
    model = helper.make_model(made, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())
    assert call("inspect", path).exit_code in (0, 3)


@pytest.mark.parametrize("ends", [(-(2**63), 2**63 - 1, 1), (2**63 - 1, -(2**63), -1), (0, 10, 0)])
def test_a_range_without_end(ends: tuple[int, int, int], tmp_path: Path) -> None:
    def ranged(net: Net, *shape: int) -> str:
        value = net.op("Range", *[net.const(np.array(n, np.int64)) for n in ends])
        return net.op("Reshape", net.op("Cast", value, to=1), net.const(np.array(shape)))

    path = tmp_path / "model.onnx"
    path.write_bytes(_model(ranged, 2, 3, 4, 4).SerializeToString())
    (decision,) = inspect(path).plan.decisions
    assert why(decision)


def test_a_result_that_is_many_times_the_file_is_not_written_unless_asked_for(tmp_path: Path) -> None:
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    path.write_bytes(_model(_filled, 2, 1 << 14, 4, 4).SerializeToString())  # 2 MiB
    with pytest.raises(OutputError, match=r"would be 2 MB, \d{3,} times the original.*--allow-growth"):
        optimize(path, out, verify=False, bench=False)
    assert names_in(tmp_path) == ["model.onnx"]
    done = call("optimize", path, "-o", out, "--no-verify", "--no-bench", "--allow-growth")
    assert done.exit_code == 0 and out.stat().st_size > 1 << 21
    assert_equal(path, out)
