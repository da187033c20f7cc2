"""A BatchNormalization that goes in part, in a graph of core's own: it computes the same, by either route."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Keep, Narrowed
from bnfuse.core.graph import Graph
from bnfuse.core.planning.plan import plan, replay
from bnfuse.core.rules.operands import Operand
from bnfuse.core.rules.weighted_sum import WeightedSum
from tests.core_nets import LEVEL, CoreNet, computed

WHOLE = None
GATE = Operand(0, frozenset({2}))  # one number per channel: repeated along the last axis


def _parts(net: CoreNet, order: str, **more: Any) -> str:
    """ "f" is fixed, "c" a Conv, with 3 channels; capitals have 6."""
    made = []
    for k, kind in enumerate(order):
        n = 6 if kind.isupper() else 3
        y = net.conv("x", n, name=f"{kind}{k}", **(more if kind.lower() == "c" else {}))
        made.append(net.tanh(y, name=f"fixed{k}") if kind.lower() == "f" else y)
    return net.concat(*made, name="joint")


def _decided(net: CoreNet, y: str, movable: bool = True) -> tuple[Graph, Narrowed | None]:
    end = net.tanh(net.bn(y, name="bn"))
    graph = net.graph(end, movable=lambda graph, node, joint, port: movable)
    (decision,) = plan(graph).plan.decisions
    assert isinstance(decision, Keep) and decision.refusals
    return graph, decision.narrowed


def _assert_same(net: CoreNet, graph: Graph) -> None:
    feeds = net.feeds()
    wanted = computed(graph, feeds)
    planned = plan(graph)
    decided = planned.plan
    for patch in (apply(graph, planned), apply(graph, replay(graph, decided))):
        made = computed(graph, feeds, patch)
        for value in graph.pinned:
            if value in made:
                np.testing.assert_allclose(made[value], wanted[value], rtol=1e-9, atol=1e-9)
        assert patch.changes is bool(decided.narrowed or patch.removed)


# parts in order → what is left with it (port, channels), and who absorbs the rest
CONCATS: list[tuple[str, tuple[int, int] | None, str]] = [
    ("fC", (0, 3), "C1"),
    ("Cf", (1, 3), "C0"),
    ("cfc", (1, 3), "c0 c2"),
    ("cf", (1, 3), "c0"),
    ("cF", WHOLE, ""),  # more than half would stay
    ("fCf", WHOLE, ""),  # two refuse
]


@pytest.mark.parametrize(("order", "left", "into"), CONCATS)
def test_a_concatenation(order: str, left: tuple[int, int] | None, into: str) -> None:
    net = CoreNet(1)
    graph, narrowed = _decided(net, _parts(net, order))
    if left is None:
        assert narrowed is None
    else:
        assert narrowed is not None
        assert (narrowed.joint, narrowed.port, narrowed.channels) == ("joint", *left)
        assert (" ".join(narrowed.into), narrowed.through) == (into, ())
    _assert_same(net, graph)


def _gated(net: CoreNet, signs: tuple[float, float], flip: bool, wide: str = "conv") -> str:
    """A sum of a Conv and of a gate that is repeated along the last axis."""
    values = [net.conv("x", name=wide), net.tanh("gate", name="fixed")]
    operands = [LEVEL, GATE]
    order = slice(None, None, -1 if flip else 1)
    return net.add("Sum", WeightedSum(signs, tuple(operands[order])), *values[order], name="joint")


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("signs", [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0)])
def test_a_sum_with_a_smaller_operand(signs: tuple[float, float], flip: bool) -> None:
    """The sign of the operand turns round what is added to it."""
    net = CoreNet(2)
    graph, narrowed = _decided(net, _gated(net, signs, flip))
    assert narrowed is not None
    assert (narrowed.joint, narrowed.port, narrowed.channels) == ("joint", 0 if flip else 1, 3)
    assert narrowed.into == ("conv",)
    _assert_same(net, graph)


# what stands in the way → whether it still goes in part
HINDRANCES = {
    "nothing": True,
    "the format": False,
    "a bias of its own node": False,
    "weights that overflow": False,
    "banned": False,
}


@pytest.mark.parametrize(("hindrance", "goes"), HINDRANCES.items())
def test_what_stands_in_the_way(hindrance: str, goes: bool) -> None:
    net = CoreNet(3)
    more: dict[str, Any] = {}
    if hindrance == "a bias of its own node":
        more = {"bias": False, "bias_nodes": 1}
    elif hindrance == "weights that overflow":
        more = {"dtype": np.float16}
    y = _parts(net, "fC", **more)
    end = net.tanh(net.bn(y, 1e6, 1.0, name="bn"))
    graph = net.graph(end, movable=lambda *_: hindrance != "the format")
    (decision,) = plan(graph, ["bn"] if hindrance == "banned" else []).plan.decisions
    assert isinstance(decision, Keep)
    assert (decision.narrowed is not None) is goes


def test_what_goes_as_a_whole_does_not_go_in_part() -> None:
    net = CoreNet(3)
    end = net.tanh(net.bn(_parts(net, "cc"), name="bn"))
    made = plan(net.graph(end, movable=lambda *_: True)).plan
    assert made.narrowed == () and made.rewrites == len(made.order) == 1


def test_the_best_place_that_goes_through_is_taken() -> None:
    """The smallest branch takes the rest where it is fixed; where another one is, that one does."""
    net = CoreNet(4)
    graph, narrowed = _decided(net, _parts(net, "cfC"))
    assert narrowed is not None and narrowed.port == 1
    _assert_same(net, graph)


def test_those_behind_may_be_moved_beside_folds_that_went() -> None:
    """Two joints one after the other and a fold between them: all is replayed from the plan."""
    net = CoreNet(5)
    y = net.tanh(net.bn(_parts(net, "fC"), name="first"))
    y = net.bn(net.conv(y, 6, name="behind"), name="goes")
    y = net.concat(net.tanh("x"), y, name="second")
    end = net.tanh(net.bn(y, name="bn"))
    graph = net.graph(end, movable=lambda *_: True)
    planned = plan(graph)
    decided = planned.plan
    assert [name for name, _ in decided.narrowed] == ["first", "bn"]
    assert len(decided.order) == 1 and decided.rewrites == 3
    _assert_same(net, graph)


def test_a_plan_for_another_graph_is_told_apart() -> None:
    net = CoreNet(6)
    graph, _ = _decided(net, _parts(net, "fC"))
    planned = plan(graph)
    decided = planned.plan
    other = CoreNet(6)
    for kind in "other", "gone":
        other = CoreNet(6)
        y = _parts(other, "fF" if kind == "other" else "fC")
        other.tanh(other.bn(y, name="bn"))
        strange = other.graph(movable=lambda *_: True)
        if kind == "other":
            with pytest.raises(AssertionError, match="does not fit the graph"):
                apply(strange, replay(strange, decided))
        else:
            assert apply(strange, replay(strange, decided)).moved
    folds = CoreNet(7)
    folds.tanh(folds.bn(folds.conv("x"), name="bn"))
    folded = plan(folds.graph()).plan
    fixed = CoreNet(7)
    fixed.tanh(fixed.bn(fixed.tanh("x"), name="bn"))
    with pytest.raises(AssertionError, match=r"does not fit the graph: .*nonlinear"):
        replay(fixed.graph(), folded)
