"""What an interval says: a verdict, the smallest change that would have been found, how wide it is."""

from __future__ import annotations

import math

from bnfuse.results.latency import TOO_FEW as TOO_FEW

FASTER, SLOWER, SAME = "faster", "slower", "no significant change"

LAYOUT = 1.0075  # ratios nearer to 1 than this come from where a model lies in memory
Z95 = 1.959964  # two-sided 95 % of a normal distribution
Z90 = 1.281552  # one-sided 90 %
Interval = tuple[float, float]


def verdict(ci95: Interval, control: Interval | None) -> str:
    """Faster or slower only where the interval excludes 1 by more than equal models may differ."""
    margin = margin_of(control)
    if ci95[0] > margin:
        return FASTER
    if ci95[1] < 1.0 / margin:
        return SLOWER
    return SAME


def margin_of(control: Interval | None) -> float:
    """The ratio that equal models may show: memory layout, or what the control proves to happen."""
    return LAYOUT if control is None else max(LAYOUT, control[0], 1.0 / control[1])


def detectable(ci95: Interval, control: Interval | None) -> float:
    """The least change, as a fraction, that would have been found here in nine of ten cases.

    A change is found where its estimate is beyond the margin by the interval's half-width h = 1.96 s; with
    probability 0.9 where it truly is beyond it by h + 1.28 s.
    """
    half = half_width(ci95)
    return math.expm1(half * (1.0 + Z90 / Z95) + math.log(margin_of(control)))


def half_width(interval: Interval) -> float:
    """Half of an interval's width, as a fraction of its middle."""
    return 0.5 * math.log(interval[1] / interval[0])
