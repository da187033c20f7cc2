"""Held values one by one: what is said of them, when two are the same, and what linear ops take on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bnfuse.core.apply import NewLinear
from bnfuse.core.graph import Node
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import IDENTITY, Pair, Reparam, from_backward, from_forward, same
from bnfuse.core.rules.base import Absorbed, Current, Reaction
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import Rewrite, linear_form
from bnfuse.core.weights.tensor import ArrayTensor
from tests.held_values import Vector

NONE, ONE, TWO = np.zeros(3), np.ones(3), np.full(3, 2.0)
SOME = np.array([0.0, 5.0, 0.0])
SAID = [  # scale, shift; scales, shifts, zeros, negative
    (ONE, NONE, (False, False, False, 0)),
    (ONE, SOME, (False, True, False, 0)),
    (np.array([1.0, 3.0, 1.0]), NONE, (True, False, False, 0)),
    (np.array([2.0, 3.0, 0.0]), NONE, (True, False, True, 0)),
    (np.array([-1.0, 3.0, -2.0]), SOME, (True, True, False, 2)),
    (np.array([0.0, 1.0, 1.0]), SOME, (True, True, True, 0)),
]


@pytest.mark.parametrize(("scale", "shift", "said"), SAID)
@pytest.mark.parametrize("made", [from_backward, from_forward])
def test_what_is_said_of_a_held_value(
    made: type, scale: Vector, shift: Vector, said: tuple[bool, bool, bool, int]
) -> None:
    """The same whichever direction was given, before the other is asked for and after."""
    held = made((1,), scale, shift)
    for _ in range(2):
        assert (held.scales, held.shifts, held.zeros, held.negative) == said
        assert held.is_identity == (said[:2] == (False, False))
        assert (held.size, held.shape) == (3, (3,))
        assert (held.backward is None or held.forward is None) == said[2]


def test_sizes_of_a_map() -> None:
    held = from_backward((1, 2), np.ones((3, 4)), np.zeros((3, 4)))
    assert (held.size, held.shape) == (12, (3, 4))
    assert (IDENTITY.size, IDENTITY.shape) == (1, ())
    only_reads = from_forward((1, 2), np.zeros((3, 4)), np.zeros((3, 4)))
    assert only_reads.backward is None and (only_reads.size, only_reads.shape) == (12, (3, 4))


@pytest.mark.parametrize("make", [from_backward, from_forward])
def test_a_part_without_the_zeros_can_be_undone(make: Callable[..., Reparam]) -> None:
    """Of channels some of which hold nothing, those that do: a Split's output, an operand of a Concat."""
    whole = make((1,), np.array([2.0, 0.0, -4.0]), np.array([1.0, 5.0, 3.0]))
    part = whole.map(lambda v: v[::2], (1,))
    assert None in (whole.backward, whole.forward)
    assert part.backward is not None and part.forward is not None
    (s, t), (p, q) = part.backward, part.forward
    np.testing.assert_allclose(p * s, 1.0)
    np.testing.assert_allclose(p * t + q, 0.0, atol=1e-15)
    zero = whole.map(lambda v: v[1:2], (1,))
    assert (zero.backward is None, zero.forward is None) == (whole.backward is None, whole.forward is None)


def test_a_shift_times_a_number() -> None:
    held = from_backward((1,), TWO, np.array([1.0, -3.0, 4.0])).shift_times(-0.5)
    assert held.backward is not None and held.forward is not None
    np.testing.assert_array_equal(held.backward, ([2.0, 2.0, 2.0], [-0.5, 1.5, -2.0]))
    np.testing.assert_array_equal(held.forward, ([0.5, 0.5, 0.5], [0.25, -0.75, 1.0]))
    flat = from_backward((1,), NONE, SOME).shift_times(3.0)
    assert flat.forward is None and flat.backward is not None
    np.testing.assert_array_equal(flat.backward[1], 3.0 * SOME)
    bare = from_forward((1,), NONE, SOME).scale_only
    assert bare.backward is None and bare.forward is not None and not bare.forward[1].any()


def _same(a: Reparam, b: Reparam) -> bool:
    assert same(a, b) == same(b, a)
    return same(a, b)


def test_when_two_are_the_same() -> None:
    a = from_backward((1,), TWO, SOME)
    assert _same(a, a) and _same(a, from_backward((1,), TWO.copy(), SOME.copy()))
    # rounding of float64 is no difference, what a float32 could hold is
    assert _same(a, from_backward((1,), TWO * (1 + 3e-13), SOME * (1 - 3e-13)))
    assert not _same(a, from_backward((1,), TWO * (1 + 1e-10), SOME))
    assert not _same(a, from_backward((1,), TWO, SOME * (1 + 1e-10)))
    assert not _same(a, from_backward((1,), TWO, SOME + np.array([0.0, 0.0, 1e-30])))
    assert not _same(a, from_backward((2,), TWO, SOME))
    # as different as one channel, in either of the pair
    assert not _same(a, from_backward((1,), np.array([2.0, 2.0, 2.5]), SOME))
    assert not _same(a, from_backward((1,), TWO, np.array([0.0, 5.0, 1.0])))
    # large and small channels each by their own size
    sizes = np.array([1e-8, 1.0, 1e8])
    big = from_backward((1,), sizes, NONE)
    assert not _same(big, from_backward((1,), sizes * (1 + np.array([1e-6, 0.0, 0.0])), NONE))


def test_axes_along_which_nothing_varies_do_not_tell_two_apart() -> None:
    number = from_backward((), np.array(2.0), np.array(5.0))
    vector, spread = (
        from_backward((1,), TWO, np.full(3, 5.0)),
        from_backward((1, 2), np.full((3, 4), 2.0), np.full((3, 4), 5.0)),
    )
    assert _same(number, vector) and _same(number, spread) and _same(vector, spread)
    varied = from_backward((1,), TWO, SOME)
    assert not _same(number, varied) and not _same(spread, varied)
    assert _same(varied, from_backward((1, 2), np.full((3, 4), 2.0), np.repeat(SOME[:, None], 4, axis=1)))
    assert not _same(vector, from_backward((1,), np.full(4, 2.0), np.full(4, 5.0)))  # of other sizes


def test_two_without_a_direction_in_common_are_not_the_same() -> None:
    writes, reads = from_backward((1,), SOME, NONE), from_forward((1,), SOME, NONE)
    assert not _same(writes, reads)
    assert _same(writes, from_backward((1,), SOME, NONE)) and _same(reads, from_forward((1,), SOME, NONE))
    assert not _same(reads, from_forward((1,), SOME * 2.0, NONE))
    assert not _same(writes, from_backward((1,), TWO, NONE)) and not _same(
        reads, from_forward((1,), TWO, NONE)
    )


# --- what a linear op takes on -------------------------------------------------------------------

NODE = Node("n", "Conv", ("x", "w"), ("y",))
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 3, 2))  # o i k


class Earlier:
    """What the node absorbed before."""

    def __init__(self, *edits: Absorbed) -> None:
        self.edits = edits

    def current(self, node: Node) -> Current:
        raise AssertionError

    def earlier(self, node: Node) -> tuple[Absorbed, ...]:
        return self.edits


def linear(**other: object) -> Linear:
    return Linear(ArrayTensor(WEIGHT), linear_form((4, 3, 2), "o i k*"), None, 1, 2, **other)  # type: ignore[arg-type]


def reason(answer: Reaction | Refusal) -> tuple[Reason, str]:
    assert isinstance(answer, Refusal), answer
    return answer.reason, answer.value


def pair_of(answer: Reaction | Refusal) -> Pair:
    assert isinstance(answer, Reaction) and answer.edit is not None and not answer.demands
    return answer.edit.pair


def test_a_linear_op_absorbs_at_either_side() -> None:
    x = from_forward((1,), np.array([2.0, -1.0, 0.0]), np.array([1.0, 0.0, 3.0]))
    read = linear().react(NODE, 0, x, Earlier())
    np.testing.assert_array_equal(pair_of(read), ([2.0, -1.0, 0.0], [1.0, 0.0, 3.0]))
    y = from_backward((2,), np.array([2.0, -1.0, 0.0, 1.0]), np.array([1.0, 0.0, 3.0, 0.0]))
    write = linear().react(NODE, ~0, y, Earlier())
    np.testing.assert_array_equal(pair_of(write), ([2.0, -1.0, 0.0, 1.0], [1.0, 0.0, 3.0, 0.0]))
    assert isinstance(read, Reaction) and read.edit is not None and read.edit.port == 0
    assert isinstance(write, Reaction) and write.edit is not None and write.edit.port == ~0
    number = from_backward((), np.array(2.0), np.array(5.0))
    np.testing.assert_array_equal(
        pair_of(linear().react(NODE, ~0, number, Earlier())), ([2.0] * 4, [5.0] * 4)
    )
    np.testing.assert_array_equal(
        pair_of(linear().react(NODE, 0, number, Earlier())), ([0.5] * 3, [-2.5] * 3)
    )


def test_what_a_linear_op_refuses() -> None:
    zeros = from_backward((1,), np.array([0.0, 1.0, 0.0]), NONE)
    answer = linear().react(NODE, 0, zeros, Earlier())
    assert reason(answer)[0] is Reason.ZERO_SCALE
    assert isinstance(answer, Refusal) and answer.detail == "2 of 3 channels"
    unwritten = from_forward((2,), np.array([0.0, 1.0, 1.0, 1.0]), np.zeros(4))
    assert reason(linear().react(NODE, ~0, unwritten, Earlier()))[0] is Reason.ZERO_SCALE
    one_shifted, scaled = from_backward((1,), ONE, SOME), from_backward((1,), TWO, NONE)
    padded = linear(shift_in=Reason.ZERO_PADDING)
    assert reason(padded.react(NODE, 0, one_shifted, Earlier())) == (Reason.ZERO_PADDING, "x")
    assert isinstance(padded.react(NODE, 0, scaled, Earlier()), Reaction)
    assert reason(linear().react(NODE, 0, from_backward((2,), ONE, NONE), Earlier())) == (Reason.AXIS, "x")
    assert reason(linear().react(NODE, 0, from_backward((1,), np.ones(4), np.ones(4)), Earlier())) == (
        Reason.AXIS,
        "x",
    )
    assert reason(
        linear().react(NODE, ~0, from_backward((1,), np.ones(4), NONE[:1].repeat(4)), Earlier())
    ) == (Reason.AXIS, "y")
    assert reason(linear().react(NODE, ~0, from_backward((2,), ONE, NONE), Earlier())) == (Reason.AXIS, "y")
    assert reason(linear().react(NODE, 1, scaled, Earlier())) == (Reason.UNSUPPORTED_OP, "w")
    cell = linear(writes=False)
    good = from_backward((2,), np.ones(4), np.zeros(4))
    assert reason(cell.react(NODE, ~0, good, Earlier())) == (Reason.UNSUPPORTED_OP, "y")
    assert isinstance(linear().react(NODE, ~0, good, Earlier()), Reaction)
    second = linear(in_port=1)
    assert isinstance(second.react(NODE, 1, scaled, Earlier()), Reaction)
    assert reason(second.react(NODE, 0, scaled, Earlier())) == (Reason.UNSUPPORTED_OP, "x")


def test_an_op_without_a_bias_passes_a_shift_on() -> None:
    """x = p·h + q: what q adds to the output, with all that was absorbed before, is taken off behind it."""
    bare = linear(has_bias=False, gain=1.5)
    p, q = np.array([2.0, -1.0, 0.5]), np.array([1.0, 0.0, 3.0])
    before = Earlier(
        Absorbed(0, (np.array([1.0, 2.0, -3.0]), NONE)),
        Absorbed(~0, (np.array([1.0, -2.0, 0.5, 3.0]), np.zeros(4))),
        Absorbed(0, (np.array([0.5, 1.0, 2.0]), NONE)),
    )
    answer = bare.react(NODE, 0, from_forward((1,), p, q), before)
    assert isinstance(answer, Reaction) and answer.edit is not None
    np.testing.assert_array_equal(answer.edit.pair, (p, NONE))
    ((port, rest),) = answer.demands
    assert port == ~0 and rest.axes == (2,) and rest.backward is not None
    weight = 1.5 * WEIGHT.sum(axis=2) * np.array([0.5, 2.0, -6.0]) * np.array([[1.0], [-2.0], [0.5], [3.0]])
    np.testing.assert_array_equal(rest.backward[0], np.ones(4))
    np.testing.assert_allclose(rest.backward[1], -weight @ q, rtol=1e-12)
    assert not answer_demands(bare.react(NODE, 0, from_forward((1,), p, NONE), before))
    shifted = from_backward((2,), np.ones(4), np.array([0.0, 0.0, 1.0, 0.0]))
    assert reason(bare.react(NODE, ~0, shifted, before)) == (Reason.SHIFT_REFUSED, "y")
    assert isinstance(bare.react(NODE, ~0, shifted.scale_only, before), Reaction)


def test_an_op_of_which_nothing_more_is_said() -> None:
    """y = 1·W·x + 1·b: it has its bias as it is, and needs no node to make one."""
    stored, q = np.array([1.0, -2.0, 0.5, 3.0]), np.array([1.0, 0.0, 3.0])
    plain = Linear(ArrayTensor(WEIGHT), linear_form((4, 3, 2), "o i k*"), ArrayTensor(stored), 1, 2)
    np.testing.assert_array_equal(NewLinear(None, plain, Rewrite(), ()).bias(), stored)
    assert not NewLinear(None, plain, Rewrite(), ()).makes_bias and plain.bias_nodes == 0
    answer = linear(has_bias=False).react(NODE, 0, from_forward((1,), ONE, q), Earlier())
    assert isinstance(answer, Reaction)
    ((_, rest),) = answer.demands
    assert rest.backward is not None
    np.testing.assert_allclose(rest.backward[1], -WEIGHT.sum(axis=2) @ q, rtol=1e-12)


def answer_demands(answer: Reaction | Refusal) -> tuple[object, ...]:
    assert isinstance(answer, Reaction)
    return answer.demands
