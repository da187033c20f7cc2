"""How fast: every setting before and after, the interval beside its control, and what the time was spent on.

The control is the same measurement on the original twice (A/A): a speed-up counts for as much as its
interval is clear of 1 and of the control's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.content.spent import baseline, cold_start, profile
from bnfuse.report.measured import facts as measured_facts
from bnfuse.report.measured import ordered, shares
from bnfuse.report.sizes import benched
from bnfuse.results import BenchRun, Latency, Typical
from bnfuse.results.figures import figure

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
    where = doc.Paragraph(f"of one call, on {text.where(found)}", "latency")
    if form is doc.Form.MARKDOWN:
        where = doc.Paragraph((doc.own("Latency of one call, on "), text.where(found), doc.own(":")))
    return (
        where,
        _figures(found, form),
        *(_all_calls(found, form) if form is not doc.Form.BRIEF else ()),
        doc.Facts(list(measured_facts(found))),
        *profile(found.profile, form),
        *baseline(found.baseline, form),
        doc.Notes(found.notes),
    )


def _in_html(found: Latency) -> tuple[doc.Block, ...]:
    if not found.runs:
        return ()
    table = _figures(found, doc.Form.HTML)
    where = [found.device, text.threads(found.threads), *found.providers, *filter(None, [found.runtime])]
    return (
        doc.Paragraph(f"One call on {', '.join(where)}", style="dim"),
        *(doc.Paragraph(f"Inputs: {sentence}") for sentence in benched(found.runs)),
        *(doc.Paragraph(f"Of the speed-up, {sentence}") for sentence in shares(found)),
        doc.Subpart("", (table, _KEY)) if any(run.told for run in found.runs) else table,
        *_all_calls(found, doc.Form.HTML),
        doc.Hook("distributions", found),
        doc.Notes(found.notes),
        *cold_start(found),
        *profile(found.profile, doc.Form.HTML),
        *baseline(found.baseline, doc.Form.HTML),
    )


def _figures(found: Latency, form: doc.Form) -> doc.Table:
    """The times that are compared, and the ratio that they make."""
    paired = any(run.after_ms for run in found.runs)
    return doc.tabulated(ordered(found.runs), _paired(found) if paired else _alone(found), form)


def _all_calls(found: Latency, form: doc.Form) -> tuple[doc.Block, ...]:
    """Percentiles of all calls; their ratios are no measure of the models, and are not told."""
    enough = [run for run in ordered(found.runs) if not run.few]  # a few calls have no percentiles
    if not enough:
        return ()
    table = doc.tabulated(enough, (*_setting(found), *_PERCENTILES), form)
    title = "All calls, those that other load made wait among them"
    return (doc.Subpart(title, (table,), "calls"),)


def kind(run: BenchRun) -> str:
    """What the verdict says, as the name of a style: faster, slower or same."""
    return next((word for word in ("faster", "slower") if run.verdict.startswith(word)), "same")


def _setting(found: Latency) -> tuple[doc.Column[BenchRun], ...]:
    return (
        doc.Column("setting", lambda run: text.setting(run, found), ~doc.Form.TERMINAL),
        doc.Column(
            "setting", lambda run: f"{text.setting(run, found)}, batch {run.batch}", doc.Form.TERMINAL
        ),
        doc.Column("batch", lambda run: str(run.batch), ~doc.Form.TERMINAL),
    )


def _alone(found: Latency) -> tuple[doc.Column[BenchRun], ...]:
    """Of one model."""
    return (
        *_setting(found),
        doc.Column("min", lambda run: "" if run.before_ms.least is None else _own_ms(run.before_ms.least)),
        doc.Column("time (95 %)", lambda run: _typical(run.before_typical)),
    )


def _paired(found: Latency) -> tuple[doc.Column[BenchRun], ...]:
    """Before and after; the ratio is that of the two times."""
    told = [run for run in found.runs if run.told]
    reach = _reach([value for run in told for value in (*(run.ci95 or ()), *(run.control or ()))])
    axis = f"{1 / reach:.2g}× – {reach:.2g}×"
    drawn: doc.Column[BenchRun] = doc.Column(axis, lambda run: _interval(run, reach), doc.Form.HTML)
    return (
        *_setting(found),
        doc.Column("before (95 %)", lambda run: _typical(run.before_typical)),
        doc.Column("after (95 %)", lambda run: _typical(run.after_typical)),
        doc.Column("speed-up (95 %)", lambda run: doc.own(text.speedup(run))),
        *((drawn,) if told else ()),
        doc.Column("verdict", lambda run: run.verdict, doc.Form.TEXT),
        doc.Column("verdict", _verdict, doc.Form.HTML),
    )


def _typical(time: Typical | None) -> doc.Words:
    return doc.own(text.typical(time))


def _both(which: str) -> Callable[[BenchRun], doc.Words]:
    """A percentile before, and after where there is one."""

    def cell(run: BenchRun) -> doc.Words:
        times = [times for times in (run.before_ms, run.after_ms) if times is not None]
        return doc.joined((_own_ms(getattr(time, which)) for time in times), _ARROW)

    return cell


def _own_ms(ms: float) -> doc.Span:
    return doc.own(text.milliseconds(ms))


def _throughput(run: BenchRun) -> doc.Words:
    rates = [rate for rate in (run.before_items_per_s, run.after_items_per_s) if rate is not None]
    return doc.joined((doc.own(text.rate(rate)) for rate in rates), _ARROW)


_ARROW = doc.Span(" → ", "own")
_PERCENTILES: tuple[doc.Column[BenchRun], ...] = (
    doc.Column("p50", _both("p50")),
    doc.Column("p90", _both("p90")),
    doc.Column("p99", _both("p99")),
    doc.Column("per second", _throughput),
)


def _reach(ratios: Sequence[float]) -> float:
    """How far an axis of ratios must go, both ways, for these to fit: at least to 1.1."""
    far = max((abs(math.log(ratio)) for ratio in ratios if 0 < ratio < math.inf), default=0.0)
    return math.exp(max(math.log(1.1), 1.12 * far))


def _interval(run: BenchRun, reach: float) -> doc.Words:
    if not run.told or run.ci95 is None:
        return ""
    return doc.Chart("interval", ((run.ci95[0], run.speedup, run.ci95[1]), run.control, reach, kind(run)))


def _verdict(run: BenchRun) -> doc.Words:
    told = doc.Span(run.verdict, f"verdict {kind(run)}")
    if run.detectable is None or kind(run) != "same" or not run.told:
        return told
    return told, doc.Span(f"{figure(100 * run.detectable, 2)} % would have shown", "small")
