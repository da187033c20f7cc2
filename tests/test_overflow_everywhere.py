"""Where a new weight would not fit its type, every command plans the same: the BatchNormalization stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfuse.core.decisions import Keep
from bnfuse.core.weights.linear import LinearForm
from bnfuse.core.weights.scaled import ScaledTensor
from bnfuse.core.weights.tensor import ArrayTensor
from bnfuse.use_cases.optimize import inspect
from tests.calls import optimize
from tests.command import call
from tests.onnx_graphs import Net, assert_equal


def _small_bias(net: Net) -> onnx.ModelProto:
    """(3e38 − μ)·10 does not fit float32."""
    x = net.op("Conv", "x", net.weight(3, 3, 1, 1, fan_in=3), net.const(np.array([1.0, 3e38, 1.0])))
    return _behind(net, x)


def _small_weight(net: Net) -> onnx.ModelProto:
    weight = np.ones((3, 3, 1, 1))
    weight[1, 1] = 3e38
    return _behind(net, net.op("Conv", "x", net.const(weight)))


def _large_weight(net: Net) -> onnx.ModelProto:
    """One that is streamed: nothing else than its writing looks at it."""
    weight = np.ones((3, 3, 40, 40))
    weight[1, 1, 7, 9] = 3e38
    return _behind(net, net.op("Conv", "x", net.const(weight), pads=[20, 20, 19, 19]))


def _not_a_number(net: Net) -> onnx.ModelProto:
    weight = np.ones((3, 3, 40, 40))
    weight[1, 1, 7, 9] = np.nan
    return _behind(net, net.op("Conv", "x", net.const(weight), pads=[20, 20, 19, 19]))


def _behind(net: Net, x: str) -> onnx.ModelProto:
    ones, zeros = np.ones(3), np.zeros(3)
    given = [net.const(v) for v in (10 * ones, zeros, zeros, ones)]
    y = net.op("BatchNormalization", x, *given, name="bn", epsilon=1e-3)
    second = net.bn(net.conv(net.op("Tanh", y), 3, 2, 1, 1), 2)
    return net.build({"x": (1, 3, 4, 4)}, net.op("Tanh", second))


CASES: list[Callable[[Net], onnx.ModelProto]] = [_small_bias, _small_weight, _large_weight, _not_a_number]


@pytest.mark.parametrize("build", CASES)
def test_inspect_check_and_dry_run_plan_what_optimize_writes(
    build: Callable[[Net], onnx.ModelProto], tmp_path: Path
) -> None:
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    path.write_bytes(build(Net(1)).SerializeToString())
    looked, written = inspect(path), optimize(path, out, verify=False, bench=False)
    assert looked.plan == written.plan and looked.operators_after == written.operators_after
    kept = [d for d in written.plan.decisions if isinstance(d, Keep)]
    assert [d.node for d in kept] == ["bn"] and len(written.plan.decisions) == 2
    for command in (["--check"], ["--dry-run"]):
        assert call("optimize", path, *command).exit_code == (1 if command == ["--check"] else 0)
    if build is not _not_a_number:
        assert_equal(path, out)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_fits_says_whether_the_blocks_come_to_their_end(dtype: str) -> None:
    most = float(np.finfo(dtype).max)
    shape = (3, 70_000)
    for value, factor, shift, expected in (
        (most / 2, 1.9, 0.0, True),
        (-most / 2, 2.1, 0.0, False),
        (most / 2, 1.9, most / 4, False),
        (most / 2, 1.9, -most / 4, True),  # too large by the bound, and not by the numbers
        (np.nan, 0.5, 0.0, False),
        (np.inf, 0.0, 0.0, False),
    ):
        array = np.ones(shape, dtype)
        array[2, 69_999] = value
        factors, shifts = np.full((3, 1), factor), np.full((3, 1), shift)
        tensor = ScaledTensor(ArrayTensor(array), LinearForm(shape, "ok"), (factors,), ("bn",), shifts)
        assert tensor.fits() is expected, (value, factor, shift)
