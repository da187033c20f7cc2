"""What ``benchmarks/peers_count.py`` counts, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from benchmarks.peers_count import left_over
from tests.onnx_graphs import Net, body


def _net(*ops: str) -> Net:
    """x(1,3,4,4) through these ops in a row; vectors are per channel, and come first in ``late``."""
    net = Net()
    value = "x"
    for op in ops:
        match op:
            case "bn":
                value = net.bn(value, 3)
            case "mul" | "add" | "div" | "sub":
                value = net.op(op.capitalize(), value, net.const(np.arange(1.0, 4).reshape(1, 3, 1, 1)))
            case "late":
                value = net.op("Mul", net.const(np.arange(1.0, 4).reshape(3, 1, 1)), value)
            case "scalar":
                value = net.op("Mul", value, net.const(np.array(2.0)))
            case "whole":
                value = net.op("Add", value, net.const(np.ones((1, 3, 4, 4))))
            case "square":
                value = net.op("Mul", value, value)
            case "conv":
                value = net.conv(value, 3, 3, 1, 1)
    return net


CASES = [
    (("conv", "bn"), (1, 0, 2)),
    (("conv", "add"), (0, 0, 2)),  # a bias
    (("conv", "sub", "add"), (0, 1, 3)),  # the first is a bias, the second is not
    (("conv", "mul"), (0, 1, 2)),
    (("mul", "add"), (0, 2, 2)),
    (("late", "div"), (0, 2, 2)),
    (("scalar", "whole", "square"), (0, 0, 3)),
]


@pytest.mark.parametrize(("ops", "expected"), CASES)
def test_counts(ops: tuple[str, ...], expected: tuple[int, int, int]) -> None:
    net = _net(*ops)
    model = net.build({"x": (1, 3, 4, 4)}, net.nodes[-1].output[0])
    assert tuple(left_over(model).values()) == expected


def test_subgraphs_count_and_constants_do_not() -> None:
    net, inner = Net(), Net(1)
    value = np.arange(1.0, 4, dtype=np.float32).reshape(1, 3, 1, 1)
    constant = net.op(
        "Constant", value=helper.make_tensor("c", TensorProto.FLOAT, value.shape, value.ravel())
    )
    start = net.op("Mul", "x", constant)
    then = body(inner, inner.bn(start, 3), "then")
    other = Net(2)
    otherwise = body(other, other.op("Relu", start), "else")
    out = net.op("If", "cond", then_branch=then, else_branch=otherwise)
    model = net.build({"x": (1, 3, 4, 4), "cond": ()}, out)
    assert left_over(model) == {"batchnorms": 1, "affines": 1, "nodes": 4}
