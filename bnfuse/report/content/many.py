"""What every form says of many models: one sentence, a row for each, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.errors import ExitCode, OutputError
from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.content import whole
from bnfuse.results.many import worst

if TYPE_CHECKING:
    from bnfuse.results import FileInfo, Report
    from bnfuse.results.many import Collected, Outcome

_MOST_WORDS = 60
# What is told of a model by its exit code, where that is not 0.
_ENDS = {
    ExitCode.GATE: "refused by a gate",
    ExitCode.USAGE: "wrong usage",
    ExitCode.UNREADABLE: "not read",
    ExitCode.UNPROVED: "not proved",
    ExitCode.RUNTIME_MISSING: "no runtime",
    ExitCode.INTERNAL: "internal error",
}
_NOT_WRITTEN = "not written"
_KINDS = {ExitCode.DONE: "equal", ExitCode.GATE: "inconclusive"}


class Row(Struct, frozen=True):
    """One model in the table; figures are None where there is no report, ``kind`` is a style of HTML.

    ``folded`` are those that a plan would fold; where a result is there (``wrote``), they are.
    """

    number: int
    model: str
    exit_code: ExitCode
    ended: str
    kind: str
    found: int | None
    folded: int | None
    proof: str
    weights: str
    size: str
    gain: str
    seconds: float
    wrote: bool


class Summary(Struct, frozen=True):
    """All models in figures, and the sentences of those that ended in an error or at a gate."""

    rows: tuple[Row, ...]
    complaints: tuple[tuple[str, str], ...]
    found: int
    folded: int
    resumed: int
    wrote: bool

    @property
    def exit_code(self) -> ExitCode:
        """The one that speaks for all."""
        return worst(row.exit_code for row in self.rows)


def summary(collected: Collected) -> Summary:
    """One pass over all of them; beside results a plan that led to none has folded nothing."""
    rows: list[Row] = []
    complaints, resumed = [], 0
    for number, outcome in enumerate(collected.outcomes):
        rows.append(_row(number, outcome))
        complaints += [(outcome.model, said) for said in said_no(outcome)]
        resumed += outcome.resumed
    wrote = any(row.wrote for row in rows)
    if wrote:
        rows = [row if row.wrote or row.folded is None else replace(row, folded=0) for row in rows]
    return Summary(
        tuple(rows),
        tuple(complaints),
        sum(row.found or 0 for row in rows),
        sum(row.folded or 0 for row in rows),
        resumed,
        wrote,
    )


def said_no(outcome: Outcome) -> list[str]:
    """Why a model does not count as done: its error, and the gates that refused."""
    found = [] if outcome.failure is None else [outcome.failure.message]
    gates = outcome.report.gates if outcome.report is not None else ()
    return found + [f"{gate.message} ({gate.option})" for gate in gates if not gate.passed]


_MOST_ROWS = {doc.Form.BRIEF: 100, doc.Form.MARKDOWN: 200}
_MOST_COMPLAINTS = 50
_MOST_REPORTS = 20


def document(collected: Collected, form: doc.Form) -> doc.Document:
    """A table of all; on a terminal with -v, and in Markdown, reports of single ones.

    A code host cuts what is long (a comment at 65 536 characters), so in Markdown what is most wanted comes
    first, and not every report is there; the JSON and the HTML form have them all.
    """
    found = summary(collected)
    rows = table(found, form, _MOST_ROWS.get(form))
    if form is doc.Form.MARKDOWN:
        blocks = (*_alerts(found), rows, *_reports(collected), doc.Paragraph(spent(collected)))
        return doc.Document(headline(found), [doc.Section("models", "Models", blocks)], collected.command)
    whole_table = doc.Section("models", "Models", (rows, doc.Facts([("time", spent(collected), "dim")])))
    every = collected.outcomes if form is doc.Form.VERBOSE else ()
    return doc.Document(headline(found), chain((whole_table,), *(_by_itself(one, form) for one in every)))


def _by_itself(outcome: Outcome, form: doc.Form) -> Iterator[doc.Section]:
    """One report after a table."""
    if outcome.report is None:
        return
    yield doc.Section("model", "", (doc.Paragraph(""), doc.Facts([("model", outcome.model)])))
    made = whole.document(outcome.report, form)
    yield doc.Section("headline", "", (doc.Paragraph(made.headline, style="bold"),))
    yield from made.sections


def _alerts(found: Summary) -> Iterator[doc.Block]:
    for model, why in found.complaints[:_MOST_COMPLAINTS]:
        yield doc.Paragraph((doc.name(model), f": {why}"), style="alert")
    if left := len(found.complaints[_MOST_COMPLAINTS:]):
        yield doc.Paragraph(f"{left} more models ended in an error or at a gate")


def _reports(collected: Collected) -> Iterator[doc.Block]:
    """Those that did not end well first; the others only where these are few enough to be shown all."""
    for well in (False, True):
        alike = (one for one in collected.outcomes if (one.exit_code == 0) is well)
        reports = ((one.model, one.report) for one in alike if one.report is not None)
        shown = list(islice(reports, _MOST_REPORTS + 1))
        for model, report in shown[:_MOST_REPORTS]:
            sections = whole.document(report, doc.Form.MARKDOWN).sections
            yield doc.Subpart(doc.name(model), tuple(block for one in sections for block in one.blocks))
        if len(shown) > _MOST_REPORTS:
            return


def headline(found: Summary) -> str:
    """``26 models: 24 done, 1 not proved, 1 not read; 312 of 340 BatchNormalizations folded``."""
    done = sum(row.exit_code == ExitCode.DONE for row in found.rows)
    counts = Counter(row.ended for row in found.rows if row.exit_code != ExitCode.DONE)
    ends = [f"{done} done" + (f" ({found.resumed} of them before)" if found.resumed else "")]
    ends += [f"{counts[words]} {words}" for words in (*_ENDS.values(), _NOT_WRITTEN) if counts[words]]
    verb = "folded" if found.wrote else "can be folded"
    models = f"{len(found.rows)} model{'s' if len(found.rows) != 1 else ''}"
    return f"{models}: {', '.join(ends)}; {found.folded} of {found.found} BatchNormalizations {verb}"


def spent(collected: Collected) -> str:
    """``54 s, 2 models at once``."""
    jobs = collected.jobs
    return f"{text.duration(collected.seconds)}, {jobs} model{'s' if jobs != 1 else ''} at once"


def table(found: Summary, form: doc.Form, most: int | None = None) -> doc.Table:
    """A row for each model; of too many, first those that did not end well."""
    rows = found.rows
    caption = ""
    if most is not None and len(rows) > most:
        rows = tuple(sorted(rows, key=lambda row: row.exit_code == ExitCode.DONE))[:most]
        caption = f"{len(found.rows) - most} more models, all of them done"
        if any(row.exit_code != ExitCode.DONE for row in found.rows) and rows[-1].exit_code != ExitCode.DONE:
            caption = f"{len(found.rows) - most} more models"
    used = _used(found)
    shown = [column for column in _COLUMNS if column.head in used]
    texts = len(used & _TEXTS)
    return doc.tabulated(rows, shown, form, texts=texts, caption=caption, sortable=form is doc.Form.HTML)


def _used(found: Summary) -> set[str]:
    """Columns in which anything stands."""
    heads = {column.head for column in _COLUMNS}
    if not any(row.gain for row in found.rows):
        heads.discard("speed-up")
    if not any(row.proof for row in found.rows):
        heads.discard("proof")
    heads.discard("size" if any(row.weights for row in found.rows) else "weights")
    return heads


_TEXTS = {"model", "outcome", "proof", "speed-up"}
_COLUMNS: tuple[doc.Column[Row], ...] = (
    doc.Column("model", lambda row: doc.name(row.model), doc.Form.TEXT),
    doc.Column("model", lambda row: doc.Chart("link", (f"m{row.number}", row.model)), doc.Form.HTML),
    doc.Column("outcome", lambda row: doc.Span(row.ended, f"badge {row.kind}"), doc.Form.HTML),
    doc.Column("outcome", lambda row: row.ended, doc.Form.TEXT),
    doc.Column("proof", lambda row: row.proof),
    doc.Column("speed-up", lambda row: row.gain),
    doc.Column("folded", lambda row: "" if row.found is None else f"{row.folded} of {row.found}"),
    doc.Column("weights", lambda row: row.weights),
    doc.Column("size", lambda row: row.size),
    doc.Column("time", lambda row: doc.Cell(_seconds(row.seconds), row.seconds)),
)


def _seconds(spent: float) -> str:
    return text.duration(spent) if spent >= 0.01 else "< 0.01 s"


def _row(number: int, outcome: Outcome) -> Row:
    report, code = outcome.report, outcome.exit_code
    found, folded, _ = report.plan.counts(batchnorm=True) if report is not None else (None, None, 0)
    return Row(
        number,
        outcome.model,
        code,
        _ended(outcome),
        _KINDS.get(code, "different"),
        found,
        folded,
        _proof(report),
        "" if report is None else _weights(report),
        "" if report is None else _size(report.input, report.output),
        "" if report is None else _gain(report),
        outcome.seconds,
        report is not None and report.output is not None,
    )


def _ended(outcome: Outcome) -> str:
    """A result that could not be put into place is no wrong usage, though its exit code is the same."""
    report, failure = outcome.report, outcome.failure
    if failure is not None and failure.kind == OutputError.__name__:
        return _NOT_WRITTEN
    if outcome.exit_code in _ENDS:
        return _ENDS[outcome.exit_code]
    wrote = report is not None and report.output is not None
    return ("written" if wrote else "looked at") + (" before" if outcome.resumed else "")


def _proof(report: Report | None) -> str:
    if report is None or (report.output is None and not report.verification.outputs):
        return ""
    said = text.outcome(report.verification)
    return said if len(said) <= _MOST_WORDS else f"{said[: _MOST_WORDS - 1]}…"


def _weights(report: Report) -> str:
    """Those of the result beside the original's: what else is in a file is no part of the model."""
    before, after = report.input.weight_bytes, report.output.weight_bytes if report.output else None
    return "" if before is None or after is None else _bytes(before, after)


def _size(before: FileInfo, after: FileInfo | None) -> str:
    return text.size(before.total_bytes) if after is None else _bytes(before.total_bytes, after.total_bytes)


def _bytes(before: int, after: int) -> str:
    change = "unchanged" if before == after else text.growth(before, after)
    return f"{text.size(after)} ({change})"


def _gain(report: Report) -> str:
    """The first setting that users run, in figures or in words."""
    runs = report.benchmark.runs if report.benchmark is not None else ()
    if not runs:
        return ""
    from bnfuse.report.measured import ordered

    run = ordered(runs)[0]
    return text.speedup(run) or run.verdict
