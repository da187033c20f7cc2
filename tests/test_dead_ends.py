"""Ways that ended in a refusal, remembered at a hub: which are, and when they are asked again.

What is remembered must only ever refuse what a visit to everybody would refuse, too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bnfuse.core.axes import Permute, Take
from bnfuse.core.graph import Node
from bnfuse.core.planning.dead_ends import DeadEnds, Hop
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.planning.state import State
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam, from_backward
from bnfuse.core.rules.affine import Affine, candidate
from bnfuse.core.rules.base import Opaque, Pass, Rule, Sign
from bnfuse.core.rules.joint import ConcatSplit
from tests.core_nets import CoreNet
from tests.test_shared_values import attempt

SHIFTED = from_backward((1,), np.array([2.0, 3.0, 0.5]), np.array([1.0, 0.0, -1.0]))
TURNED = from_backward((1,), np.array([2.0, -3.0, 0.5]), np.zeros(3))

Way = Callable[[CoreNet, str], str]


def _gone(net: CoreNet, x: str) -> str:
    return net.bn(x, name="gone")


def _other_axis(net: CoreNet, x: str) -> str:
    net.add("Concat", ConcatSplit(~0, (0, 1), 2, (4, 4)), x, net.conv("x"))
    return net.nodes[-1].outputs[0]


def _channels(net: CoreNet, x: str) -> str:
    return net.concat(x, net.conv("x"))


def _transposed(net: CoreNet, x: str) -> str:
    there = net.add("Transpose", Pass(axes=Permute((0, 2, 1))), x)
    return net.add("Transpose", Pass(axes=Permute((0, 2, 1))), there)


def _factor(net: CoreNet, x: str) -> str:
    return net.bn(x, 2.0, 0.0, op="Scale", has_shift=False)


# what lies between a hub and the node that refuses → whether the way is remembered, and met first
BETWEEN: dict[str, tuple[Way, bool]] = {
    "nothing": (lambda net, x: x, True),
    "one that passes": (lambda net, x: net.identity(x), True),
    "two that pass": (lambda net, x: net.identity(net.identity(x)), True),
    "there and back": (_transposed, True),
    "one that is gone": (_gone, True),
    "side by side along another axis": (_other_axis, True),
    "side by side along the channels": (_channels, False),
    "a factor, which takes the scale": (_factor, False),
}


@pytest.mark.parametrize(("between", "remembered"), BETWEEN.values(), ids=BETWEEN)
def test_the_way_to_a_refusal_is_taken_first(between: Way, remembered: bool) -> None:
    """The second attempt, with other numbers, meets one node and not thirty."""
    net = CoreNet(5)
    value = net.conv("x", name="writer")
    for _ in range(30):
        net.conv(value)
    net.relu(between(net, value), name="refuses")
    net.bn(value, 2.0, [1, 2, 3], name="bn")
    graph = net.graph()
    state = State(graph)
    if "gone" in [n.name for n in net.nodes]:
        state.removed.add(net.node("gone"))
        state.rules[net.node("gone")] = Pass()
    run, refusal = attempt(net, graph, state)
    assert refusal == Refusal(
        Reason.SHIFT_THROUGH_ACTIVATION, "Relu 'refuses'", net.node("refuses").inputs[0]
    )
    assert len(run.touched) > 30
    state.numbers[net.node("bn")] = (np.array([3.0, -1.0, 2.0]), np.array([0.0, 5.0, 0.0]), (1,))
    again, refused = attempt(net, graph, state)
    assert refused is not None and refused.node == "Relu 'refuses'"
    assert (len(again.touched) < 3) is remembered
    state.numbers[net.node("bn")] = (np.array([3.0, 1.0, 2.0]), np.zeros(3), (1,))
    another, refused = attempt(net, graph, state)  # what the Relu passes on goes on as ever
    assert refused is None and len(another.touched) > 30


def test_a_way_past_a_choice_is_not_remembered() -> None:
    """Another choice might not have been refused."""
    net = CoreNet(5)
    value = net.conv("x", name="writer")
    for _ in range(30):
        net.conv(value)
    net.sum(value, net.relu(net.conv("x"), name="refuses"))
    net.bn(value, 2.0, [1, 2, 3], name="bn")
    graph = net.graph()
    state = State(graph)
    for _ in range(2):
        run, refusal = attempt(net, graph, state)
        assert refusal is not None and refusal.node == "Relu 'refuses'"
        assert len(run.touched) > 30


def test_a_way_out_of_the_model_is_remembered() -> None:
    """The refusal is who knows the value: a hop ends in an output of the model."""
    net = CoreNet(6)
    value = net.conv("x", name="writer")
    for _ in range(30):
        net.conv(value)
    out = net.identity(net.identity(value, name="passes"), name="last")
    net.bn(value, 2.0, 1.0, name="bn")
    graph = net.graph(out)
    state = State(graph)
    for touched in (range(30, 40), range(3)):
        run, refusal = attempt(net, graph, state)
        assert refusal == Refusal(Reason.GRAPH_OUTPUT, value=out)
        assert len(run.touched) in touched


def _hub(ends: int, rules: Callable[[int], Rule] | None = None) -> tuple[CoreNet, Worklist, DeadEnds]:
    """A value with some readers, and a run that came to it."""
    net = CoreNet(7)
    value = net.conv("x", name="hub")
    net.bn(value, name="bn")
    for k in range(ends):
        if rules is None:
            net.relu(value, name=f"end{k}")
        else:
            net.add("Abs", rules(k), value, name=f"end{k}")
    graph = net.graph()
    run = Worklist(State(graph), candidate(graph, net.node("bn")), {}, None)
    run.deep = False
    run.hubs = frozenset({value})
    run.came = {}
    return net, run, DeadEnds()


def _no(net: CoreNet, k: int, reason: Reason = Reason.SHIFT_THROUGH_ACTIVATION) -> Refusal:
    return Refusal(reason, net.node(f"end{k}").label)


def _remember(ways: DeadEnds, net: CoreNet, run: Worklist, *ends: int) -> None:
    for k in ends:
        ways.remember(run, "hub_out", net.node(f"end{k}"), 0, _no(net, k))


def _refusing(ways: DeadEnds, run: Worklist, held: Reparam = SHIFTED) -> str:
    refusal = ways.refusal(run, "hub_out", held)
    return refusal.node if refusal else ""


def test_the_last_that_refused_is_asked_first() -> None:
    net, run, ways = _hub(3)
    assert _refusing(ways, run) == ""
    _remember(ways, net, run, 0, 1, 2)
    assert _refusing(ways, run) == "Relu 'end2'"
    _remember(ways, net, run, 1)
    assert _refusing(ways, run) == "Relu 'end1'"


def _signs_but_first(k: int) -> Rule:
    """The first refuses a shift, the others signs alone."""
    return Pass() if k else Pass(shift=Reason.SHIFT_THROUGH_ACTIVATION)


def test_four_ways_are_remembered_and_those_that_refuse_stay() -> None:
    net, run, ways = _hub(7, lambda k: Pass(Sign.NONNEGATIVE) if k else _signs_but_first(0))
    _remember(ways, net, run, 0, 1, 2, 3)
    assert _refusing(ways, run) == "Abs 'end0'"  # and is the first of four from now on
    _remember(ways, net, run, 4, 5, 6, 6, 6)  # one way, however often
    assert _refusing(ways, run, TURNED) == "Abs 'end6'"
    assert _refusing(ways, run) == "Abs 'end0'"
    _remember(ways, net, run, 1, 2, 3, 4)
    assert _refusing(ways, run) == ""
    assert _refusing(ways, run, TURNED) == "Abs 'end4'"


@pytest.mark.parametrize("reason", [Reason.CONFLICT, Reason.TOO_FAR])
def test_what_depends_on_the_rest_of_an_attempt_is_not_remembered(reason: Reason) -> None:
    net, run, ways = _hub(1)
    ways.remember(run, "hub_out", net.node("end0"), 0, _no(net, 0, reason))
    assert _refusing(ways, run) == ""


def test_a_way_that_is_not_known_is_not_remembered() -> None:
    net, run, ways = _hub(2)
    ways.remember(run, "elsewhere", net.node("end0"), 0, _no(net, 0))
    assert ways.refusal(run, "elsewhere", SHIFTED) is None
    run.came["elsewhere"] = Hop(net.node("end1"), 0, ~0)
    ways.remember(run, "elsewhere", net.node("end0"), 0, _no(net, 0))
    net.rules[net.node("end1")] = Pass()
    assert _refusing(ways, run) != ""


def _behind(net: CoreNet, run: Worklist, ways: DeadEnds, hop: Rule, end: Rule) -> Node:
    """A way over one node, which ended where another refused."""
    value = net.add("Hop", hop, "hub_out", name="hop")
    last = net.add("End", end, value, name="end")
    run.came[value] = Hop(net.node("hop"), 0, ~0)
    ways.remember(run, value, net.node("end"), 0, Refusal(Reason.NONLINEAR, "End 'end'"))
    assert last
    return net.node("hop")


NOTHING = Opaque(Reason.NONLINEAR)
FACTOR = Affine((np.full(3, 2.0), np.zeros(3)), (1,), has_shift=False)
# what the first node of a way does → whether the end of the way is known to refuse
HOPS: dict[str, tuple[Rule, bool]] = {
    "passes": (Pass(), True),
    "refuses a shift": (Pass(shift=Reason.ZERO_PADDING), False),
    "takes a part": (FACTOR, False),
    "picks what is held otherwise": (Pass(axes=Take(1, (2, 0), 3)), True),
    "picks what is held as it was": (Pass(axes=Take(1, (1,), 3)), False),
}


@pytest.mark.parametrize(("hop", "known"), HOPS.values(), ids=HOPS)
def test_a_way_is_followed_as_far_as_it_is_the_only_one(hop: Rule, known: bool) -> None:
    """The end refuses anything; the second of three channels is held as it was."""
    net, run, ways = _hub(0)
    held = from_backward((1,), np.array([2.0, 1.0, 0.5]), np.array([1.0, 0.0, -1.0]))
    node = _behind(net, run, ways, hop, NOTHING)
    assert (_refusing(ways, run, held) == "End 'end'") is known
    if known:
        run.asked.add((node, 0))  # by another way: whoever did so went on from there
        assert _refusing(ways, run, held) == ""


def test_an_end_that_was_asked_before_or_is_gone_is_not_asked_again() -> None:
    net, run, ways = _hub(1)
    end = net.node("end0")
    _remember(ways, net, run, 0)
    assert _refusing(ways, run) == "Relu 'end0'"
    run.asked.add((end, 0))
    assert _refusing(ways, run) == ""
    run.asked.clear()
    run.removed_calls[end] = None
    assert _refusing(ways, run) == ""


def test_an_end_that_waits_refuses_and_one_that_took_something_on_does_not() -> None:
    """An affine which another fold of this attempt changed is not what it was."""
    net, run, ways = _hub(0)
    rule = Affine((np.ones(3), np.ones(3)), (1,), has_scale=False, reads=False)
    node = _behind(net, run, ways, Pass(), rule)
    end = net.node("end")
    assert _refusing(ways, run) == "End 'end'"
    run.overlay[end] = (np.ones(3), np.zeros(3), (1,))
    assert _refusing(ways, run) == ""
    run.overlay.clear()
    net.rules[end] = Pass()
    ways = DeadEnds()
    ways.remember(run, "hop_out", end, 0, Refusal(Reason.WAITING, end.label))
    graph = net.graph()
    fresh = Worklist(State(graph), candidate(graph, net.node("bn")), {}, None)
    fresh.deep, fresh.hubs, fresh.came = False, run.hubs, run.came
    assert ways.refusal(fresh, "hub_out", SHIFTED) is None
    fresh.state.waiting.add(end)
    assert ways.refusal(fresh, "hub_out", SHIFTED) == Refusal(Reason.WAITING, "End 'end'")
    assert node.label == "Hop 'hop'"


def test_a_sum_at_the_end_of_a_way_is_settled_and_not_asked() -> None:
    """A refusal that came of what others asked, when the way met a node that joins values."""
    net, run, ways = _hub(0)
    y = net.sum("hub_out", net.tanh("x"), name="sum")
    ways.remember(run, "hub_out", net.node("sum"), 0, Refusal(Reason.NONLINEAR, "Tanh"))
    assert _refusing(ways, run) == "" and y


def test_two_ports_of_a_node_are_two_ways() -> None:
    """The first port is none of its own; the second takes no shift."""
    net, run, ways = _hub(0)
    net.add("Op", Pass(in_port=1, shift=Reason.ZERO_PADDING), "hub_out", "hub_out", name="op")
    for port in (0, 1):
        ways.remember(run, "hub_out", net.node("op"), port, Refusal(Reason.ZERO_PADDING, "Op 'op'"))
    shifted, scaled = (ways.refusal(run, "hub_out", held) for held in (SHIFTED, TURNED))
    assert shifted is not None and shifted.reason is Reason.ZERO_PADDING
    assert scaled is not None and scaled.reason is Reason.UNSUPPORTED_OP
