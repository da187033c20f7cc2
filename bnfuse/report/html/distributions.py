"""How the latency of single calls is distributed: a curve for each setting, before and after."""

from __future__ import annotations

from bnfuse.report import text
from bnfuse.report.html.charts import Points, cumulative
from bnfuse.report.html.markup import esc
from bnfuse.report.measured import ordered
from bnfuse.results import BenchRun, Latency, Percentiles


def distributions(found: Latency) -> str:
    """All curves side by side, of runs with enough rounds for a curve to mean something."""
    drawn = [_distribution(run, found) for run in ordered(found.runs) if not run.few]
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""


def _distribution(run: BenchRun, found: Latency) -> str:
    before = _points(run.before_quantiles_ms, run.before_ms)
    after = _points(run.after_quantiles_ms, run.after_ms)
    drawn = cumulative(before, after, "Share of calls over their latency")
    keys = '<span class="key before">before</span>'
    keys += ' <span class="key after">after</span>' if after else ""
    caption = f"<b>{esc(text.setting(run, found))}</b>, batch {run.batch} {keys}"
    return f"<figure><figcaption>{caption}</figcaption>{drawn}</figure>"


def _points(quantiles: tuple[float, ...], value: Percentiles | None) -> Points:
    """(milliseconds, share of calls that took at most so long)."""
    if len(quantiles) > 1:
        return [(ms, i / (len(quantiles) - 1)) for i, ms in enumerate(quantiles)]
    return () if value is None else ((value.p50, 0.5), (value.p90, 0.9), (value.p99, 0.99))
