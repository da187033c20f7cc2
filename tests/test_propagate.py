"""How a demand spreads from node to node: in which order joints are settled, and who else is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold, Keep, Split
from bnfuse.core.graph import Graph
from bnfuse.core.planning.offers import whole
from bnfuse.core.planning.plan import plan
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.planning.retrace import retrace
from bnfuse.core.planning.state import State
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import from_backward
from bnfuse.core.rules.affine import candidate
from bnfuse.core.rules.base import Pass
from bnfuse.core.rules.joint import ConcatSplit
from bnfuse.core.rules.operands import Operand
from bnfuse.core.rules.weighted_sum import WeightedSum
from tests.core_nets import LEVEL, CoreNet, computed


def decided(graph: Graph) -> Fold | Keep:
    """The decision on the only candidate; where it goes, what is left computes the same."""
    (decision,) = plan(graph).plan.decisions
    return decision


def refusals(graph: Graph) -> dict[str, Refusal]:
    decision = decided(graph)
    assert isinstance(decision, Keep)
    return {r.split: r for r in decision.refusals}


def assert_goes(net: CoreNet, into: str, **more: Any) -> None:
    """Up, into these; and every value that a Tanh puts out is as it was."""
    graph = net.graph(**more)
    decision = decided(graph)
    assert isinstance(decision, Fold) and decision.split is Split.UP
    assert sorted(decision.into) == sorted(into.split())
    feeds = net.feeds()
    before, after = computed(graph, feeds), computed(graph, feeds, apply(graph, plan(graph)))
    for node in net.nodes:
        if node.op == "Tanh":
            value = node.outputs[0]
            np.testing.assert_allclose(after[value], before[value], rtol=1e-9, atol=1e-9)


# --- in which order joints are settled -------------------------------------------------------------


def _ended(net: CoreNet, v: str, y: str) -> None:
    """y is read by a Conv; what is held otherwise is v."""
    net.tanh(net.conv(y, name="reader"))
    net.tanh(net.bn(v, [2, -3, 0.5], [1, 0, -2], name="bn"))


@pytest.mark.parametrize("first", [True, False])
def test_a_concatenation_waits_for_sums(first: bool) -> None:
    """[v, v + w]: what is joined is known only when the sum is settled."""
    net = CoreNet(1)
    v = net.conv("x", name="writer")
    s = net.sum(v, net.conv("x", name="other"), name="sum")
    parts = (net.identity(v), s)
    _ended(net, v, net.concat(*parts[:: 1 if first else -1], name="joint"))
    assert_goes(net, "writer other reader")


@pytest.mark.parametrize("first", [True, False])
def test_concatenations_are_settled_from_the_inside(first: bool) -> None:
    """[[v, w], v], in whatever order they are met."""
    net = CoreNet(2)
    v = net.conv("x", name="writer")
    near = net.identity(v)
    far = net.identity(net.identity(v))
    parts = (near, far) if first else (far, near)
    inner = net.concat(parts[0], net.conv("x", name="other"), name="inner")
    _ended(net, v, net.concat(inner, parts[1], name="outer"))
    assert_goes(net, "writer reader")


def test_a_concatenation_that_is_known_as_a_whole_does_not_wait() -> None:
    """w = [p, q] along another axis, and w + p: what p is held as follows from w, and the sum takes it."""
    net = CoreNet(3)
    p, q = net.conv("x", name="p"), net.conv("x", name="q")
    net.add("Concat", ConcatSplit(~0, (0, 1), 2, (4, 4)), p, q, name="joint")
    w = net.node("joint").outputs[0]
    rule = WeightedSum((1.0, 1.0), (LEVEL, Operand(0, frozenset({2}))))
    net.conv(net.add("Sum", rule, net.identity(w), p, name="sum"), name="reader")
    net.tanh(net.bn(w, 2.0, 1.0, name="bn"))
    decision = decided(net.graph())
    assert isinstance(decision, Fold) and decision.split is Split.UP
    assert dict(decision.choices)["sum"] == 0 and sorted(decision.into) == ["p", "q", "reader"]


def test_a_value_that_is_asked_for_the_same_twice() -> None:
    """v, read by both branches of a sum: one scale, by two ways."""
    net = CoreNet(4)
    v = net.conv("x", name="writer")
    y = net.sum(net.identity(v), net.identity(v), name="sum")
    net.tanh(net.bn(y, [2, -3, 0.5], 0.0, name="bn"))
    assert_goes(net, "writer")


def test_a_value_that_is_asked_for_two_things() -> None:
    net = CoreNet(5)
    v = net.conv("x", name="writer")
    y = net.concat(net.identity(v), net.identity(v), name="joint")
    net.tanh(net.bn(y, [2, 3, 4, 5, 6, 7], 0.0, name="bn"))
    assert refusals(net.graph())["up"] == Refusal(Reason.CONFLICT, value=v, split="up")


# --- what nobody writes, and what is left out -----------------------------------------------------


@pytest.mark.parametrize("port", [0, 1])
def test_a_value_that_no_node_writes_cannot_be_held_otherwise(port: int) -> None:
    """A constant of the format's own: the refusal names who reads it first."""
    net = CoreNet(6)
    first = net.add("Op", Pass(in_port=port), *("x", "constant")[:: 1 if port else -1], name="first")
    net.tanh(first)
    net.tanh(net.bn("constant", 2.0, 1.0, name="bn"))
    told = refusals(net.graph())["up"]
    assert told == Refusal(Reason.UNREACHABLE, "Op 'first'", "constant", split="up")


@pytest.mark.parametrize("port", [0, 1])
def test_what_a_node_would_ask_of_an_absent_input_is_refused(port: int) -> None:
    net = CoreNet(7)
    y = net.add("Op", Pass(in_port=port), *("x", "")[:: 1 if port else -1], name="op")
    net.tanh(net.bn(y, 2.0, 1.0, name="bn"))
    assert refusals(net.graph())["up"] == Refusal(Reason.UNREACHABLE, "Op 'op'", split="up")


def test_an_absent_input_may_stay_as_it_is() -> None:
    """Side by side with nothing: of that part the concatenation asks nothing."""
    net = CoreNet(7)
    v = net.conv("x", name="writer")
    joined = net.add("Concat", ConcatSplit(~0, (0, 1), 1, (3, 3)), v, "", name="joint", channels=6)
    net.conv(joined, name="reader")
    net.tanh(net.bn(v, [2, -3, 0.5], 1.0, name="bn"))
    decision = decided(net.graph())
    assert isinstance(decision, Fold) and set(decision.into) == {"writer", "reader"}


def test_an_output_that_is_left_out_is_asked_nothing() -> None:
    """Of three parts the second is not there."""
    net = CoreNet(8)
    v = net.conv("x", 9, name="writer")
    net.add(
        "Split",
        ConcatSplit(0, (~0, ~1, ~2), 1, (3, 3, 3)),
        v,
        outputs=("one", "", "three"),
        channels=3,
        name="split",
    )
    net.conv("one", name="reader")
    net.conv("three", name="last")
    net.tanh(net.bn(v, np.arange(9) - 4.5, 1.0, name="bn"))
    decision = decided(net.graph())
    assert isinstance(decision, Fold) and sorted(decision.into) == ["last", "reader", "writer"]
    assert net.node("split").ports() == [(0, v), (~0, "one"), (~2, "three")]
    net.add("Op", Pass(), "", "x", name="op", outputs=("y", "z"))
    assert net.node("op").ports() == [(1, "x"), (~0, "y"), (~1, "z")]


def test_an_affine_whose_output_is_left_out() -> None:
    net = CoreNet(9)
    net.bn(net.tanh("x", name="start"), 2.0, 1.0, name="bn")
    net.node("bn").outputs = ("",)
    told = refusals(net.graph())
    assert told["down"] == Refusal(Reason.UNREACHABLE, "", "", split="down")
    assert told["up"].node == "Tanh 'start'"


# --- layers that are called several times ---------------------------------------------------------


def _twice(net: CoreNet, twin: str) -> dict[str, Any]:
    """A Conv called twice, and behind both calls a BatchNormalization, called twice as well, or one alone."""
    first = net.conv("x", name="conv one")
    net.rules[net.node("conv one")] = rule = net.rules[net.node("conv one")]
    second = net.add("Conv", rule, net.tanh("x"), name="conv two")
    net.tanh(net.bn(first, [2, -3, 0.5], [1, 0, -2], name="bn one"))
    a, b = net.node("conv one"), net.node("conv two")
    tied = dict.fromkeys((a, b), (a, b))
    if twin == "bn":
        net.tanh(net.add("BatchNormalization", net.rules[net.node("bn one")], second, name="bn two"))
        p, q = net.node("bn one"), net.node("bn two")
        net.candidates.remove(q)
        tied |= dict.fromkeys((p, q), (p, q))
    elif twin == "identity":
        net.conv(net.identity(second), name="reader")
    elif twin == "output":
        net.pinned[second] = Reason.GRAPH_OUTPUT
    else:
        net.tanh(second, name="tanh")
    return {"tied": tied}


def test_all_calls_of_a_layer_go_together() -> None:
    net = CoreNet(10)
    more = _twice(net, "bn")
    graph = net.graph(**more)
    made = plan(graph)
    assert isinstance(made.plan.decisions[0], Fold)
    patch = apply(graph, made)
    assert patch.removed == {net.node("bn one"), net.node("bn two")}
    assert {n.name for n in patch.linears} == {"conv one", "conv two"}


def test_who_reads_another_call_takes_it_on_too() -> None:
    """The twin's output is held as the first one's; a Conv behind it undoes that."""
    net = CoreNet(11)
    graph = net.graph(**_twice(net, "identity"))
    decision = decided(graph)
    assert isinstance(decision, Fold) and sorted(decision.into) == ["conv one", "conv two", "reader"]


@pytest.mark.parametrize(
    ("twin", "wanted"),
    [
        ("tanh", Refusal(Reason.NONLINEAR, "Tanh 'tanh'", "conv two_out", split="up")),
        ("output", Refusal(Reason.GRAPH_OUTPUT, value="conv two_out", split="up")),
    ],
)
def test_another_call_can_refuse(twin: str, wanted: Refusal) -> None:
    net = CoreNet(12)
    assert refusals(net.graph(**_twice(net, twin)))["up"] == wanted


@pytest.mark.parametrize("named", ["conv one", "conv two", "another", ""])
@pytest.mark.parametrize("asked", ["conv one", "conv two"])
def test_calls_of_a_layer_go_without_a_bias_together(named: str, asked: str) -> None:
    """Whichever of them the choice names, a shift that comes in goes on to the output of who is asked."""
    net = CoreNet(13)
    net.channels["y"] = 3
    first = net.conv("y", bias=False, name="conv one")
    rule = net.rules[net.node("conv one")]
    second = net.add("Conv", rule, "z", name="conv two")
    calls = net.node("conv one"), net.node("conv two")
    shift = from_backward((1,), np.ones(3), np.array([1.0, 2.0, 3.0]))
    run = Worklist(State(net.graph(tied=dict.fromkeys(calls, calls))), None, {named: 1}, None)
    run.deep = False
    for _ in range(2):
        assert run._react(net.node(asked), 0, rule, shift) is None
        assert (run.held.keys() & {first, second} == {f"{asked}_out"}) is named.startswith("conv")
        assert {"y", "z"} - {net.node(asked).inputs[0]} <= run.held.keys()


def test_choices_that_do_not_fit_are_refused_when_they_are_replayed() -> None:
    net = CoreNet(17)
    y = net.sum(net.relu(net.conv("x"), name="closed"), net.conv("x", name="opened"), name="sum")
    net.tanh(net.bn(y, 2.0, 1.0, name="bn"))
    state, bn = State(net.graph()), net.node("bn")
    refused = retrace(state, whole(state, candidate(state.graph, bn)), Split.UP, {"sum": 0})
    assert isinstance(refused, Refusal) and refused.node == "Relu 'closed'"
    found = retrace(state, whole(state, candidate(state.graph, bn)), Split.UP, {"sum": 1})
    assert not isinstance(found, Refusal)
    assert (found.split, found.choices, sorted(found.into)) == (
        Split.UP,
        (("sum", 1),),
        sorted(["opened", *(n.name for n in net.nodes if n.op == "Conv" and n.name != "opened")]),
    )
    assert set(found.through) == {"sum", "closed"}
    assert set(found.held) == {y, "closed_out", "opened_out", net.node("closed").inputs[0]}
