"""What onnxruntime loads and runs by luck it still loads and runs, to the same numbers, when it was folded.

Files of damage that a runtime overlooks: found by ``benchmarks.fuzz_onnx``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from bnfuse.errors import UnreadableModel
from tests.calls import optimize
from tests.onnx_bodies import Inside, branches, calling, function, loop, value
from tests.onnx_graphs import Net, assert_equal, session
from tests.test_onnx_functions import with_epsilon
from tests.test_onnx_scopes import ROWS as SCOPES
from tests.traps.table import plain

CAPTURED = next(row for row in SCOPES if row.name.startswith("Loop: Conv → BN, all weights captured"))


def _of_ir(version: int) -> onnx.ModelProto:
    """Weights that a body captures, and nothing around it reads once that is folded."""
    made = CAPTURED.build(Net(3))
    made.ir_version = version
    return made


def _typed_elsewhere() -> onnx.ModelProto:
    """An input without a type, which lies among the shapes of values."""
    made = plain()
    made.graph.value_info.append(made.graph.input[0])
    made.graph.input[0].ClearField("type")
    return made


def _old_if() -> onnx.ModelProto:
    """Both branches get new weights out of one that they capture; a branch has no inputs to list them."""
    net, then, other = Net(3), Inside(5), Inside(6)
    weight = net.weight(4, 4, 1, 1, fan_in=4)
    x = net.op("Conv", "x", weight)
    rng = np.random.default_rng(4)
    numbers = [net.const(rng.uniform(0.5, 1.5, 4).astype(np.float32)) for _ in range(4)]
    ends = [
        (branch, branch.op("BatchNormalization", branch.op("Conv", x, weight), *numbers))
        for branch in (then, other)
    ]
    made = calling(net, branches(net, net.const(np.array(True)), *ends), [])
    made.ir_version = 3
    made.graph.input.extend(value(t.name, t.data_type, t.dims) for t in made.graph.initializer)
    return made


LOADING: dict[str, Callable[[], onnx.ModelProto]] = {
    **{f"captured constants of IR {k}": lambda k=k: _of_ir(k) for k in (1, 2, 3)},  # type: ignore[misc]
    "branches of IR 3": _old_if,
    "an input with its type elsewhere": _typed_elsewhere,
}


@pytest.mark.parametrize("what", LOADING)
def test_it_folds_and_loads(what: str, tmp_path: Path) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(LOADING[what](), before)
    session(before)
    assert optimize(before, after, verify=False, bench=False).plan.rewrites
    assert_equal(before, after)


def _weight_norm(peak: float) -> onnx.ModelProto:
    """g · v / |v| by a function, with one number of v so large, or all so small, that its square is lost."""
    inner = Inside(1)
    length = inner.op("ReduceL2", "v", axes=[1, 2, 3])
    inner.op("Mul", inner.op("Div", "v", length), "g", out="out")
    net = Net(2)
    v = np.ones((4, 4, 1, 1), np.float32) * min(peak, 1.0)
    v[3, 1] = peak
    weight = net.op("Norm", net.const(v), net.weight(4, 1, 1, 1, fan_in=1), domain="local")
    x = net.bn(net.op("Conv", "x", weight), 4, name="bn")
    return calling(net, net.op("Tanh", x), [function(inner.nodes, ["v", "g"], "Norm")])


@pytest.mark.parametrize(("peak", "folds"), [(1e18, True), (1e26, False), (1e-16, True), (1e-26, False)])
def test_numbers_that_overflow_on_the_way_are_left_to_the_runtime(
    peak: float, folds: bool, tmp_path: Path
) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(_weight_norm(peak), before)
    assert bool(optimize(before, after, verify=False, bench=False).plan.rewrites) == folds
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4, 6, 5)).astype(np.float32)}
    want, got = (session(path).run(None, feeds)[0] for path in (before, after))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def _twice(made: onnx.ModelProto) -> None:
    """Around a call it is refused, in the function it is not: written out, it would not load."""
    (bn,) = (node for node in made.functions[0].node if node.op_type == "BatchNormalization")
    bn.attribute.add().CopyFrom(helper.make_attribute("momentum", 0.5))
    bn.attribute.add().CopyFrom(helper.make_attribute("momentum", 0.5))


def test_an_attribute_twice_in_a_function_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    made = with_epsilon(Net(1), 0.1, default=None)
    _twice(made)
    onnx.save(made, path)
    with pytest.raises(
        UnreadableModel, match="a node of BatchNormalization with an attribute that is there twice"
    ):
        optimize(path, verify=False, bench=False)


def _shadowed(inside: float, *, folds: bool) -> onnx.ModelProto:
    """A weight "w" of a Loop's body, for the branch of an If that is not taken, and one of the other branch.

    ``folds``: whether a BatchNormalization stands in the branch that is taken, or in the other one.
    """
    net, body, other, taken = Net(3), Inside(4), Inside(5), Inside(6)
    eye = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    body.const(eye, "w")
    taken.const(inside * eye, "w")
    ends = []
    for branch, bn in ((taken, folds), (other, not folds)):
        y = branch.op("Conv", "h", "w")
        ends.append((branch, branch.bn(y, 4) if bn else branch.op("Tanh", y)))
    out = loop(net, "x", body, "h", branches(body, "go_on", *ends))
    return calling(net, out[0], [])


@pytest.mark.parametrize("folds", [False, True])
def test_a_tensor_of_a_body_under_the_name_of_one_around_it(folds: bool, tmp_path: Path) -> None:
    """onnxruntime takes the outer one for both: what is folded goes into others, under new names."""
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(_shadowed(1.0, folds=folds), before)
    assert optimize(before, after, verify=False, bench=False).plan.rewrites
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4, 6, 5)).astype(np.float32)}
    want, got = (session(path).run(None, feeds)[0] for path in (before, after))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_different_tensor_of_a_body_under_the_name_of_one_around_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(_shadowed(2.0, folds=True), path)
    with pytest.raises(UnreadableModel, match="'w' is the name of two different initializers, one inside"):
        optimize(path, verify=False, bench=False)
