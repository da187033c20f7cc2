"""Turns interleaved rounds of call times into figures and a verdict.

A round visits every model twice; a visit's figure is the (lower) median of its few calls. The ratio of two
models is the one that most pairs of a visit of A and a visit of B agree on, to within some 5 %, where fast
visits count for more::

    log speedup = argmax over d of  sum over i, j of  w(i) w(j) exp(−(log A(i) − log B(j) − d)² / 2h²)

with h = 0.05 and w = (1 − r)², r the rank of a visit among those of its model, from 0 for the fastest to 1.

Call times on a shared machine are a mixture: undisturbed calls, calls on fewer processors, calls that had to
wait. Means and medians jump as its parts change; this estimate leaves pairs that disagree by much more than
h out of the count. Where times spread by less than h, it is a mean of the differences. (It is Welsch's
M-estimator of location on the differences that Hodges and Lehmann take the median of.) Slow visits count
for less because those who had to wait agree, too: on the scheduler's slice, which hides the difference.
Percentiles are of all calls. Measured on two cores beside eight other busy processes: within 1.2 % of the
truth (root mean square) where medians were off by 60 %.

The 95 % interval is a bootstrap over blocks of rounds, since neighbouring rounds are disturbed together,
widened for their small number (Hesterberg, What Teachers Should Know About the Bootstrap, The American
Statistician 69(4), 2015: expanded percentile interval). The same ratio for two copies of the original is
the control: what this machine calls a difference between equal models.

A change is called one only where the interval excludes 1 by more than 0.75 %, since sessions of equal models
differ by 0.4 % (standard deviation, measured over 100 runs) for where they lie in memory, and by more than
the control's own interval excludes it. Does not judge fewer than six rounds, nor decide when there are enough
(``measure.certainty``).
"""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bnfuse.measure.ratio import paired_ratio, ratio_and_times
from bnfuse.measure.resampling import Times, median_ms, widened
from bnfuse.measure.verdicts import TOO_FEW, Z95, Interval, detectable, verdict
from bnfuse.results import BenchRun, Percentiles, Typical
from bnfuse.results.latency import LEAST_ROUNDS

ROUNDS_FOR_VERDICT = LEAST_ROUNDS  # below this, an interval of 95 % means nothing
QUANTILES = 41


class Rounds(Struct, frozen=True, eq=False):
    """Times in ns: ``calls`` of every kept call, by model, and ``medians`` of visits.

    ``medians`` are (model, round, visit of the round), or (model, round) where a round has one visit.
    Models are in the order original, result, original again (the control), result again, as far as they
    take part.
    """

    calls: tuple[Times, ...]
    medians: Times

    def __len__(self) -> int:
        return int(self.medians.shape[1])

    def followed_by(self, later: Rounds) -> Rounds:
        """Both as one. Models that are missing in one of them are left out of the other.

        Where their rounds have not the same number of visits, each visit becomes a round.
        """
        shared = min(len(self.calls), len(later.calls))
        calls = (np.concatenate(pair) for pair in zip(self.calls[:shared], later.calls[:shared], strict=True))
        parts = [self.medians[:shared], later.medians[:shared]]
        if parts[0].shape[2:] != parts[1].shape[2:]:
            parts = [part.reshape(shared, -1, 1) for part in parts]
        medians = np.concatenate(parts, axis=1)
        return Rounds(tuple(calls), medians)


def summarise(
    setting: str, batch: int, rounds: Rounds, seed: int, *, threads: int = 0, bound: float = Z95
) -> BenchRun:
    """The figures of one setting, and their verdict in words.

    ``bound`` is the half-width of the ratio's interval in standard errors: more than that of 95 % where it
    was looked at before (``measure.sequential``).
    """
    before = np.concatenate(rounds.calls[0::2])  # its second copy included
    before_ms = percentiles_ms(before)
    told = len(rounds) >= ROUNDS_FOR_VERDICT
    alone = BenchRun(
        setting=setting,
        batch=batch,
        threads=threads,
        before_ms=before_ms,
        before_quantiles_ms=quantiles_ms(before),
        before_items_per_s=_throughput(batch, before_ms),
        pairs=len(rounds),
    )
    if len(rounds.calls) == 1:
        median, ends = median_ms(rounds.medians, seed)
        return replace(
            alone,
            before_ci95_ms=ends if told else None,
            before_typical=Typical(median, ends if told else None),
        )
    after = np.concatenate(rounds.calls[1::2])
    after_ms = percentiles_ms(after)
    (speedup, ends), times = ratio_and_times(rounds.medians[0::2], rounds.medians[1::2], seed)
    ci95 = ends if bound == Z95 else widened(speedup, ends, bound, len(rounds))
    control = control_of(rounds, seed)
    typical = [Typical(ms, around if told else None) for ms, around in times]
    return replace(
        alone,
        after_ms=after_ms,
        speedup=speedup,
        ci95=ci95 if len(rounds) > 1 else None,
        control=control if len(rounds) > 1 else None,
        verdict=verdict(ci95, control) if told else TOO_FEW,
        before_typical=typical[0],
        after_typical=typical[1],
        after_quantiles_ms=quantiles_ms(after),
        after_items_per_s=_throughput(batch, after_ms),
        detectable=detectable(ci95, control) if told else None,
    )


def _throughput(batch: int, times: Percentiles) -> float:
    """Items per second of calls one after the other."""
    return 1000.0 * batch / times.p50 if times.p50 > 0 else math.inf


def percentiles_ms(times_ns: Times) -> Percentiles:
    """p50, p90, p99 and the least, in milliseconds."""
    p50, p90, p99, least = (float(v) / 1e6 for v in np.percentile(times_ns, (50, 90, 99, 0)))
    return Percentiles(p50, p90, p99, least)


def quantiles_ms(times_ns: Times) -> tuple[float, ...]:
    """41 evenly spaced quantiles (0, 2.5 %, …, 100 %) in milliseconds."""
    values = np.quantile(times_ns, np.linspace(0, 1, QUANTILES)) / 1e6
    return tuple(float(f"{value:.6g}") for value in values)


def compared(rounds: Rounds, seed: int) -> tuple[float, Interval]:
    """before/after, and its 95 % interval."""
    return paired_ratio(rounds.medians[0::2], rounds.medians[1::2], seed)


def control_of(rounds: Rounds, seed: int) -> Interval | None:
    """The interval of the original against its second copy; None where there is none."""
    if len(rounds.calls) < 3:
        return None
    return paired_ratio(rounds.medians[0:1], rounds.medians[2:3], seed)[1]
