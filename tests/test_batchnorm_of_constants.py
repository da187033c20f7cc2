"""BatchNormalizations of constants: what they compute is known before the model runs, and they go.

Wherever the result is read: as data, as a weight or parameter of another node, in a body, at the end of the
model. onnxruntime, its own graph optimisation off, computes the same before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.command import optimized
from tests.onnx_graphs import Net, Shape, assert_equal

IMAGE: dict[str, Shape] = {"x": ("N", 4, 6, 5)}
Use = Callable[[Net], str]


def known(net: Net, *shape: int) -> str:
    """A BatchNormalization of a constant of this shape, channels along axis 1."""
    return net.bn(net.const(net.rng.standard_normal(shape)), shape[1], name="known")


def _weight(net: Net) -> str:
    return net.bn(net.op("Conv", "x", known(net, 3, 4, 2, 2)), 3, name="behind")


def _weight_alone(net: Net) -> str:
    return net.op("Tanh", net.op("Conv", "x", known(net, 3, 4, 2, 2)))


def _data_and_weight(net: Net) -> str:
    w = known(net, 4, 4, 1, 1)
    return net.op("Add", net.bn(net.op("Conv", "x", w), 4, name="behind"), net.op("ReduceSum", w, keepdims=1))


def _parameter(net: Net) -> str:
    x, scale = net.conv("x", 4, 4, 1, 1), net.op("Reshape", known(net, 1, 4), net.const(np.array([4])))
    return net.op("BatchNormalization", x, scale, *net.statistics(4)[1:], name="behind")


def _half(net: Net) -> str:
    half = net.op("Cast", known(net, 1, 4, 1, 5), to=TensorProto.FLOAT16)
    return net.op("Mul", "x", net.op("Cast", half, to=TensorProto.FLOAT))


USES: dict[str, Use] = {
    "summand": lambda net: net.op("Tanh", net.op("Add", "x", known(net, 1, 4, 6, 5))),
    "factor": lambda net: net.op("Mul", known(net, 1, 4, 1, 1), "x"),
    "operand of Concat": lambda net: net.op("Tanh", net.op("Concat", "x", known(net, 2, 4, 6, 5), axis=0)),
    "summand before a BN": lambda net: net.bn(net.op("Add", "x", known(net, 1, 4, 6, 5)), 4, name="behind"),
    "weight of Conv before a BN": _weight,
    "weight of Conv": _weight_alone,
    "weight, and data": _data_and_weight,
    "parameter of a BN": _parameter,
    "cast before it is read": _half,
    "a BN of a BN": lambda net: net.op("Mul", "x", net.bn(known(net, 1, 4, 6, 1), 4, name="second")),
    "table": lambda net: net.op(
        "Gather", known(net, 5, 4), net.op("Cast", net.op("ArgMax", "x", axis=1), to=TensorProto.INT64)
    ),
}
# Behind it stands an input or the end of the model: no place for its own scale and shift.
_STAYS = {"summand before a BN"}


# onnxruntime has no Conv of float64.
TYPED = [(use, "float32") for use in USES] + [(use, "float64") for use in ("summand", "factor", "table")]


@pytest.mark.parametrize(("use", "dtype"), TYPED)
def test_it_goes_wherever_it_is_read(use: str, dtype: str, tmp_path: Path) -> None:
    net = Net(len(use), dtype)
    y = USES[use](net)
    done = optimized(net.build(IMAGE, net.op("Identity", y) if use == "factor" else y, opset=15), tmp_path)
    assert done.decisions["known"] is None
    assert done.operators.get("BatchNormalization", 0) == (use in _STAYS)
    assert_equal(done.before, done.after)


def _twice(net: Net) -> str:
    return net.bn(known(net, 4, 4, 1, 1), 4, name="behind")


def _of_an_activation(net: Net) -> str:
    return net.bn(net.op("Relu", net.const(net.rng.standard_normal((4, 4, 1, 1)))), 4, name="behind")


@pytest.mark.parametrize("made", [_twice, _of_an_activation])
@pytest.mark.parametrize("reader", ["Conv", "Add"])
def test_who_reads_what_nobody_works_out_is_not_forgotten(made: Use, reader: str, tmp_path: Path) -> None:
    """In float16 neither a BatchNormalization nor a Relu is worked out: no constant takes the one behind."""
    net = Net(8, "float16")
    y = net.op("Tanh", net.op(reader, "x", made(net)))
    done = optimized(net.build({"x": (4, 4, 3, 3)}, y, opset=15), tmp_path)
    assert done.decisions["behind"] is not None
    assert done.operators["BatchNormalization"] == 1
    assert_equal(done.before, done.after)


@pytest.mark.parametrize("opset", [7, 9, 14, 21])
def test_in_every_operator_set_and_at_the_end_of_a_model(opset: int, tmp_path: Path) -> None:
    net = Net(opset)
    made = net.build(IMAGE, [known(net, 2, 4, 3), net.op("Tanh", "x")], opset=opset)
    done = optimized(made, tmp_path)
    assert done.decisions == {"known": None}
    assert_equal(done.before, done.after)


def test_in_a_body(tmp_path: Path) -> None:
    """Both branches: one has its own, one reads one from outside."""
    net = Net(3)
    outer, largest = known(net, 1, 4, 6, 1), net.op("ReduceMax", "x", keepdims=0)
    condition = net.op("Greater", largest, net.const(0.5))
    own = net.const(net.factors(4).reshape(1, 4, 1, 1))
    norm = helper.make_node("BatchNormalization", [own, *net.statistics(4)], ["own_y"], name="own")
    bodies = []
    for name, factor, nodes in (("then", "own_y", [norm]), ("else", outer, [])):
        product = helper.make_node("Mul", ["x", factor], [f"{name}_y"])
        ends = [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["N", 4, 6, 5])]
        bodies.append(helper.make_graph([*nodes, product], name, [], ends))
    y = net.op("If", condition, then_branch=bodies[0], else_branch=bodies[1])
    done = optimized(net.build(IMAGE, net.op("Tanh", y), opset=15), tmp_path)
    norms = {name: why for name, why in done.decisions.items() if name.endswith(("known", "own"))}
    assert len(norms) == 2
    assert set(norms.values()) == {None}
    assert "BatchNormalization" not in done.operators
    assert_equal(done.before, done.after)


def test_one_in_training_mode_stays(tmp_path: Path) -> None:
    net = Net(5)
    y = net.op(
        "BatchNormalization", net.const(net.rng.standard_normal((6, 4))), *net.statistics(4), name="known",
        out=["y", "mean", "variance"], training_mode=1,
    )  # fmt: skip
    done = optimized(net.build({"x": (6, 4)}, net.op("Add", "x", y), opset=15), tmp_path)
    assert done.decisions == {"known": "TRAINING_MODE"}
    assert done.before.read_bytes() == done.after.read_bytes()


def test_nothing_is_left_of_a_weight_that_has_been_replaced(tmp_path: Path) -> None:
    """Neither the constant it came from, nor the node."""
    net = Net(6)
    done = optimized(net.build(IMAGE, net.op("Tanh", _weight(net)), opset=15), tmp_path)
    after = onnx.load(done.after)
    assert done.operators == {"Conv": 1, "Tanh": 1}
    read = {name for node in after.graph.node for name in node.input}
    assert {tensor.name for tensor in after.graph.initializer} <= read
