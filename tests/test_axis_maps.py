"""Axis maps: op(s·v + t) == s'·op(v) + t' for every way to move axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfuse.core.axes import AxisMap, Chain, Permute, Relabel, Take, regroup
from bnfuse.core.reparam import Reparam, from_backward, same
from bnfuse.core.rules.counted import Put, Through, Times
from tests.held_values import Vector, hold, mixed, seeds

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
    "gather with repeats": ((2, 3, 4), Take(1, (2, 0, 2, 1, 1), 3), lambda v: v[:, [2, 0, 2, 1, 1]]),
    "tile": ((2, 3, 4), Take(1, (0, 1, 2) * 2, 3), lambda v: np.tile(v, (1, 2, 1))),
    "zeros beside": ((2, 3, 4), Put(1, 2, 3, 6), lambda v: np.pad(v, ((0, 0), (2, 1), (0, 0)))),
    "sum of four": ((2, 3, 4), Chain((Relabel((0, 1, None), 2), Times(4))), lambda v: v.sum(-1)),
    "no steps": ((2, 3), Chain(()), lambda v: v),
}


@settings(max_examples=40)
@given(data=st.data(), seed=seeds)
@pytest.mark.parametrize("case", _MAPS)
def test_axis_maps_agree_with_the_operation(case: str, data: st.DataObject, seed: int) -> None:
    """Both ways. A map may decline (None), but never for one axis of a plain rearrangement forward."""
    shape, axes_map, op = _MAPS[case]
    rng = np.random.default_rng(seed)
    v = rng.standard_normal(shape)
    held = data.draw(_holdings(shape, rng))
    moved = axes_map.forward(held)
    if moved is not None:
        np.testing.assert_allclose(op(hold(held, v)), hold(moved, op(v)), rtol=1e-12)
    after = op(v).shape
    wanted = data.draw(_holdings(after, rng))
    back = axes_map.backward(wanted)
    if back is not None:
        np.testing.assert_allclose(op(hold(back, v)), hold(wanted, op(v)), rtol=1e-12)


@st.composite
def _holdings(draw: st.DrawFn, shape: tuple[int, ...], rng: np.random.Generator) -> Reparam:
    axes = tuple(sorted(draw(st.sets(st.sampled_from(range(len(shape))), max_size=2))))
    sizes = [shape[a] for a in axes]
    return from_backward(axes, mixed(rng, *sizes), rng.standard_normal(sizes))


@pytest.mark.parametrize("case", sorted(set(_MAPS) - {"no steps"}))
def test_axis_maps_carry_a_channel_factor(case: str) -> None:
    """Axis 1 goes through each of them; declining everything would pass the test above."""
    shape, axes_map, _op = _MAPS[case]
    rng = np.random.default_rng(5)
    held = from_backward((1,), mixed(rng, shape[1]), rng.standard_normal(shape[1]))
    moved = axes_map.forward(held)
    assert moved is not None
    back = axes_map.backward(moved)
    assert back is not None and same(back, held)


_NUMBERS = {
    "numbers along one axis": Through(np.array([2.0, -0.5, 3.0]), np.array([0.0, 1.5, -2.0]), 1),
    "one number": Through(np.array(-2.0), np.array(0.75)),
    "a factor alone": Through(np.array([2.0, -0.5, 3.0]), np.zeros(3), 1),
}


@settings(max_examples=60)
@given(data=st.data(), seed=seeds)
@pytest.mark.parametrize("name", _NUMBERS)
def test_numbers_that_stay(name: str, data: st.DataObject, seed: int) -> None:
    """a·x + c, both ways; up to float64's rounding of the sums, which may cancel."""
    rng = np.random.default_rng(seed)
    through, v = _NUMBERS[name], rng.standard_normal((2, 3, 4))

    def op(x: Vector) -> Vector:
        lies = (-1, 1) if through.axis is not None else ()
        return x * through.a.reshape(lies) + through.c.reshape(lies)

    held = data.draw(_holdings(v.shape, rng))
    moved, back = through.forward(held), through.backward(held)
    assert moved is not None and back is not None
    np.testing.assert_allclose(op(hold(held, v)), hold(moved, op(v)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(op(hold(back, v)), hold(held, op(v)), rtol=1e-12, atol=1e-12)
    assert held.forward is not None and moved.forward is not None
    p, q = (x.reshape([n if a in moved.axes else 1 for a, n in enumerate(v.shape)]) for x in moved.forward)
    np.testing.assert_allclose(p * hold(moved, op(v)) + q, op(v), rtol=1e-9, atol=1e-9)


def test_numbers_of_another_size_are_declined() -> None:
    through = Through(np.ones(3), np.ones(3), 1)
    assert through.forward(from_backward((1,), np.full(4, 2.0), np.ones(4))) is None
    silent = from_backward((1,), np.array([0.0, 2.0, 1.0]), np.array([5.0, 0.0, 0.0]))
    moved = through.forward(silent)  # a channel of which nothing is held but its shift
    assert moved is not None and moved.forward is None and moved.backward is not None
    np.testing.assert_array_equal(moved.backward, ([0.0, 2.0, 1.0], [6.0, -1.0, 0.0]))


def test_taking_some_elements() -> None:
    rng = np.random.default_rng(1)
    v, take = rng.standard_normal((2, 5, 3)), Take(1, (3, 1), 5)
    held = from_backward((1,), mixed(rng, 2), rng.standard_normal(2))
    back = take.backward(held)
    assert back is not None and back.backward is not None
    np.testing.assert_allclose(hold(back, v)[:, [3, 1]], hold(held, v[:, [3, 1]]), rtol=1e-12)
    np.testing.assert_array_equal(hold(back, v)[:, [0, 2, 4]], v[:, [0, 2, 4]])
    assert Take(1, (1, 1), 5).backward(held) is None


def test_copies_of_one_element_must_agree() -> None:
    """In scale and in shift: up to the rounding of float64."""
    take = Take(1, (2, 0, 2), 3)
    scale, shift = np.array([-0.5, 3.0, -0.5]), np.array([1.0, 2.0, 1.0])
    back = take.backward(from_backward((1,), scale, shift))
    assert back is not None and back.backward is not None
    np.testing.assert_array_equal(back.backward[0], [3.0, 1.0, -0.5])
    np.testing.assert_array_equal(back.backward[1], [2.0, 0.0, 1.0])
    for other in (scale + np.array([0, 0, 1e-9]), scale * np.array([1, 1, -1])):
        assert take.backward(from_backward((1,), other, shift)) is None
    assert take.backward(from_backward((1,), scale, shift + np.array([0, 0, 1e-9]))) is None


def test_zeros_beside_elements_take_a_scale_and_no_shift() -> None:
    put = Put(1, 1, 2, 4)
    scale, shift = np.array([7.0, 2.0, -3.0, 0.0]), np.array([0.0, 0.5, -1.5, 0.0])
    back = put.backward(from_backward((1,), scale, shift))
    assert back is not None and back.backward is not None
    np.testing.assert_array_equal(back.backward, ([2.0, -3.0], [0.5, -1.5]))
    for at in (0, 3):
        assert put.backward(from_backward((1,), scale, shift + (np.arange(4) == at))) is None
    assert put.backward(from_backward((), np.array(2.0), np.array(1.0))) is None
    assert put.backward(from_backward((2,), np.ones(5), np.ones(5))) is None
    assert put.forward(from_backward((2,), np.ones(5), np.ones(5))) is None
