"""Weights that take on a scale and a shift, and their rounding, against plain float64 arithmetic."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfuse.core import linear, scaled
from bnfuse.core.linear import Rewrite, factors, linear_form, new_bias
from bnfuse.core.scaled import ScaledTensor, round_once
from bnfuse.core.tensor import ArrayTensor
from tests.held_values import Vector, mixed, seeds

# Layout, and its canonical order as an einsum would name it: (stored word sizes) from g, o, i, kernel.
_LAYOUTS = ["go i k*", "gi o k*", "o i", "i o", "k* i go", "k* g o", "k* o i"]


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
    rng = np.random.default_rng(draw(seeds))
    return layout, rng.standard_normal((groups, o, i, *kernel)), rng


@settings(max_examples=300, deadline=None)
@given(drawn=_weights(), block=st.sampled_from([1, 3, 7, 64, 1 << 18]), at_once=st.sampled_from([0, 1 << 12]))
def test_absorbing_equals_the_formula(
    drawn: tuple[str, Vector, np.random.Generator], block: int, at_once: int
) -> None:
    """W' = s·W·p and b' = s·(b + ΣW·q) + t, whatever the layout and however it is cut into blocks."""
    layout, canonical, rng = drawn
    g, o, i = canonical.shape[:3]
    p, q = mixed(rng, g * i), rng.standard_normal(g * i)
    s, t = mixed(rng, g * o), rng.standard_normal(g * o)
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
        patch.setattr(scaled, "_SMALL_ELEMENTS", at_once)
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


@given(seed=seeds, dtype=st.sampled_from([np.float16, np.float32, ml_dtypes.bfloat16]))
def test_rounding_is_to_nearest(seed: int, dtype: Any) -> None:
    values = np.random.default_rng(seed).standard_normal(50)
    rounded, _ = round_once(values, np.dtype(dtype))
    bits = {np.float16: 11, np.float32: 24}.get(dtype, 8)
    assert (np.abs(rounded.astype(np.float64) - values) <= np.abs(values) * 2.0**-bits + 2.0**-25).all()
