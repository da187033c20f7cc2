"""How fast: every setting before and after, the interval beside its control, and what the time was spent on.

The control is the same measurement on the original twice (A/A): a speed-up counts for as much as its
interval is clear of 1 and of the control's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.content.spent import baseline, cold_start, profile
from bnfuse.report.measured import facts as measured_facts
from bnfuse.report.sizes import benched
from bnfuse.results import BenchRun, Latency

_KEY = doc.Paragraph(
    (
        "In the bars: ",
        doc.Span("the speed-up's 95 % interval", "key bar"),
        " ",
        doc.Span("the original against itself", "key control"),
        "; the line in the middle is 1×, right of it is faster.",
    ),
    style="dim small",
)


def latency(found: Latency, form: doc.Form) -> doc.Section:
    """The outcome of ``bench``."""
    blocks = _in_html(found) if form is doc.Form.HTML else _in_text(found, form)
    return doc.Section("latency", "Latency", blocks)


def _in_text(found: Latency, form: doc.Form) -> tuple[doc.Block, ...]:
    paired = form is doc.Form.MARKDOWN or any(run.after_ms for run in found.runs)
    where = doc.Paragraph(f"of one call, on {text.where(found)}", "latency")
    if form is doc.Form.MARKDOWN:
        where = doc.Paragraph((doc.own("Latency of one call, on "), text.where(found), doc.own(":")))
    return (
        where,
        doc.tabulated(found.runs, _paired(found) if paired else _alone(found), form),
        doc.Facts(list(measured_facts(found))),
        *profile(found.profile, form),
        *baseline(found.baseline, form),
        doc.Notes(found.notes),
    )


def _in_html(found: Latency) -> tuple[doc.Block, ...]:
    if not found.runs:
        return ()
    paired = any(run.after_ms for run in found.runs)
    table = doc.tabulated(found.runs, _paired(found) if paired else _alone(found), doc.Form.HTML)
    where = [found.device, text.threads(found.threads), *found.providers, *filter(None, [found.runtime])]
    return (
        doc.Paragraph(f"One call on {', '.join(where)}", style="dim"),
        *(doc.Paragraph(f"Inputs: {sentence}") for sentence in benched(found.runs)),
        doc.Subpart("", (table, _KEY)) if paired else table,
        doc.Hook("distributions", found),
        doc.Notes(found.notes),
        *cold_start(found),
        *profile(found.profile, doc.Form.HTML),
        *baseline(found.baseline, doc.Form.HTML),
    )


def kind(run: BenchRun) -> str:
    """What the verdict says, as the name of a style: faster, slower or same."""
    return next((word for word in ("faster", "slower") if run.verdict.startswith(word)), "same")


def _setting(found: Latency) -> tuple[doc.Column[BenchRun], ...]:
    return (
        doc.Column("setting", lambda run: text.setting(run, found)),
        doc.Column("batch", lambda run: str(run.batch)),
    )


def _alone(found: Latency) -> tuple[doc.Column[BenchRun], ...]:
    """Of one model."""
    return (
        *_setting(found),
        doc.Column("min", lambda run: _time(run.before_ms.least), doc.Form.TERMINAL),
        doc.Column("p50 (95 %)", _median, doc.Form.TERMINAL),
        doc.Column("p50", lambda run: _time(run.before_ms.p50), doc.Form.HTML),
        doc.Column("p90", lambda run: _time(run.before_ms.p90)),
        doc.Column("p99", lambda run: _time(run.before_ms.p99)),
        doc.Column("per second", text.throughput, doc.Form.TERMINAL),
    )


def _paired(found: Latency) -> tuple[doc.Column[BenchRun], ...]:
    """Before and after."""
    ends = [value for run in found.runs for value in (*(run.ci95 or ()), *(run.control or ()))]
    reach = _reach([*ends, *(run.speedup for run in found.runs if run.speedup)])
    return (
        *_setting(found),
        doc.Column("before p50", lambda run: _time(run.before_ms.p50), doc.Form.TEXT),
        doc.Column("p90", lambda run: _time(run.before_ms.p90), doc.Form.TERMINAL),
        doc.Column("after p50", lambda run: _after(run, "p50"), doc.Form.TEXT),
        doc.Column("p90", lambda run: _after(run, "p90"), doc.Form.TERMINAL),
        doc.Column("p50", lambda run: _both(run, "p50"), doc.Form.HTML),
        doc.Column("p90", lambda run: _both(run, "p90"), doc.Form.HTML),
        doc.Column("p99", lambda run: _both(run, "p99"), doc.Form.HTML),
        doc.Column("per second", _throughput, doc.Form.HTML),
        doc.Column("speed-up (95 %)", lambda run: doc.own(text.speedup(run))),
        doc.Column(f"{1 / reach:.2g}× – {reach:.2g}×", lambda run: _interval(run, reach), doc.Form.HTML),
        doc.Column("verdict", lambda run: run.verdict, doc.Form.TEXT),
        doc.Column("verdict", _verdict, doc.Form.HTML),
    )


def _time(ms: float | None) -> doc.Words:
    return "" if ms is None else doc.own(text.milliseconds(ms))


def _median(run: BenchRun) -> doc.Words:
    doubt = f" ({run.before_ci95_ms[0]:.3g}–{run.before_ci95_ms[1]:.3g})" if run.before_ci95_ms else ""
    return f"{text.milliseconds(run.before_ms.p50)}{doubt}"


def _after(run: BenchRun, which: str) -> doc.Words:
    return _time(None if run.after_ms is None else getattr(run.after_ms, which))


def _both(run: BenchRun, which: str) -> doc.Words:
    before = text.milliseconds(getattr(run.before_ms, which))
    if run.after_ms is None:
        return before
    return before, doc.Span(f"→ {text.milliseconds(getattr(run.after_ms, which))}", "below")


def _throughput(run: BenchRun) -> doc.Words:
    rates = [rate for rate in (run.before_items_per_s, run.after_items_per_s) if rate is not None]
    return doc.joined(map(doc.Number, rates), doc.Span("→ ", "below"))


def _reach(ratios: Sequence[float]) -> float:
    """How far an axis of ratios must go, both ways, for these to fit: at least to 1.1."""
    far = max((abs(math.log(ratio)) for ratio in ratios if 0 < ratio < math.inf), default=0.0)
    return math.exp(max(math.log(1.1), 1.12 * far))


def _interval(run: BenchRun, reach: float) -> doc.Words:
    if run.speedup is None:
        return ""
    low, high = run.ci95 or (run.speedup, run.speedup)
    return doc.Chart("interval", ((low, run.speedup, high), run.control, reach, kind(run)))


def _verdict(run: BenchRun) -> doc.Words:
    told = doc.Span(run.verdict, f"verdict {kind(run)}")
    if run.detectable is None or kind(run) != "same":
        return told
    return told, doc.Span(f"{text.figure(100 * run.detectable, 2)} % would have shown", "small")
