"""The rule of affine nodes against a model of the node in numpy: all that it may store, asked at both sides.

The node computes y = a·n(x) + c. Where it reads affinely n(x) = x; a normalisation's n(x) is (x − mean)/std
over the channels, so that whatever passed through it to its input would change what it computes. A node that
lacks a scale or a shift of its own cannot change its a or c.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings

from bnfuse.core.graph import Node
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam, from_backward, from_forward
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Absorbed, Current, Reaction
from tests.held_values import Vector, mixed, seeds

NODE = Node("node", "Affine", ("x",), ("y",))
CHANNELS = 5


class _Stored:
    """The numbers of a rule that nothing has changed yet."""

    def __init__(self, rule: Affine) -> None:
        self.rule = rule

    def current(self, node: Node) -> Current:
        return *self.rule.pair, self.rule.axes

    def earlier(self, node: Node) -> Sequence[Absorbed]:
        return ()


def _inside(x: Vector, reads: bool) -> Vector:
    """n(x) of samples (batch, channels)."""
    return x if reads else (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)


def _asked(rng: np.random.Generator, what: str, port: int) -> Reparam:
    scale = np.ones(CHANNELS) if what == "shift" else mixed(rng, CHANNELS)
    shift = np.zeros(CHANNELS) if what == "scale" else rng.standard_normal(CHANNELS)
    return (from_forward if port >= 0 else from_backward)((1,), scale, shift)


def _held(demands: dict[int, Reparam], port: int, v: Vector) -> Vector:
    """A value as it is held from now on."""
    if port not in demands:
        return v
    pair = demands[port].backward
    assert pair is not None
    return pair[0] * v + pair[1]


STORES = list(product((True, False), repeat=3))
ASKED = list(product((0, ~0), ("scale", "shift", "both")))


def _refuses(has_scale: bool, has_shift: bool, reads: bool, port: int, what: str) -> Reason | None:
    """What must be refused: worked out from what the node can store, not from how the rule does it."""
    if not (has_scale or has_shift) or (port >= 0 and not reads):
        return Reason.UNSUPPORTED_OP
    if not reads and not has_shift:  # h = s·y + t is (s·a)·n(x) + (s·c + t), and its shift is c for good
        return Reason.SHIFT_REFUSED
    if not reads and not has_scale and what != "shift":
        return Reason.UNSUPPORTED_OP
    return None


@pytest.mark.parametrize(("has_scale", "has_shift", "reads"), STORES)
@pytest.mark.parametrize(("port", "what"), ASKED)
@settings(max_examples=25)
@given(seed=seeds)
def test_what_it_takes_on_is_what_it_computes(
    has_scale: bool, has_shift: bool, reads: bool, port: int, what: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, c = mixed(rng, CHANNELS), rng.standard_normal(CHANNELS)
    rule = Affine((a, c), (1,), has_scale=has_scale, has_shift=has_shift, reads=reads)
    held = _asked(rng, what, port)
    reaction = rule.react(NODE, port, held, _Stored(rule))
    refuses = _refuses(has_scale, has_shift, reads, port, what)
    if refuses is not None:
        assert isinstance(reaction, Refusal)
        assert (reaction.reason, reaction.value) == (refuses, "x" if port == 0 else "y")
        return
    assert isinstance(reaction, Reaction) and reaction.edit is not None
    new_a, new_c = reaction.edit.pair
    assert has_scale or (new_a == a).all()
    assert has_shift or (new_c == c).all()
    demands = {**dict(reaction.demands), port: held}
    assert reads or set(demands) == {~0}, "nothing may be asked of an input that is not read affinely"
    x = rng.standard_normal((7, CHANNELS))
    y = a * _inside(x, reads) + c
    computed = new_a * _inside(_held(demands, 0, x), reads) + new_c
    np.testing.assert_allclose(computed, _held(demands, ~0, y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("has_scale", "refused"), [(True, Reason.SHIFT_REFUSED), (False, None)])
def test_a_norm_without_a_shift_takes_a_scale_only(has_scale: bool, refused: Reason | None) -> None:
    """y = γ·n(x) as an RMS normalisation has it: c = 0, so a scale alone is no shift of c."""
    gamma = np.array([2.0, -0.5, 1.5, 3.0, -1.0])
    rule = Affine((gamma, np.zeros(5)), (1,), has_scale=has_scale, has_shift=not has_scale, reads=False)
    scale, shift = np.array([3.0, -2.0, 0.5, -1.0, 4.0]), np.arange(5.0)
    scaled = rule.react(NODE, ~0, from_backward((1,), scale, np.zeros(5)), _Stored(rule))
    shifted = rule.react(NODE, ~0, from_backward((1,), np.ones(5), shift), _Stored(rule))
    if not has_scale:  # y = n(x) + β, the other way round
        scaled, shifted = shifted, scaled
        assert isinstance(shifted, Refusal) and shifted.reason is Reason.UNSUPPORTED_OP
        assert "no scale of its own" in shifted.sentence
    else:
        assert isinstance(shifted, Refusal) and shifted.reason is refused
    assert isinstance(scaled, Reaction) and not scaled.demands and scaled.edit is not None
    wanted = (scale * gamma, np.zeros(5)) if has_scale else (gamma, shift)
    np.testing.assert_array_equal(scaled.edit.pair, wanted)


@settings(max_examples=100)
@given(seed=seeds)
def test_channels_that_hold_nothing_need_nothing_where_they_are_multiplied_by_zero(seed: int) -> None:
    """x is held as s·x + t with zeros in s; a has zeros there, too: y can still be computed from h."""
    rng = np.random.default_rng(seed)
    a, c, s, t = (mixed(rng, CHANNELS) for _ in range(4))
    lost = rng.random(CHANNELS) < 0.4
    lost[0] = True
    a[lost] = s[lost] = 0.0
    rule = Affine((a, c), (1,))
    reaction = rule.react(NODE, 0, from_backward((1,), s, t), _Stored(rule))
    assert isinstance(reaction, Reaction) and reaction.edit is not None and not reaction.demands
    x = rng.standard_normal((7, CHANNELS))
    new_a, new_c = reaction.edit.pair
    np.testing.assert_allclose(new_a * (s * x + t) + new_c, a * x + c, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("has_scale", "has_shift"), [(True, True), (True, False), (False, True)])
def test_channels_that_hold_nothing_cannot_be_read(has_scale: bool, has_shift: bool) -> None:
    a, s = np.array([2.0, 0.0, 1.5]), np.array([0.0, 0.0, 3.0])
    rule = Affine((a, np.ones(3)), (1,), has_scale=has_scale, has_shift=has_shift)
    found = rule.react(NODE, 0, from_backward((1,), s, np.ones(3)), _Stored(rule))
    assert isinstance(found, Refusal)
    assert found.reason is Reason.ZERO_SCALE


# Axes that the node's numbers lie along, those of the demand, and the one along which it can store vectors.
LIES = list(product(((), (1,), (2,), (1, 2)), ((), (1,), (2,), (1, 2)), (None, 1, 2)))
CHANNELS_OF = {1: 4, 2: 4}  # as many along both: the axes alone tell them apart


def _drawn(rng: np.random.Generator, axes: tuple[int, ...]) -> tuple[Vector, Vector]:
    sizes = [CHANNELS_OF[axis] for axis in axes]
    return mixed(rng, *sizes), rng.standard_normal(sizes)


def _along(v: Vector, axes: tuple[int, ...]) -> Vector:
    """Against a value of shape (batch, 4, 4)."""
    return v.reshape([CHANNELS_OF[axis] if axis in axes else 1 for axis in (0, 1, 2)])


@pytest.mark.parametrize(("own", "asked", "stores"), LIES)
@pytest.mark.parametrize("port", [0, ~0])
def test_along_which_axes_it_takes_what(
    own: tuple[int, ...], asked: tuple[int, ...], stores: int | None, port: int
) -> None:
    """Numbers of one axis at most, its own if it has one; a number goes with any."""
    rng = np.random.default_rng(len(own) + 4 * len(asked))
    (a, c), (s, t) = _drawn(rng, own), _drawn(rng, asked)
    rule = Affine((a, c), own, stores_along=stores)
    reaction = rule.react(NODE, port, from_backward(asked, s, t), _Stored(rule))
    axes = own or asked
    fits = len(axes) < 2 and asked in ((), axes) and (stores is None or asked in ((), (stores,)))
    if not fits:
        assert isinstance(reaction, Refusal)
        assert (reaction.reason, reaction.value) == (Reason.AXIS, "x" if port == 0 else "y")
        return
    assert isinstance(reaction, Reaction) and reaction.edit is not None and not reaction.demands
    assert (reaction.edit.port, reaction.edit.axes) == (port, axes)
    x = rng.standard_normal((3, 4, 4))
    new_a, new_c = (_along(v, axes) for v in reaction.edit.pair)
    y, held = _along(a, own) * x + _along(c, own), _along(s, asked)
    if port == 0:
        np.testing.assert_allclose(new_a * (held * x + _along(t, asked)) + new_c, y, rtol=1e-9, atol=1e-9)
    else:
        np.testing.assert_allclose(new_a * x + new_c, held * y + _along(t, asked), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("port", [0, ~0])
def test_as_many_numbers_as_it_has_channels(port: int) -> None:
    rule = Affine((np.full(3, 2.0), np.ones(3)), (1,))
    other = rule.react(NODE, port, from_backward((1,), np.full(4, 2.0), np.ones(4)), _Stored(rule))
    assert isinstance(other, Refusal) and other.reason is Reason.AXIS
    number = Affine((np.array(2.0), np.array(1.0)), ())
    taken = number.react(NODE, port, from_backward((1,), np.full(4, 2.0), np.ones(4)), _Stored(number))
    assert isinstance(taken, Reaction) and taken.edit is not None
    assert [v.shape for v in taken.edit.pair] == [(4,), (4,)]


@pytest.mark.parametrize(("has_scale", "has_shift"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("port", [0, ~0])
def test_a_channel_is_asked_for_what_another_is_not(has_scale: bool, has_shift: bool, port: int) -> None:
    """Scales of one and shifts of zero among others; what is the same everywhere is asked of nobody."""
    rng = np.random.default_rng(2)
    a, c = mixed(rng, 3), rng.standard_normal(3)
    rule = Affine((a, c), (1,), has_scale=has_scale, has_shift=has_shift)
    some, ones, twos, zeros = np.array([1.0, -2.0, 1.0]), np.ones(3), np.full(3, 2.0), np.zeros(3)
    x = rng.standard_normal((7, 3))
    made = from_forward if port == 0 else from_backward
    for scale, shift in product((some, ones, twos), (some - 1.0, zeros)):
        held = made((1,), scale, shift)
        reaction = rule.react(NODE, port, held, _Stored(rule))
        assert isinstance(reaction, Reaction) and reaction.edit is not None
        assert reaction.edit.port == port and reaction.edit.axes == (1,)
        demands = dict(reaction.demands)
        computed = reaction.edit.pair[0] * _held({**demands, port: held}, 0, x) + reaction.edit.pair[1]
        wanted = _held({**demands, port: held}, ~0, a * x + c)
        np.testing.assert_allclose(computed, wanted, rtol=1e-9, atol=1e-9)
        assert set(demands) <= {~port if port == 0 else 0}
        left_over = (not has_scale and scale is not ones) or (not has_shift and shift is not zeros)
        if not has_shift and port == ~0:  # c stays, so a scale alone leaves (s − 1)·c over
            left_over |= scale is not ones
        assert bool(demands) == left_over


def test_what_divides_takes_no_zero() -> None:
    """A node that stores 1/a cannot store a = 0; any other can, where nothing has to be undone."""
    zero, two = (from_backward((1,), np.array([s, 2.0]), np.ones(2)) for s in (0.0, 2.0))
    pair = np.array([3.0, 4.0]), np.zeros(2)
    for divides, held, fits in ((True, two, True), (True, zero, False), (False, zero, True)):
        rule = Affine(pair, (1,), divides=divides)
        reaction = rule.react(NODE, ~0, held, _Stored(rule))
        assert isinstance(reaction, Reaction if fits else Refusal)
        assert isinstance(reaction, Reaction) or reaction.reason is Reason.ZERO_SCALE
    blank = from_forward((1,), np.array([0.0, 2.0]), np.ones(2))
    for has_scale in (True, False):  # x = 0·h + q: the shift it has to take is (a·q + c)/0 behind no scale
        rule = Affine(pair, (1,), has_scale=has_scale)
        reaction = rule.react(NODE, 0, blank, _Stored(rule))
        assert isinstance(reaction, Reaction if has_scale else Refusal)
    rule = Affine(pair, (1,))
    unwritten = rule.react(NODE, ~0, blank, _Stored(rule))
    assert isinstance(unwritten, Refusal) and unwritten.reason is Reason.ZERO_SCALE


def test_a_scale_alone_cannot_move_a_channel_it_silences() -> None:
    """y = a·x + c with c for good: where s·a is zero no shift of x brings s·c + t."""
    c = np.array([1.0, 0.0])
    for a, s, t, fits in (
        ([2.0, 3.0], [0.0, 2.0], [1.0, 4.0], False),
        ([2.0, 0.0], [4.0, 2.0], [1.0, 0.0], False),
        ([2.0, 1.0], [1.0, 1.0], [0.0, 5.0], True),  # a scale of one is no scale of zero
        ([0.0, 3.0], [0.0, 2.0], [1.0, 0.0], True),  # 0·y + 1 is c, so nothing is left over
    ):
        rule = Affine((np.array(a), c), (1,), has_shift=False)
        reaction = rule.react(NODE, ~0, from_backward((1,), np.array(s), np.array(t)), _Stored(rule))
        assert isinstance(reaction, Reaction if fits else Refusal)
        assert isinstance(reaction, Reaction) or reaction.reason is Reason.ZERO_SCALE


def test_at_which_port_it_is_read() -> None:
    """c + x has its x at port 1; what is asked elsewhere is refused, and all of it where it is broken."""
    node = Node("node", "Add", ("c", "x"), ("y",))
    two = from_backward((), np.array(2.0), np.array(3.0))
    second, first = (Affine((np.array(1.0), np.array(3.0)), (), in_port=p) for p in (1, 0))
    for rule, port, fits in (
        (second, 1, True),
        (second, 0, False),
        (second, ~0, True),
        (first, 0, True),
        (first, 1, False),
        (first, ~1, False),
    ):
        if port == ~1:
            node = Node("node", "Add", ("c", "x"), ("y", "z"))
        reaction = rule.react(node, port, two, _Stored(rule))
        assert isinstance(reaction, Reaction if fits else Refusal)
        assert isinstance(reaction, Refusal) or (reaction.edit is not None and reaction.edit.port == port)
        assert isinstance(reaction, Reaction) or (reaction.reason, reaction.value) == (
            Reason.UNSUPPORTED_OP,
            node.value(port),
        )
    why = Refusal(Reason.INVALID_STATISTICS, "bn")
    broken = Affine((np.array(1.0), np.array(3.0)), (), broken=why)
    assert broken.react(node, 0, two, _Stored(broken)) is why
