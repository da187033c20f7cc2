"""When is a verdict certain, so that measuring may end? Looks at the rounds of one setting now and then.

With d the logarithm of the ratio, s its standard error, m the margin that equal models may show
(``measure.verdicts``), p the precision that was asked for and z the bound of this look
(``measure.sequential``):

- *faster*, *slower*: ∣d∣ − z·s > m, and the gain is known, too: its 95 % interval is no wider to either
  side than p, or than half of ∣d∣ and 5·p. Where a gate asks whether the result is slower by more than
  g, the interval must not hold g, nor be wider to either side (an earlier report may be compared with).
- *no significant change*: ∣d∣ + z₉₉·s ≤ 2·p (or g where that is less): a change that matters is ruled out.
- *no significant change*: ∣d∣ + 1.64·s ≤ 0.75 % + (1.96 + 1.28)·s·√part, s·√part being the error when
  the time is up: what all of the time would show in nine of ten cases is ruled out (95 % to that side).
  It ends settings for which the machine is too noisy.

The first kind must not err more often for being looked for again and again, which z sees to. Ending for
want of a difference cannot make one out of nothing; how many it misses is bounded by the 99 % and the 95 %
(stopping for futility and curtailment: Jennison & Turnbull, Group Sequential Methods, 2000, chapters 5 and
10). A single model is measured until the interval of its median call is as narrow as was asked for. Does
not judge fewer than six rounds.
"""

from __future__ import annotations

import math

from msgspec import Struct, field

from bnfuse.measure.judging import ROUNDS_FOR_VERDICT, Rounds, compared, control_of
from bnfuse.measure.resampling import median_ms, widened
from bnfuse.measure.sequential import Looks
from bnfuse.measure.verdicts import LAYOUT, SAME, SLOWER, Z90, Z95, Interval, half_width, verdict

_ROUGH = 5.0  # times the precision: the least that must be known of a gain, however large
_KNOWN = 2.0  # a gain is this many times its own doubt
_MATTERS = 2.0  # times the precision: a change that is worth looking for
_Z99 = 2.575829  # two-sided
_Z90 = 1.644854  # two-sided: 95 % to one side
_PLAIN = math.log(1.05)  # ten times what a model's place in memory makes of its speed
_PLAIN_BOUND = 4.5


class Wanted(Struct, frozen=True):
    """What is to be found out: ``precision`` as a fraction, and the slow-down of a ``gate``, if any."""

    precision: float = 0.01
    gate: float | None = None

    @property
    def matters(self) -> float:
        """The least change that is looked for, as a logarithm."""
        least = _MATTERS * self.precision
        return math.log1p(least if self.gate is None else min(least, self.gate))

    def doubt_about(self, gain: float) -> float:
        """The half-width that is narrow enough, all three as logarithms."""
        rough = _ROUGH * self.precision if self.gate is None else min(_ROUGH * self.precision, self.gate)
        return max(self.precision, min(rough, gain / _KNOWN))


class Certainty(Struct):
    """The looks at one setting. ``doubt`` is the half-width at the latest, in units of the precision."""

    wanted: Wanted
    seed: int = 0
    reached: bool = False
    doubt: float = math.inf
    _looks: Looks = field(default_factory=Looks)
    _bound: float = 0.0

    def look(self, rounds: Rounds, part: float, most: float) -> bool:
        """Whether the verdict on these rounds is certain.

        Args:
            rounds: all so far.
            part: of its share of the time, what has gone by; between 0 and 1.
            most: the same of all the time that there is, if no other setting needed any.
        """
        if len(rounds) < ROUNDS_FOR_VERDICT:
            return False
        if len(rounds.calls) == 1:
            self._note(half_width(median_ms(rounds.medians, self.seed)[1]))
            self.reached = self.doubt <= 1.0
            return self.reached
        ratio, ends = compared(rounds, self.seed)
        self._note(half_width(ends))
        bound = self._looks.bound(len(rounds), min(part, most))
        if self._shown(ratio, ends, widened(ratio, ends, bound, len(rounds)), rounds):
            self._bound, self.reached = bound, True
        else:
            self.reached = self._ruled_out(ratio, ends, part, len(rounds))
        return self.reached

    def plainly(self, rounds: Rounds) -> bool:
        """Whether one copy of each model shows a gain so large that no other, and no control, could matter.

        Its bound is one that chance passes once in 150,000 looks, and so is no part of the 5 %.
        """
        if len(rounds) < ROUNDS_FOR_VERDICT:
            return False
        ratio, ends = compared(rounds, self.seed)
        repeated = widened(ratio, ends, _PLAIN_BOUND, len(rounds))
        nearest = max(math.log(repeated[0]), -math.log(repeated[1]))  # negative where 1 is inside
        if nearest > _PLAIN and self._shown(ratio, ends, repeated, rounds):
            self._note(half_width(ends))
            self._bound, self.reached = _PLAIN_BOUND, True
        return self.reached

    def bound(self, rounds: Rounds) -> float:
        """The bound of the last look, with all of the error spent that is left, unless a look ended it."""
        if self._bound or len(rounds) < ROUNDS_FOR_VERDICT or len(rounds.calls) == 1:
            return self._bound or Z95
        return self._looks.bound(len(rounds), 1.0)

    def _note(self, half: float) -> None:
        self.doubt = half / self.wanted.precision

    def _shown(self, ratio: float, ends: Interval, repeated: Interval, rounds: Rounds) -> bool:
        """Whether the models differ, and by how much is known as well as was asked for."""
        if half_width(ends) > self.wanted.doubt_about(abs(math.log(ratio))):
            return False
        said = verdict(repeated, control_of(rounds, self.seed))
        gate = math.inf if self.wanted.gate is None else 1.0 / (1.0 + self.wanted.gate)
        return said != SAME and not (said == SLOWER and repeated[0] <= gate <= repeated[1])

    def _ruled_out(self, ratio: float, ends: Interval, part: float, rounds: int) -> bool:
        """Whether no change that matters, or none that could still be found, is left."""
        if _farthest(ratio, ends, _Z99, rounds) <= self.wanted.matters:
            return True
        at_end = half_width(ends) / Z95 * math.sqrt(part)
        return _farthest(ratio, ends, _Z90, rounds) <= math.log(LAYOUT) + (Z95 + Z90) * at_end


def _farthest(ratio: float, ends: Interval, bound: float, rounds: int) -> float:
    """The farther end of an interval of so many standard errors from 1, as a logarithm."""
    low, high = widened(ratio, ends, bound, rounds)
    return max(math.log(high), -math.log(low))
