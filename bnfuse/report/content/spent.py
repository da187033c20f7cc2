"""What the time went into: by operator, by phase of a cold start, and beside an earlier report."""

from __future__ import annotations

from bnfuse.report import document as doc
from bnfuse.report import measured, text
from bnfuse.results import Baseline, BaselineRun, ColdStart, Latency, OperatorTime, Profile

# Operators beyond these are summed up in one line.
_MOST_OPERATORS = 15


def profile(found: Profile | None, form: doc.Form) -> tuple[doc.Block, ...]:
    """Time by operator before and after; HTML has the slowest first, with bars."""
    if found is None:
        return ()
    if form is doc.Form.HTML:
        return _by_operator(found) if found.operators else ()
    alone = found.after_ms is None
    head = measured.OPERATORS_ALONE if alone else measured.OPERATORS
    rows: list[doc.Cells] = [(doc.name(op), *cells) for op, *cells in measured.profile_rows(found)]
    title = measured.profile_title(found)
    shown = text.sentence(title) if form is doc.Form.MARKDOWN else title
    return (doc.Subpart(shown, (doc.Table(head, rows),), "profile"),)


def _by_operator(found: Profile) -> tuple[doc.Block, ...]:
    ranked = sorted(found.operators, key=lambda one: -max(one.before_ms, one.after_ms or 0.0))
    most = max(ranked[0].before_ms, ranked[0].after_ms or 0.0)
    rest = ranked[_MOST_OPERATORS:]
    more = f"; {len(rest)} more took {text.milliseconds(sum(one.before_ms for one in rest))}" if rest else ""
    whole = text.milliseconds(found.before_ms)
    whole += "" if found.after_ms is None else f" → {text.milliseconds(found.after_ms)}"
    placed = ", ".join(f"{n} nodes on {provider}" for provider, n in found.before_placed.items())
    said = f"{found.setting}, batch {found.batch}, median of {found.calls} calls: {whole}{more}"
    said += f"; {placed}" if placed else ""
    gap = f"{said}. What the operators do not add up to is spent between them."
    columns = _operator_columns(most, paired=found.after_ms is not None)
    table = doc.tabulated(ranked[:_MOST_OPERATORS], columns, doc.Form.HTML)
    return (doc.Subpart("Where the time goes, by operator", (table, doc.Paragraph(gap, style="dim small"))),)


def _operator_columns(most: float, *, paired: bool) -> tuple[doc.Column[OperatorTime], ...]:
    change = (doc.Column("change", _change),) if paired else ()
    return (
        doc.Column("operator", lambda one: doc.name(one.op)),
        doc.Column("nodes", lambda one: _nodes(one, paired=paired)),
        doc.Column("time", lambda one: _times(one, paired=paired)),
        *change,
        doc.Column("", lambda one: _bars(one, most, paired=paired)),
    )


def _nodes(one: OperatorTime, *, paired: bool) -> str:
    before, after = one.before_nodes, one.after_nodes or 0
    return f"{before} → {after}" if paired and before != after else str(before)


def _times(one: OperatorTime, *, paired: bool) -> str:
    before = text.milliseconds(one.before_ms)
    return f"{before} → {text.milliseconds(one.after_ms or 0.0)}" if paired else before


def _change(one: OperatorTime) -> str:
    return measured.change((one.after_ms or 0.0) - one.before_ms)


def _bars(one: OperatorTime, most: float, *, paired: bool) -> doc.Chart:
    if most <= 0:
        return doc.Chart("bars")
    return doc.bars(one.before_ms / most, (one.after_ms or 0.0) / most if paired else None)


_PHASES = ("process", "runtime", "loading", "first answer")


def cold_start(found: Latency) -> tuple[doc.Block, ...]:
    """The phases of a start, and the memory; nothing where none was measured."""
    starts = [
        (which, run.batch, cold)
        for run in found.runs
        for which, cold in (("before", run.before_cold), ("after", run.after_cold))
        if cold is not None
    ]
    if not starts:
        return ()
    head = ("cold start", "batch", *_PHASES, "", "peak memory")
    keys = doc.joined((doc.Span(phase, f"key phase-{i}") for i, phase in enumerate(_PHASES, 1)), " ")
    table = doc.Table(head, [_start(*start) for start in starts])
    return (doc.Subpart("A cold start, phase by phase", (table, doc.Paragraph(keys, style="dim small"))),)


def _start(which: str, batch: int, cold: ColdStart) -> doc.Cells:
    phases = (cold.start_ms, cold.runtime_ms, cold.load_ms, cold.first_run_ms)
    total = sum(phases)
    shares = [(ms / total, f"phase-{i}") for i, ms in enumerate(phases, 1)] if total > 0 else []
    memory = "" if cold.peak_bytes is None else text.size(cold.peak_bytes)
    times, bar = map(text.milliseconds, phases), doc.Chart("bars", (shares,) if shares else ())
    return which, str(batch), *times, bar, memory


_BASELINE: tuple[doc.Column[BaselineRun], ...] = (
    doc.Column("setting", lambda run: run.setting),
    doc.Column("batch", lambda run: str(run.batch)),
    doc.Column("threads", lambda run: str(run.threads), doc.Form.HTML),
    doc.Column("then p50", lambda run: text.milliseconds(run.then_ms), doc.Form.TEXT),
    doc.Column("now p50", lambda run: text.milliseconds(run.now_ms), doc.Form.TEXT),
    doc.Column("then", lambda run: text.milliseconds(run.then_ms), doc.Form.HTML),
    doc.Column("now", lambda run: text.milliseconds(run.now_ms), doc.Form.HTML),
    doc.Column("slower by at least", lambda run: measured.slowdown(run), doc.Form.TEXT),
    doc.Column("at least", lambda run: _slower(run), doc.Form.HTML),
    doc.Column("judged by", lambda run: run.basis, doc.Form.TEXT),
    doc.Column("by", lambda run: run.basis, doc.Form.HTML),
)


def baseline(found: Baseline | None, form: doc.Form) -> tuple[doc.Block, ...]:
    """Beside an earlier report; nothing where none was given."""
    if found is None:
        return ()
    rows = (doc.tabulated(measured.ordered(found.runs), _BASELINE, form),) if found.runs else ()
    title = measured.baseline_title(found)
    if form is doc.Form.MARKDOWN:
        return (doc.Paragraph((text.sentence(title), doc.own(":" if rows else "."))), *rows)
    if form in doc.Form.TERMINAL:
        return (doc.Paragraph(title, "baseline"), *rows)
    told = (doc.Paragraph(found.refusal, style="alert"),) if found.refusal else ()
    return (doc.Subpart(("Beside ", doc.name(found.path)), (*told, *rows, doc.Notes(found.notes))),)


def _slower(run: BaselineRun) -> doc.Words:
    share = 100 * (run.slowdown - 1)
    return doc.Number(share, 3, " % slower") if share > 0 else "not slower"
