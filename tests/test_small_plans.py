"""How the planner searches: within which reach, and who is told to have refused.

Every graph is made by hand, so that what is tried, and in which order, can be told beforehand.
"""

from __future__ import annotations

import numpy as np
import pytest

from bnfuse.core.decisions import Fold, Split
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.planning.splits import holdings
from bnfuse.core.planning.state import State
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.affine import candidate
from tests.core_nets import CoreNet, row
from tests.search_log import planned, told

# nodes passed on the way up, and on the way down (None: nobody takes it there), nodes for a bias there
# → the splits tried, each with its reach; which was taken, and how many nodes it touched
REACHES: list[tuple[int, int | None, int, list[tuple[str, int]], str, int]] = [
    (0, 0, 0, [("up", 24)], "up", 1),
    (1, 0, 0, [("up", 24), ("down", 1)], "down", 1),
    (5, 3, 0, [("up", 24), ("down", 5), ("shift-up", 3), ("scale-up", 3)], "down", 4),
    (5, 5, 0, [("up", 24), ("down", 5), ("shift-up", 5), ("scale-up", 5)], "up", 6),
    (5, None, 0, [("up", 24), ("down", 5), ("shift-up", 5), ("scale-up", 5)], "up", 6),
    (23, None, 0, [("up", 24), ("down", 23), ("shift-up", 23), ("scale-up", 23)], "up", 24),
    (24, 23, 0, [("up", 24), ("down", 24), ("shift-up", 23), ("scale-up", 23)], "down", 24),
    (24, None, 0, [*((s, 24) for s in ("up", "down", "shift-up", "scale-up")), ("up", 192)], "up", 25),
    (191, None, 0, [*((s, 24) for s in ("up", "down", "shift-up", "scale-up")), ("up", 192)], "up", 192),
    (
        192,
        None,
        0,
        [*((s, 24) for s in ("up", "down", "shift-up", "scale-up")), ("up", 192), ("up", 1536)],
        "up",
        193,
    ),
    (
        30,
        30,
        0,
        [*((s, 24) for s in ("up", "down", "shift-up", "scale-up")),
         ("up", 192), ("down", 30), ("shift-up", 30), ("scale-up", 30)],
        "up",
        31,
    ),
    # A way that makes a node does not narrow the search for one that makes none.
    (3, 9, 1, [*((s, 24) for s in ("up", "up", "down")), ("shift-up", 9), ("scale-up", 9)], "down", 10),
]  # fmt: skip


@pytest.mark.parametrize(("up", "down", "makes", "wanted", "taken", "touched"), REACHES)
def test_near_by_first_and_then_further(
    up: int, down: int | None, makes: int, wanted: list[tuple[str, int]], taken: str, touched: int
) -> None:
    """A row of nodes on both sides of a BatchNormalization; what comes after a success must be shorter."""
    net = CoreNet(1)
    writer = net.conv("x", name="writer", bias=not makes, bias_nodes=makes)
    y = row(net, net.bn(row(net, writer, up), 2.0, 1.0, name="bn"), down or 0)
    end = net.tanh(y) if down is None else net.conv(y, name="reader")
    decision, log = planned(net, end)
    assert isinstance(decision, Fold)
    assert (decision.split.value, len(decision.into) + len(decision.through)) == (taken, touched)
    limits = log.limits
    if makes:  # the product is tried without a bias of its own once more
        assert [s for s, _ in limits] == [s for s, _ in wanted] and limits[-2:] == wanted[-2:]
    else:
        assert limits == wanted


def test_reasons_of_every_split_are_told_once() -> None:
    """Those of the last reach; in the order of the splits."""
    net = CoreNet(2)
    y = net.relu(row(net, net.tanh("x", name="start"), 30), name="before")
    y = net.relu(net.bn(y, [1, -2, 3], 1.0, name="bn"), name="behind")
    decision, log = planned(net, row(net, y, 3))
    assert told(decision) == {
        "up": (Reason.SHIFT_THROUGH_ACTIVATION, "before"),
        "down": (Reason.SHIFT_THROUGH_ACTIVATION, "behind"),
        "shift-up": (Reason.SHIFT_THROUGH_ACTIVATION, "before"),
        "shift-up-signed": (Reason.SHIFT_THROUGH_ACTIVATION, "before"),
        "scale-up": (Reason.NEGATIVE_SCALE, "before"),
    }
    assert [t.split.value for t in log.tries] == list(told(decision))
    assert all(t.propagation is None and t.makes == 0 for t in log.tries)


@pytest.mark.parametrize(
    ("a", "c", "wanted"),
    [
        ([1, 1], [0, 0], "up"),  # it goes and touches nobody
        ([1, 1], [1, 0], "up down"),
        ([2, 1], [0, 0], "up down"),
        ([2, 1], [1, 0], "up down shift-up scale-up"),
        ([-2, 1], [0, 0], "up down shift-up"),
        ([0, 1], [0, 0], "up down shift-up"),
        ([0, 1], [1, 0], "up down shift-up scale-up"),
        ([-2, 1], [0, 1], "up down shift-up shift-up-signed scale-up"),
    ],
)
def test_splits_that_come_to_the_same_are_not_tried(a: list[float], c: list[float], wanted: str) -> None:
    net = CoreNet(2)
    net.channels["x"] = 2
    y = net.bn(net.tanh("x"), a, c, name="bn")
    _, log = planned(net, net.tanh(y))
    assert [t.split.value for t in log.tries] == wanted.split()


@pytest.mark.parametrize(("limit", "deep"), [(24, False), (25, True), (1, False), (192, True), (None, True)])
def test_what_is_known_of_classes_is_asked_further_away(limit: int | None, deep: bool) -> None:
    """Near by the refusal is met, and told, where it is; far away who scales together is refused at once."""
    net = CoreNet(3)
    y = row(net, net.tanh("x", name="start"), 3)
    net.tanh(net.bn(y, 2.0, 0.0, name="bn"))
    state = State(net.graph())
    run = Worklist(state, candidate(state.graph, net.node("bn")), {}, limit)
    x = net.node("bn").inputs[0]
    refusal = run.run(*holdings(Split.UP, (1,), np.full(3, 2.0), np.zeros(3)))
    assert refusal is not None
    if deep:
        assert (len(run.touched), refusal.reason, refusal.node) == (0, Reason.NONLINEAR, "Tanh 'start'")
    elif limit == 1:
        assert (len(run.touched), refusal.reason) == (2, Reason.TOO_FAR)
        assert refusal.node == "BatchNormalization 'bn'"
    else:
        assert (len(run.touched), refusal.reason, refusal.node) == (4, Reason.NONLINEAR, "Tanh 'start'")
    assert run.held[x].scales
    assert (run.barred(x, run.held[x]) is not None) is deep
