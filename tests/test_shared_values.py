"""Values that many nodes share (hubs), and the ways from them that ended in a refusal before.

What is remembered is only a shorter way to a refusal that a visit to everybody would meet, too.
"""

from __future__ import annotations

import numpy as np
import pytest

from bnfuse.core.decisions import Fold, Split
from bnfuse.core.graph import Graph, Node, Port
from bnfuse.core.planning import propagate
from bnfuse.core.planning.plan import plan
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.planning.search import Observer
from bnfuse.core.planning.splits import holdings
from bnfuse.core.planning.state import State
from bnfuse.core.reasons import Refusal
from bnfuse.core.reparam import Reparam, from_backward
from bnfuse.core.rules.affine import candidate
from bnfuse.core.rules.base import Rule
from bnfuse.core.rules.joint import ConcatSplit
from tests.core_nets import CoreNet
from tests.random_core import random_net

SHIFTED = from_backward((1,), np.array([2.0, 3.0, 0.5]), np.array([1.0, 0.0, -1.0]))
TURNED = from_backward((1,), np.array([2.0, -3.0, 0.5]), np.zeros(3))


class _Counting(Worklist):
    """Counts the nodes that all attempts meet: what planning costs, whatever the machine does."""

    met = 0

    def _react(self, node: Node, port: Port, rule: Rule, held: Reparam) -> Refusal | None:
        type(self).met += 1
        return super()._react(node, port, rule, held)


class _Counter(Observer):
    worklist = _Counting


def _steps(net: CoreNet, count: int, cut: str) -> list[str]:
    """A projection, and what so many nodes read of it."""
    value = net.conv("x", name="writer")
    if cut == "all of it":
        return [value] * count
    if cut == "Slice":
        return [net.identity(value) for _ in range(count)]
    outputs = tuple(f"part{k}" for k in range(count))
    rule = ConcatSplit(
        0, tuple(~k for k in range(count)), 2, (1,) * count
    )  # along another axis than the channels
    net.add("Split", rule, value, outputs=outputs, name="split")
    return list(outputs)


@pytest.mark.parametrize("cut", ["all of it", "Slice", "Split"])
def test_planning_is_near_linear_in_the_readers(cut: str) -> None:
    """Each step → BN → Relu, of both signs: the first goes up, its Relu refuses what the others ask."""
    costs = []
    for count in (30, 60):
        net = CoreNet(1)
        for k, part in enumerate(_steps(net, count, cut)):
            net.conv(net.relu(net.bn(part, name=f"bn{k}"), name=f"relu{k}"))
        _Counting.met = 0
        graph = net.graph()
        decisions = plan(graph, observers={n.name: _Counter() for n in graph.candidates}).plan.decisions
        costs.append(_Counting.met)
        assert [isinstance(d, Fold) for d in decisions] == [True] + [False] * (count - 1)
        for kept in decisions[1:]:
            assert not isinstance(kept, Fold) and kept.refusals[0].node == "Relu 'relu0'"
    assert costs[1] <= 2.4 * costs[0]


@pytest.mark.parametrize("ports", [1, 2])
def test_what_is_remembered_changes_no_fold(ports: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random graphs, once without hubs, once with one at every value: the same goes, into the same nodes."""
    for seed in range(24):
        found = []
        for wide in (10**9, ports):
            monkeypatch.setattr(propagate, "WIDE", wide)
            net, outputs = random_net(seed)
            found.append([
                (d.node, d.split, sorted(d.into), sorted(d.through)) if isinstance(d, Fold) else d.node
                for d in plan(net.graph(*outputs)).plan.decisions
            ])  # fmt: skip
        assert found[0] == found[1], seed


def attempt(net: CoreNet, graph: Graph, state: State | None = None) -> tuple[Worklist, Refusal | None]:
    """One attempt to hold what "bn" reads and writes with its scale and shift."""
    state = state or State(graph)
    run = Worklist(state, candidate(graph, net.node("bn")), {}, None)
    run.deep = False
    a, c, axes = state.current(net.node("bn"))
    return run, run.run(*holdings(Split.UP, axes, a, c))


@pytest.mark.parametrize(("readers", "is_hub"), [(23, False), (24, True)])
def test_a_value_with_more_than_24_ports_is_a_hub(readers: int, is_hub: bool) -> None:
    net = CoreNet(2)
    value = net.conv("x", name="writer")
    net.tanh(net.bn(value, name="bn"))
    for _ in range(readers - 1):
        net.conv(value)
    run, refusal = attempt(net, net.graph())
    assert refusal is None
    assert run.hubs == ({value} if is_hub else set())


@pytest.mark.parametrize(("parts", "axis", "is_hub"), [(24, 2, False), (25, 2, True), (25, 1, False)])
def test_a_node_with_more_than_24_parts_is_a_hub(parts: int, axis: int, is_hub: bool) -> None:
    """Where its parts are held alike: along the channels each is held in its own way."""
    net = CoreNet(3)
    width = parts if axis == 1 else 3
    value = net.conv("x", width, name="writer")
    outputs = tuple(f"part{k}" for k in range(parts))
    rule = ConcatSplit(0, tuple(~k for k in range(parts)), axis, (1,) * parts)
    net.add("Split", rule, value, outputs=outputs, name="split", channels=1 if axis == 1 else 3)
    net.bn(value, name="bn")
    for part in outputs:
        net.conv(part)
    run, refusal = attempt(net, net.graph())
    assert refusal is None
    assert run.hubs == ({net.node("split")} if is_hub else set())


def test_what_is_nearer_than_a_hub_is_visited_first() -> None:
    """Two hubs one behind the other: each waits until nothing else is to be done, in the order met."""
    net = CoreNet(4)
    first = net.conv("x", name="writer")
    second = net.identity(first, name="pass")
    ends = []
    for value in (first, second):
        for _ in range(30):
            net.conv(value)
            ends.append(net.nodes[-1])
    net.bn(net.identity(first, name="near"), name="bn")
    run, refusal = attempt(net, net.graph())
    assert refusal is None and run.hubs == {first, second}
    order = list(run.touched)
    assert order[0].name == "near"
    assert order.index(ends[29]) < order.index(ends[30])
    assert set(order) == {net.node("near"), net.node("writer"), net.node("pass"), *ends}
