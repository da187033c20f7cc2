"""Which layers are told of as spread, from their weights and factors alone, against plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfuse.core.apply import NewLinear, Patch
from bnfuse.core.graph import Node
from bnfuse.core.quantising.extents import imbalance
from bnfuse.core.quantising.growth import Widened, widened
from bnfuse.core.reparam import Pair
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import Rewrite, linear_form
from bnfuse.core.weights.tensor import Array
from tests.held_values import Vector, mixed, seeds


@dataclass
class Counted:
    """A stored weight that counts how often it is read whole."""

    array: Vector
    elements: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[np.float64]:
        return self.array.dtype

    @property
    def reads(self) -> float:
        return self.elements / self.array.size

    def read(self, start: int, stop: int) -> Array:
        self.elements += stop - start
        return self.array.reshape(-1)[start:stop]


def _pair(factors: Sequence[float] | Vector | None) -> Pair | None:
    """Factors with a shift, which says nothing of ranges."""
    return None if factors is None else (np.array(factors, np.float64), np.arange(1.0, len(factors) + 1))


def _layer(
    weight: Vector,
    read: Sequence[float] | Vector | None,
    write: Sequence[float] | Vector | None,
    layout: str = "o i",
    groups: int = 1,
) -> tuple[NewLinear, Counted]:
    counted = Counted(np.asarray(weight, np.float64))
    rule = Linear(counted, linear_form(counted.shape, layout, groups), None, 1, 1)
    return NewLinear(None, rule, Rewrite(_pair(read), _pair(write)), ()), counted


def _told(*layers: NewLinear) -> tuple[Widened, ...]:
    nodes = [Node(name, "Gemm", ("x",), ("y",)) for name in "abcdefgh"]
    return widened(Patch(linears=dict(zip(nodes, layers, strict=False))))


def _spread(ranges: Vector) -> float:
    live = ranges[ranges > 0]
    return float(live.max() / np.median(live)) if live.size else 1.0


SIX = (1.0, 1.0, 1.0, 1.0, 1.0)


@settings(max_examples=150)
@given(seed=seeds, reads=st.booleans(), writes=st.booleans(), depthwise=st.booleans())
def test_what_is_told_is_what_the_new_weights_are(
    seed: int, reads: bool, writes: bool, depthwise: bool
) -> None:
    """Factors over four decades, some of them zero: the spreads are those of W and of s·W·p."""
    rng = np.random.default_rng(seed)
    shape = (6, 1) if depthwise else (6, 4)
    weight = rng.standard_normal(shape) * 10.0 ** rng.uniform(-1, 1, (6, 1))
    p = mixed(rng, 6 if depthwise else 4) ** 3 if reads else None
    s = mixed(rng, 6) ** 3 * rng.choice((0.0, 1.0, 1.0, 1.0), 6) if writes else None
    new, counted = _layer(weight, p, s, "go i" if depthwise else "o i", 6 if depthwise else 1)
    made = weight.copy()
    if p is not None:
        made *= p[:, None] if depthwise else p
    if s is not None:
        made *= s[:, None]
    after = np.abs(made).max(axis=1)
    before = np.abs(weight).max(axis=1)[after > 0]
    wanted = _spread(before), _spread(after)
    tells = wanted[1] > 16.0 and wanted[1] > 4.0 * wanted[0]
    found = _told(new)
    assert bool(found) == tells
    for one in found:
        assert [one.before, one.after] == pytest.approx(wanted)
    assert counted.reads <= 2.0


# Ranges of the channels before, factors at the input and at the output, and whether they are spread.
LIMITS: list[tuple[tuple[float, ...], tuple[float, ...] | None, tuple[float, ...] | None, bool]] = [
    (SIX, None, (1, 1, 1, 1, 17), True),
    (SIX, None, (1, 1, 1, 1, 16), False),  # it must exceed 16
    (SIX, None, (1, 1, 1, 1, 15), False),
    ((1, 1, 1, 1, 8), None, (1, 1, 1, 1, 4.5), True),
    ((1, 1, 1, 1, 8), None, (0.25, 0.5, 0.5, 0.5, 2), False),  # 32 is four times 8, and not more
    ((1, 1, 1, 1, 100), None, (1, 1, 1, 1, 3), False),
    ((1, 1, 1, 1, 100), None, (0.5, 1, 1, 1, 3), False),
    ((1, 1, 1, 1, 2), (1, 1, 1, 1, 3), (1, 1, 1, 1, 3.5), True),  # 10.5 times together
    ((1, 1, 1, 1, 6), (1, 1, 1, 1, 5), None, True),
    ((9, 1, 1, 1, 1), None, (0, 1, 1, 1, 17), True),  # what is silenced does not count before
    ((1, 1, 1, 1, 100), None, (1, 1, 1, 1, 0), False),
    (SIX, None, (0, 0, 0, 0, 0), False),
    (SIX, (0, 0, 0, 0, 0), (1, 1, 1, 1, 99), False),
    ((0, 0, 0, 0, 0), None, (1, 1, 1, 1, 99), False),
    ((0, 0, 1, 1, 1), None, (1, 1, 1, 1, 17), True),  # zeros would make the median smaller
]


@pytest.mark.parametrize(("before", "read", "write", "tells"), LIMITS)
def test_the_limits_of_what_is_told(
    before: tuple[float, ...], read: tuple[float, ...] | None, write: tuple[float, ...] | None, tells: bool
) -> None:
    new, _ = _layer(np.array(before)[:, None], read, write, "go i", 5)
    assert bool(_told(new)) is tells


def test_the_worst_is_told_first() -> None:
    """By how much they grew, not by what they are; by name where that is the same."""
    grown = {"a": (1.0, 20.0), "b": (10.0, 9.0), "c": (2.0, 40.0), "d": (1.0, 20.0), "e": (8.0, 5.0)}
    layers = [
        _layer(np.array([[1.0], [1.0], [1.0], [1.0], [w]]), None, (1, 1, 1, 1, s))[0]
        for w, s in grown.values()
    ]
    found = _told(*layers)
    assert [w.node for w in found] == ["c", "a", "d", "b", "e"]
    assert [(w.before, w.after) for w in found] == [
        (2.0, 80.0),
        (1.0, 20.0),
        (1.0, 20.0),
        (10.0, 90.0),
        (8.0, 40.0),
    ]


@pytest.mark.parametrize(
    ("read", "write", "reads"),
    [
        (None, None, 0),
        (None, (1.0, 1.0, 1.0, 1.0, 4.0), 0),
        ((1.0, 1.0, 1.0, 1.0, -4.0), None, 0),
        ((3.0,) * 5, (-7.0,) * 5, 0),
        ((0.0, 0.0, 0.0, 0.0, 9.0), (0.0, 0.0, 2.0, 2.0, 2.0), 0),  # the factors that are not zero are alike
        ((1.0, 1.0, 1.0, 1.0, 3.0), None, 0),
        (None, (1.0, 1.0, 1.0, 1.0, 5.0), 1),
        ((3.0,) * 5, (1.0, 1.0, 1.0, 1.0, 5.0), 1),
        ((1.0, 1.0, 1.0, 1.0, 5.0), None, 2),
    ],
)
def test_how_often_a_weight_is_read(
    read: tuple[float, ...] | None, write: tuple[float, ...] | None, reads: int
) -> None:
    """Not at all where factors differ by no more than 4; once more where those of the inputs differ."""
    new, counted = _layer(np.eye(5) + 0.5, read, write)
    _told(new)
    assert counted.reads == reads


def test_one_channel_is_not_spread() -> None:
    new, counted = _layer(np.ones((1, 5)), (1, 1, 1, 1, 50), (3.0,))
    assert not _told(new) and counted.reads == 2
    new, _ = _layer(np.ones((5, 1)), (2.0,), (1, 1, 1, 1, 50))
    assert [w.after for w in _told(new)] == [50.0]
    assert imbalance(np.zeros(3)) == imbalance(np.zeros(0)) == 1.0
