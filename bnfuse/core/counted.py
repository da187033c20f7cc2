"""How factors find their way where zeros are put beside elements, or elements are added up.

    Put     y = x between zeros along one axis    zeros may be scaled, and stay what they are
    Times   y = Σ of n elements of x              Σ(s·x + t) = s·Σx + n·t

Both answer None, as the maps of ``axes`` do, where what is asked cannot be had.
"""

from __future__ import annotations

from dataclasses import dataclass

from bnfuse.core.axes import Take
from bnfuse.core.reparam import Reparam


@dataclass(frozen=True, slots=True)
class Put:
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


@dataclass(frozen=True, slots=True)
class Times:
    """A shift counts as often as elements are added up."""

    count: int

    def forward(self, held: Reparam) -> Reparam | None:
        """n times the shift."""
        return held.shift_times(float(self.count))

    def backward(self, held: Reparam) -> Reparam | None:
        """Its n-th part."""
        return held.shift_times(1.0 / self.count)
