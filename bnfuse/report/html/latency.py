"""How fast: the distribution of every setting before and after, and the interval beside its control.

The control is the same measurement on the original twice (A/A): a speed-up counts for as much as its
interval is clear of 1 and of the control's.
"""

from __future__ import annotations

from bnfuse.report import text
from bnfuse.report.html.charts import Points, cumulative, interval, reach_of
from bnfuse.report.html.markup import Cell, esc, figure, notes, section, table
from bnfuse.report.html.spent import baseline, cold_start, profile
from bnfuse.report.sizes import benched
from bnfuse.results import BenchRun, Latency, Percentiles


def latency_section(latency: Latency | None) -> str:
    """Figures, intervals, distributions, and what the time was spent on; "" where nothing was measured."""
    if latency is None or not latency.runs:
        return ""
    threads = f"{latency.threads} thread{'s' if latency.threads != 1 else ''}"
    where = [latency.device, threads, *latency.providers, *filter(None, [latency.runtime])]
    return section(
        "latency",
        "Latency",
        f'<p class="dim">One call on {esc(", ".join(where))}</p>',
        *(f"<p>Inputs: {esc(sentence)}</p>" for sentence in benched(latency.runs)),
        _figures(latency),
        f'<div class="charts">{"".join(_distribution(run, latency) for run in latency.runs)}</div>',
        notes(latency.notes),
        cold_start(latency),
        profile(latency.profile),
        baseline(latency.baseline),
    )


def kind(run: BenchRun) -> str:
    """What the verdict says, as the name of a style: faster, slower or same."""
    return next((word for word in ("faster", "slower") if run.verdict.startswith(word)), "same")


def setting(run: BenchRun, latency: Latency) -> str:
    """What was measured, with its threads where they are not the same for all; HTML."""
    threads = f", {run.threads} threads" if len({one.threads for one in latency.runs}) > 1 else ""
    return esc(run.setting + threads)


def _figures(latency: Latency) -> str:
    if not any(run.after_ms for run in latency.runs):
        head = ("setting", "batch", "p50", "p90", "p99")
        return table(head, [_single(run, latency) for run in latency.runs])
    ends = [value for run in latency.runs for value in (*(run.ci95 or ()), *(run.control or ()))]
    reach = reach_of([*ends, *(run.speedup for run in latency.runs if run.speedup)])
    axis = f"{1 / reach:.2g}× – {reach:.2g}×"
    head_paired = ("setting", "batch", "p50", "p90", "p99", "per second", "speed-up (95 %)", axis, "verdict")
    key = (
        '<p class="dim small">In the bars: <span class="key bar">the speed-up\'s 95 % interval</span> '
        '<span class="key control">the original against itself</span>; the line in the middle '
        "is 1×, right of it is faster.</p>"
    )
    return table(head_paired, [_paired(run, latency, reach) for run in latency.runs]) + key


def _single(run: BenchRun, latency: Latency) -> tuple[str, ...]:
    return setting(run, latency), str(run.batch), *(text.milliseconds(v) for v in _three(run.before_ms))


def _three(value: Percentiles) -> tuple[float, float, float]:
    return value.p50, value.p90, value.p99


def _paired(run: BenchRun, latency: Latency, reach: float) -> tuple[str | Cell, ...]:
    after = _three(run.after_ms) if run.after_ms else (None, None, None)
    times = [_change(a, b) for a, b in zip(_three(run.before_ms), after, strict=True)]
    bar = ""
    if run.speedup is not None:
        low, high = run.ci95 or (run.speedup, run.speedup)
        bar = interval((low, run.speedup, high), run.control, reach, kind(run))
    return (
        setting(run, latency),
        str(run.batch),
        *times,
        _throughput(run),
        esc(text.speedup(run)),
        bar,
        _verdict(run),
    )


def _verdict(run: BenchRun) -> str:
    told = f'<span class="verdict {kind(run)}">{esc(run.verdict)}</span>'
    if run.detectable is None or kind(run) != "same":
        return told
    return f"{told} <br><small>{figure(100 * run.detectable, 2)} % would have shown</small>"


def _throughput(run: BenchRun) -> str:
    rates = [figure(rate) for rate in (run.before_items_per_s, run.after_items_per_s) if rate is not None]
    return " <br>→ ".join(rates)


def _change(before: float, after: float | None) -> str:
    if after is None:
        return text.milliseconds(before)
    return f"{text.milliseconds(before)} <br>→ {text.milliseconds(after)}"


def _distribution(run: BenchRun, latency: Latency) -> str:
    before = _points(run.before_quantiles_ms, run.before_ms)
    after = _points(run.after_quantiles_ms, run.after_ms)
    drawn = cumulative(before, after, "Share of calls over their latency")
    keys = '<span class="key before">before</span>'
    keys += ' <span class="key after">after</span>' if after else ""
    caption = f"<figcaption><b>{setting(run, latency)}</b>, batch {run.batch} {keys}</figcaption>"
    return f"<figure>{caption}{drawn}</figure>"


def _points(quantiles: tuple[float, ...], value: Percentiles | None) -> Points:
    """(milliseconds, share of calls that took at most so long)."""
    if len(quantiles) > 1:
        return [(ms, i / (len(quantiles) - 1)) for i, ms in enumerate(quantiles)]
    return () if value is None else ((value.p50, 0.5), (value.p90, 0.9), (value.p99, 0.99))
