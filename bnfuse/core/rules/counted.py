"""How factors find their way where zeros are put beside elements, or numbers are reckoned with.

    Put      y = x between zeros along one axis    zeros may be scaled, and stay what they are
    Times    y = Σ of n elements of x              Σ(s·x + t) = s·Σx + n·t
    Through  y = a·x + c by numbers that stay      a·(s·x + t) + c = s·y + a·t + (1 − s)·c

All answer None, as the maps of ``axes`` do, where what is asked cannot be had.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from bnfuse.core.axes import Take
from bnfuse.core.reparam import Pair, Reparam, Vector, dustless


class Put(Struct, frozen=True):
    """Zeros before and behind the ``size`` elements along an axis, ``whole`` of them in all."""

    axis: int
    before: int
    size: int
    whole: int

    @property
    def _taken(self) -> Take:
        return Take(self.axis, tuple(range(self.before, self.before + self.size)), self.whole)

    def forward(self, held: Reparam) -> Reparam | None:
        """The zeros stay as they are."""
        if held.shifts and held.axes and self.axis not in held.axes:
            return None
        return self._taken.backward(held)

    def backward(self, held: Reparam) -> Reparam | None:
        """None where a zero would have to be shifted; how it is scaled is all the same."""
        if not held.shifts:
            return self._taken.forward(held)
        if self.axis not in held.axes:
            return None
        zeros = [k for k in range(self.whole) if not self.before <= k < self.before + self.size]
        beside = Take(self.axis, tuple(zeros), self.whole).forward(held)
        return None if beside is None or beside.shifts else self._taken.forward(held)


class Times(Struct, frozen=True):
    """A shift counts as often as elements are added up."""

    count: int

    def forward(self, held: Reparam) -> Reparam | None:
        """n times the shift."""
        return held.shift_times(float(self.count))

    def backward(self, held: Reparam) -> Reparam | None:
        """Its n-th part."""
        return held.shift_times(1.0 / self.count)


class Through(Struct, frozen=True, eq=False):
    """y = a·x + c by numbers that stay: a·(s·x + t) + c = s·y + (a·t + (1 − s)·c), the same for what is read.

    Attributes:
        a, c: shape (n,) along ``axis``, or () where that is None; no a is zero.
    """

    a: Vector
    c: Vector
    axis: int | None = None

    def forward(self, held: Reparam) -> Reparam | None:
        """x held so, y."""
        return self._moved(held, lambda s, t, a, c: dustless(a * t, (1.0 - s) * c))

    def backward(self, held: Reparam) -> Reparam | None:
        """y held so, x."""
        return self._moved(held, lambda s, t, a, c: dustless(t, (s - 1.0) * c) / a)

    def _moved(
        self, held: Reparam, shift: Callable[[Vector, Vector, Vector, Vector], Vector]
    ) -> Reparam | None:
        if not held.shifts and not (held.scales and self.c.any()):
            return held
        a, c = self.a, self.c
        if self.axis is not None:
            if self.axis not in held.axes:
                axes = tuple(sorted({*held.axes, self.axis}))
                known = dict(zip(held.axes, held.shape, strict=True))
                held = held.along(axes, [known.get(axis, a.size) for axis in axes])
            at = held.axes.index(self.axis)
            if held.shape[at] != a.size:
                return None  # the file contradicts itself
            a, c = (v.reshape(-1, *(1,) * (len(held.axes) - at - 1)) for v in (a, c))

        def moved(pair: Pair | None) -> Pair | None:
            return None if pair is None else (pair[0], shift(*pair, a, c))

        return Reparam(held.axes, moved(held.backward), moved(held.forward))
