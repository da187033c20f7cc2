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

from bnfuse.core.affine import Affine
from bnfuse.core.graph import Node
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam, from_backward, from_forward
from bnfuse.core.rules import Absorbed, Current, Reaction
from tests.held_values import Vector, mixed, seeds

NODE = Node("node", "Affine", ("x",), ("y",))
CHANNELS = 5


class _Stored:
    """The numbers of a rule that nothing has changed yet."""

    def __init__(self, rule: Affine) -> None:
        self.rule = rule

    def affine(self, node: Node) -> Current:
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
@settings(max_examples=25, deadline=None)
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
        assert reaction.reason is refuses
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


@settings(max_examples=100, deadline=None)
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
