"""What a plan comes to: which nodes get new numbers, and where a patch takes them from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfuse.core.apply import Merged, Moved, NewLinear, OverflowingFold, Patch, apply
from bnfuse.core.graph import Node
from bnfuse.core.planning.plan import plan, replay
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Absorbed
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import Rewrite, linear_form
from tests.core_nets import CoreNet, computed, stored

NODE = Node("n", "Op", (), ())


@pytest.mark.parametrize(
    ("patch", "changes"),
    [
        (Patch(), False),
        (Patch(removed=frozenset({NODE})), True),
        (Patch(merged=(Merged((NODE,), np.ones(3), np.ones(3)),)), True),
        (Patch(moved=(Moved(NODE, NODE, 0, slice(0, 3), np.ones(3), np.ones(3)),)), True),
    ],
)
def test_a_patch_tells_whether_it_changes_anything(patch: Patch, changes: bool) -> None:
    assert patch.changes is changes and patch.near == []


def _folded_twice() -> CoreNet:
    """Relu → one → two → Relu, and Conv → three → Tanh beside it."""
    net = CoreNet(1)
    y = net.bn(net.relu("x"), [2, -3, 1], [1, 0, 1], name="one")
    net.tanh(net.relu(net.bn(y, [3, 2, -1], [0, 1, 1], name="two")))
    net.tanh(net.bn(net.conv("x", name="writer"), name="three"))
    return net


def test_a_patch_tells_the_steps_of_its_plan_and_what_is_near() -> None:
    net = _folded_twice()
    graph = net.graph()
    planned = plan(graph)
    patch = apply(graph, planned)
    assert patch.steps and all(a is b for a, b in zip(patch.steps, planned.state.accepted, strict=True))
    again = apply(graph, replay(graph, planned.plan))
    assert again.steps[0] is not patch.steps[0]
    assert [s.node for s in again.steps] == [s.node for s in patch.steps]
    assert patch.near == [net.node(n) for n in ("three", "writer", "one", "two")]


def test_plans_of_one_graph_do_not_meddle_with_each_other() -> None:
    net = _folded_twice()
    graph = net.graph()
    first, other = plan(graph), plan(graph, {"three"})
    assert apply(graph, first).removed == {net.node("one"), net.node("three")}
    assert apply(graph, other).removed == {net.node("one")}


def test_who_took_something_on_and_went_itself_gets_no_new_numbers() -> None:
    """A goes into C, which goes into B: only B is written."""
    net = CoreNet(2)
    y = net.bn(net.relu("x"), [2, 0, -1], 0.0, op="Mul", name="C", has_shift=False)
    y = net.bn(y, [1, -2, 3], 0.0, op="Mul", name="A", has_shift=False, divides=True)
    net.relu(net.bn(y, [3, 2, -1], [1, 1, 2], name="B"), name="end")
    graph = net.graph()
    patch = apply(graph, plan(graph))
    assert set(patch.affines) == {net.node("B")}
    new = patch.affines[net.node("B")]
    np.testing.assert_allclose(new.a, np.array([2, 0, -1]) * [1, -2, 3] * [3, 2, -1])
    np.testing.assert_allclose(new.c, [1, 1, 2])
    assert new.axes == (1,) and new.folded == ("C",)


def test_who_moves_takes_along_what_it_took_on() -> None:
    """[fixed, Conv] → first → second → Tanh: one goes into the other, which moves onto the fixed part."""
    net = CoreNet(3)
    y = net.concat(net.tanh("x", name="fixed"), net.conv("x", 6, name="wide"), name="joint")
    end = net.tanh(net.bn(net.bn(y, name="first"), name="second"), name="end")
    graph = net.graph(end, movable=lambda *_: True)
    planned = plan(graph)
    decided = planned.plan
    feeds = net.feeds()
    for patch in (apply(graph, planned), apply(graph, replay(graph, decided))):
        assert patch.affines == {} and len(patch.moved) == 1 and len(patch.removed) == 1
        assert set(patch.linears) == {net.node("wide")}
        wanted, made = computed(graph, feeds), computed(graph, feeds, patch)
        np.testing.assert_allclose(made[end], wanted[end], rtol=1e-9, atol=1e-9)


def test_a_shift_alone_leaves_the_weight_as_it_is() -> None:
    net = CoreNet(4)
    net.tanh(net.bn(net.conv("x", name="shifted"), 1.0, 2.0, name="one"))
    net.tanh(net.bn(net.conv("x", name="scaled"), 3.0, 0.0, name="two"))
    graph = net.graph()
    patch = apply(graph, plan(graph))
    shifted, scaled = (patch.linears[net.node(name)] for name in ("shifted", "scaled"))
    assert shifted.weight is None and shifted.makes_bias and shifted.folded == ("one",)
    assert scaled.weight is not None and scaled.weight.folded == ("two",)


@pytest.mark.parametrize("first", ["number", "vector"])
def test_a_number_that_takes_on_a_vector_is_one(first: str) -> None:
    """One number for all channels, twice folded into: what varies along the channels stays so."""
    net = CoreNet(5)
    y = net.relu("x")
    factors: dict[str, Any] = {"number": (np.array(2.0), ()), "vector": (np.array([1.0, -2.0, 3.0]), (1,))}
    for k, name in enumerate((first, *(n for n in factors if n != first))):
        a, axes = factors[name]
        y = net.add("Mul", Affine((a, 0.0 * a), axes), y, name=f"{name}{k}")
    y = net.add("Scale", Affine((np.array(0.5), np.array(1.0)), ()), y, name="stays")
    net.tanh(net.tanh(y))
    graph = net.graph()
    planned = plan(graph)
    decided = planned.plan
    patch = apply(graph, planned)
    new = patch.affines[net.node("stays")]
    assert new.axes == (1,) and len(patch.removed) == 2
    np.testing.assert_allclose(np.broadcast_to(new.a, 3), [1.0, -2.0, 3.0])
    np.testing.assert_allclose(np.broadcast_to(new.c, 3), 1.0)
    assert decided.rewrites == 2


def test_a_constant_takes_on_folds_from_several_sides() -> None:
    """A constant operand of two axes: scaled and shifted along one, twice, in order."""
    net = CoreNet(6)
    constant = net.constant(name="constant")
    y = net.sum(net.conv("x", name="writer"), constant, name="sum")
    net.tanh(net.bn(net.bn(y, name="one"), name="two"), name="end")
    graph = net.graph("end_out")
    planned = plan(graph)
    decided = planned.plan
    assert len(decided.order) == 2
    patch = apply(graph, planned)
    source = patch.sources[net.node("constant")]
    assert sorted(source.values.folded) == ["one", "two"]
    feeds = net.feeds()
    wanted, made = computed(graph, feeds), computed(graph, feeds, patch)
    np.testing.assert_allclose(made["end_out"], wanted["end_out"], rtol=1e-9, atol=1e-9)


def test_one_number_as_a_bias_becomes_as_many_as_there_are_channels() -> None:
    form = linear_form((3, 3), "o i")
    rule = Linear(stored(np.eye(3)), form, stored(np.array([2.0])), 1, 1, bias_gain=1.5)
    made = NewLinear(None, rule, Rewrite((np.array([1.0, 2.0, 3.0]), np.zeros(3)), None), ())
    assert made.makes_bias and made.bias().tolist() == [3.0, 3.0, 3.0]


def test_who_cannot_absorb_is_an_own_mistake() -> None:
    net = CoreNet(7)
    net.tanh(net.bn(net.conv("x"), name="bn"))
    graph = net.graph()
    planned = plan(graph)
    state = planned.state
    tanh = next(n for n in net.nodes if n.op == "Tanh")
    state.edits[tanh] = [Absorbed(0, (np.ones(3), np.ones(3)))]
    state.folded[tanh] = ["bn"]
    with pytest.raises(AssertionError, match=r"Tanh .* cannot absorb"):
        apply(graph, planned)


def test_an_overflow_names_who_is_to_be_kept() -> None:
    error = OverflowingFold(["b", "a"])
    assert error.nodes == {"a", "b"} and str(error) == "new weights do not fit their dtype: a, b"
