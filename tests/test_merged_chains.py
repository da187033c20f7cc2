"""Chains of Mul and Add that stay, in a graph of core's own: which become one node, with which numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfuse.core.apply import Merged, Moved, NewAffine, Patch
from bnfuse.core.graph import Graph, Node
from bnfuse.core.merge import merge_affines
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Vector
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.batchnorm import broken
from tests.core_nets import CoreNet, pair_of

X = np.random.default_rng(3).standard_normal((2, 3, 4))


def _applied(pairs: list[tuple[Vector, Vector]], x: Vector) -> Vector:
    for a, c in pairs:
        x = a.reshape(-1, 1) * x + c.reshape(-1, 1)
    return x


def _merged(graph: Graph, patch: Patch | None = None) -> dict[str, Merged]:
    return {" ".join(n.name for n in made.nodes): made for made in merge_affines(graph, patch or Patch())}


def _row(net: CoreNet, names: str, x: str = "x", **more: Any) -> str:
    for name in names.split():
        x = net.bn(x, name=name, op="Mul", **more)
    return x


def test_every_chain_of_two_or_more_becomes_one_map() -> None:
    """A branch ends a chain; an output of the model does; what a chain computes is what its nodes do."""
    net = CoreNet(1)
    y = _row(net, "a b c")
    left, right = _row(net, "d e", y), _row(net, "f", y)
    out = _row(net, "g h", left)
    last = _row(net, "i j k", out)
    net.tanh(last, right)
    graph = net.graph("h_out")
    made = _merged(graph)
    assert set(made) == {"a b c", "d e g h", "i j k"}
    for names, merged in made.items():
        pairs = [pair_of(graph, net.node(name)) for name in names.split()]
        np.testing.assert_allclose(_applied([(merged.a, merged.c)], X), _applied(pairs, X), rtol=1e-12)


def test_a_number_and_a_vector_make_a_vector() -> None:
    net = CoreNet(2)
    y = net.add("Mul", Affine((np.array(2.0), np.array(-1.0)), ()), "x", name="number")
    net.tanh(_row(net, "vector", y))
    numbers = net.add("Mul", Affine((np.array(2.0), np.array(0.5)), ()), "x", name="one")
    net.tanh(net.add("Mul", Affine((np.array(3.0), np.array(0.5)), ()), numbers, name="two"))
    graph = net.graph()
    made = _merged(graph)
    assert set(made) == {"number vector"}  # of numbers alone there are no channels to tell
    merged = made["number vector"]
    pairs = [pair_of(graph, net.node(name)) for name in ("number", "vector")]
    np.testing.assert_allclose(_applied([(merged.a, merged.c)], X), _applied(pairs, X), rtol=1e-12)
    assert merged.a.shape == merged.c.shape == (3,)


def test_a_chain_uses_the_numbers_that_folds_left() -> None:
    net = CoreNet(3)
    net.tanh(_row(net, "a b"))
    graph = net.graph()
    new = np.array([1.0, -2.0, 3.0]), np.array([0.5, 0.0, -1.0])
    rule = graph.rule(net.node("b"))
    assert isinstance(rule, Affine)
    patch = Patch(affines={net.node("b"): NewAffine(rule, *new, (1,), ())})
    merged = _merged(graph, patch)["a b"]
    wanted = _applied([pair_of(graph, net.node("a")), new], X)
    np.testing.assert_allclose(_applied([(merged.a, merged.c)], X), wanted, rtol=1e-12)


def _with(change: str) -> tuple[Graph, Patch]:
    """A chain of three, and before it one of two, with one thing that stands in the way."""
    net = CoreNet(4)
    y = net.relu(_row(net, "p q"))
    more: dict[str, Any] = {}
    if change == "broken":
        more["broken"] = Refusal(Reason.BAD_PARAMETERS)
    y = _row(net, "a", y)
    if change == "batchnorm":
        y = net.bn(y, name="b")
    elif change == "axis":
        y = net.add("Mul", Affine((np.ones(4), np.ones(4)), (2,)), y, name="b")
    elif change in ("huge", "huge shift"):
        y = net.bn(y, 1e200, 0.0, name="b", op="Mul")
    else:
        y = _row(net, "b", y, **more)
    if change == "huge":
        net.rules[net.node("a")] = Affine((np.ones(3), np.zeros(3)), (1,))
        y = net.bn(y, [1.0, 1e200, 1.0], 0.0, name="c", op="Mul")
    elif change == "huge shift":
        net.rules[net.node("a")] = Affine((np.zeros(3), np.array([1e200, 0.0, 0.0])), (1,))
        y = net.bn(y, 1e200, 0.0, name="c", op="Mul")
    else:
        y = _row(net, "c", y)
    net.tanh(y)
    if change == "read twice":
        net.tanh(net.node("b").inputs[0])
    patch = Patch(removed=frozenset({net.node("b")}) if change == "gone" else frozenset())
    if change == "moved":
        b = net.node("b")
        patch = Patch(moved=(Moved(b, net.node("p"), 0, slice(0, 3), np.ones(3), np.zeros(3)),))
    return net.graph(*(["b_out"] if change == "output" else [])), patch


@pytest.mark.parametrize(
    ("change", "chains"),
    {
        "": "p q|a b c",
        "batchnorm": "p q",
        "broken": "p q",
        "axis": "p q",
        "huge": "p q",
        "huge shift": "p q",
        "read twice": "p q|b c",
        "gone": "p q",
        "moved": "p q",
        "output": "p q|a b",
    }.items(),
)
def test_what_ends_a_chain(change: str, chains: str) -> None:
    with np.errstate(over="ignore"):
        assert "|".join(_merged(*_with(change))) == chains


def test_a_chain_begins_behind_a_candidate_that_has_no_map() -> None:
    """A candidate whose scale is computed at run time, or broken, is no part of any chain."""
    net = CoreNet(5)
    y = net.add("Mul", broken(Refusal(Reason.BAD_PARAMETERS)), "x", name="broken")
    y = net.tanh(_row(net, "a b", y), name="unknown")
    graph = net.graph(_row(net, "c d", y))
    unknown: Node = net.node("unknown")
    graph.candidates.insert(0, unknown)
    assert set(_merged(graph)) == {"a b", "c d"}
    assert _merged(CoreNet().graph()) == {}
