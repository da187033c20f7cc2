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
the control's own interval excludes it. Does not judge fewer than six rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfuse.measure.verdicts import TOO_FEW, Z95, Interval, detectable, half_width, verdict
from bnfuse.results import BenchRun, Percentiles

ROUNDS_FOR_VERDICT = 6  # below this, an interval of 95 % means nothing
QUANTILES = 41

_BLOCKS = 24
_RESAMPLES = 500
_BANDWIDTH = 0.05  # h: what counts as agreeing, of logarithms
_STEP = 0.005  # of the grid on which logarithms are counted; the peak is found between its places
_SPAN = 4.0  # calls 50 times as long as the shortest are counted as that long
# Quantiles of all values at which a resample's median is looked for, dense where it will be.
_GRID = np.concatenate([np.linspace(0, 0.3, 31), np.linspace(0.3, 0.7, 321)[1:], np.linspace(0.7, 1, 31)[1:]])
# A difference this many times its own doubt needs no more measuring, though its size is not that precise.
_CLEAR = 5.0
_ROUGH = 5.0  # times the precision that was asked for

Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Rounds:
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
        """Both as one. Models that are missing in one of them are left out of the other."""
        shared = min(len(self.calls), len(later.calls))
        calls = (np.concatenate(pair) for pair in zip(self.calls[:shared], later.calls[:shared], strict=True))
        medians = np.concatenate([self.medians[:shared], later.medians[:shared]], axis=1)
        return Rounds(tuple(calls), medians)


def summarise(setting: str, batch: int, rounds: Rounds, seed: int, *, threads: int = 0) -> BenchRun:
    """The figures of one setting, and their verdict in words."""
    before = np.concatenate(rounds.calls[0::2])  # its second copy included
    before_ms = percentiles_ms(before)
    if len(rounds.calls) == 1:
        return BenchRun(
            setting=setting,
            batch=batch,
            threads=threads,
            before_ms=before_ms,
            before_ci95_ms=median_ms(rounds.medians, seed) if len(rounds) >= ROUNDS_FOR_VERDICT else None,
            before_quantiles_ms=quantiles_ms(before),
            before_items_per_s=_throughput(batch, before_ms),
            pairs=len(rounds),
        )
    after = np.concatenate(rounds.calls[1::2])
    after_ms = percentiles_ms(after)
    speedup, ci95 = compared(rounds, seed)
    control = control_of(rounds, seed)
    told = len(rounds) >= ROUNDS_FOR_VERDICT
    return BenchRun(
        setting=setting,
        batch=batch,
        threads=threads,
        before_ms=before_ms,
        after_ms=after_ms,
        speedup=speedup,
        ci95=ci95 if len(rounds) > 1 else None,
        control=control if len(rounds) > 1 else None,
        pairs=len(rounds),
        verdict=verdict(ci95, control) if told else TOO_FEW,
        before_quantiles_ms=quantiles_ms(before),
        after_quantiles_ms=quantiles_ms(after),
        before_items_per_s=_throughput(batch, before_ms),
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


def paired_ratio(before: Times, after: Times, seed: int) -> tuple[float, Interval]:
    """The ratio before/after of two sets of visits, and its 95 % interval; see this module's docstring.

    Both arrays are (session, round, visit) in ns, or (round) for one session with one visit a round.
    Sessions may differ in number, rounds may not.
    """
    first, second = (np.log(_in_blocks(times)) for times in (before, after))  # (block, visit)
    shifts = _shifts(first, second, _resamples(len(first), seed))
    low, high = _interval(shifts[0], shifts[1:], len(first))
    return math.exp(shifts[0]), (math.exp(low), math.exp(high))


def _shifts(first: Times, second: Times, weights: Times) -> Times:
    """The shift that most pairs agree on, for each row of ``weights`` (resample, block).

    ``first`` and ``second`` are logarithms (block, visit). All pairs are counted at once: the number of
    pairs that differ by d is the correlation of two histograms, and h smooths it; both are products of
    Fourier transforms.
    """
    bins = math.ceil(min(_SPAN, max(np.ptp(first), np.ptp(second))) / _STEP) + 2
    size = 1 << (2 * bins + math.ceil(8 * _BANDWIDTH / _STEP)).bit_length()
    counted = (_fast_first(_weighted(weights, _histograms(values, bins))) for values in (first, second))
    spectra = [np.fft.rfft(counts, size, axis=1) for counts in counted]
    smooth = np.exp(-2.0 * (np.pi * np.fft.rfftfreq(size) * _BANDWIDTH / _STEP) ** 2)
    agreeing = np.fft.irfft(spectra[0] * spectra[1].conj() * smooth, size, axis=1)  # (resample, shift)
    rows, peak = np.arange(len(weights)), np.argmax(agreeing, axis=1)
    left, top, right = (agreeing[rows, (peak + side) % size] for side in (-1, 0, 1))
    between = 0.5 * (left - right) / (left - 2.0 * top + right)  # the parabola through three places
    lag = np.where(peak > size // 2, peak - size, peak) + between
    return np.asarray(lag * _STEP + (first.min() - second.min()))


def _fast_first(counts: Times) -> Times:
    """Counts (resample, bin), each visit with the weight (1 − rank)², integrated over a bin's ranks."""
    slower = 1.0 - np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True)
    slower_or_here = np.concatenate([np.ones((len(counts), 1)), slower[:, :-1]], axis=1)
    return np.asarray(slower_or_here**3 - slower**3)


def _histograms(values: Times, bins: int) -> Times:
    """Counts (block, bin) from the smallest value on, each shared between the two bins it lies between."""
    place = np.minimum((values - values.min()) / _STEP, bins - 2.0)
    left = place.astype(np.intp)
    part = place - left
    counts = np.zeros((len(values), bins))
    rows = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    np.add.at(counts, (rows, left), 1.0 - part)
    np.add.at(counts, (rows, left + 1), part)
    return counts


def median_ms(visits: Times, seed: int) -> Interval:
    """The 95 % interval of the median visit of one model, in milliseconds."""
    _, (low, high) = median_over_blocks(np.log(_in_blocks(visits)), seed)
    return math.exp(low) / 1e6, math.exp(high) / 1e6


def _in_blocks(times: Times) -> Times:
    """(session, round, visit) → (block, visit): rounds in blocks, the odd first ones left out."""
    match times.ndim:
        case 1:
            times = times[None, :, None]
        case 2:
            times = times[:, :, None]
    rounds = times.shape[1]
    size = max(1, rounds // _BLOCKS)
    kept = times[:, rounds % size :]
    return np.moveaxis(kept, 1, 0).reshape(rounds // size, -1)


def median_over_blocks(values: Times, seed: int) -> tuple[float, Interval]:
    """The median of all values (block, value), and its 95 % interval from resampling whole blocks."""
    grid = np.quantile(values, _GRID)
    ordered = np.sort(values, axis=1)
    below = np.array([np.searchsorted(row, grid, side="right") for row in ordered], dtype=np.float64)
    # the first place of the grid with half of the resample's values below it
    reached = _weighted(_resamples(len(values), seed)[1:], below) >= values.size / 2
    estimate = float(np.median(values))
    return estimate, _interval(estimate, grid[np.argmax(reached, axis=1)], len(values))


def _weighted(weights: Times, counts: Times) -> Times:
    """The matrix product, without the threads of a BLAS, which would be in the way of what is measured."""
    return np.asarray(np.einsum("rb,bn->rn", weights, counts))


def _resamples(blocks: int, seed: int) -> Times:
    """How often each resample has each block (resample, block); the first has each once."""
    drawn = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=_RESAMPLES)
    return np.concatenate([np.ones((1, blocks)), drawn])


def _interval(estimate: float, resampled: Times, blocks: int) -> Interval:
    """The 95 % interval, as logarithms."""
    low, high = np.percentile(resampled, (2.5, 97.5))
    wider = _expansion(blocks)
    return estimate - wider * (estimate - float(low)), estimate + wider * (float(high) - estimate)


def _expansion(blocks: int) -> float:
    """By how much a percentile interval from so few units is too narrow: t/z · √(n/(n − 1)).

    Student's quantile by its series in 1/ν (Abramowitz & Stegun 26.7.5), within 2 % from ν = 4 on.
    """
    if blocks < 2:
        return 1.0
    nu, z = max(blocks - 1, 2), Z95
    student = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    return student / z * math.sqrt(blocks / (blocks - 1))


def precise(rounds: Rounds, precision: float, seed: int) -> bool:
    """Whether more rounds are not needed.

    1. The half-width of the interval is at most ``precision``; or
    2. the two models differ by five times the half-width or more, and that is at most five times
       ``precision``.

    Looking again and again for a *verdict* would find one by chance sooner or later; looking for a width
    does not, and neither does a difference as large as in 2.
    """
    if len(rounds) < ROUNDS_FOR_VERDICT:
        return False
    if len(rounds.calls) == 1:
        return half_width(median_ms(rounds.medians, seed)) <= precision
    speedup, ci95 = compared(rounds, seed)
    half = half_width(ci95)
    clear = abs(math.log(speedup)) >= _CLEAR * half and half <= _ROUGH * precision
    return half <= precision or clear
