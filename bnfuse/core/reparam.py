"""Reparameterised values: what it means that a tensor is *held* scaled and shifted.

A value v of the graph may be held as ``h = s·v + t``. Whoever writes v needs (s, t); whoever reads
it needs the inverse, ``v = p·h + q`` with ``p = 1/s`` and ``q = −t/s``. Where a channel's scale is
zero only one of the two exists (a trained γ = 0 is normal), so a ``Reparam`` holds both as
optional pairs and never divides by zero.

All arithmetic is float64. Equality is up to rounding of float64 (paths that meet again compute
the same factor in another order), and what roundings alone leave of a difference is none (``dustless``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Pair = tuple[Vector, Vector]

_ROUNDING = 1e-12

# Of the numbers that a difference is made of: below it nothing but their roundings is left. Two numbers that
# are equal on paper reach a node by a handful of multiplications and divisions; 32 roundings of 2⁻⁵³ each
# leave room for long detours, and yet the least difference that float32 can store (2⁻²⁴) is 10⁷ times larger.
DUST = 2.0**-48


class Reparam(Struct, frozen=True, eq=False):
    """``h = s·v + t`` (``backward``, for writers) and ``v = p·h + q`` (``forward``, for readers).

    The arrays have one dimension per entry of ``axes``, the axes of v they vary along, in
    ascending order; a factor that is the same everywhere has ``axes == ()``.

    Attributes:
        backward: (s, t), None where a channel cannot be written so.
        forward: (p, q), None where a channel cannot be read so; one of the two is always there.
    """

    axes: tuple[int, ...]
    backward: Pair | None
    forward: Pair | None

    @property
    def _either(self) -> Pair:
        """The direction that is there."""
        pair = self.forward if self.backward is None else self.backward
        assert pair is not None
        return pair

    @property
    def scale_only(self) -> Reparam:
        """The same scale without the shift."""
        return self.shift_times(0.0)

    def shift_times(self, factor: float) -> Reparam:
        """The same scale, the shift multiplied by a number."""
        back = None if self.backward is None else (self.backward[0], factor * self.backward[1])
        fore = None if self.forward is None else (self.forward[0], factor * self.forward[1])
        return Reparam(self.axes, back, fore)

    @property
    def shifts(self) -> bool:
        """Whether any channel is shifted."""
        return bool(self._either[1].any())

    @property
    def scales(self) -> bool:
        """Whether any channel is scaled."""
        return bool((self._either[0] != 1.0).any())

    @property
    def zeros(self) -> bool:
        """Whether any channel's scale is zero."""
        return bool((self._either[0] == 0.0).any())

    @property
    def negative(self) -> int:
        """How many channels have a negative scale."""
        return int(np.count_nonzero(self._either[0] < 0))

    @property
    def size(self) -> int:
        """How many channels (elements of the factors) there are."""
        scale, _ = self._either
        return int(scale.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of ``axes``."""
        scale, _ = self._either
        shape: tuple[int, ...] = scale.shape
        return shape

    @property
    def is_identity(self) -> bool:
        """Whether v is held as it is."""
        scale, shift = self._either
        return not shift.any() and bool((scale == 1.0).all())

    def map(self, change: Callable[[Vector], Vector], axes: Sequence[int]) -> Reparam:
        """The same factors rearranged: ``change`` on every array, now along ``axes``."""
        back, fore = self.backward, self.forward
        back = None if back is None else (change(back[0]), change(back[1]))
        fore = None if fore is None else (change(fore[0]), change(fore[1]))
        if fore is None and back is not None:  # channels whose scale is zero may be left behind
            fore = _inverse(*back)
        elif back is None and fore is not None:
            back = _inverse(*fore)
        return Reparam(tuple(axes), back, fore)

    def along(self, axes: Sequence[int], sizes: Sequence[int]) -> Reparam:
        """The same factors spelled out along a superset of axes of the given sizes."""
        if tuple(axes) == self.axes:
            return self
        index = tuple(slice(None) if a in self.axes else None for a in axes)
        return self.map(lambda v: np.broadcast_to(v[index], tuple(sizes)), axes)

    def compact(self) -> Reparam:
        """The same factors without the axes along which they do not vary."""
        kept = self
        for axis in self.axes:
            at = kept.axes.index(axis)
            if all(_constant_along(v, at) for v in kept._arrays()):
                rest = tuple(a for a in kept.axes if a != axis)
                kept = kept.map(lambda v, at=at: v.take(0, axis=at), rest)  # type: ignore[misc]
        return kept

    def _arrays(self) -> list[Vector]:
        return [v for pair in (self.backward, self.forward) if pair is not None for v in pair]


def _constant_along(array: Vector, at: int) -> bool:
    first = array.take([0], axis=at)
    return bool((array == first).all())


IDENTITY = Reparam((), (np.ones(()), np.zeros(())), (np.ones(()), np.zeros(())))


def from_backward(axes: tuple[int, ...], s: Vector, t: Vector) -> Reparam:
    """h = s·v + t, with the inverse where s has no zero."""
    return Reparam(axes, (s, t), _inverse(s, t))


def from_forward(axes: tuple[int, ...], p: Vector, q: Vector) -> Reparam:
    """v = p·h + q, with the inverse where p has no zero."""
    return Reparam(axes, _inverse(p, q), (p, q))


def _inverse(scale: Vector, shift: Vector) -> Pair | None:
    """(1/s, −t/s), and the same the other way round; None where a scale is zero."""
    if not scale.all():
        return None
    inverse = 1.0 / scale
    return inverse, -shift * inverse


def same(a: Reparam, b: Reparam) -> bool:
    """Whether two demands ask for the same thing, up to float64 rounding."""
    if a is b:
        return True
    a, b = (a.compact(), b.compact()) if a.axes != b.axes else (a, b)
    if a.axes != b.axes:
        return False
    for left, right in ((a.backward, b.backward), (a.forward, b.forward)):
        if left is not None and right is not None:
            return all(_close(x, y) for x, y in zip(left, right, strict=True))
    return False


def _close(x: Vector, y: Vector) -> bool:
    if x.shape != y.shape:
        return False
    return bool((np.abs(x - y) <= _ROUNDING * np.abs(x)).all())


def dustless(x: Vector, y: Vector) -> Vector:
    """x + y, with zeros where no more than the roundings of x and y is left."""
    total = x + y
    return np.where(np.abs(total) <= DUST * np.abs(x), 0.0, total)


def settled_scale(scale: Vector) -> Vector:
    """A scale that was multiplied together, with ones where it differs from one by roundings alone."""
    return np.where(np.abs(scale - 1.0) <= DUST, 1.0, scale)


def compose_writes(first: Pair, then: Pair) -> Pair:
    """h₂ = s₂·(s₁·v + t₁) + t₂ as one pair (s, t)."""
    return first[0] * then[0], then[0] * first[1] + then[1]


def compose_reads(first: Pair, then: Pair) -> Pair:
    """v = p₁·(p₂·h + q₂) + q₁ as one pair (p, q)."""
    return first[0] * then[0], first[0] * then[1] + first[1]


def arithmetic_pair(op: str, k: Vector, *, first: bool) -> Pair:
    """(a, c) of a sum, difference, product or quotient of x and a constant, which may come ``first``.

    There is none of a constant over x.
    """
    one, zero = np.ones_like(k), np.zeros_like(k)
    match op:
        case "Mul" | "Multiply":
            return k, zero
        case "Div" | "Divide":
            with np.errstate(divide="ignore"):
                return one / k, zero
        case "Add":
            return one, k
    return (-one, k) if first else (one, -k)


def arithmetic_constant(op: str, a: Vector, c: Vector, *, first: bool) -> Vector:
    """The constant that makes this pair of it."""
    if op in ("Mul", "Multiply"):
        return a
    if op in ("Div", "Divide"):
        return np.asarray(1.0 / a)
    return c if first or op == "Add" else -c
