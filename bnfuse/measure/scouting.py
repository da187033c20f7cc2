"""A large gain is shown by one copy of each model: second ones are then neither loaded nor compiled.

A bench holds two copies of both models, because a model's place in memory is part of its speed (0.4 %), and
the second copy of the original is its control. To build and compile them is most of what it costs to measure
a Keras model. So where the models part by some 10 % as soon as they are warm, they are timed for a few rounds
as they are; and that is all where the gain is ten times what places in memory could make of it
(``Certainty.plainly``). Else those rounds are forgotten, and the second copies are loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from bnfuse.formats.base import Runner
from bnfuse.inputs.samples import Feeds
from bnfuse.measure.certainty import Certainty
from bnfuse.measure.judging import Rounds
from bnfuse.measure.stopwatch import Stopwatch
from bnfuse.measure.timing import interleave, warm_up

_APART = math.log(1.1)  # warm models this far apart are worth the rounds
_SHARE = 0.25  # of the time that these rounds may take
_ROUNDS = 11


class Scouted(Struct, frozen=True):
    """``typical_ns`` is what a call of each model takes; ``rounds`` are there where they suffice."""

    typical_ns: tuple[float, ...]
    rounds: Rounds | None = None


def scout(
    runners: Sequence[Runner], feeds: Feeds, spent: Stopwatch, certainty: Certainty, seed: int
) -> Scouted:
    """Warm up one copy of each of two models, and time them where they seem to be far apart."""
    end = spent.start(all_at_once=True)
    try:
        typical = tuple(warm_up(runner, feeds, end, len(runners)) for runner in runners)
        if abs(math.log(typical[0] / typical[1])) <= _APART:
            return Scouted(typical)
        soon = end - (1.0 - _SHARE) * spent.share_s
        rounds = interleave(
            runners,
            feeds,
            soon,
            done=lambda found: certainty.plainly(found) or len(found) >= _ROUNDS,
            seed=seed,
            typical_ns=typical,
        )
        return Scouted(typical, rounds if certainty.reached else None)
    finally:
        spent.stop()
