"""How sure is a figure? Bootstrap over blocks of rounds, widened for their small number.

Neighbouring rounds are disturbed together, so whole blocks are drawn; few blocks make a percentile interval
too narrow (Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69(4), 2015:
expanded percentile interval).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bnfuse.measure.sequential import student
from bnfuse.measure.verdicts import Z95, Interval

_BLOCKS = 24
_RESAMPLES = 500
# Quantiles of all values at which a resample's median is looked for, dense where it will be.
_GRID = np.concatenate([np.linspace(0, 0.3, 31), np.linspace(0.3, 0.7, 321)[1:], np.linspace(0.7, 1, 31)[1:]])

Times = NDArray[np.float64]


def median_ms(visits: Times, seed: int) -> tuple[float, Interval]:
    """The median visit of one model and its 95 % interval, in milliseconds."""
    return milliseconds(*median_over_blocks(np.log(in_blocks(visits)), seed))


def milliseconds(estimate: float, ends: Interval) -> tuple[float, Interval]:
    """From logarithms of ns."""
    return math.exp(estimate) / 1e6, (math.exp(ends[0]) / 1e6, math.exp(ends[1]) / 1e6)


def in_blocks(times: Times) -> Times:
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
    reached = weighted(resamples(len(values), seed)[1:], below) >= values.size / 2
    estimate = float(np.median(values))
    return estimate, interval(estimate, grid[np.argmax(reached, axis=1)], len(values))


def weighted(weights: Times, counts: Times) -> Times:
    """The matrix product, without the threads of a BLAS, which would be in the way of what is measured."""
    return np.asarray(np.einsum("rb,bn->rn", weights, counts))


@lru_cache(maxsize=4)  # a measurement asks for the same at each look
def resamples(blocks: int, seed: int) -> Times:
    """How often each resample has each block (resample, block); the first has each once."""
    drawn = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=_RESAMPLES)
    found = np.concatenate([np.ones((1, blocks)), drawn])
    found.flags.writeable = False
    return found


def interval(estimate: float, resampled: Times, blocks: int) -> Interval:
    """The 95 % interval, as logarithms; the estimate is in it, wherever the resamples lie."""
    low, high = np.percentile(resampled, (2.5, 97.5))
    wider = _expansion(blocks)
    below, above = max(0.0, estimate - float(low)), max(0.0, float(high) - estimate)
    return estimate - wider * below, estimate + wider * above


def widened(ratio: float, ends: Interval, bound: float, rounds: int) -> Interval:
    """The interval of a ratio, of ``bound`` standard errors instead of those of 95 %, to either side."""
    degrees = _degrees(blocks_of(rounds))
    wider = student(bound, degrees) / student(Z95, degrees)
    return ratio * (ends[0] / ratio) ** wider, ratio * (ends[1] / ratio) ** wider


def blocks_of(rounds: int) -> int:
    """How many blocks so many rounds make."""
    return rounds // max(1, rounds // _BLOCKS)


def _degrees(blocks: int) -> int:
    return max(blocks - 1, 2)


def _expansion(blocks: int) -> float:
    """By how much a percentile interval from so few units is too narrow: t/z · √(n/(n − 1))."""
    if blocks < 2:
        return 1.0
    return student(Z95, _degrees(blocks)) / Z95 * math.sqrt(blocks / (blocks - 1))
