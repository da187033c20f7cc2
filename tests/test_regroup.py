"""Reshape's groups of axes, written out by hand, and when a factor cannot follow."""

from __future__ import annotations

import numpy as np
import pytest

from bnfuse.core import axes as core_axes
from bnfuse.core.axes import Chain, Permute, Regroup, Relabel, SameAxes, Shape, Take, regroup
from bnfuse.core.reparam import Reparam, from_backward, from_forward

Groups = list[tuple[str, str]]

# Input, output, and which axes of the one hold the same elements as which of the other: "12-3" is axes 1, 2.
GROUPS: list[tuple[Shape, Shape, str]] = [
    ((2, 3, 4), (2, 3, 4), "0-0 1-1 2-2"),
    (("N", 3, 4), ("N", 12), "0-0 12-1"),
    (("N", 12), ("N", 3, 4), "0-0 1-12"),
    (("N", 12, 5), ("N", 3, 4, 5), "0-0 1-12 2-3"),
    (("N", 5, 7), ("N", 7, 5), "0-0 12-12"),
    (("N", 6, 4, 5), ("N", 8, 3, 5), "0-0 12-12 3-3"),
    (("N", 4, "H"), ("N", 2, 2, "H"), "0-0 1-12 2-3"),
    (("N", 4, "H", 9), ("N", 2, 2, "H", 3, 3), "0-0 1-12 2-3 3-45"),
    (("N", "M"), ("M", "N"), "01-01"),
    (("N", 4), (4, "N"), "01-01"),
    (("N", 4, "M"), ("N", "M", 4), "0-0 12-12"),
    (("N", "A", "B", 3), ("N", "B", "A", 3), "0-0 12-12 3-3"),
    (("N", "A", "B", 3, 5), ("N", "B", "A", 3, 5), "0-0 12-12 3-3 4-4"),
    (("N", 6, "A", 4), ("N", 2, 3, "B", 4), "0-0 1-12 2-3 3-4"),
    ((2, 3, 5, 7), (6, 35), "01-0 23-1"),
    ((6, 35), (2, 3, 5, 7), "0-01 1-23"),
    ((2, 3, 5, 7), (6, 5, 7), "01-0 2-1 3-2"),
    ((2, 3, 4), (24,), "012-0"),
    ((24,), (2, 3, 4), "0-012"),
    # one size that is not known follows from the others
    ((None, 12), (2, 6, 12), "0-01 1-2"),
    ((2, 6, 12), (None, 12), "01-0 2-1"),
    (("N", 6, 4), ("N", 6, 2, None), "0-0 1-1 2-23"),
    (("N", None, 4), ("N", 6, 2, 2), "0-0 1-1 2-23"),
    (("A", "B", None), ("A", "B", 6), "0-0 1-1 2-2"),
    (("A", "A", 6), ("A", "A", None), "0-0 1-1 2-2"),
    ((3, None, 5), (3, 2, 7, 5), "0-0 1-12 2-3"),
    ((2, 3), (6, None), "01-0 -1"),
    # …or does not
    ((None, 5), (12,), "01-0"),
    ((None, 6), (3,), "01-0"),
    ((12,), (None, 5), "0-01"),
    ((3, None), (3, None), "0-0 1-1"),
    ((None, None), (None, None), "01-01"),
    ((None, 4), (None, 2, None), "01-012"),
    (("A", 4), ("B", 2, None), "01-012"),
    ((None, 4), (None, 2, 2), "0-0 1-12"),
    ((None, None, 4), (7, 4), "01-0 2-1"),
    ((None, 0), (0, 5), "0- 1-01"),  # there is nothing in them
    ((0, 5), (None, 0), "-0 01-1"),
    (("N", 3), (None, 3), "0-0 1-1"),
]


def _groups(found: Regroup) -> str:
    return " ".join("-".join("".join(map(str, axes)) for axes in pair) for pair in found.groups)


@pytest.mark.parametrize(("before", "after", "expected"), GROUPS)
def test_which_axes_hold_the_same_elements(before: Shape, after: Shape, expected: str) -> None:
    assert _groups(regroup(before, after)) == expected


@pytest.mark.parametrize(("before", "after", "expected"), GROUPS)
def test_the_other_way_round(before: Shape, after: Shape, expected: str) -> None:
    mirrored = " ".join("-".join(reversed(pair.split("-"))) for pair in expected.split())
    assert _groups(regroup(after, before)) == mirrored


def test_a_size_that_follows_is_filled_in() -> None:
    assert regroup((None, 12), (2, 6, 12)).in_shape == (12, 12)
    assert regroup((2, 6, 12), (2, None, 3, 12)).out_shape == (2, 2, 3, 12)
    assert regroup(("N", 6, 4), ("N", 6, 2, None)).out_shape == ("N", 6, 2, 2)
    assert regroup((None, 5), (12,)).in_shape == (None, 5)
    assert regroup((12,), (None, 5)).out_shape == (None, 5)
    assert regroup((None, 5), (0,)).in_shape == (0, 5)
    filled = (*regroup((None, 12), (2, 6, 12)).in_shape, *regroup((2, 6, 12), (None, 12)).out_shape)
    assert all(isinstance(size, int) for size in filled)


def _along(axes: tuple[int, ...], *sizes: int, seed: int = 0) -> Reparam:
    rng = np.random.default_rng(seed)
    return from_backward(axes, 1.0 + rng.random(sizes), rng.standard_normal(sizes))


def _values(held: Reparam | None, axes: tuple[int, ...]) -> np.ndarray:
    assert held is not None and held.axes == axes and held.backward is not None
    return held.backward[0]


def test_factors_follow_their_elements() -> None:
    """Element by element, as numpy reshapes them."""
    held = _along((1,), 6)
    assert held.backward is not None
    split = regroup(("N", 6, 5), ("N", 2, 3, 5))
    np.testing.assert_array_equal(_values(split.forward(held), (1, 2)), held.backward[0].reshape(2, 3))
    both = _along((1, 2), 2, 3)
    assert both.backward is not None
    np.testing.assert_array_equal(_values(split.backward(both), (1,)), both.backward[0].reshape(6))
    inner = _along((2,), 3)
    assert inner.backward is not None
    np.testing.assert_array_equal(_values(split.backward(inner), (1,)), np.tile(inner.backward[0], 2))
    outer = _along((1,), 2)
    assert outer.backward is not None
    np.testing.assert_array_equal(_values(split.backward(outer), (1,)), np.repeat(outer.backward[0], 3))
    beside = _along((1, 3), 2, 5)
    assert beside.backward is not None
    wide = np.repeat(beside.backward[0], 3, axis=0)
    np.testing.assert_array_equal(_values(split.backward(beside), (1, 2)), wide)


def test_a_size_known_from_the_factor_will_do() -> None:
    """The axis beside has only a symbol, but the factor along it tells its size."""
    moved = regroup(("N", 6, "H"), ("N", 2, 3, "H")).forward(_along((1, 2), 6, 4))
    assert moved is not None and moved.axes == (1, 2, 3) and moved.shape == (2, 3, 4)
    back = regroup(("N", 2, 3, "H"), ("N", 6, "H")).forward(_along((1, 2, 3), 2, 3, 4))
    assert back is not None and back.axes == (1, 2) and back.shape == (6, 4)


def test_what_cannot_follow_is_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = regroup(("N", "A", 4), ("N", 4, "A"))
    assert unknown.forward(_along((1,), 3)) is None  # how many elements lie beside is not known
    assert regroup(("N", 6), ("N", 2, 3)).forward(_along((1,), 5)) is None  # 5 factors for 6 channels
    assert regroup(("N", 6, 4), ("N", 2, 3, 4)).forward(_along((1, 2), 5, 4)) is None
    assert Regroup((6,), (2, 4), ((range(1), range(2)),)).forward(_along((0,), 6)) is None  # 8 are not 6
    assert (
        Regroup((6, 5), (6,), ((range(1), range(1)),)).forward(_along((1,), 5)) is None
    )  # axis 1 is nowhere
    # 25 million numbers for three channels: nobody gains from that
    assert regroup((3, 1 << 11, 1 << 12), (3 << 23,)).forward(_along((0,), 3)) is None
    split = regroup((6, 8), (2, 3, 8))
    monkeypatch.setattr(core_axes, "_MAX_ELEMENTS", 6)
    assert split.forward(_along((0,), 6)) is not None
    monkeypatch.setattr(core_axes, "_MAX_ELEMENTS", 5)
    assert split.forward(_along((0,), 6)) is None


def test_a_factor_without_an_inverse_follows_too() -> None:
    zero = from_forward((1,), np.array([0.0, 2.0, 3.0, 4.0, 5.0, 6.0]), np.zeros(6))
    moved = regroup(("N", 6), ("N", 2, 3)).forward(zero)
    assert moved is not None and moved.backward is None and moved.forward is not None
    np.testing.assert_array_equal(moved.forward[0], [[0.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    taken = Take(1, (2, 0), 6).backward(from_forward((1,), np.array([0.0, 3.0]), np.array([7.0, 8.0])))
    assert taken is not None and taken.backward is None and taken.forward is not None
    np.testing.assert_array_equal(taken.forward[0], [3.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(taken.forward[1], [8.0, 0.0, 7.0, 0.0, 0.0, 0.0])


def test_taking_and_a_single_factor() -> None:
    """One number for all: where all are taken it stays one, where some are the others keep theirs."""
    one = from_backward((), np.array(2.0), np.array(3.0))
    assert Take(1, (1, 0), 2).backward(one) is one
    spread = Take(1, (2, 0), 3).backward(one)
    assert spread is not None and spread.axes == (1,) and spread.backward is not None
    np.testing.assert_array_equal(spread.backward[0], [2.0, 1.0, 2.0])
    np.testing.assert_array_equal(spread.backward[1], [3.0, 0.0, 3.0])
    elsewhere = _along((2,), 4)
    assert Take(1, (2, 0), 3).forward(elsewhere) is elsewhere
    assert Take(1, (2, 0, 1), 3).backward(elsewhere) is elsewhere
    assert Take(1, (2, 0), 3).backward(_along((1,), 3)) is None  # three factors for two elements
    assert Take(1, (2, 0), 3).forward(_along((1,), 4)) is None
    assert SameAxes().forward(elsewhere) is elsewhere


def test_axes_of_size_one() -> None:
    """A factor along an axis that goes is declined, unless it is one number there."""
    squeeze = Relabel((0, None, 1), 2)
    assert squeeze.forward(_along((1,), 4)) is None
    assert squeeze.forward(_along((0, 1), 2, 4)) is None
    moved = squeeze.forward(_along((1, 2), 1, 3))
    assert moved is not None and (moved.axes, moved.shape) == ((1,), (3,))
    back = squeeze.backward(_along((1,), 3))
    assert back is not None and back.axes == (2,)
    unsqueeze = Relabel((0, 2), 3)
    assert unsqueeze.backward(_along((1,), 4)) is None
    kept = _along((0,), 1)
    same = Relabel((0, 1), 2).forward(kept)
    assert same is not None and same.axes == (0,)  # nothing goes, so nothing is looked at
    assert Permute((1, 0)).forward(_along((5,), 2)) is None


def test_what_a_step_declines_the_chain_declines() -> None:
    squeeze, turn = Relabel((0, None, 1), 2), Permute((1, 0))
    assert Chain((squeeze, turn)).forward(_along((1,), 4)) is None
    assert Chain((Relabel((0, 2), 3), Permute((0, 1, 2)))).backward(_along((1,), 4)) is None
    assert Chain((Permute((0, 1)), Relabel((0, 2), 3))).backward(_along((1,), 4)) is None
    moved = Chain((squeeze, turn)).forward(_along((2,), 4))
    assert moved is not None and moved.axes == (0,)
    back = Chain((squeeze, turn)).backward(_along((0,), 4))
    assert back is not None and back.axes == (2,)
