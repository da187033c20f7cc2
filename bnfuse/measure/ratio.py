"""The ratio of two models' times, and the two times that make it (formula: ``measure.judging``)."""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bnfuse.measure.resampling import Times, in_blocks, interval, milliseconds, resamples, weighted
from bnfuse.measure.verdicts import Interval

_BANDWIDTH = 0.05  # h: what counts as agreeing, of logarithms
_STEP = 0.005  # of the grid on which logarithms are counted; the peak is found between its places
_SPAN = 4.0  # calls 50 times as long as the shortest are counted as that long

Timed = tuple[float, Interval]  # a time or a ratio, and its 95 % interval


def paired_ratio(before: Times, after: Times, seed: int) -> Timed:
    """The ratio before/after of two sets of visits, and its 95 % interval.

    Both arrays are (session, round, visit) in ns, or (round) for one session with one visit a round.
    Sessions may differ in number, rounds may not.
    """
    pairs = _Pairs.of(before, after, seed)
    return pairs.ratio(pairs.shifts())


def paired_times(before: Times, after: Times, seed: int) -> tuple[Timed, Timed]:
    """The two times in ms whose ratio ``paired_ratio`` is, each with its 95 % interval.

    Where the visits of both, those of the second divided by the ratio, lie densest to within some 5 %; fast
    visits count for more, as in the ratio.
    """
    return ratio_and_times(before, after, seed)[1]


def ratio_and_times(before: Times, after: Times, seed: int) -> tuple[Timed, tuple[Timed, Timed]]:
    """``paired_ratio`` and ``paired_times``; what both need is counted once."""
    pairs = _Pairs.of(before, after, seed)
    shifts = pairs.shifts()
    return pairs.ratio(shifts), pairs.times(shifts)


class _Pairs(Struct, frozen=True, eq=False):
    """Visits of two models as histograms of logarithms, in the frequency domain: (resample, frequency).

    All pairs are counted at once: the number of pairs that differ by d is the correlation of two
    histograms, and h smooths it; both are products of Fourier transforms. ``lowest`` are the logarithms
    that the histograms begin at, ``size`` the places of the grid.
    """

    spectra: tuple[NDArray[np.complex128], NDArray[np.complex128]]
    lowest: tuple[float, float]
    size: int
    blocks: int

    @classmethod
    def of(cls, before: Times, after: Times, seed: int) -> _Pairs:
        """Count the visits, (session, round, visit) in ns."""
        first, second = (np.log(in_blocks(times)) for times in (before, after))  # (block, visit)
        weights = resamples(len(first), seed)
        bins = math.ceil(min(_SPAN, max(np.ptp(first), np.ptp(second))) / _STEP) + 2
        size = _quick_size(2 * bins + math.ceil(8 * _BANDWIDTH / _STEP))
        one, other = (
            np.fft.rfft(_fast_first(weighted(weights, _histograms(values, bins))), size, axis=1)
            for values in (first, second)
        )
        return cls((one, other), (float(first.min()), float(second.min())), size, len(first))

    def shifts(self) -> Times:
        """The shift that most pairs agree on, for each resample."""
        return self._peaks(self.spectra[0] * self.spectra[1].conj()) + (self.lowest[0] - self.lowest[1])

    def ratio(self, shifts: Times) -> Timed:
        """The ratio that the first shift is, and its interval from the others."""
        low, high = interval(shifts[0], shifts[1:], self.blocks)
        return math.exp(shifts[0]), (math.exp(low), math.exp(high))

    def times(self, shifts: Times) -> tuple[Timed, Timed]:
        """Both models' times in ms, in the same way."""
        first = self.places(shifts)
        before, after = (
            milliseconds(float(logs[0]), interval(float(logs[0]), logs[1:], self.blocks))
            for logs in (first, first - shifts)
        )
        return before, after

    def places(self, shifts: Times) -> Times:
        """Where the first's visits and the second's, shifted by the resample's shift, lie densest."""
        places = (shifts + self.lowest[1] - self.lowest[0]) / _STEP
        moved = self.spectra[1] * _turns(places / self.size, self.spectra[1].shape[1])
        return self._peaks(self.spectra[0] + moved) + self.lowest[0]

    def _peaks(self, spectra: NDArray[np.complex128]) -> Times:
        """Where each smoothed row is highest, in logarithms from the grid's beginning; it may lie before."""
        smooth = np.exp(-2.0 * (np.pi * np.fft.rfftfreq(self.size) * _BANDWIDTH / _STEP) ** 2)
        density = np.fft.irfft(spectra * smooth, self.size, axis=1)
        rows, peak = np.arange(len(density)), np.argmax(density, axis=1)
        left, top, right = (density[rows, (peak + side) % self.size] for side in (-1, 0, 1))
        between = 0.5 * (left - right) / (left - 2.0 * top + right)  # the parabola through three places
        lag = np.where(peak > self.size // 2, peak - self.size, peak) + between
        return np.asarray(lag * _STEP)


def _quick_size(least: int) -> int:
    """The smallest from ``least`` on whose Fourier transform is quick: 1, 3 or 5 times a power of two."""
    return min(odd << max(1, (-(-least // odd) - 1).bit_length()) for odd in (1, 3, 5))


def _turns(steps: Times, count: int) -> NDArray[np.complex128]:
    """exp(−2πi·step·k) for ``count`` k from 0 on, (step, k): products of those of 16s and of what is left."""
    few, many = np.arange(16), np.arange(0, count, 16)
    parts = (np.exp(-2j * np.pi * np.multiply.outer(steps, k)) for k in (many, few))
    return np.asarray(np.einsum("sm,sf->smf", *parts).reshape(len(steps), -1)[:, :count])


def _fast_first(counts: Times) -> Times:
    """Counts (resample, bin), each visit with the weight (1 − rank)², integrated over a bin's ranks."""
    slower = np.cumsum(counts, axis=1)
    slower /= -slower[:, -1:]
    slower += 1.0
    cubes = slower * slower * slower  # of which a power takes ten times as long
    return np.asarray(-np.diff(cubes, axis=1, prepend=1.0))


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
