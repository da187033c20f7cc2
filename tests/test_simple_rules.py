"""Rules of ops with one value in and one out, constants, and the ways to split y = a·x + c."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfuse.core.axes import Permute, Relabel
from bnfuse.core.decisions import Split
from bnfuse.core.graph import Node, Port
from bnfuse.core.planning.splits import holdings, splits
from bnfuse.core.planning.state import State
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam, from_backward, from_forward
from bnfuse.core.rules.base import (
    Joint,
    Opaque,
    Pass,
    Reaction,
    Rule,
    ShapeOnly,
    Sign,
    Source,
    StateView,
    zero_scale,
)
from tests.core_nets import CoreNet, stored
from tests.held_values import hold

NODE = Node("n", "Op", ("a", "b"), ("y", "z"))


def held(*axes: int, scale: Any = 2.0, shift: Any = 0.0) -> Reparam:
    shape = tuple((3, 4, 5)[a] for a in axes)
    return from_backward(axes, np.broadcast_to(scale, shape), np.broadcast_to(shift, shape))


def react(rule: Rule, port: Port, asked: Reparam) -> Reaction | Refusal:
    state: Any = State(CoreNet().graph())  # nothing is asked of it
    numbers: StateView = state
    return rule.react(NODE, port, asked, numbers)


MIXES_LAST = Pass(mixes=lambda axis: axis == 2, mixed_out={0})
DROPS = Pass(
    axes=Relabel((0, None, 1), 2), in_port=1, shift=Reason.ZERO_PADDING, mixes=lambda axis: axis == 2
)
TURNS = Pass(axes=Permute((1, 0, 2)), mixes=lambda axis: axis == 0)
HALVES = "2 of 4 channels are negative"
HALF = {"scale": [1.0, -1.0, -2.0, 0.0]}

# rule, port, what is asked → (port, axes) of the demand, or (reason, value, detail)
PASSES: list[tuple[Pass, Port, Reparam, tuple[Any, ...]]] = [
    (Pass(), 0, held(1, shift=1.0), (~0, (1,))),
    (Pass(), ~0, held(1, shift=1.0), (0, (1,))),
    (Pass(), 1, held(1), (Reason.UNSUPPORTED_OP, "b", "")),
    (Pass(), ~1, held(1), (Reason.UNSUPPORTED_OP, "z", "")),
    (Pass(axes=Permute((1, 0, 2))), 0, held(1), (~0, (0,))),
    (Pass(axes=Permute((1, 2, 0))), ~0, held(1), (0, (2,))),
    (Pass(axes=Permute((1, 2, 0))), 0, held(1), (~0, (0,))),
    (Pass(Sign.NONNEGATIVE), 0, held(1, scale=[1.0, 0.0, 2.0, 3.0], shift=1.0), (~0, (1,))),
    (Pass(Sign.NONNEGATIVE), 0, held(1, **HALF), (Reason.NEGATIVE_SCALE, "a", HALVES)),
    (Pass(Sign.NONNEGATIVE), ~0, held(1, **HALF), (Reason.NEGATIVE_SCALE, "y", HALVES)),
    (Pass(shift=Reason.ZERO_PADDING), 0, held(1), (~0, (1,))),
    (Pass(shift=Reason.ZERO_PADDING), 0, held(1, shift=1.0), (Reason.ZERO_PADDING, "a", "")),
    (Pass(shift=Reason.ZERO_PADDING), ~0, held(1, shift=1.0), (Reason.ZERO_PADDING, "y", "")),
    (MIXES_LAST, 0, held(1), (~0, (1,))),
    (MIXES_LAST, 0, held(0), (~0, (0,))),
    (MIXES_LAST, 0, held(1, 2), (Reason.AXIS, "a", "")),
    (MIXES_LAST, 0, held(), (~0, ())),
    (MIXES_LAST, ~0, held(1), (0, (1,))),
    (MIXES_LAST, ~0, held(0, 1), (Reason.AXIS, "y", "")),
    (MIXES_LAST, ~0, held(2), (Reason.AXIS, "y", "")),
    (TURNS, 0, held(1), (~0, (0,))),
    (TURNS, 0, held(0), (Reason.AXIS, "a", "")),
    (DROPS, 1, held(0), (~0, (0,))),
    (DROPS, 1, held(1, scale=[1.0, 2.0, 3.0, 4.0]), (Reason.AXIS, "b", "")),
    (DROPS, 0, held(0), (Reason.UNSUPPORTED_OP, "a", "")),
    (DROPS, ~0, held(0), (1, (0,))),
    (DROPS, ~0, held(1), (Reason.AXIS, "y", "")),  # axis 2 of the input, which is mixed
]  # fmt: skip


@pytest.mark.parametrize(("rule", "port", "asked", "wanted"), PASSES)
def test_what_passes(rule: Pass, port: Port, asked: Reparam, wanted: tuple[Any, ...]) -> None:
    answer = react(rule, port, asked)
    if isinstance(answer, Refusal):
        assert (answer.reason, answer.value, answer.detail) == wanted
        assert answer.node == "Op 'n'"
    else:
        ((other, demand),) = answer.demands
        assert (other, demand.axes) == wanted and answer.edit is None
        assert demand.size == asked.size and demand.shifts == asked.shifts


def test_shapes_take_anything_and_the_unknown_nothing() -> None:
    assert react(ShapeOnly(), 0, held(1)).demands == ()  # type: ignore[union-attr]
    assert react(ShapeOnly(), 1, held(1)).edit is None  # type: ignore[union-attr]
    assert react(ShapeOnly(), ~0, held(1)) == Refusal(Reason.UNSUPPORTED_OP, "Op 'n'", "y")
    assert react(Opaque(Reason.NONLINEAR, "so"), 1, held(1)) == Refusal(Reason.NONLINEAR, "Op 'n'", "b", "so")
    assert react(Opaque(), ~0, held(1)) == Refusal(Reason.UNSUPPORTED_OP, "Op 'n'", "y")
    assert not Rule.joint and Joint.joint and not Pass.joint
    for wrong in (Rule(), Joint()):
        with pytest.raises(AssertionError, match="settled"):
            react(wrong, 0, held(1))


# shape as stored, axes of the value before it, axes picked at run time, what is asked → axes of the edit
SOURCES: list[tuple[tuple[int, ...], int, set[int], Reparam, tuple[int, ...] | Reason]] = [
    ((3, 4, 5), 0, set(), held(1), (1,)),
    ((3, 4, 5), 0, set(), held(0, 2), (0, 2)),
    ((4, 5), 1, set(), held(1), (0,)),
    ((4, 5), 1, set(), held(1, 2), (0, 1)),
    ((4, 5), 1, set(), held(), ()),
    ((4, 5), 1, set(), held(0), Reason.AXIS),  # the constant does not vary there
    ((4, 5), 1, set(), held(0, 1), Reason.AXIS),
    ((4, 3), 1, set(), held(0), Reason.AXIS),  # though as long along another
    ((4, 5), 1, {1}, held(1), Reason.AXIS),
    ((4, 5), 1, {1}, held(1, 2), Reason.AXIS),
    ((4, 5), 1, {1}, held(2), (1,)),
    ((4, 1), 1, set(), held(1, 2), Reason.AXIS),
    ((1, 5), 1, set(), held(1, 2), Reason.AXIS),
    ((4,), 1, set(), held(1, 2), Reason.AXIS),
    ((4,), 1, set(), held(2), Reason.AXIS),
    ((4, 5), 0, set(), held(1, scale=[2.0, 1.0, 1.0, 1.0]), Reason.AXIS),
]


@pytest.mark.parametrize(("shape", "offset", "chosen", "asked", "wanted"), SOURCES)
def test_a_constant_takes_what_lies_along_its_own_axes(
    shape: tuple[int, ...], offset: int, chosen: set[int], asked: Reparam, wanted: tuple[int, ...] | Reason
) -> None:
    rule = Source(stored(np.zeros(shape)), offset, chosen)
    answer = react(rule, ~0, asked)
    if isinstance(answer, Refusal):
        assert answer == Refusal(Reason.AXIS, "Op 'n'", "y") and wanted is Reason.AXIS
    else:
        assert answer.edit is not None and answer.demands == ()
        assert (answer.edit.port, answer.edit.axes) == (~0, wanted)
        assert answer.edit.pair is asked.backward
    assert react(rule, 0, asked) == Refusal(Reason.UNSUPPORTED_OP, "Op 'n'", "a")


def test_a_scale_that_cannot_be_undone_is_told_with_its_zeros() -> None:
    zeros, flat = np.array([0.0, 2.0, 0.0]), np.ones(3)
    for asked in (from_forward((1,), zeros, flat), from_backward((1,), zeros, flat)):
        assert zero_scale(NODE, asked) == Refusal(Reason.ZERO_SCALE, "Op 'n'", detail="2 of 3 channels")
    assert not isinstance(react(Source(stored(np.zeros(3))), ~0, held(0)), Refusal)
    answer = react(Source(stored(np.zeros(3))), ~0, from_forward((0,), zeros, flat))
    assert answer == Refusal(Reason.ZERO_SCALE, "Op 'n'", detail="2 of 3 channels")


# --- splits ---------------------------------------------------------------------------------------

CHANNELS = {
    "mixed": ([2.0, -3.0, 0.5], [1.0, 2.0, 0.0]),
    "zeros": ([2.0, 0.0, -0.5], [1.0, 2.0, 0.0]),
    "one": ([-2.0], [3.0]),
    "no shift": ([2.0, -3.0, 0.5], [0.0, 0.0, 0.0]),
}


# By a constant channel values are held with other channels: tests/test_constant_channel.py.
SPLITS = [split for split in Split if split is not Split.CONSTANT]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", CHANNELS)
def test_a_split_holds_both_sides_in_one_tensor(split: Split, name: str) -> None:
    """h = s·x + t, and y = p·h + q: together they are a·x + c."""
    a, c = (np.array(v) for v in CHANNELS[name])
    x_held, y_held = holdings(split, (1,), a, c)
    assert x_held.axes in ((), (1,)) and (x_held.axes == () or a.size > 1)
    x = np.random.default_rng(0).standard_normal((2, a.size, 4))
    assert x_held.backward is not None and y_held.forward is not None
    h = hold(x_held, x)
    y = hold(from_backward(y_held.axes, *y_held.forward), h)
    np.testing.assert_allclose(y, a.reshape(-1, 1) * x + c.reshape(-1, 1), rtol=1e-12)


# split → the scale of x, and of y, for a = (2, 0, −3): where a is zero the shift goes up whole
SCALES = {
    Split.UP: ([2.0, 0.0, -3.0], None),
    Split.DOWN: (None, [2.0, 0.0, -3.0]),
    Split.SHIFT_UP: ([1.0, 0.0, -1.0], [2.0, 1.0, 3.0]),
    Split.SHIFT_UP_SIGNED: ([1.0, 0.0, 1.0], [2.0, 1.0, -3.0]),
    Split.SCALE_UP: ([2.0, 0.0, -3.0], [1.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("split", SPLITS)
def test_which_share_each_side_takes(split: Split) -> None:
    a, c = np.array([2.0, 0.0, -3.0]), np.array([4.0, 5.0, 6.0])
    x_held, y_held = holdings(split, (1,), a, c)
    up, down = SCALES[split]
    if up is None:
        assert x_held.is_identity
    else:
        assert x_held.backward is not None and x_held.backward[0].tolist() == up
        assert x_held.shifts is (split is not Split.SCALE_UP)
    if down is None:
        assert y_held.is_identity
    else:
        assert y_held.forward is not None and y_held.forward[0].tolist() == down
        assert y_held.shifts is (split in (Split.DOWN, Split.SCALE_UP))


@pytest.mark.parametrize(
    ("a", "c", "wanted"),
    [
        ([1, 1], [0, 0], "up down"),
        ([1, 1], [1, 0], "up down"),
        ([2, 1], [0, 0], "up down"),
        ([2, 2], [1, 1], "up down shift-up scale-up"),
        ([2, 1], [1, 0], "up down shift-up scale-up"),
        ([-2, 1], [0, 0], "up down shift-up"),
        ([0, 1], [0, 0], "up down shift-up"),
        ([0, 1], [1, 0], "up down shift-up scale-up"),
        ([0.5, 0.5], [0, 0], "up down"),
        ([-2, 1], [0, 1], "up down shift-up shift-up-signed scale-up"),
    ],
)
def test_splits_that_come_to_the_same_are_left_out(a: list[float], c: list[float], wanted: str) -> None:
    made = splits(np.array(a, np.float64), np.array(c, np.float64))
    assert [split.value for split in made] == wanted.split()
