"""Reparameterised values: composed, inverted, spelled along other axes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bnfuse.core.reparam import (
    DUST,
    IDENTITY,
    Reparam,
    compose_reads,
    compose_writes,
    dustless,
    from_backward,
    from_forward,
    same,
    settled_scale,
)
from tests.held_values import Vector, mixed, seeds, spelled


@given(seed=seeds)
def test_forward_undoes_backward(seed: int) -> None:
    rng = np.random.default_rng(seed)
    v, s, t = rng.standard_normal(6), mixed(rng, 6), rng.standard_normal(6)
    for held in (from_backward((1,), s, t), from_forward((1,), 1 / s, -t / s)):
        assert held.backward is not None and held.forward is not None
        h = held.backward[0] * v + held.backward[1]
        np.testing.assert_allclose(h, s * v + t, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(held.forward[0] * h + held.forward[1], v, rtol=1e-9, atol=1e-9)


def test_a_zero_scale_has_one_direction_only() -> None:
    s, t = np.array([2.0, 0.0]), np.array([1.0, 3.0])
    assert from_backward((1,), s, t).forward is None
    assert from_forward((1,), s, t).backward is None


@given(seed=seeds)
def test_composition_is_one_map_after_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    v, s1, t1, s2, t2 = (rng.standard_normal(5) for _ in range(5))
    s, t = compose_writes((s1, t1), (s2, t2))
    np.testing.assert_allclose(s * v + t, s2 * (s1 * v + t1) + t2, rtol=1e-10, atol=1e-10)
    p, q = compose_reads((s1, t1), (s2, t2))
    np.testing.assert_allclose(p * v + q, s1 * (s2 * v + t2) + t1, rtol=1e-10, atol=1e-10)


@given(seed=seeds, axes=st.sampled_from([(), (0,), (1,), (2,), (0, 2), (1, 2)]))
def test_along_and_compact_spell_the_same_factors(seed: int, axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    sizes = (2, 3, 4)
    shape = [sizes[a] for a in axes]
    held = from_backward(axes, mixed(rng, *shape), rng.standard_normal(shape))
    wide = held.along((0, 1, 2), sizes)
    assert wide.axes == (0, 1, 2) and wide.size == 24
    for h in (wide, wide.compact()):
        assert same(h, held)
        for got, wanted in zip(spelled(h, sizes), spelled(held, sizes), strict=True):
            np.testing.assert_array_equal(np.broadcast_to(got, sizes), np.broadcast_to(wanted, sizes))
    assert wide.compact().axes == axes


def written(held: Reparam) -> tuple[Vector, Vector]:
    assert held.backward is not None
    return held.backward


def test_the_identity_holds_a_value_as_it_is() -> None:
    assert IDENTITY.is_identity and not IDENTITY.shifts and not IDENTITY.negative
    assert [float(v) for v in written(IDENTITY)] == [1.0, 0.0]
    assert IDENTITY.forward is not None and [float(v) for v in IDENTITY.forward] == [1.0, 0.0]


def test_dust_ends_where_roundings_do() -> None:
    """32 roundings of 2⁻⁵³ are 2⁻⁴⁸ of the larger term; one bit more is a difference, in every size."""
    assert DUST == 32 * 2.0**-53
    for size in (1.0, 1e-30, -1e30):
        x = np.array([size, size])
        y = -x * (1.0 - np.array([2.0**-48, 2.0**-47]))
        np.testing.assert_array_equal(dustless(x, y), [0.0, x[1] + y[1]])
        assert x[1] + y[1] != 0.0
    scales = 1.0 + np.array([2.0**-48, -(2.0**-48), 2.0**-47, -(2.0**-47)])
    np.testing.assert_array_equal(settled_scale(scales), [1.0, 1.0, scales[2], scales[3]])


def test_what_one_lacks_by_rounding_the_other_may_have() -> None:
    """One number for all channels, and the same with the rounding of one channel."""
    two, rounded = np.full(3, 2.0), np.array([2.0, 2.0 * (1 + 3e-13), 2.0])
    assert same(from_backward((1,), two, two), from_backward((1,), rounded, two))
    assert same(from_backward((1,), two, rounded), from_backward((1,), two, two))
    assert not same(from_backward((1,), two, two), from_backward((1,), two, np.array([2.0, 2.0, 2.0 + 1e-9])))
