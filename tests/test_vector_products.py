"""MatMul by a vector: what it reads may be held another way, what it writes has no channels left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import optimized
from tests.onnx_graphs import Net, Shape, assert_equal

SHAPES: dict[int, Shape] = {2: (6, 4), 3: (2, 6, 4), 4: (2, 3, 6, 4)}


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("left", [False, True])
def test_what_precedes_it_goes_into_the_vector(left: bool, rank: int, positive: bool, tmp_path: Path) -> None:
    """A scale and a shift along the axis that it sums over: the shift becomes one number behind it."""
    net = Net(rank + 10 * left)
    n = 6 if left else 4
    factors, shifts = net.factors(n, positive=positive), 2 * net.rng.standard_normal(n)
    x = net.op("Sigmoid", "x")
    for op, values in (("Mul", factors), ("Add", shifts)):
        x = net.op(op, x, net.const(values.reshape(-1, 1) if left else values))
    w = net.vector(n, scale=1.0)
    y = net.op("MatMul", w, x) if left else net.op("MatMul", x, w)
    done = optimized(net.build({"x": SHAPES[rank]}, y), tmp_path)
    assert done.operators == {"Sigmoid": 1, "MatMul": 1, "Add": 1}
    assert_equal(done.before, done.after)


def test_what_follows_it_stays(tmp_path: Path) -> None:
    """The vector has no channels that a BatchNormalization behind it could go into."""
    net = Net(3)
    y = net.op("MatMul", "x", net.vector(4, scale=1.0))  # (2, 5, 6, 4) -> (2, 5, 6)
    made = net.build({"x": (2, 5, 6, 4)}, net.op("Tanh", net.bn(y, 5, name="bn")))
    done = optimized(made, tmp_path, proof="skipped")
    assert done.decisions == {"bn": "UNSUPPORTED_OP"}
    assert_equal(done.before, done.after)
