"""Small charts as inline SVG: colours come from the page's style sheet, so they follow light and dark.

Every chart that tells something which no table beside it tells has a name for screen readers; the others
are hidden from them. Numbers only: no model string comes in here but as the text of a ``<title>``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bnfuse.report.html.markup import esc

Points = Sequence[tuple[float, float]]
Scale = Callable[[float], float]


def meter(shares: Sequence[tuple[float, str]], width: int = 120) -> str:
    """A bar filled from the left by (share, class) one after the other; shares add up to at most 1."""
    parts, x = [], 0.0
    for share, kind in shares:
        size = max(0.0, min(1.0 - x, share))
        if size > 0:
            parts.append(f'<rect class="{kind}" x="{x * width:.1f}" width="{size * width:.1f}" height="8"/>')
        x += size
    return (
        f'<svg class="meter" viewBox="0 0 {width} 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="{width}" height="8"/>{"".join(parts)}</svg>'
    )


def bars(*meters: Sequence[tuple[float, str]]) -> str:
    """Meters below each other."""
    return f'<span class="bars">{"".join(map(meter, meters))}</span>'


def interval(
    bar: tuple[float, float, float], control: tuple[float, float] | None, reach: float, kind: str
) -> str:
    """A speed-up with its interval above the A/A control's, on an axis from 1/``reach`` to ``reach``.

    ``bar`` is (low, middle, high), ``kind`` the style of the verdict. The axis is logarithmic: twice as fast
    and half as fast are alike.
    """
    width, middle = 200, 100.0
    low, at, high = (_ratio_x(value, reach, width) for value in bar)
    parts = [f'<path class="axis" d="M{middle:.0f} 0V28"/>']
    if control is not None:
        a, b = (_ratio_x(value, reach, width) for value in control)
        parts.append(f'<rect class="control" x="{a:.1f}" y="19" width="{max(1.5, b - a):.1f}" height="5"/>')
    parts.append(f'<rect class="{kind}" x="{low:.1f}" y="7" width="{max(1.5, high - low):.1f}" height="7"/>')
    parts.append(f'<circle class="{kind}" cx="{at:.1f}" cy="10.5" r="4.5"/>')
    return f'<svg class="interval" viewBox="0 0 {width} 28" aria-hidden="true">{"".join(parts)}</svg>'


def _ratio_x(value: float, reach: float, width: int) -> float:
    if not 0 < value < math.inf:
        return width / 2
    share = math.log(value) / math.log(reach)
    return width / 2 * (1 + max(-1.0, min(1.0, share)))


def cumulative(before: Points, after: Points, name: str) -> str:
    """The share of calls (y) that took at most so many milliseconds (x), before and after.

    Points are (milliseconds, share), ascending. The axis ends past what nine of ten calls took by the width
    of those nine: a single slow call would otherwise be all there is to see.
    """
    left, right, top, bottom = 42, 390, 8, 148
    every = [ms for ms, _ in (*before, *after)]
    most = [ms for ms, share in (*before, *after) if share <= 0.9]
    width = (max(most) - min(most)) or 0.1 * max(most) or 1.0
    low, high = max(0.0, min(most) - 0.08 * width), min(max(every) + 0.08 * width, max(most) + width)
    x_of = _scale(low, high, left, right)

    def y_of(share: float) -> float:
        return bottom - share * (bottom - top)

    parts = [
        f'<path class="grid" d="M{left} {y_of(share):.1f}H{right}"/>'
        f'<text class="y" x="{left - 6}" y="{y_of(share) + 4:.1f}">{100 * share:.0f} %</text>'
        for share in (0.0, 0.5, 0.9, 1.0)
    ]
    for tick in _ticks(low, high):
        parts.append(f'<path class="tick" d="M{x_of(tick):.1f} {bottom}v4"/>')
        parts.append(f'<text class="x" x="{x_of(tick):.1f}" y="{bottom + 17}">{tick:g}</text>')
    for points, kind in ((before, "before"), (after, "after")):
        parts.append(_curve(points, kind, x_of, y_of, right))
    unit = "milliseconds" if max(every) <= high else "milliseconds; the slowest calls are further right"
    parts.append(f'<text class="unit" x="{right}" y="{bottom + 32}">{unit}</text>')
    label = f'role="img" aria-label="{name}"'
    return f'<svg class="cumulative" viewBox="0 0 400 186" {label}>{"".join(parts)}</svg>'


def _curve(points: Points, kind: str, x_of: Scale, y_of: Scale, right: float) -> str:
    if not points:
        return ""
    places = _until([(x_of(ms), y_of(share)) for ms, share in points], right)
    line = _polyline(places, kind)
    dots = "".join(
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places if x < right
    )
    return line + (dots if len(points) <= 3 else "")


def _until(places: Points, right: float) -> Points:
    """The part of a line that goes rightwards which lies left of ``right``."""
    inside = [place for place in places if place[0] <= right]
    if not inside or len(inside) == len(places):
        return inside
    (x, y), (u, v) = inside[-1], places[len(inside)]
    return [*inside, (right, y + (v - y) * (right - x) / (u - x))]


def sparkline(before: Sequence[float], after: Sequence[float]) -> str:
    """Channel ranges, ascending, each against its own largest: the height is log2, of 8 bits."""
    lines = "".join(
        _polyline(_bits(ranges), kind) for ranges, kind in ((before, "before"), (after, "after")) if ranges
    )
    guide = '<path class="grid" d="M0 17H120"/>'
    return f'<svg class="spark" viewBox="0 0 120 34" aria-hidden="true">{guide}{lines}</svg>'


def _bits(ranges: Sequence[float]) -> list[tuple[float, float]]:
    """At most 33 points: (place in order, bits lost to the largest channel), in the spark line's units."""
    most = ranges[-1] if ranges[-1] > 0 else 1.0
    step = max(1, (len(ranges) - 1) // 32)
    thin = [*ranges[:-1:step], ranges[-1]] if len(ranges) > 1 else [ranges[0], ranges[0]]
    lost = [min(8.0, -math.log2(value / most)) if value > 0 else 8.0 for value in thin]
    return [(120 * i / (len(lost) - 1), 1 + 4 * bits) for i, bits in enumerate(lost)]


def dumbbells(pairs: Sequence[tuple[float, float, str]], limit: float, name: str) -> str:
    """(before, after, what) one beside the other, heights logarithmic to base 2; a line at ``limit``."""
    left, right, top, bottom = 38, 950, 10, 168
    highest = max((value for before, after, _ in pairs for value in (before, after)), default=1.0)
    most = max(math.log2(limit) + 0.5, math.log2(max(1.0, highest)) + 0.3)
    apart = (right - left) / len(pairs)

    def y_of(value: float) -> float:
        return bottom - math.log2(max(1.0, value)) / most * (bottom - top)

    step = 1 if most <= 6 else math.ceil(most / 6)
    parts = [
        f'<path class="grid" d="M{left} {y_of(2.0**k):.1f}H{right}"/>'
        f'<text class="y" x="{left - 6}" y="{y_of(2.0**k) + 4:.1f}">{2**k}×</text>'
        for k in range(0, int(most) + 1, step)
    ]
    parts.append(f'<path class="limit" d="M{left} {y_of(limit):.1f}H{right}"/>')
    radius = max(1.2, min(4.0, 0.4 * apart))
    for i, (before, after, what) in enumerate(pairs):
        x, y, z = left + (i + 0.5) * apart, y_of(before), y_of(after)
        parts.append(
            f'<g><title>{esc(what)}</title><path class="stem" d="M{x:.1f} {y:.1f}V{z:.1f}"/>'
            f'<circle class="before" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
            f'<circle class="after" cx="{x:.1f}" cy="{z:.1f}" r="{radius:.1f}"/></g>'
        )
    label = f'role="img" aria-label="{name}"'
    return f'<svg class="dumbbells" viewBox="0 0 960 178" {label}>{"".join(parts)}</svg>'


def _polyline(points: Points, kind: str) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _scale(low: float, high: float, left: float, right: float) -> Scale:
    """From [low, high] to [left, right]."""
    factor = (right - left) / (high - low)
    return lambda value: left + (value - low) * factor


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers within [low, high]."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough)
    first = math.ceil(low / step)
    return [round(k * step, 12) for k in range(first, math.floor(high / step) + 1)]
