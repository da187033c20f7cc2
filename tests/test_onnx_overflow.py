"""New weights that their type cannot hold: that BatchNormalization stays and says so, the others fold.

Planning looks at float16 weights and at extreme factors; what only the writer finds begins anew
without the fold in question. Both are driven through the command line.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.command import Optimized, optimized
from tests.onnx_graphs import Net, assert_equal

FLOAT32_MAX = float(np.finfo(np.float32).max)


def _statistics(net: Net, a: np.ndarray) -> list[str]:
    """γ, β, μ, σ² of a BN that computes a·x + β; ε is 0."""
    return [net.const(v) for v in (a, 0.5 * np.arange(a.size), np.zeros(a.size), np.ones(a.size))]


def _all_finite(done: Optimized) -> None:
    for tensor in onnx.load(done.after).graph.initializer:
        assert np.isfinite(numpy_helper.to_array(tensor).astype(np.float64)).all(), tensor.name


@pytest.mark.parametrize("width", [5, 96], ids=["small weights", "streamed weights"])
def test_float32_weights_that_only_the_writer_finds_too_large(width: int, tmp_path: Path) -> None:
    """W up to 3e37 on x of 1e-35, times 100: y is some thousand, W' would be 3e39."""
    net = Net(1)
    tiny = net.op("Mul", net.op("Tanh", "x"), net.op("Sigmoid", "scale"))
    w = net.rng.uniform(1e36, 3e37, (width, width)) * net.rng.choice((-1, 1), (width, width))
    x = net.op("Gemm", tiny, net.const(w), net.vector(width))
    a = np.where(np.arange(width) % 2, 100.0, 1.0)
    x = net.op("BatchNormalization", x, *_statistics(net, a), name="too large", epsilon=0.0)
    x = net.op("Tanh", net.op("Gemm", x, net.const(1e-3 * net.rng.standard_normal((width, width)))))
    y = net.bn(net.op("Gemm", x, net.weight(width, 4, fan_in=width)), 4, name="fine")
    made = net.build({"x": ("N", width), "scale": ("N", 1)}, y)
    np.savez(tmp_path / "data.npz", x=net.rng.standard_normal((3, width)).astype("f4"),
             scale=np.full((3, 1), -80.0, "f4"))  # fmt: skip
    done = optimized(made, tmp_path, "--inputs", str(tmp_path / "data.npz"))
    assert done.decisions["fine"] is None
    assert done.decisions["too large"] == "OVERFLOW"
    _all_finite(done)
    assert float(np.abs(w).max()) * 100 > FLOAT32_MAX


def test_float32_both_ways_overflow(tmp_path: Path) -> None:
    """Behind the BN is a Tanh, so its scale has nowhere else to go."""
    net = Net(2)
    tiny = net.op("Mul", net.op("Tanh", "x"), net.op("Sigmoid", "scale"))
    large = net.rng.uniform(1e37, 3e37, (5, 5)) * net.rng.choice((-1, 1), (5, 5))
    x = net.op("Gemm", tiny, net.const(large), net.vector(5))
    x = net.op("BatchNormalization", x, *_statistics(net, np.full(5, -50.0)), name="stays", epsilon=0.0)
    y = net.bn(net.op("Gemm", net.op("Tanh", x), net.weight(5, 4, fan_in=5)), 4, name="folds")
    made = net.build({"x": ("N", 5), "scale": ("N", 1)}, y)
    fed = {"x": net.rng.standard_normal((6, 5)), "scale": np.full((6, 1), -86.0)}
    np.savez(tmp_path / "data.npz", x=fed["x"].astype("f4"), scale=fed["scale"].astype("f4"))
    done = optimized(made, tmp_path, "--inputs", str(tmp_path / "data.npz"))
    assert done.decisions == {"stays": "OVERFLOW", "folds": None}
    (kept,) = [d for d in done.report["decisions"] if d["name"] == "stays"]
    assert "would overflow" in kept["message"]
    _all_finite(done)
    before, after = (
        {t.name: t.raw_data for t in onnx.load(p).graph.initializer} for p in (done.before, done.after)
    )
    assert before["c0"] == after["c0"], "the weight that cannot take it is as it was"


def test_float16_statistics_that_cannot_take_each_other(tmp_path: Path) -> None:
    """a₁ = 3 and a₂ = −300, both with σ = 100: either γ would become 9e4."""
    net = Net(3, "float16")
    first = [np.full(5, 300.0), np.arange(5.0), np.zeros(5), np.full(5, 1e4)]
    second = [np.full(5, -3e4), np.arange(5.0), np.arange(5.0), np.full(5, 1e4)]
    x = net.op("BatchNormalization", "x", *map(net.const, first), name="first", epsilon=0.0)
    x = net.op("BatchNormalization", x, *map(net.const, second), name="second", epsilon=0.0)
    y = net.bn(net.conv("x", 5, 4, 1, 1), 4, name="fine")
    done = optimized(net.build({"x": ("N", 5, 4, 3)}, [x, y]), tmp_path)
    assert done.decisions == {"first": "GRAPH_INPUT", "second": "OVERFLOW", "fine": None}
    messages = {d["name"]: d["message"] for d in done.report["decisions"]}
    assert all("would overflow float16" in messages[name] for name in ("first", "second"))
    _all_finite(done)
    assert_equal(done.before, done.after)


def test_float16_bias_that_overflows_stays(tmp_path: Path) -> None:
    """Weights of the result fit, its bias (−μ·a = 1e5) does not, and the Sigmoid lets nothing through."""
    net = Net(4, "float16")
    x = net.conv("x", 3, 5, 3, 3)
    stats = [np.full(5, 1e3), np.full(5, 6e4), np.full(5, -60.0), np.ones(5)]
    x = net.op("BatchNormalization", x, *map(net.const, stats), name="stays", epsilon=0.0)
    x = net.op("Sigmoid", x)
    y = net.bn(net.conv(x, 5, 4, 1, 1), 4, name="folds")
    done = optimized(net.build({"x": ("N", 3, 8, 7)}, y), tmp_path, proof="skipped")
    assert done.decisions == {"stays": "OVERFLOW", "folds": None}
    _all_finite(done)
