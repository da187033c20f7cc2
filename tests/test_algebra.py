"""The algebra of folding against plain float64 arithmetic on whole arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bnfuse.core import linear
from bnfuse.core.affine import (
    IDENTITY,
    Reparam,
    compose_reads,
    compose_writes,
    from_backward,
    from_forward,
    same,
)
from bnfuse.core.axes import AxisMap, Chain, Permute, Relabel, Take, regroup
from bnfuse.core.graph import Node
from bnfuse.core.joint import Join, Operand, Product, Total, operands
from bnfuse.core.linear import Rewrite, ScaledTensor, factors, linear_form, new_bias, round_once
from bnfuse.core.reasons import Refusal
from bnfuse.core.tensor import ArrayTensor

Vector = NDArray[np.float64]

# Layout, and its canonical order as an einsum would name it: (stored word sizes) from g, o, i, kernel.
_LAYOUTS = ["go i k*", "gi o k*", "o i", "i o", "k* i go", "k* g o", "k* o i"]
_seeds = st.integers(0, 2**32 - 1)


def _mixed(rng: np.random.Generator, *shape: int) -> Vector:
    """Scales of both signs, none of them zero."""
    return np.exp(rng.standard_normal(shape)) * rng.choice((-1.0, 1.0), shape)


def _stored(canonical: Vector, layout: str) -> Vector:
    """W[g, o, i, k…] laid out as an op stores it, spelled out by hand for every layout."""
    g, o, i, *k = canonical.shape
    kernel = range(3, canonical.ndim)
    match layout:
        case "go i k*":
            return canonical.reshape(g * o, i, *k)
        case "gi o k*":
            return canonical.transpose(0, 2, 1, *kernel).reshape(g * i, o, *k)
        case "o i":
            return canonical[0]
        case "i o":
            return canonical[0].T
        case "k* i go":
            return canonical.transpose(*kernel, 2, 0, 1).reshape(*k, i, g * o)
        case "k* g o":  # depthwise: one input channel per group
            return canonical[:, :, 0].transpose(*(d - 1 for d in kernel), 0, 1)
        case "k* o i":
            return canonical[0].transpose(*(d - 1 for d in kernel), 0, 1)
    raise AssertionError(layout)


@st.composite
def _weights(draw: st.DrawFn) -> tuple[str, Vector, np.random.Generator]:
    """A layout and canonical weights (g, o, i, k…) that fit it."""
    layout = draw(st.sampled_from(_LAYOUTS))
    groups = draw(st.integers(1, 4)) if "g" in layout else 1
    o, i = draw(st.integers(1, 5)), 1 if layout == "k* g o" else draw(st.integers(1, 5))
    kernel = draw(st.lists(st.integers(1, 4), max_size=3)) if "k" in layout else []
    rng = np.random.default_rng(draw(_seeds))
    return layout, rng.standard_normal((groups, o, i, *kernel)), rng


@settings(max_examples=300, deadline=None)
@given(drawn=_weights(), block=st.sampled_from([1, 3, 7, 64, 1 << 18]))
def test_absorbing_equals_the_formula(drawn: tuple[str, Vector, np.random.Generator], block: int) -> None:
    """W' = s·W·p and b' = s·(b + ΣW·q) + t, whatever the layout and however it is cut into blocks."""
    layout, canonical, rng = drawn
    g, o, i = canonical.shape[:3]
    p, q = _mixed(rng, g * i), rng.standard_normal(g * i)
    s, t = _mixed(rng, g * o), rng.standard_normal(g * o)
    b = rng.standard_normal(g * o)
    flat = canonical.reshape(g, o, i, -1)
    wanted = np.einsum("go,goik,gi->goik", s.reshape(g, o), flat, p.reshape(g, i))
    wanted_bias = s * (b + np.einsum("goik,gi->go", flat, q.reshape(g, i)).reshape(-1)) + t

    stored = np.ascontiguousarray(_stored(canonical, layout))
    form = linear_form(stored.shape, layout, g)
    assert (form.groups, form.channels_in, form.channels_out) == (g, g * i, g * o)
    rewrite = Rewrite((p, q), (s, t))
    tensor = ArrayTensor(stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "BLOCK_ELEMENTS", block)
        made = np.full(stored.size, np.nan)
        end = 0
        for start, values, flushed in ScaledTensor(tensor, form, tuple(factors(form, rewrite))).blocks():
            assert start == end and not flushed
            end = start + values.size
            made[start:end] = values
        bias = new_bias(tensor, form, b, rewrite)
    np.testing.assert_allclose(
        made.reshape(stored.shape), _stored(wanted.reshape(canonical.shape), layout), rtol=1e-13
    )
    np.testing.assert_allclose(bias, wanted_bias, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("shape", "layout", "groups"),
    [
        ((4, 3), "o", 1),
        ((4,), "o i", 1),
        ((5, 3, 2), "go i k*", 2),
        ((4,), "go i k*", 1),
        ((4, 3), "go i k*", 0),
    ],
)
def test_shapes_that_do_not_fit_a_layout(shape: tuple[int, ...], layout: str, groups: int) -> None:
    with pytest.raises(ValueError):
        linear_form(shape, layout, groups)


# --- Reparam ---


@given(seed=_seeds)
def test_forward_undoes_backward(seed: int) -> None:
    rng = np.random.default_rng(seed)
    v, s, t = rng.standard_normal(6), _mixed(rng, 6), rng.standard_normal(6)
    for held in (from_backward((1,), s, t), from_forward((1,), 1 / s, -t / s)):
        assert held.backward is not None and held.forward is not None
        h = held.backward[0] * v + held.backward[1]
        np.testing.assert_allclose(h, s * v + t, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(held.forward[0] * h + held.forward[1], v, rtol=1e-9, atol=1e-9)


def test_a_zero_scale_has_one_direction_only() -> None:
    s, t = np.array([2.0, 0.0]), np.array([1.0, 3.0])
    assert from_backward((1,), s, t).forward is None
    assert from_forward((1,), s, t).backward is None


@given(seed=_seeds)
def test_composition_is_one_map_after_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    v, s1, t1, s2, t2 = (rng.standard_normal(5) for _ in range(5))
    s, t = compose_writes((s1, t1), (s2, t2))
    np.testing.assert_allclose(s * v + t, s2 * (s1 * v + t1) + t2, rtol=1e-10, atol=1e-10)
    p, q = compose_reads((s1, t1), (s2, t2))
    np.testing.assert_allclose(p * v + q, s1 * (s2 * v + t2) + t1, rtol=1e-10, atol=1e-10)


@given(seed=_seeds, axes=st.sampled_from([(), (0,), (1,), (2,), (0, 2), (1, 2)]))
def test_along_and_compact_spell_the_same_factors(seed: int, axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    sizes = (2, 3, 4)
    shape = [sizes[a] for a in axes]
    held = from_backward(axes, _mixed(rng, *shape), rng.standard_normal(shape))
    wide = held.along((0, 1, 2), sizes)
    assert wide.axes == (0, 1, 2) and wide.size == 24
    for h in (wide, wide.compact()):
        assert same(h, held)
        for got, wanted in zip(_spelled(h, sizes), _spelled(held, sizes), strict=True):
            np.testing.assert_array_equal(np.broadcast_to(got, sizes), np.broadcast_to(wanted, sizes))
    assert wide.compact().axes == axes


def _spelled(held: Reparam, shape: tuple[int, ...]) -> tuple[Vector, Vector]:
    """(s, t) as arrays that broadcast against a value of this shape, without using ``along``."""
    assert held.backward is not None
    index = [shape[a] if a in held.axes else 1 for a in range(len(shape))]
    return held.backward[0].reshape(index), held.backward[1].reshape(index)


def _hold(held: Reparam, v: Vector) -> Vector:
    s, t = _spelled(held, v.shape)
    return s * v + t


# --- Axis maps: op(s·v + t) == s'·op(v) + t' ---

Op = Callable[[Vector], Vector]
_MAPS: dict[str, tuple[tuple[int, ...], AxisMap, Op]] = {
    "transpose": ((2, 3, 4, 5), Permute((0, 2, 3, 1)), lambda v: v.transpose(0, 2, 3, 1)),
    "transpose all": ((2, 3, 4), Permute((2, 0, 1)), lambda v: v.transpose(2, 0, 1)),
    "squeeze": ((2, 3, 1, 4), Relabel((0, 1, None, 2), 3), lambda v: v[:, :, 0]),
    "unsqueeze": ((2, 3), Relabel((1, 3), 4), lambda v: v[None, :, None, :]),
    "permuting gather": ((2, 4, 3), Take(1, (2, 0, 3, 1), 4), lambda v: v[:, [2, 0, 3, 1]]),
    "flatten": ((2, 3, 4), regroup((2, 3, 4), (2, 12)), lambda v: v.reshape(2, 12)),
    "unflatten": ((2, 12, 5), regroup((2, 12, 5), (2, 3, 4, 5)), lambda v: v.reshape(2, 3, 4, 5)),
    "dynamic batch": ((2, 3, 4), regroup(("N", 3, 4), ("N", 12)), lambda v: v.reshape(2, 12)),
    "unknown rest": ((2, 6, 4), regroup(("N", 6, 4), ("N", 6, 2, None)), lambda v: v.reshape(2, 6, 2, 2)),
    "regroup in the middle": (
        (2, 6, 4, 5),
        regroup((2, 6, 4, 5), (2, 8, 3, 5)),
        lambda v: v.reshape(2, 8, 3, 5),
    ),
    "equal sizes": ((4, 4, 4), regroup((4, 4, 4), (4, 16)), lambda v: v.reshape(4, 16)),
    "ones": ((2, 3, 1, 1), regroup((2, 3, 1, 1), (2, 3)), lambda v: v.reshape(2, 3)),
    "channel shuffle": (
        (2, 6, 5),
        Chain((regroup((2, 6, 5), (2, 2, 3, 5)), Permute((0, 2, 1, 3)), regroup((2, 3, 2, 5), (2, 6, 5)))),
        lambda v: v.reshape(2, 2, 3, 5).transpose(0, 2, 1, 3).reshape(2, 6, 5),
    ),
    "no steps": ((2, 3), Chain(()), lambda v: v),
}


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=_seeds)
@pytest.mark.parametrize("case", _MAPS)
def test_axis_maps_agree_with_the_operation(case: str, data: st.DataObject, seed: int) -> None:
    """Both ways. A map may decline (None), but never for one axis of a plain rearrangement forward."""
    shape, axes_map, op = _MAPS[case]
    rng = np.random.default_rng(seed)
    v = rng.standard_normal(shape)
    held = data.draw(_holdings(shape, rng))
    moved = axes_map.forward(held)
    if moved is not None:
        np.testing.assert_allclose(op(_hold(held, v)), _hold(moved, op(v)), rtol=1e-12)
    after = op(v).shape
    wanted = data.draw(_holdings(after, rng))
    back = axes_map.backward(wanted)
    if back is not None:
        np.testing.assert_allclose(op(_hold(back, v)), _hold(wanted, op(v)), rtol=1e-12)


@st.composite
def _holdings(draw: st.DrawFn, shape: tuple[int, ...], rng: np.random.Generator) -> Reparam:
    axes = tuple(sorted(draw(st.sets(st.sampled_from(range(len(shape))), max_size=2))))
    sizes = [shape[a] for a in axes]
    return from_backward(axes, _mixed(rng, *sizes), rng.standard_normal(sizes))


@pytest.mark.parametrize("case", sorted(set(_MAPS) - {"no steps"}))
def test_axis_maps_carry_a_channel_factor(case: str) -> None:
    """Axis 1 goes through each of them; declining everything would pass the test above."""
    shape, axes_map, _op = _MAPS[case]
    rng = np.random.default_rng(5)
    held = from_backward((1,), _mixed(rng, shape[1]), rng.standard_normal(shape[1]))
    moved = axes_map.forward(held)
    assert moved is not None
    back = axes_map.backward(moved)
    assert back is not None and same(back, held)


def test_taking_some_elements() -> None:
    rng = np.random.default_rng(1)
    v, take = rng.standard_normal((2, 5, 3)), Take(1, (3, 1), 5)
    held = from_backward((1,), _mixed(rng, 2), rng.standard_normal(2))
    back = take.backward(held)
    assert back is not None and back.backward is not None
    np.testing.assert_allclose(_hold(back, v)[:, [3, 1]], _hold(held, v[:, [3, 1]]), rtol=1e-12)
    np.testing.assert_array_equal(_hold(back, v)[:, [0, 2, 4]], v[:, [0, 2, 4]])
    assert Take(1, (1, 1), 5).backward(held) is None


# --- Rounding ---


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [1e39, -1e39, np.inf, np.nan])
def test_what_does_not_fit_is_an_error(dtype: Any, bad: float) -> None:
    with pytest.raises(FloatingPointError):
        round_once(np.array([1.0, bad]), np.dtype(dtype))


def test_half_precision_overflows_at_65520() -> None:
    assert round_once(np.array([65519.0]), np.dtype(np.float16))[0][0] == 65504
    with pytest.raises(FloatingPointError):
        round_once(np.array([65520.0]), np.dtype(np.float16))


@pytest.mark.parametrize(
    ("dtype", "value", "flushed"),
    [
        (np.float32, 1e-40, 1),
        (np.float32, -1e-40, 1),
        (np.float32, 2.0**-126, 0),
        (np.float32, 1e-60, 0),  # zero by rounding, not by flushing
        (np.float32, 0.0, 0),
        (np.float16, 2.0**-20, 0),
        (np.float64, 1e-310, 1),
        (ml_dtypes.bfloat16, 1e-40, 1),
        (ml_dtypes.bfloat16, 2.0**-126, 0),
    ],
)
def test_subnormals(dtype: Any, value: float, flushed: int) -> None:
    rounded, count = round_once(np.array([1.0, value]), np.dtype(dtype))
    assert count == flushed and rounded.dtype == np.dtype(dtype)
    assert float(rounded[1]) == (0.0 if flushed or abs(value) < 1e-50 else value)


@given(seed=_seeds, dtype=st.sampled_from([np.float16, np.float32, ml_dtypes.bfloat16]))
def test_rounding_is_to_nearest(seed: int, dtype: Any) -> None:
    values = np.random.default_rng(seed).standard_normal(50)
    rounded, _ = round_once(values, np.dtype(dtype))
    bits = {np.float16: 11, np.float32: 24}.get(dtype, 8)
    assert (np.abs(rounded.astype(np.float64) - values) <= np.abs(values) * 2.0**-bits + 2.0**-25).all()


# --- Joint rules: settled demands obey the rule's equation ---


def _node(inputs: int, outputs: int = 1) -> Node:
    return Node("n", "Op", tuple("abcdef"[:inputs]), tuple("uvwxyz"[:outputs]))


def _pair(held: Reparam) -> tuple[Vector, Vector]:
    assert held.backward is not None
    return held.backward


@given(seed=_seeds, known_port=st.sampled_from([~0, 0, 1, 2]), data=st.data())
def test_a_sum_stays_a_sum(seed: int, known_port: int, data: st.DataObject) -> None:
    """h_y = Σ σⱼhⱼ for the settled holdings wherever y = Σ σⱼxⱼ."""
    rng = np.random.default_rng(seed)
    signs = tuple(int(n) for n in rng.choice((-1, 1), 3))
    rule = Total(signs, tuple(Operand(0, frozenset()) for _ in signs))
    held = from_backward((1,), _mixed(rng, 4), rng.standard_normal(4))
    known = {known_port: held}
    taker = data.draw(st.sampled_from(rule.takers(_node(3), known)))
    settled = rule.settle(_node(3), known, taker)
    assert not isinstance(settled, Refusal)
    every = known | dict(settled)
    assert set(every) == {~0, 0, 1, 2}
    x = rng.standard_normal((3, 2, 4))
    y = sum(sign * v for sign, v in zip(signs, x, strict=True))
    total = sum(sign * _hold(every[j], x[j]) for j, sign in enumerate(signs))
    np.testing.assert_allclose(_hold(every[~0], np.asarray(y)), total, rtol=1e-9, atol=1e-9)


def test_a_sum_refuses_two_scales() -> None:
    rule = Total((1, 1), (Operand(0, frozenset()),) * 2)
    one, two = (from_backward((1,), np.full(3, s), np.zeros(3)) for s in (2.0, 3.0))
    assert isinstance(rule.settle(_node(2), {0: one, 1: two}, ~0), Refusal)


@given(seed=_seeds, known_port=st.sampled_from([~0, 0, 1]), data=st.data())
def test_a_product_stays_a_product(seed: int, known_port: int, data: st.DataObject) -> None:
    """(N, C) times or over a gate of shape (1, C), along channels."""
    rng = np.random.default_rng(seed)
    exponents = (1, int(rng.choice((-1, 1))))
    broadcast = operands([(2, 4), (1, 4)], (2, 4))
    assert broadcast is not None
    rule = Product(exponents, broadcast)
    held = from_backward((1,), _mixed(rng, 4), np.zeros(4))
    known = {known_port: held}
    taker = data.draw(st.sampled_from(rule.takers(_node(2), known)))
    settled = rule.settle(_node(2), known, taker)
    assert not isinstance(settled, Refusal)
    every = known | dict(settled)
    x = [rng.standard_normal((2, 4)), _mixed(rng, 1, 4)]
    wanted = x[0] * x[1] ** exponents[1]
    product = _hold(every[0], x[0]) * _hold(every[1], x[1]) ** exponents[1]
    np.testing.assert_allclose(_hold(every[~0], wanted), product, rtol=1e-9, atol=1e-12)


def test_a_product_refuses_a_shift() -> None:
    rule = Product((1, 1), (Operand(0, frozenset()),) * 2)
    assert isinstance(rule.settle(_node(2), {0: from_backward((1,), np.ones(2), np.ones(2))}, ~0), Refusal)


@given(seed=_seeds, known_port=st.sampled_from([~0, 0, 1]), axis=st.sampled_from([1, 2]))
def test_a_concatenation_stays_one(seed: int, known_port: int, axis: int) -> None:
    """Held along the joining axis (1) or along another (2)."""
    rng = np.random.default_rng(seed)
    sizes = (2, 3)
    rule = Join(~0, (0, 1), 1, sizes)
    n = 4 if axis == 2 else (5 if known_port == ~0 else sizes[known_port])
    known = {known_port: from_backward((axis,), _mixed(rng, n), rng.standard_normal(n))}
    settled = rule.settle(_node(2), known, ~0)
    assert not isinstance(settled, Refusal)
    every = known | dict(settled)
    parts = [rng.standard_normal((2, k, 4)) for k in sizes]
    joined = np.concatenate([_hold(every[j], p) for j, p in enumerate(parts)], axis=1)
    np.testing.assert_allclose(_hold(every[~0], np.concatenate(parts, axis=1)), joined, rtol=1e-12)


def test_the_identity_holds_a_value_as_it_is() -> None:
    assert IDENTITY.is_identity and not IDENTITY.shifts and not IDENTITY.negative
    assert [float(v) for v in _pair(IDENTITY)] == [1.0, 0.0]
