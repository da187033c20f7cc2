"""What earlier folds did, as later ones meet it: a linear op's edits added up, and what was taken counted."""

from __future__ import annotations

import numpy as np
import pytest

from bnfuse.core.decisions import Split
from bnfuse.core.graph import Node
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Absorbed
from bnfuse.core.weights.linear import Rewrite
from tests.core_nets import CoreNet

CHANNELS = 3


def _net() -> tuple[State, Node, Node]:
    """Conv → BatchNormalization → Tanh."""
    net = CoreNet(3)
    net.tanh(net.bn(net.conv("x", CHANNELS, name="conv"), [2, -3, 0.5], [1, 0, -2], name="bn"))
    return State(net.graph()), net.node("conv"), net.node("bn")


def _written(seed: int, shift: bool = True) -> Absorbed:
    rng = np.random.default_rng(seed)
    return Absorbed(-1, (rng.uniform(0.5, 2, CHANNELS), shift * rng.normal(size=CHANNELS)))


def _taking(by: Node, *edits: tuple[Node, Absorbed]) -> Propagation:
    return Propagation(by, Split.UP, edits, tuple(node for node, _ in edits), ())


def _assert_same(found: Rewrite, wanted: Rewrite) -> None:
    for mine, its in ((found.read, wanted.read), (found.write, wanted.write)):
        assert (mine is None) == (its is None)
        for got, want in zip(mine or (), its or (), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12)


def test_what_is_added_up_is_what_all_edits_come_to() -> None:
    """However often it was asked for on the way: s·(…) + t, one after the other, in float64."""
    state, conv, bn = _net()
    scale, shift = np.ones(CHANNELS), np.zeros(CHANNELS)
    for seed in range(4):
        edit = _written(seed)
        state.accept_rescaling(_taking(bn, (conv, edit)))
        scale, shift = edit.pair[0] * scale, edit.pair[0] * shift + edit.pair[1]
        if seed != 1:  # two come before it is asked again
            _assert_same(state.rewrite(conv), Rewrite(None, (scale, shift)))


def test_edits_that_come_in_the_place_of_others_are_added_up_anew() -> None:
    state, conv, bn = _net()
    for seed in range(3):
        state.accept_rescaling(_taking(bn, (conv, _written(seed))))
    state.rewrite(conv)
    state.edits[conv] = [_written(seed, shift=False) for seed in (7, 8, 9, 10)]
    scale = np.prod([edit.pair[0] for edit in state.edits[conv]], axis=0)
    _assert_same(state.rewrite(conv), Rewrite(None, (scale, np.zeros(CHANNELS))))
    assert not state.shifts(conv)


@pytest.mark.parametrize("shifts", [(True, False), (False, True), (False, False)])
def test_a_shift_that_came_once_stays_known(shifts: tuple[bool, ...]) -> None:
    state, conv, bn = _net()
    for seed, shift in enumerate(shifts):
        state.accept_rescaling(_taking(bn, (conv, _written(seed, shift))))
        assert state.shifts(conv) == any(shifts[: seed + 1])


def test_what_was_taken_is_counted() -> None:
    """Rescalings one by one; of numbers both vectors of every edit."""
    state, conv, bn = _net()
    for times in (1, 2, 3):
        state.accept_rescaling(_taking(bn, (conv, _written(1)), (conv, _written(2))))
        assert state.rescalings == times
        assert state.effort.numbers == times * 2 * 2 * CHANNELS
    state.accept(_taking(bn, (conv, _written(4))))
    assert (state.rescalings, state.effort.numbers) == (3, 7 * 2 * CHANNELS)


@pytest.mark.parametrize(
    ("scale", "shift"), [(True, True), (True, False), (False, True), (False, False)], ids=str
)
def test_what_is_spelled_out_says_what_there_is_of_it(scale: bool, shift: bool) -> None:
    """One channel that is not the identity is enough."""
    state, _, bn = _net()
    a, c = np.ones(CHANNELS), np.zeros(CHANNELS)
    a[1] += scale
    c[2] += shift
    state.numbers[bn] = (a, c, (1,))
    state.spell(bn)
    rule = state.rule(bn)
    assert isinstance(rule, Affine)
    np.testing.assert_array_equal(rule.pair, (a, c))
    assert (rule.has_scale, rule.has_shift, rule.axes) == (scale, shift, (1,))
    assert state.arithmetic == [bn]
