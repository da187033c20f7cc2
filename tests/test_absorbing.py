"""Weights that take on a scale and a shift, and their rounding, against plain float64 arithmetic."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfuse.core.weights import linear, scaled
from bnfuse.core.weights.linear import Rewrite, factors, linear_form, new_bias, row_blocks
from bnfuse.core.weights.scaled import ScaledTensor, is_small, round_once, scale_together
from bnfuse.core.weights.tensor import Array, ArrayTensor, FilledTensor, as_float64, size, whole
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


@settings(max_examples=120)
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
        ((4,), "k* i o", 1),
        ((), "k* o", 1),
    ],
)
def test_shapes_that_do_not_fit_a_layout(shape: tuple[int, ...], layout: str, groups: int) -> None:
    with pytest.raises(ValueError):
        linear_form(shape, layout, groups)


def test_one_group_unless_more_are_told() -> None:
    assert linear_form((6, 4, 3), "go i k*") == linear.LinearForm((1, 6, 4, 3), "goik")
    assert linear_form((6, 4, 3), "go i k*", 2) == linear.LinearForm((2, 3, 4, 3), "goik")


def test_kernel_axes_stand_where_the_layout_has_them() -> None:
    assert linear_form((6, 5, 3, 4), "go k* i", 2) == linear.LinearForm((2, 3, 5, 3, 4), "gokki")
    assert linear_form((6, 4), "o k* i") == linear.LinearForm((6, 4), "oi")


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


class Unread(ArrayTensor, frozen=True):
    """A weight that nobody may read."""

    def read(self, start: int, stop: int) -> Array:
        raise AssertionError("read")


def test_what_multiplies_by_one_is_left_out() -> None:
    """A weight is multiplied only by what differs from one somewhere, and read only for a shift."""
    form = linear_form((3, 2), "o i")
    ones, twos, some = np.ones(3), np.full(3, 2.0), np.array([1.0, 5.0, 1.0])
    nothing, shift = np.zeros(2), np.array([0.0, 7.0])
    assert factors(form, Rewrite()) == []
    assert factors(form, Rewrite((ones[:2], shift), (ones, some))) == []
    for scale in (twos, some):
        (write,) = factors(form, Rewrite((ones[:2], shift), (scale, ones)))
        np.testing.assert_array_equal(write, scale[:, None])
        (read,) = factors(form, Rewrite((scale[:2], shift), (ones, ones)))
        np.testing.assert_array_equal(read, scale[None, :2])
    unread = Unread(np.ones((3, 2)))
    np.testing.assert_array_equal(new_bias(unread, form, None, Rewrite((twos[:2], nothing))), np.zeros(3))
    np.testing.assert_array_equal(new_bias(unread, form, some, Rewrite(None, (twos, ones))), [3.0, 11.0, 3.0])
    weight = ArrayTensor(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    np.testing.assert_array_equal(
        new_bias(weight, form, None, Rewrite((twos[:2], shift))), [14.0, 28.0, 42.0]
    )


_DIMS = [(7,), (5, 1), (4, 6), (2, 3, 4), (2, 3, 4, 5), (3, 1, 1), (1, 9, 2), (2, 2, 2, 2, 2)]


@pytest.mark.parametrize("dims", _DIMS)
@pytest.mark.parametrize("most", [1, 2, 3, 4, 6, 7, 12, 24, 40, 1000])
def test_a_weight_is_read_in_blocks_as_large_as_they_may_be(
    dims: tuple[int, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole rows of the most axes that fit, as many as fit, each where it says."""
    monkeypatch.setattr(linear, "BLOCK_ELEMENTS", most)
    array = np.arange(float(np.prod(dims))).reshape(dims)
    end = 0
    for start, block, where in row_blocks(ArrayTensor(array), linear.LinearForm(dims, "k" * len(dims))):
        assert start == end
        end += block.size
        np.testing.assert_array_equal(block, array[where.rows])
        rows, *inner = block.shape
        axes = len(dims) - len(where.rows)
        assert tuple(inner) == dims[len(dims) - axes :]
        fits = [n for n in range(len(dims)) if np.prod(dims[len(dims) - n :]) <= most]
        assert axes == max(fits), "more axes fit"
        row = int(np.prod(inner))
        assert rows * row <= most
        assert end == array.size or (rows + 1) * row > most, "more rows fit"
    assert end == array.size


def test_a_block_is_a_mebibyte_of_float32() -> None:
    """However large a weight is."""
    large = FilledTensor((3, 1 << 18, 2), np.float32(1.0).reshape(()))
    sizes = [block.nbytes for _, block, _ in row_blocks(large, linear_form(large.shape, "i o k*"))]
    assert set(sizes) == {1 << 20} and len(sizes) == 6


@pytest.mark.parametrize("at_once", [0, 1 << 12])
@pytest.mark.parametrize("most", [1, 5, 1 << 18])
def test_a_stored_tensor_scaled_and_shifted(at_once: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """s₁·s₂·v + t, broadcast as numpy does; unchanged, bit for bit, where nothing multiplies it."""
    monkeypatch.setattr(linear, "BLOCK_ELEMENTS", most)
    monkeypatch.setattr(scaled, "_SMALL_ELEMENTS", at_once)
    rng = np.random.default_rng(3)
    v = rng.standard_normal((4, 3, 2)).astype(np.float32)
    s, u, t = mixed(rng, 4, 1, 1), mixed(rng, 1, 3, 1), rng.standard_normal((1, 3, 2))
    form = linear.LinearForm(v.shape, "kkk")
    for factor, shift, wanted in (
        ((s, u), t, s * u * v + t),
        ((s,), None, s * v),
        ((s, u), None, s * u * v),
        ((), None, v),
    ):
        made = ScaledTensor(ArrayTensor(v), form, factor, (), shift)
        assert made.shape == v.shape and made.dtype == np.float32
        blocks = list(made.blocks())
        assert [start for start, _, _ in blocks] == list(np.cumsum([0, *(b.size for _, b, _ in blocks[:-1])]))
        assert all(b.ndim == 1 and b.dtype == np.float32 and not flushed for _, b, flushed in blocks)
        flat = np.concatenate([b for _, b, _ in blocks])
        np.testing.assert_array_equal(flat, np.asarray(wanted, np.float32).ravel())
        assert len(blocks) == 1 or not (factor and at_once)


def test_small_tensors_are_made_together() -> None:
    """Up to 4096 elements; of each its own factors and shift."""
    rng = np.random.default_rng(4)
    form = linear.LinearForm((2, 3), "kk")
    values, factor, shift = (rng.standard_normal((3, 2, 3)) for _ in range(3))
    for shifts in (True, False):
        made, flushed = scale_together(
            [
                ScaledTensor(ArrayTensor(v), form, (f, f), (), t if shifts else None)
                for v, f, t in zip(values, factor, shift, strict=True)
            ]
        )
        assert flushed == 0
        np.testing.assert_allclose(made, values * factor**2 + shifts * shift, rtol=1e-14)

    def of(count: int, *factors: Vector) -> ScaledTensor:
        whole = linear.LinearForm((count,), "k")
        return ScaledTensor(FilledTensor((count,), np.ones(())), whole, factors)

    two = np.full(1, 2.0)
    assert is_small(of(4096, two)) and not is_small(of(4097, two))
    assert not is_small(of(4))  # nothing is done to it: it is copied


def test_the_largest_and_the_smallest_that_fit() -> None:
    finfo: Any = ml_dtypes.finfo  # untyped there
    for dtype in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
        info: Any = finfo(dtype)
        ends = np.array([info.max, -info.max, info.smallest_normal, 0.0], np.float64)
        rounded, flushed = round_once(ends, np.dtype(dtype))
        np.testing.assert_array_equal(rounded.astype(np.float64), ends)
        assert flushed == 0
    mixed_up, flushed = round_once(np.array([1e-40, 0.5, -1e-41, 0.0, 2.0]), np.dtype(np.float32))
    assert flushed == 2
    np.testing.assert_array_equal(mixed_up, np.array([0.0, 0.5, 0.0, 0.0, 2.0], np.float32))


def test_tensors_are_read_piece_by_piece() -> None:
    """In C order; what is made whole is in its shape, and a copy."""
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    stored = ArrayTensor(array)
    np.testing.assert_array_equal(stored.read(5, 9), [5.0, 6.0, 7.0, 8.0])
    np.testing.assert_array_equal(whole(stored), array)
    np.testing.assert_array_equal(as_float64(stored), array)
    assert as_float64(stored).dtype == np.float64 and not np.shares_memory(whole(stored), array)
    one = ArrayTensor(np.float32(3.5).reshape(()))
    assert whole(one).shape == as_float64(one).shape == () and float(as_float64(one)) == 3.5
    filled = FilledTensor((2, 5), np.float16(1.5).reshape(()))
    assert filled.dtype == np.float16 and size(filled) == 10
    np.testing.assert_array_equal(filled.read(3, 7), np.full(4, 1.5, np.float16))
    np.testing.assert_array_equal(whole(filled), np.full((2, 5), 1.5, np.float16))


@pytest.mark.filterwarnings("error")
def test_a_signalling_nan_is_read_without_a_word() -> None:
    """numpy warns of one that becomes wider; the user's stderr is no place for it."""
    stored = np.array([0x7FA00000, 0x3F800000], np.uint32).view(np.float32)
    np.testing.assert_array_equal(as_float64(ArrayTensor(stored)), [np.nan, 1.0])
