"""How operands lie in a broadcast result: against numpy's own broadcasting."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from bnfuse.core.axes import Shape
from bnfuse.core.reparam import from_backward
from bnfuse.core.rules.operands import Operand, operands
from tests.held_values import hold, mixed

SHAPES = [(2, 4, 3), (4, 3), (1, 4, 1), (4, 1), (3,), (1,), ()]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_factor_follows_its_operand_into_the_result(shape: tuple[int, ...]) -> None:
    """Broadcasting what is held is holding what is broadcast; and back, but for repeated axes."""
    rng = np.random.default_rng(0)
    full = (2, 4, 3)
    lie = operands([shape, full], full)
    assert lie is not None
    x = rng.standard_normal(shape)
    own = tuple(a for a, n in enumerate(shape) if n > 1)
    held = from_backward(
        own, mixed(rng, *(shape[a] for a in own)), rng.standard_normal([shape[a] for a in own])
    )
    there = lie[0].to_output(held)
    wide = np.broadcast_to(hold(held, x), full)
    np.testing.assert_array_equal(hold(there, np.broadcast_to(x, full)), wide)
    back = lie[0].from_output(there)
    assert back is not None and back.axes == held.axes
    for axis in range(3):
        factor = from_backward((axis,), mixed(rng, full[axis]), np.zeros(full[axis]))
        repeated = axis < 3 - len(shape) or shape[axis - (3 - len(shape))] == 1
        assert (lie[0].from_output(factor) is None) == repeated
        number = from_backward((axis,), np.full(full[axis], 2.0), np.zeros(full[axis]))
        one = lie[0].from_output(number)  # one number for all repeats of an element is one for the element
        assert one is not None and (not one.axes) == repeated


KNOWN: list[tuple[list[Shape | None], Shape | None, tuple[Operand, ...] | None]] = [
    ([("N", 4), ("N", 4)], ("N", 4), (Operand(0, frozenset()),) * 2),
    ([("N", 4), ("M", 4)], ("N", 4), (Operand(0, frozenset()), Operand(0, frozenset({0})))),  # M may be 1
    ([("N", 4), (None, 4)], ("N", 4), (Operand(0, frozenset()), Operand(0, frozenset({0})))),
    ([(2, 4), (2, 4)], ("N", 4), (Operand(0, frozenset()),) * 2),  # 2 is not 1, whatever N is
    ([(1, 4), (2, 4)], ("N", 4), (Operand(0, frozenset({0})), Operand(0, frozenset()))),
    ([(4,), ("N", 4)], ("N", 4), (Operand(1, frozenset({0})), Operand(0, frozenset()))),
    ([(1,), ("N", 4)], ("N", 4), (Operand(1, frozenset({0, 1})), Operand(0, frozenset()))),
    ([("N", 4), None], ("N", 4), None),
    ([("N", 4)], None, None),
    ([(2, 3, 4)], (3, 4), None),  # the file contradicts itself
    ([(2, 3, 4), (3, 4)], (3, 4), None),
]


@pytest.mark.parametrize(("shapes", "output", "expected"), KNOWN)
def test_what_is_not_known_counts_as_repeated(
    shapes: list[Shape | None], output: Shape | None, expected: tuple[Operand, ...] | None
) -> None:
    assert operands(shapes, output) == expected


def test_every_pair_of_shapes_that_numpy_broadcasts() -> None:
    for a, b in product(SHAPES, SHAPES):
        full = np.broadcast_shapes(a, b)
        lie = operands([a, b], full)
        assert lie is not None
        for shape, operand in zip((a, b), lie, strict=True):
            strides = np.broadcast_to(np.empty(shape), full).strides
            repeated = {axis for axis, stride in enumerate(strides) if stride == 0 and full[axis] > 1}
            assert operand.offset == len(full) - len(shape)
            assert repeated <= operand.stretched <= repeated | set(range(operand.offset))


AXES = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_factor_of_the_result_says_of_an_operand(shape: tuple[int, ...]) -> None:
    """Spelled out along some axes, varying along some of those: it reaches what is not repeated there."""
    full, rng = (2, 4, 3), np.random.default_rng(1)
    (lie,) = operands([shape], full) or ()
    x = rng.standard_normal(shape)
    offset = 3 - len(shape)
    own = {a for a in range(offset, 3) if shape[a - offset] == full[a]}
    for axes, varies in product(AXES, AXES):
        if not set(varies) <= set(axes):
            continue
        sizes = [full[a] for a in axes]
        drawn = mixed(rng, *(full[a] if a in varies else 1 for a in axes))
        held = from_backward(axes, np.broadcast_to(drawn, sizes), np.broadcast_to(drawn + 1.0, sizes))
        found = lie.from_output(held)
        assert (found is not None) == (set(varies) <= own)
        if found is not None:
            wide = np.broadcast_to(x, full)
            np.testing.assert_array_equal(np.broadcast_to(hold(found, x), full), hold(held, wide))
        if shape == full:
            assert found is held  # nothing to move, nothing to copy
