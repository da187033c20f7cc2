"""Times models in interleaved rounds, and turns the rounds into figures and a verdict.

A round visits the models forth and back: A C B B C A, where A is the original, B the result and C a
second copy of the original. A visit is a few calls in a row; the first is dropped, because it finds
the caches full of another model. With m the median of all calls of a model in one round::

    speedup = median over rounds of m_A / m_B        (above 1: the result is faster)

and its 95 % interval is a bootstrap over rounds, so that drift and bursts of other load hit both
sides of a ratio alike. The same ratio for A and C is the control: what this machine calls a
difference between equal models. A change is called one only where the interval excludes 1 by more
than the control's does, and by more than 0.5 %, what memory layout alone does to equal models in one
process. Does not judge fewer than six rounds.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfuse.formats.base import Runner
from bnfuse.results import BenchRun, Percentiles
from bnfuse.samples import Feeds

FASTER, SLOWER, SAME = "faster", "slower", "no significant change"
TOO_FEW = "too few runs to tell"

_VISIT_NS = 4_000_000  # calls per visit are chosen to fill about this time
_MAX_CALLS = 50
_ROUNDS_FOR_VERDICT = 6  # below this, an interval of 95 % means nothing
_RESAMPLES = 2000
_LAYOUT = 1.005  # ratios nearer to 1 than this come from where a model lies in memory
MIN_ROUNDS = 3
MAX_ROUNDS = 400
_GRACE_S = 0.5  # beyond the deadline, to get from a few rounds to a verdict

Nanoseconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Rounds:
    """Times in ns: ``calls`` of every kept call, by model, and ``medians`` (model, round) of visits.

    Models are in the order original, result, control, as far as they take part.
    """

    calls: tuple[Nanoseconds, ...]
    medians: Nanoseconds


def interleave(runners: Sequence[Runner], feeds: Feeds, deadline: float) -> Rounds:
    """Rounds of visits to all models, forth and back, until the deadline (at least a few rounds).

    ``runners`` are the original, the result and the control, as far as they take part.
    """
    order = [i for i in (0, 2, 1) if i < len(runners)]
    per_visit = max(_warm_up(runner, feeds, deadline, len(runners)) for runner in runners)
    calls: list[list[float]] = [[] for _ in runners]
    medians: list[list[float]] = [[] for _ in runners]
    with _no_garbage_collection():
        for _ in range(MAX_ROUNDS):
            visits: list[list[float]] = [[] for _ in runners]
            for at in (*order, *reversed(order)):
                visits[at].extend(visit(runners[at], feeds, per_visit))
            for at, times in enumerate(visits):
                calls[at].extend(times)
                medians[at].append(float(np.median(times)))
            if enough(len(medians[0]), deadline):
                break
    return Rounds(tuple(np.array(c) for c in calls), np.array(medians))


def enough(rounds: int, deadline: float) -> bool:
    """Whether to stop: the time is up, and there is a verdict or no hope of one soon."""
    late_s = time.perf_counter() - deadline
    wanted = _ROUNDS_FOR_VERDICT if late_s < _GRACE_S else MIN_ROUNDS
    return late_s > 0.0 and rounds >= wanted


def _warm_up(runner: Runner, feeds: Feeds, deadline: float, models: int) -> int:
    """Run until the latest calls are no faster than those before; returns calls per visit.

    Bounded by a tenth of the time that is left.
    """
    start = time.perf_counter()
    end = start + max(0.0, deadline - start) * 0.1 / models
    times: list[int] = []
    while len(times) < 2 or time.perf_counter() < end:
        times.append(time_call(runner, feeds))
        half = len(times) // 2
        if len(times) >= 12 and np.median(times[half:]) >= 0.98 * np.median(times[:half]):
            break
    typical = max(1.0, float(np.median(times[-6:])))
    return int(np.clip(_VISIT_NS / typical, 1, _MAX_CALLS))


def visit(runner: Runner, feeds: Feeds, calls: int) -> list[float]:
    """Nanoseconds of each of some calls in a row, after one that finds the caches full of another model."""
    return [float(ns) for ns in runner.time(feeds, calls + 1)[1:]]


def time_call(runner: Runner, feeds: Feeds) -> int:
    """Nanoseconds of one call."""
    return runner.time(feeds, 1)[0]


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def summarise(setting: str, batch: int, rounds: Rounds, seed: int) -> BenchRun:
    """The figures of one setting, and their verdict in words."""
    before_ms = percentiles_ms(rounds.calls[0])
    count = rounds.medians.shape[1]
    if len(rounds.calls) == 1:
        return BenchRun(setting, batch, before_ms, pairs=count)
    speedup, ci95 = paired_ratio(rounds.medians[0], rounds.medians[1], seed)
    control = None
    if len(rounds.calls) == 3:
        control = paired_ratio(rounds.medians[0], rounds.medians[2], seed)[1]
    return BenchRun(
        setting=setting,
        batch=batch,
        before_ms=before_ms,
        after_ms=percentiles_ms(rounds.calls[1]),
        speedup=speedup,
        ci95=ci95,
        control=control,
        pairs=count,
        verdict=verdict(ci95, control) if count >= _ROUNDS_FOR_VERDICT else TOO_FEW,
    )


def percentiles_ms(times_ns: Nanoseconds) -> Percentiles:
    """p50, p90 and p99 in milliseconds."""
    p50, p90, p99 = (float(v) / 1e6 for v in np.percentile(times_ns, (50, 90, 99)))
    return Percentiles(p50, p90, p99)


def paired_ratio(before: Nanoseconds, after: Nanoseconds, seed: int) -> tuple[float, tuple[float, float]]:
    """Median of before/after over rounds, and its 95 % interval by the percentile bootstrap.

    Both arrays are (round). Source: Efron & Tibshirani, An Introduction to the Bootstrap, ch. 13.
    """
    ratios = before / after
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, ratios.size, (_RESAMPLES, ratios.size))
    low, high = np.percentile(np.median(ratios[picks], axis=1), (2.5, 97.5))
    return float(np.median(ratios)), (float(low), float(high))


def verdict(ci95: tuple[float, float], control: tuple[float, float] | None) -> str:
    """Faster or slower only where the interval excludes 1 by more than the control strays from 1."""
    stray = _LAYOUT if control is None else max(control[1], 1.0 / control[0], _LAYOUT)
    if ci95[0] > stray:
        return FASTER
    if ci95[1] < 1.0 / stray:
        return SLOWER
    return SAME
