"""Clamps: the rule by itself, against numpy in float64; what it may cost; and what is written for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold, Keep
from bnfuse.core.graph import Node
from bnfuse.core.planning.plan import plan, replay
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam, from_backward, from_forward
from bnfuse.core.rules.affine import Typical
from bnfuse.core.rules.base import Opaque, Pass, Reaction, Sign
from bnfuse.core.rules.clamp import Clamp
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.command import FAST, call
from tests.core_nets import CoreNet
from tests.onnx_graphs import session
from tests.report_schema import assert_fits
from tests.tiny_models import layer, model, net

NODE = Node("r", "Relu", ("x", "other"), ("y",))
INF = np.inf
RELU = Pass(Sign.NONNEGATIVE, Reason.SHIFT_THROUGH_ACTIVATION)
FACTORS = st.lists(st.sampled_from((-2.0, -1.0, 0.0, 0.5, 1.0, 3.0)), min_size=3, max_size=3)
BOUNDS = st.sampled_from(((0.0, INF), (0.0, 6.0), (-1.5, INF), (-INF, 0.5), (-0.5, 0.5), (-INF, INF)))


class Numbers:
    """The state of a clamp that may have absorbed something before."""

    def __init__(self, *now: Any) -> None:
        self.now = now

    def current(self, node: Node) -> Any:
        return self.now

    def earlier(self, node: Node) -> tuple[()]:
        return ()


def clamp(low: float, high: float, **more: Any) -> Clamp:
    unmoved = RELU if (low, high) == (0.0, INF) else Opaque(Reason.NONLINEAR)
    return Clamp(low, high, unmoved, np.dtype(np.float32), **more)


def as_held(held: Reparam, v: np.ndarray, arbitrary: np.ndarray) -> np.ndarray:
    """h of v; where v is read as 0·h + q, whatever stands there."""
    if held.backward is not None:
        return np.asarray(held.backward[0] * v + held.backward[1])
    assert held.forward is not None
    p, q = held.forward
    return np.where(p == 0.0, arbitrary, (v - q) / np.where(p == 0.0, 1.0, p))


@given(BOUNDS, FACTORS, FACTORS, st.booleans(), st.booleans())
def test_bounds_move_along(
    bounds: tuple[float, float], s: list[float], t: list[float], reads: bool, moved: bool
) -> None:
    """y = min(max(x, low), high) by definition, and the same of h = s·x + t with the new bounds."""
    low, high = (np.full(3, b) for b in bounds)
    if moved:  # as an earlier fold left them
        low, high = (bound + np.array([0.0, 1.0, -1.0]) for bound in (low, high))
    made = (from_forward if reads else from_backward)((1,), np.array(s), np.array(t))
    now = (low, high, (1,)) if moved else clamp(*bounds).numbers
    reaction = clamp(*bounds).react(NODE, 0, made, Numbers(*now))
    assert isinstance(reaction, Reaction)
    ((port, passed),) = reaction.demands
    assert port == ~0
    new_low, new_high = (low, high) if reaction.edit is None else reaction.edit.pair
    rng = np.random.default_rng(7)
    x = rng.uniform(-8, 8, (50, 3))
    if made.backward is None:  # x is known there: what it is read as
        x = np.where(np.array(s) == 0.0, np.array(t), x)
    y = np.minimum(np.maximum(x, low), high)
    h = np.minimum(np.maximum(as_held(made, x, rng.uniform(-8, 8, x.shape)), new_low), new_high)
    if passed.backward is not None:
        np.testing.assert_allclose(h, passed.backward[0] * y + passed.backward[1], atol=1e-12)
    else:
        assert passed.forward is not None
        np.testing.assert_allclose(y, passed.forward[0] * h + passed.forward[1], atol=1e-12)


def held(*axes: int, scale: Any = 2.0, shift: Any = 0.0, sizes: tuple[int, ...] = (3, 4, 5)) -> Reparam:
    shape = tuple(sizes[a] for a in axes)
    return from_backward(axes, np.broadcast_to(scale, shape), np.broadcast_to(shift, shape))


@pytest.mark.parametrize(
    ("rule", "port", "asked", "now", "reason"),
    [
        (clamp(0.0, INF), 1, held(1, shift=1.0), None, Reason.UNSUPPORTED_OP),
        (clamp(0.0, INF, spreads=False), 0, held(1, shift=1.0), None, Reason.AXIS),
        (clamp(0.0, INF), 0, held(2, shift=1.0), (np.zeros(4), np.full(4, INF), (1,)), Reason.AXIS),
        (clamp(0.0, INF), 0, held(1, shift=1.0), (np.ones(3), np.full(3, INF), (1,)), Reason.AXIS),
        (clamp(0.0, 1.0), ~0, from_forward((1,), np.zeros(4), np.ones(4)), None, Reason.ZERO_SCALE),
    ],
)
def test_what_it_refuses(rule: Clamp, port: int, asked: Reparam, now: Any, reason: Reason) -> None:
    refusal = rule.react(NODE, port, asked, Numbers(*(now or rule.numbers)))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason


def test_what_needs_no_other_bounds_leaves_them() -> None:
    """So that a plan is replayed as it was made, whichever rule was asked."""
    rule = clamp(0.0, INF)
    for port in (0, ~0):
        reaction = rule.react(NODE, port, held(1), Numbers(*rule.numbers))
        assert isinstance(reaction, Reaction)
        assert reaction.edit is None
    scalar = clamp(0.0, INF, spreads=False).react(NODE, 0, held(shift=1.0), Numbers(*rule.numbers))
    assert isinstance(scalar, Reaction) and scalar.edit is not None
    assert (float(scalar.edit.pair[0]), scalar.edit.axes, scalar.edit.passing) == (1.0, (), True)


@pytest.mark.parametrize(
    ("low", "high", "single", "nodes", "form"),
    [
        (np.zeros(()), np.full((), INF), False, 1, "Max"),
        (np.array([1.0, -INF]), np.full(2, INF), False, 1, "Max"),
        (np.full(2, -INF), np.array([1.0, 2.0]), True, 1, "Min"),
        (np.array([0.0, -INF]), np.array([INF, 1.0]), True, 2, "Max and Min"),
        (np.array(0.5), np.array(2.0), True, 1, "Clip"),
        (np.array(0.5), np.array(2.0), False, 2, "Max and Min"),
        (np.full(2, -INF), np.full(2, INF), False, 1, "Max"),
    ],
)
def test_nodes_and_names(low: Any, high: Any, single: bool, nodes: int, form: str) -> None:
    rule = clamp(0.0, INF, single=single)
    assert (rule.nodes(low, high), " and ".join(rule.operators(low, high))) == (nodes, form)


# ---- in plans -------------------------------------------------------------------------------------


def activated(net: CoreNet, x: str, high: float = INF) -> str:
    return net.add("Relu", clamp(0.0, high), x, name="relu", does=lambda v: np.clip(v, 0.0, high))


def decided(net: CoreNet, y: str, *, moves: bool = True) -> Fold | Keep:
    graph = net.graph(y, moves_bounds=moves)
    planned = plan(graph)
    again = apply(graph, replay(graph, planned.plan))
    patch = apply(graph, planned)
    assert patch.clamps.keys() == again.clamps.keys()
    for node, new in patch.clamps.items():
        np.testing.assert_array_equal(new.low, again.clamps[node].low)
    (decision,) = planned.plan.decisions
    return decision


def test_only_where_it_is_asked_for_and_nothing_simpler_goes() -> None:
    for behind, into in ((True, "simple"), (False, "padded")):
        net = CoreNet()
        x = net.conv("x", name="before")
        y = net.bn(activated(net, x), a=[0.5, 2.0, 1.0], c=[1.0, -1.0, 0.5], name="bn")
        y = net.conv(y, padded=not behind, name=into, taps=2)
        moves, keeps = decided(net, y), decided(net, y, moves=False)
        assert isinstance(moves, Fold)
        if behind:
            assert moves == keeps
            assert (moves.into, moves.becomes) == (("simple",), ())
        else:
            assert isinstance(keeps, Keep)
            assert (moves.into, moves.through) == (("before",), ("relu",))
            assert moves.becomes == (("relu", "Max"),)
            assert moves.message == "folded up into before, through relu (becomes Max)"


def test_one_node_more_is_all_that_a_batchnorm_is_worth() -> None:
    def around(op: str) -> Fold | Keep:
        net = CoreNet()
        x = activated(net, net.conv("x"))
        y = net.bn(x, a=[-0.5, 2.0, 1.0], c=[1.0, -1.0, 0.5], name="bn", op=op)
        return decided(net, net.tanh(y))

    went = around("BatchNormalization")
    assert isinstance(went, Fold) and went.becomes == (("relu", "Max and Min"),)
    stays = around("Mul")
    assert isinstance(stays, Keep)
    assert {refusal.reason for refusal in stays.refusals} >= {Reason.NO_GAIN}


# β and γ by channel: what a clamp behind lets through. All x have a mean of 1/3 and a deviation of 1.
@pytest.mark.parametrize(
    ("beta", "gamma", "goes"),
    [
        ([0.0, 1.0, -1.0], [1.0, 2.0, 1.0], True),
        ([0.0, 1.0, -20.0], [1.0, 2.0, 1.0], True),  # cut off everywhere, by no more than others hold
        ([0.0, 1.0, -2e3], [1.0, 2.0, 1.1], False),
        ([0.0, 1.0, -2e3], [1.0, 2e3, 1.1], True),
        ([-3.0, -3.0, -3.0], [1.0, 1.0, 1.0], False),  # nothing is let through at all
        ([-5.0, 1.0, -2e3], [1.0, 1.0, 0.0], True),  # a constant stays one
        ([1e3, 1.0, 0.0], [1.0, 1.0, 1.0], True),  # large, but that is what the clamp lets through
    ],
)
@pytest.mark.parametrize("above", [INF, 1e4])
def test_a_channel_that_is_cut_off_is_not_made_of_large_numbers(
    beta: list[float], gamma: list[float], goes: bool, above: float
) -> None:
    """Behind the clamp a·h + c is read: in float32 what is lost shows beside what the clamp lets through."""
    net = CoreNet(2)
    a, c = np.array(gamma), np.array(beta) - np.array(gamma) / 3
    y = net.bn("x", a=a, c=c, typical=Typical(np.full(3, 1 / 3), np.ones(3)), name="bn")
    decision = decided(net, net.conv(activated(net, y, above), taps=2))
    assert isinstance(decision, Fold) is goes
    if isinstance(decision, Keep):
        assert any(refusal.reason is Reason.PRECISION for refusal in decision.refusals)
    x = np.random.default_rng(0).normal(1 / 3, 1.0, (500, 3))
    exact = np.clip(a * x + c, 0.0, above)
    scale = np.where(a == 0.0, 1.0, a)
    h = np.clip(x, -c / scale, (above - c) / scale).astype(np.float32)
    weight, bias = (0.7 * a).astype(np.float32), (0.7 * c).astype(np.float32)
    lost = np.where(a == 0.0, 0.0, np.abs(weight * h + bias - 0.7 * exact))
    unit = np.finfo(np.float32).eps * np.sqrt(np.square(exact).mean())
    assert bool(lost.max() < 50 * unit) is goes


@pytest.mark.parametrize("by", [0.5, 2e3])
def test_what_goes_up_may_be_shifted_by_any_number(by: float) -> None:
    """The clamp then puts out what the BN did."""
    net = CoreNet()
    x = activated(net, net.conv("x"))
    y = net.bn(x, a=1.0, c=by, typical=Typical(np.zeros(3), np.ones(3)), name="bn")
    assert isinstance(decided(net, net.conv(y, padded=True, taps=2)), Fold)


def test_bounds_that_their_type_does_not_hold_stay() -> None:
    rule = Clamp(0.0, INF, RELU, np.dtype(np.float16))
    net = CoreNet()
    x = net.add("Relu", rule, net.conv("x"), name="relu", does=lambda v: np.maximum(v, 0.0))
    decision = decided(net, net.conv(net.bn(x, a=1.0, c=7e4, name="bn"), padded=True, taps=2))
    assert isinstance(decision, Keep)
    assert decision.primary.reason is Reason.OVERFLOW


# ---- what is written ------------------------------------------------------------------------------


def half(kind: int, dtype: Any) -> onnx.ModelProto:
    """Conv → Relu → BN → zero-padded Conv, in a narrow or wide type."""
    rng = np.random.default_rng(kind)
    arrays = {
        "w": rng.normal(size=(4, 3, 1, 1)), "gamma": rng.uniform(0.5, 2, 4), "beta": rng.normal(size=4),
        "mean": rng.normal(size=4), "var": rng.uniform(0.5, 2, 4), "v": rng.normal(size=(2, 4, 3, 3)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="l"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("BatchNormalization", ["r", "gamma", "beta", "mean", "var"], ["n"], name="bn"),
        helper.make_node("Conv", ["n", "v"], ["y"], pads=[1, 1, 1, 1]),
    ]
    infos = [helper.make_tensor_value_info(n, kind, [1, c, 5, 6]) for n, c in (("x", 3), ("y", 2))]
    inits = [numpy_helper.from_array(a.astype(dtype), n) for n, a in arrays.items()]
    return model(nodes, infos[:1], infos[1:], inits)


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [(TensorProto.FLOAT16, "float16", 3e-3), (TensorProto.FLOAT, "float32", 1e-6)],
)
def test_bounds_are_of_the_type_of_the_value(kind: int, dtype: str, tolerance: float, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(half(kind, dtype).SerializeToString())
    opened = FORMAT.read(path, ReadOptions(activations="move"))
    opened.write(apply(opened.graph, plan(opened.graph)), tmp_path / "out.onnx")
    graph = onnx.load(tmp_path / "out.onnx").graph
    assert [n.op_type for n in graph.node] == ["Conv", "Max", "Conv"]
    assert [n.name for n in graph.node if n.op_type == "Max"] == ["relu"]
    (bound,) = (t for t in graph.initializer if t.name in graph.node[1].input)
    assert (bound.data_type, list(bound.dims)) == (kind, [4, 1, 1])
    x = np.random.default_rng(1).normal(size=(1, 3, 5, 6)).astype(dtype)
    old, new = (session(tmp_path / name).run(None, {"x": x})[0] for name in ("m.onnx", "out.onnx"))
    assert np.abs(old - new).max() <= tolerance * np.abs(old).max()


# ---- on the command line --------------------------------------------------------------------------


def test_activations_move_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(half(TensorProto.FLOAT, "float32").SerializeToString())
    plain = call("optimize", path, "--no-bench", "--json", "--dry-run")
    (kept,) = json.loads(plain.stdout)["decisions"]
    assert (kept["action"], kept["becomes"]) == ("keep", {})
    moved = call("optimize", path, "--activations", "move", "--no-bench", "--json", *FAST[:2])
    assert moved.exit_code == 0, moved.output
    report = json.loads(moved.stdout)
    assert_fits(report)
    (folded,) = report["decisions"]
    assert (folded["action"], folded["into"], folded["through"]) == ("fold", ["l"], ["relu"])
    assert folded["becomes"] == {"relu": "Max"}
    assert folded["message"].endswith("through relu (becomes Max)")
    assert report["operators"]["after"] == {"Conv": 2, "Max": 1}
    assert report["verification"]["status"] == "equal"
    assert report["verification"]["inside"]["proved"] == 1
    words = call("inspect", path, "--activations", "move", "--explain", "bn").stdout
    assert "1 of 1" in call("inspect", path, "--activations", "move").stdout
    assert "relu" in words


def test_what_is_to_stay_stays_as_it_is(tmp_path: Path) -> None:
    """It, and what it reads and writes: the one in front of it goes up, not into it."""
    rng = np.random.default_rng(2)
    path = tmp_path / "m.onnx"
    path.write_bytes(net([layer(rng, 4, 3, 1, 1), layer(rng, 3, 4, 1, 1)], folded=False).SerializeToString())
    assert json.loads(call("inspect", path, "--json").stdout)["batchnorms"]["folded"] == 2
    first, second = (d["name"] for d in json.loads(call("inspect", path, "--json").stdout)["decisions"])
    for pattern in (second, second[:-1] + "[" + second[-1] + "]"):
        report = json.loads(call("inspect", path, "--json", "--keep", pattern).stdout)
        reasons = {d["name"]: d["reason"] for d in report["decisions"]}
        assert reasons == {first: None, second: "BY_REQUEST"}
    done = call("optimize", path, "--keep", second, "--no-bench", *FAST[:2])
    assert done.exit_code == 0, done.output
    old, new = onnx.load(path).graph, onnx.load(tmp_path / "m.fused.onnx").graph
    kept = [next(n for n in graph.node if n.output[0] == "n1") for graph in (old, new)]
    assert kept[0] == kept[1]
    arrays = [{t.name: t.raw_data for t in graph.initializer} for graph in (old, new)]
    assert all(arrays[0][name] == arrays[1][name] for name in kept[0].input[1:])
    assert call("inspect", path, "--keep", "nobody").exit_code == 2
    assert "did you mean" in call("inspect", path, "--keep", second + "x").stderr
