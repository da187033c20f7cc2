"""Which way a shift goes at sums, in which order ways are tried, and what products without a bias do."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from bnfuse.core.decisions import Fold, Split
from bnfuse.core.planning.search import next_choices
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Pass
from bnfuse.core.rules.joint import Product
from tests.core_nets import LEVEL, CoreNet, row
from tests.search_log import planned, told


def _tree(net: CoreNet, shape: Any, ends: list[str]) -> tuple[str, list[dict[str, int]]]:
    """A tree of sums, and all ways for a shift through it, in the order in which they are to be tried."""
    if shape is None:
        ends.append(net.relu(net.conv("x")))
        return ends[-1], [{}]
    branches = [_tree(net, part, ends) for part in shape]
    y = net.sum(*(value for value, _ in branches))
    name = net.nodes[-1].name
    return y, [{name: at, **way} for at, (_, ways) in enumerate(branches) for way in ways]


LEAF = None
TREES: list[Any] = [
    (LEAF, LEAF),
    (LEAF, LEAF, LEAF),
    ((LEAF, LEAF), LEAF),
    (LEAF, (LEAF, LEAF)),
    ((LEAF, (LEAF, LEAF, LEAF)), LEAF),
]


@pytest.mark.parametrize("shape", TREES)
def test_every_way_through_sums_is_tried_once(shape: Any) -> None:
    """Depth first, the last choice first; nobody takes the shift, and the first that refused is told."""
    net, ends = CoreNet(4), list[str]()
    y, ways = _tree(net, shape, ends)
    y = net.tanh(net.bn(y, np.array([2.0, 3.0, 0.5]), 1.0, name="bn"))
    decision, log = planned(net, y)
    met = [{n: c for n, c in way.items() if n in ways[k]} for k, way in enumerate(log.choices("up"))]
    assert met == ways
    assert told(decision)["up"] == (Reason.SHIFT_THROUGH_ACTIVATION, ends[0].removesuffix("_out"))


@pytest.mark.parametrize("shape", TREES)
def test_the_one_way_that_is_open_is_found(shape: Any) -> None:
    net, ends = CoreNet(4), list[str]()
    y, ways = _tree(net, shape, ends)
    for at, end in enumerate(ends):
        opened = CoreNet(4)
        y, _ = _tree(opened, shape, [])
        opened.rules[opened.node(end.removesuffix("_out"))] = Pass()
        opened.tanh(opened.bn(y, np.array([2.0, 3.0, 0.5]), 1.0, name="bn"))
        decision, log = planned(opened, opened.nodes[-1].outputs[0])
        assert isinstance(decision, Fold) and decision.split is Split.UP
        assert len(log.choices("up")) == at + 1
        assert {n: c for n, c in decision.choices if n in ways[at]} == ways[at]


@pytest.mark.parametrize("counts", [(1,), (3,), (2, 1, 3), (1, 1), (2, 2, 2)])
def test_choices_count_like_an_odometer(counts: tuple[int, ...]) -> None:
    """Where every node is met whatever was chosen before: the last one turns fastest."""
    seen = list[tuple[int, ...]]()
    chosen: dict[str, int] | None = {}
    while chosen is not None:
        digits = tuple(chosen.get(str(k), 0) for k in range(len(counts)))
        seen.append(digits)
        chosen = next_choices([(str(k), d, n) for k, (d, n) in enumerate(zip(digits, counts, strict=True))])
    assert seen == list(product(*map(range, counts)))
    assert next_choices([]) is None


@pytest.mark.parametrize("branches", [64, 65])
def test_so_many_ways_are_tried_and_no_more(branches: int) -> None:
    net = CoreNet(5)
    y = net.sum(*(net.relu("x") for _ in range(branches)), name="sum")
    decision, log = planned(net, net.tanh(net.bn(y, 1.0, 1.0, name="bn")))
    assert log.choices("up") == [{"sum": k} for k in range(64)]
    reason = Reason.SHIFT_THROUGH_ACTIVATION if branches == 64 else Reason.TOO_MANY_CHOICES
    assert told(decision)["up"] == (reason, "relu0" if branches == 64 else "sum")


def test_the_first_node_that_leaves_a_choice_is_told() -> None:
    """128 branches, two by two; before them, a concatenation leaves none."""
    net = CoreNet(5)
    values = [net.relu("x") for _ in range(128)]
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [net.sum(*pair, name=f"{len(values)} {k}") for k, pair in enumerate(pairs)]
    (y,) = values
    y = net.concat(y, net.conv("x"), name="joint")
    decision, _ = planned(net, net.tanh(net.bn(y, 1.0, 1.0, name="bn")))
    assert told(decision)["up"] == (Reason.TOO_MANY_CHOICES, "2 0")


def test_where_the_scale_is_refused_no_way_of_the_shift_is_tried() -> None:
    """The refusal of the scale alone is told: a shift to another branch does not help."""
    net = CoreNet(6)
    y = net.sum(net.relu(net.conv("x"), name="takes no shift"), net.tanh("x", name="takes nothing"))
    decision, log = planned(net, net.tanh(net.bn(y, 2.0, 1.0, name="bn")))
    assert len(log.choices("up")) == 1
    assert told(decision)["up"] == (Reason.NONLINEAR, "takes nothing")


def test_a_scale_that_can_be_routed_is_not_asked_for_alone() -> None:
    """A product hands its scale to one factor: another choice may help where the first is refused."""
    net = CoreNet(7)
    gate = net.add("Gate", Product((1, 1), (LEVEL, LEVEL)), net.tanh("x"), net.conv("x", name="takes"),
                   name="gate", does=lambda a, b: a * b)  # fmt: skip
    y = net.sum(gate, net.conv("x", name="other"), name="sum")
    decision, _ = planned(net, net.tanh(net.bn(y, 2.0, 1.0, name="bn")))
    assert isinstance(decision, Fold)
    assert dict(decision.choices) == {"sum": 1, "gate": 1}
    assert set(decision.into) == {"takes", "other"}


def test_a_scale_that_can_be_routed_past_a_sum_behind_the_product() -> None:
    """The first factor is a sum that takes no scale: the other factor does."""
    net = CoreNet(7)
    factor = net.sum(net.tanh("x"), net.conv("x"), name="sum")
    rule = Product((1, 1), (LEVEL, LEVEL))
    gate = net.add("Gate", rule, factor, net.conv("x", name="takes"), name="gate", does=lambda a, b: a * b)
    decision, _ = planned(net, net.tanh(net.bn(gate, 2.0, 0.0, name="bn")))
    assert isinstance(decision, Fold)
    assert (decision.choices, decision.into) == ((("gate", 1),), ("takes",))


def test_a_product_with_one_way_out_routes_nothing() -> None:
    """u·u is scaled wherever the shift of u + w goes, and its reader takes no scale: one attempt does."""
    net = CoreNet(7)
    u, w = net.conv("x"), net.conv("x")
    square = net.add("Square", Product((1, 1), (LEVEL, LEVEL)), u, net.identity(u), does=lambda a, b: a * b)
    net.tanh(square, name="takes nothing")
    decision, log = planned(net, net.tanh(net.bn(net.sum(u, w), 2.0, 1.0, name="bn")))
    assert told(decision)["up"] == (Reason.NONLINEAR, "takes nothing")
    assert len(log.choices("up")) == 1


@pytest.mark.parametrize("length", [1, 4, 10, 11, 12])
def test_branches_that_begin_in_one_value_share_a_shift(length: int) -> None:
    """v → two rows of nodes → their sum → BN: each takes half of it, near by."""
    net = CoreNet(8)
    v = net.conv("x", name="writer")
    y = net.sum(row(net, v, length), row(net, v, length), name="sum")
    decision, log = planned(net, net.tanh(net.bn(y, 2.0, 1.0, name="bn")))
    if 2 * length + 2 <= 24:
        assert isinstance(decision, Fold) and decision.choices == (("sum", 2),)
        assert decision.into == ("writer",)
        assert [run.shares for run, _ in log.runs][:3] == [False, False, True]
    else:
        assert told(decision)["up"] == (Reason.CONFLICT, "writer_out")


# --- linear ops without a bias --------------------------------------------------------------------


@pytest.mark.parametrize("products", [1, 2, 8, 9])
def test_a_shift_passes_products_that_have_no_bias(products: int) -> None:
    """BN → W·x, so often side by side, each → a Conv with a bias; eight of them are tried without a bias."""
    net = CoreNet(9)
    y = net.bn(net.relu("x"), 2.0, 1.0, name="bn")
    ends = [
        net.conv(net.conv(y, bias=False, bias_nodes=1, name=f"p{k}"), name=f"q{k}") for k in range(products)
    ]
    decision, log = planned(net, net.tanh(*ends))
    made = [t.makes for t in log.tries if t.split is Split.DOWN]
    if products <= 9:
        assert made == [max(0, products - 8)]
        assert isinstance(decision, Fold) and decision.split is Split.DOWN
        assert [(n, c) for n, c in decision.choices if n.startswith("p")] == [
            (f"p{k}", 1) for k in range(min(products, 8))
        ]


def test_only_products_that_gain_by_it_pass_a_shift_on() -> None:
    """p → Tanh cannot, q → Conv can: one node is made, for p."""
    net = CoreNet(10)
    y = net.bn(net.relu("x"), 2.0, 1.0, name="bn")
    p, q = (net.conv(y, bias=False, bias_nodes=1, name=name) for name in "pq")
    decision, log = planned(net, net.tanh(p, net.conv(q, name="takes")))
    assert isinstance(decision, Fold)
    assert [t.makes for t in log.tries if t.split is Split.DOWN] == [1]
    assert dict(decision.choices) == {"q": 1}
    assert set(decision.into) == {"p", "q", "takes"}


def test_of_ways_that_cost_the_same_the_first_is_taken() -> None:
    """Up and down each make one node and touch one."""
    net = CoreNet(11)
    y = net.bn(net.conv("x", bias=False, bias_nodes=1, name="before"), 2.0, 1.0, name="bn")
    net.tanh(net.conv(y, bias=False, bias_nodes=1, name="behind"))
    decision, log = planned(net, "tanh3_out")
    assert isinstance(decision, Fold) and decision.split is Split.UP
    assert [(t.split.value, t.makes) for t in log.tries] == [
        ("up", 1), ("down", 1), ("shift-up", 1), ("scale-up", 1),
    ]  # fmt: skip


def test_a_way_that_makes_no_node_is_taken_though_it_is_longer() -> None:
    net = CoreNet(12)
    y = net.bn(row(net, net.conv("x", name="before"), 5), 2.0, 1.0, name="bn")
    net.tanh(net.conv(y, bias=False, bias_nodes=1, name="behind"), name="end")
    decision, log = planned(net, "end_out")
    assert isinstance(decision, Fold) and decision.split is Split.UP
    assert [(t.split.value, t.makes) for t in log.tries][:2] == [("up", 0), ("down", 1)]


def test_a_product_does_not_pass_on_a_shift_that_costs_as_much_behind_it() -> None:
    """p → q, neither with a bias: the node is made for p, with or without trying."""
    net = CoreNet(13)
    y = net.bn(net.relu("x"), 2.0, 1.0, name="bn")
    p = net.conv(y, bias=False, bias_nodes=1, name="p")
    decision, _ = planned(net, net.tanh(net.conv(p, bias=False, bias_nodes=1, name="q")))
    assert isinstance(decision, Fold)
    assert (decision.into, decision.choices) == (("p",), ())


def test_too_many_choices_near_by_may_be_few_further_away() -> None:
    """The first of 66 branches takes the shift, thirty nodes away: near by none is found."""
    net = CoreNet(14)
    ends = [row(net, net.conv("x", name="takes"), 30), *(net.relu(net.conv("x")) for _ in range(65))]
    y = net.bn(net.sum(*ends, name="sum"), 1.0, 1.0, name="bn")
    decision, log = planned(net, net.tanh(y))
    assert isinstance(decision, Fold) and decision.into == ("takes",)
    assert len([limit for split, limit in log.limits if split == "up" and limit == 24]) == 64
