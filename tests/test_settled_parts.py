"""Parts of nodes that stay: the scale or the shift of a BatchNormalization, a bias that would be a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold, Keep, Part, Settled
from bnfuse.core.graph import Graph, Node
from bnfuse.core.planning.plan import plan
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Pair
from bnfuse.core.rules.affine import Typical
from tests.core_nets import CoreNet, assert_spelled_same

Build = Callable[[CoreNet], str]
MIXED, ZERO, SOME = [2.0, -0.5, 3.0], [2.0, 0.0, 3.0], [1.0, -0.5, 3.0]


def _two_nodes(node: Node, pair: Pair) -> tuple[str, ...]:
    a, c = pair
    return ("Mul",) * bool((a != 1.0).any()) + ("Add",) * bool(c.any())


def _one_node(node: Node, pair: Pair) -> tuple[str, ...]:
    return ("Rescaling",)


def _graph(build: Build, **more: Any) -> tuple[CoreNet, Graph]:
    net = CoreNet(3)
    out = net.tanh(build(net))
    return net, net.graph(out, **{"no_batchnorms": True, "arithmetic": _two_nodes, **more})


def _told(step: Settled) -> str:
    return f"{step.node}: {step.part.value} {step.split.value} → {' '.join(step.into)}"


def _closed(net: CoreNet) -> str:
    """What neither a scale nor a shift passes."""
    return net.tanh(net.conv("x"))


def _into_padding(net: CoreNet, a: Sequence[float] = MIXED) -> str:
    """tanh → BN → zero-padded Conv: the scale goes, the shift does not."""
    return net.conv(net.bn(_closed(net), a, name="bn"), padded=True, taps=2, name="reader")


def _zero_scale(net: CoreNet) -> str:
    return net.conv(net.bn(_closed(net), ZERO, name="bn"), padded=True, taps=2)


def _behind_padding(net: CoreNet) -> str:
    """Conv → BN → tanh, the Conv without place for a bias, and for none behind."""
    y = net.conv("x", bias=False, has_bias=False, name="writer")
    return net.tanh(net.bn(y, MIXED, name="bn"))


def _to_a_sum(net: CoreNet) -> str:
    """tanh → BN → a sum with what a Conv makes: the shift goes into the Conv, and the scale cannot."""
    return net.sum(net.bn(_closed(net), MIXED, name="bn"), net.conv("x", name="other"))


def _to_a_sum_with_none(net: CoreNet) -> str:
    """The same with a Conv that has no place for a bias: its node would come for the one that goes."""
    beside = net.conv("x", bias=False, bias_nodes=1, name="other")
    return net.sum(net.bn(_closed(net), MIXED, name="bn"), beside)


def _from_a_sum(net: CoreNet, a: Sequence[float] = MIXED, c: Sequence[float] | None = None) -> str:
    """tanh + Conv → BN → tanh: the shift goes up, divided by the scale."""
    x = net.sum(net.tanh(net.conv("x", len(a))), net.conv("x", len(a), name="other"))
    return net.tanh(net.bn(x, a, c, name="bn"))


def _beside_a_far_shift(net: CoreNet) -> str:
    """Conv → BN → tanh, and → linear: a shift that costs the other reader its digits is not the scale's."""
    x = net.conv("x", bias=False, has_bias=False, name="writer")
    far = Typical(np.zeros(3), np.full(3, 1e-6))
    y = net.tanh(net.bn(x, MIXED, [0.5, 0.25, -0.5], name="bn", typical=far))
    return net.sum(y, net.conv(x, padded=True, taps=2, name="beside"))


def _from_a_sum_beside(net: CoreNet, size: float) -> str:
    """Conv + tanh → BN → tanh, and → linear: of values so small a far shift would leave no digits there."""
    x = net.sum(net.tanh(net.conv("x")), net.conv("x", name="other"))
    typical = Typical(np.zeros(3), np.full(3, size))
    y = net.tanh(net.bn(x, MIXED, [0.5, 0.25, -0.5], name="bn", typical=typical))
    return net.sum(y, net.conv(x, name="beside"))


PARTS: list[tuple[Build, tuple[str, ...], str]] = [
    (_into_padding, ("Add",), "bn: scale down → reader"),
    (partial(_into_padding, a=SOME), ("Add",), "bn: scale down → reader"),
    (_zero_scale, ("Mul", "Add"), ""),
    (_behind_padding, ("Add",), "bn: scale up → writer"),
    (_beside_a_far_shift, ("Add",), "bn: scale up → writer beside"),
    (_to_a_sum, ("Mul",), "bn: shift down → other"),
    (_to_a_sum_with_none, ("Mul", "Add"), ""),
    (_from_a_sum, ("Mul",), "bn: shift up → other"),
    (partial(_from_a_sum_beside, size=1.0), ("Mul",), "bn: shift up → beside other"),
    (partial(_from_a_sum_beside, size=1e-6), ("Mul", "Add"), ""),
    (partial(_from_a_sum, a=MIXED[:2]), ("Mul",), "bn: shift up → other"),
    (partial(_from_a_sum, a=MIXED[:1]), ("Mul",), "bn: shift up → other"),
    (partial(_from_a_sum, a=ZERO, c=[0.5, 0.0, -0.5]), ("Mul",), "bn: shift up → other"),
    (partial(_from_a_sum, a=ZERO, c=[0.5, 0.7, -0.5]), ("Mul", "Add"), ""),  # nothing times 0 is 0.7
]


@pytest.mark.parametrize(("build", "becomes", "told"), PARTS)
def test_a_part_goes_where_the_whole_does_not(build: Build, becomes: tuple[str, ...], told: str) -> None:
    net, graph = _graph(build)
    planned = plan(graph)
    (kept,) = planned.plan.decisions
    assert isinstance(kept, Keep)
    assert (kept.becomes, ", ".join(map(_told, planned.plan.settled))) == (becomes, told)
    assert kept.settled == planned.plan.settled
    assert all(step.message in kept.message for step in kept.settled)
    assert_spelled_same(net, graph)
    again = _graph(build, arithmetic=_one_node)[1]
    assert plan(again).plan.settled == (), "one node is one node"


def _chain(net: CoreNet, length: int, end: Callable[[CoreNet, str], str]) -> str:
    """BN → a linear op without bias → BN → … : every shift that goes down is one node, or the next one's."""
    y = _closed(net)
    for k in range(length):
        y = net.conv(net.bn(y, name=f"bn{k}"), bias=False, bias_nodes=1, name=f"linear{k}")
    return end(net, y)


ENDS: list[tuple[Callable[[CoreNet, str], str], int]] = [
    (lambda net, y: net.conv(y, name="last"), 0),  # which has a bias
    (lambda net, y: net.tanh(y), 1),
    (lambda net, y: net.conv(y, padded=True, taps=2), 1),
    (lambda net, y: net.conv(net.relu(y)), 1),
]


@pytest.mark.parametrize(("end", "nodes"), ENDS)
@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_bias_that_would_be_a_node_goes_on(
    length: int, end: Callable[[CoreNet, str], str], nodes: int
) -> None:
    net, graph = _graph(lambda net: _chain(net, length, end))
    planned = plan(graph)
    assert all(isinstance(decision, Fold) for decision in planned.plan.decisions)
    patch = apply(graph, planned)
    made = [node.name for node, new in patch.linears.items() if new.makes_bias and new.rule.bias_nodes]
    assert len(made) == nodes
    assert {step.part for step in planned.plan.settled} <= {Part.BIAS}
    assert planned.plan.rewrites == length + len(planned.plan.settled)
    assert_spelled_same(net, graph)


@pytest.mark.parametrize("bent", [False, True])
def test_a_bias_that_would_come_back_stays(bent: bool) -> None:
    """Conv → BN → linear → + what the linear op reads: its bias, taken by that, would be made there again."""

    def build(net: CoreNet) -> str:
        x = net.conv("x", name="source")
        y = net.conv(net.bn(x, name="bn"), bias=False, bias_nodes=1, name="linear")
        return net.sum(y, net.tanh(x) if bent else x)

    net, graph = _graph(build)
    assert_spelled_same(net, graph)
    assert not plan(graph).plan.settled


def _around_a_linear_op(net: CoreNet) -> str:
    """s = BN + w, a linear op without bias on s, and w again: once the scale has gone, the shift goes."""
    beside = net.conv("x", bias=False, has_bias=False, bias_nodes=1, name="beside")
    s = net.sum(net.bn(_closed(net), MIXED, name="bn"), beside)
    y = net.conv(s, bias=False, has_bias=False, bias_nodes=1, name="linear")
    return net.conv(net.sum(y, beside), name="last")


def _before_the_next(net: CoreNet) -> str:
    """BN → Add → BN, and a sum of two → zero-padded: what is left of the first goes into both others."""
    y = net.bn(_closed(net), MIXED, name="bn")
    z = net.bn(y, np.ones(3), op="Add", has_scale=False, name="add")
    net.conv(net.sum(z, y), taps=2, padded=True, name="linear")
    return net.bn(z, MIXED, name="next")


WHOLES: list[tuple[Build, str, dict[str, tuple[str, ...]]]] = [
    (_around_a_linear_op, "bn: scale down → beside linear last, bn: whole down → linear last", {}),
    (
        _before_the_next,
        "bn: scale down → add next linear, bn: whole down → add next",
        {"add": (), "next": ("Mul", "Add")},
    ),
]


@pytest.mark.parametrize(("build", "told", "becomes"), WHOLES)
def test_the_rest_goes_since_a_part_went(
    build: Build, told: str, becomes: dict[str, tuple[str, ...]]
) -> None:
    """Before whoever comes next takes on anything that would keep it."""
    net, graph = _graph(build)
    planned = plan(graph).plan
    assert ", ".join(map(_told, planned.settled)) == told
    kept = {d.node: d.becomes for d in planned.decisions if isinstance(d, Keep)}
    assert kept == becomes
    assert_spelled_same(net, graph)


def _without_a_sum(node: Node, pair: Pair) -> tuple[str, ...] | Refusal:
    """As a format that knows a product, with or without a sum, and no sum alone."""
    scales = bool((pair[0] != 1.0).any())
    return _two_nodes(node, pair) if scales else Refusal(Reason.UNSUPPORTED_OP, node.label)


NO_PARTS: list[tuple[Build, dict[str, Any]]] = [
    (_into_padding, {"no_batchnorms": False}),  # it stays as one node
    (_into_padding, {"arithmetic": _without_a_sum}),
    (lambda net: _into_padding(net, [1.0, 1.0, 1.0]), {}),  # there is one part
]


@pytest.mark.parametrize(("build", "more"), NO_PARTS)
def test_no_part_goes_where_none_would_be_left_alone(build: Build, more: dict[str, Any]) -> None:
    net, graph = _graph(build, **more)
    planned = plan(graph).plan
    assert isinstance(planned.decisions[0], Keep)
    assert planned.settled == ()
    assert_spelled_same(net, graph)


@pytest.mark.parametrize(("bias", "nodes"), [(False, 0), (True, 1)])
def test_a_bias_that_costs_no_node_stays(bias: bool, nodes: int) -> None:
    def build(net: CoreNet) -> str:
        y = net.conv(net.bn(_closed(net), name="bn"), bias=bias, bias_nodes=nodes, name="linear")
        return net.conv(y, name="last")

    net, graph = _graph(build)
    planned = plan(graph)
    (made,) = planned.plan.decisions
    assert isinstance(made, Fold) and made.into == ("linear",)
    assert planned.plan.settled == ()
    assert_spelled_same(net, graph)
