"""Who is asked for, and when, once all is folded that goes as a whole: parts, and whoever may go by now."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from bnfuse.core.decisions import Fold, Keep, Part, Split
from bnfuse.core.graph import Graph, Node
from bnfuse.core.planning.offers import Offer
from bnfuse.core.planning.plan import plan
from bnfuse.core.planning.settle import settle
from bnfuse.core.planning.state import MoveTarget, Narrowing, Propagation, State
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Pair
from bnfuse.core.rules.affine import candidate
from bnfuse.core.rules.base import Absorbed
from bnfuse.core.rules.joint import ConcatSplit
from tests.core_nets import CoreNet, assert_spelled_same


def two_nodes(node: Node, pair: Pair) -> tuple[str, ...]:
    a, c = pair
    return ("Mul",) * bool((a != 1.0).any()) + ("Add",) * bool(c.any())


def _row(net: CoreNet) -> Graph:
    """Two BatchNormalizations, an Add, and a linear op that has nowhere to store a bias."""
    y = net.bn(net.bn("x", name="a"), name="b")
    y = net.bn(y, np.ones(3), op="Add", has_scale=False, name="add")
    return net.graph(net.conv(y, bias=False, bias_nodes=1, name="linear"), arithmetic=two_nodes)


def _asked(state: State, goes: Mapping[str, int] = {}, left: str = "a b") -> list[str]:
    """Who of these is asked for, in order; one of ``goes`` goes when it is asked for the so manieth time."""
    asked: list[str] = []

    def removal(offer: Offer) -> Propagation | None:
        name = f"{offer.node.name} {offer.part.value}"
        asked.append(name)
        if asked.count(name) != goes.get(name):
            return None
        return Propagation(offer.node, next(iter(offer.splits())), (), (), ())

    by_name = {node.name: candidate(state.graph, node) for node in state.graph.candidates}
    settle(state, [by_name[name] for name in left.split()], removal, lambda *_: ())
    return asked


A = ["a scale", "a shift", "a whole"]
B = ["b scale", "b shift", "b whole"]
ORDERS: list[tuple[str, dict[str, int], list[str]]] = [
    ("", {}, []),  # nothing has changed since they were refused
    ("a", {}, [*A, "b whole"]),
    ("a b", {}, [*A, *B]),
    ("a", {"a scale": 1}, ["a scale", "a whole", "b whole", "a whole", "b whole"]),
    ("a", {"a shift": 1}, [*A, "b whole", "a whole", "b whole"]),
    ("a", {"a whole": 1}, [*A, "b whole", "b whole"]),  # which has no parts any more
    ("a b", {"b whole": 1, "a shift": 2}, [*A, *B, *A, "a whole"]),
    ("a", {"b whole": 1, "a whole": 2}, [*A, "b whole", *A]),
]


@pytest.mark.parametrize(("spelled", "goes", "asked"), ORDERS)
def test_who_is_asked_for(spelled: str, goes: dict[str, int], asked: list[str]) -> None:
    """All once more whenever something went, until nothing does; whoever went not again."""
    net = CoreNet()
    state = State(_row(net))
    for name in spelled.split():
        state.spell(net.node(name))
    assert _asked(state, goes) == asked


def test_one_part_alone_is_the_whole() -> None:
    net = CoreNet()
    net.bn(net.bn("x", c=0.0, name="a"), 1.0, name="b")
    state = State(net.graph(arithmetic=two_nodes))
    for node in net.candidates:
        state.spell(node)
    assert _asked(state) == ["a whole", "b whole"]


def test_since_one_was_moved_the_others_are_asked_for() -> None:
    net = CoreNet()
    state = State(_row(net))
    place = MoveTarget(net.node("linear"), 0, 0, 3, flips=False, share=0.5)
    state.accept_narrowing(Narrowing(place, Propagation(net.node("a"), Split.DOWN, (), (), ())))
    assert _asked(state) == ["b whole"]


def _with_a_bias(net: CoreNet) -> State:
    state = State(_row(net))
    shift = Absorbed(0, (np.ones(3), np.ones(3)), (1,))
    linear = net.node("linear")
    state.accept(Propagation(net.node("add"), Split.DOWN, ((linear, shift),), (linear,), ()))
    return state


def test_a_bias_that_is_a_node_is_asked_for() -> None:
    state = _with_a_bias(CoreNet())
    assert _asked(state) == ["linear bias"]
    assert _asked(state, {"linear bias": 1}) == ["linear bias", "a whole", "b whole"]


def test_layers_called_several_times_go_as_wholes() -> None:
    """Their other calls would have to lose the same part."""
    net = CoreNet()
    state = _with_a_bias(net)
    state.spell(net.node("a"))
    state.graph.tied |= {node: (node, net.node("b")) for node in (net.node("a"), net.node("linear"))}
    assert _asked(state) == ["a whole", "b whole"]


def test_as_many_nodes_may_be_made_as_go() -> None:
    """One for each call of a BatchNormalization, none for what is two nodes by now, or never was one."""
    net = CoreNet()
    state = State(_row(net))
    state.spell(net.node("a"))
    state.graph.tied[net.node("b")] = tuple(map(net.node, ("b", "linear", "add")))
    may_make: dict[str, int] = {}

    def removal(offer: Offer) -> None:
        if offer.part is Part.WHOLE:
            may_make[offer.node.name] = offer.may_make

    settle(state, [candidate(state.graph, node) for node in net.candidates], removal, lambda *_: ())
    assert may_make == {"a": 0, "b": 3, "add": 0}


def test_one_that_is_a_number_by_now_takes_on_what_lies_along_any_axis() -> None:
    """tanh and BN(tanh) one behind the other, of one channel, → BN: a vector along the length."""
    net = CoreNet()
    y = net.tanh(net.conv("x", 1))
    rule = ConcatSplit(~0, (0, 1), 2, (4, 4))
    z = net.add("Concat", rule, y, net.bn(y, 2.0, name="bn"), channels=1)
    out = net.bn(z, -3.0, name="behind")
    graph = net.graph(out, no_batchnorms=True, arithmetic=two_nodes)
    planned = plan(graph)
    gone, kept = planned.plan.decisions
    assert isinstance(gone, Fold) and gone.into == ("behind",)
    assert isinstance(kept, Keep) and kept.becomes == ("Mul", "Add")
    assert_spelled_same(net, graph)


def _fitting(most: float) -> Callable[[Node, Pair], tuple[str, ...] | Refusal]:
    def becomes(node: Node, pair: Pair) -> tuple[str, ...] | Refusal:
        if max(np.abs(each).max() for each in pair) > most:
            return Refusal(Reason.NO_ARITHMETIC, node.label)
        return two_nodes(node, pair)

    return becomes


@pytest.mark.parametrize(("most", "becomes"), [(1e3, [("Mul", "Add")]), (100.0, [("Mul",), ("Mul", "Add")])])
def test_who_stays_takes_on_what_it_can_store(most: float, becomes: list[tuple[str, ...]]) -> None:
    """tanh → BN → Add → BN, and a sum of two → zero-padded: the scale would go into the second one.

    Then all of the first one goes; where its scale does not fit there, its shift does.
    """
    net = CoreNet()
    y = net.bn(net.tanh(net.conv("x")), 20.0, 0.5, name="bn")
    z = net.bn(y, np.ones(3), op="Add", has_scale=False, name="add")
    net.conv(net.sum(z, y), taps=2, padded=True, name="linear")
    out = net.tanh(net.bn(z, 30.0, 0.25, name="next"))
    graph = net.graph(out, no_batchnorms=True, arithmetic=_fitting(most))
    decided = plan(graph).plan.decisions
    assert [d.becomes for d in decided if isinstance(d, Keep) and d.is_batchnorm] == becomes
    assert_spelled_same(net, graph)


@pytest.mark.parametrize(("most", "becomes"), [(1e4, ("Add",)), (1e3, ("Mul", "Add"))])
def test_what_is_left_of_it_can_be_stored(most: float, becomes: tuple[str, ...]) -> None:
    """tanh → BN → zero-padded: y = 10⁻⁴·x + 0.5 leaves h + 5000, where the scale goes down."""
    net = CoreNet()
    y = net.bn(net.tanh(net.conv("x")), 1e-4, 0.5, name="bn")
    out = net.tanh(net.conv(y, taps=2, padded=True))
    graph = net.graph(out, no_batchnorms=True, arithmetic=_fitting(most))
    (kept,) = plan(graph).plan.decisions
    assert isinstance(kept, Keep) and kept.becomes == becomes
    assert_spelled_same(net, graph)
