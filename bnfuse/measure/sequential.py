"""How wide an interval must be that is looked at again and again, so that its error does not grow.

Whoever looks at a 95 % interval after every few rounds, and stops where it excludes 1, is wrong far more
often than once in twenty. So each look gets a part of the 5 %, spent as the time goes by (Lan & DeMets,
Discrete Sequential Boundaries for Clinical Trials, Biometrika 70(3), 1983, with the power family of Kim &
DeMets, Biometrika 74(1), 1987)::

    spent up to the part t of the time:  0.05 · t³

The estimate's standard score at a look with information I is normal, and what is added between two looks is
independent of what was there. So the chance to be outside at one look for the first time follows from the
density of having been inside at all looks before (Armitage, McPherson & Rowe, Repeated Significance Tests
on Accumulating Data, J. R. Statist. Soc. A 132(2), 1969), and the bound of a look is the one where that
chance is what may be spent::

    f₁(b) = φ(b/√I₁)/√I₁        fₖ(b) = ∫ over |u| < zₖ₋₁·√Iₖ₋₁ of  fₖ₋₁(u) · φ((b − u)/√ΔI)/√ΔI  du
    zₖ:  P(|b| > zₖ·√Iₖ) under fₖ  =  what is spent now

The intervals "estimate ± zₖ standard errors" then hold the truth at all looks together with 95 %, whatever
made somebody stop (repeated confidence intervals: Jennison & Turnbull, J. R. Statist. Soc. B 51(3), 1989).
Information is counted in rounds, time on a clock (Lan & DeMets, Statist. Med. 8, 1989).

Does not know what is measured, nor when to stop.
"""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bnfuse.measure.verdicts import Z95

ERROR = 0.05  # of all looks together
_POWER = 3.0  # of the part of the time
_PLACES = 80  # of the grid on which a density is held, to either side of 0
_WIDEST = 8.0  # bounds beyond this many standard errors are as good as none
_HALVINGS = 24
_SAME = 1.02  # looks whose information differs by less are one: the density between them would be a spike

Floats = NDArray[np.float64]


class _Past(Struct, frozen=True, eq=False):
    """What happened up to a look: its information, what was spent, and the density of being inside still.

    ``mass`` holds the probability at each of ``places`` (b, the score times √information).
    """

    information: float
    spent: float
    places: Floats
    mass: Floats


_NOTHING = _Past(0.0, 0.0, np.zeros(1), np.ones(1))


class Looks:
    """The looks at one measurement that goes on. Two that hardly differ in information are one."""

    def __init__(self) -> None:
        self._before, self._last = _NOTHING, _NOTHING

    def bound(self, information: float, part: float) -> float:
        """The bound z of a look.

        Args:
            information: rounds so far, never fewer than at the look before.
            part: of the time that may be taken; 1 for the last look, however soon that comes.
        """
        past = self._before if information < _SAME * self._last.information else self._last
        spent = max(past.spent, self._last.spent, ERROR * min(1.0, part) ** _POWER)
        bound = _bound(past, information, spent - past.spent)
        self._before, self._last = past, _inside(past, information, spent, bound)
        return bound


def _bound(past: _Past, information: float, chance: float) -> float:
    """Where the chance to be outside is as wanted; never nearer than a single look would have it."""
    deviation = math.sqrt(information - past.information)
    low, high = 0.0, _WIDEST
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if _outside(past, deviation, middle * math.sqrt(information)) > chance:
            low = middle
        else:
            high = middle
    return max(high, Z95)


def _outside(past: _Past, deviation: float, limit: float) -> float:
    """The chance that the next sum is beyond ±limit; the density is the same to both sides."""
    scores = (limit - past.places) / (deviation * math.sqrt(2.0))
    return float(np.sum(past.mass * [math.erfc(score) for score in scores]))


def _inside(past: _Past, information: float, spent: float, bound: float) -> _Past:
    """The density after a look at which the bound was not reached."""
    deviation, limit = math.sqrt(information - past.information), bound * math.sqrt(information)
    step = limit / (_PLACES + 0.5)
    places = np.linspace(-step * _PLACES, step * _PLACES, 2 * _PLACES + 1)
    scores = (places[:, None] - past.places[None, :]) / deviation
    density = np.exp(-0.5 * scores**2) / (deviation * math.sqrt(2.0 * math.pi))  # (place, place before)
    mass = np.asarray(step * np.einsum("pb,b->p", density, past.mass), dtype=np.float64)
    return _Past(information, spent, places, mass)


def student(bound: float, degrees: int) -> float:
    """The bound for a standard error that is itself an estimate of so many degrees of freedom.

    Student's quantile for a normal one: from 4 degrees on within 1 % at 95 %, and up to 4 % wider at 99.9 %
    (Wallace, Bounds on Normal Approximations to Student's and the Chi-Square Distributions, Ann. Math.
    Statist. 30(4), 1959).
    """
    corrected = bound * (8.0 * degrees + 3.0) / (8.0 * degrees + 1.0)
    exponent = corrected * corrected / degrees
    return math.inf if exponent > 500.0 else math.sqrt(degrees * math.expm1(exponent))
