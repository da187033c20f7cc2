"""What the plan decided: what stays and why, every decision, and the operators before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.document import Form
from bnfuse.report.groups import Group, groups
from bnfuse.report.rows import Row, grouped
from bnfuse.report.rows import rows as decision_rows

if TYPE_CHECKING:
    from bnfuse.results import Report

_MOST_GROUPS = {Form.BRIEF: 10, Form.MARKDOWN: 100}
# GitHub cuts a comment at 65 536 characters and a summary at 1 MiB.
_MOST_ROWS = {Form.BRIEF: 30, Form.MARKDOWN: 100}

_DECISIONS: tuple[doc.Column[Row], ...] = (
    doc.Column("node", lambda row: doc.name(row.name)),
    doc.Column("operator", lambda row: doc.name(row.op)),
    doc.Column("", lambda row: doc.Span(row.verb, row.action)),
    doc.Column("where to, or why not", lambda row: row.why),
)


def kept(report: Report, form: Form) -> doc.Section:
    """One line per reason, with the first few names; on a terminal the table tells of a single node."""
    return doc.Section("kept", "What stays, and why", _kept(report, form), word="What stays")


def _kept(report: Report, form: Form) -> tuple[doc.Block, ...]:
    every = groups(report.plan.decisions)
    if form is Form.HTML:
        return (doc.Hook("kept", every),) if every else ()
    if not every or (form in Form.TERMINAL and sum(len(group.nodes) for group in every) < 2):
        return ()
    shown, more = doc.cut(every, _MOST_GROUPS.get(form), form, "reasons")
    return doc.Notes([_group(group) for group in shown], label="kept", style=""), *more


def _group(group: Group) -> doc.Words:
    names = doc.joined(map(doc.name, group.nodes[: text.SHOWN_NAMES]))
    return (group.message, doc.own(" ("), *names, doc.own(f"{text.more(group.nodes)})"))


def decisions(report: Report, form: Form) -> doc.Section:
    """Every decision as a row; of many, a row for all that share operator, action and reason."""
    only = all(decision.is_batchnorm for decision in report.plan.decisions)
    title = "Every BatchNormalization" if only else "Every BatchNormalization, Mul, Add, Sub and Div"
    return doc.Section("decisions", title, _decisions(report, form), word="Decisions")


def _decisions(report: Report, form: Form) -> tuple[doc.Block, ...]:
    every = decision_rows(report)
    if form is Form.HTML or not every:
        return (doc.Hook("decisions", report),) if every else ()
    most = _MOST_ROWS.get(form, len(every))
    rows = every if len(every) <= most else grouped(every)
    shown = rows[:most]
    caption = ""
    if form is Form.BRIEF and len(shown) < len(every):
        left_out = f"{len(rows) - len(shown)} more groups; " if len(shown) < len(rows) else ""
        caption = f"{left_out}grouped: -v shows all {len(every)}"
    table = doc.tabulated(shown, _DECISIONS, form, texts=4, caption=caption)
    title = "Every decision" if len(shown) == len(every) else f"{len(every)} decisions, grouped"
    return (doc.Subpart(title, (table,)),)


def operators(report: Report, form: Form) -> doc.Section:
    """Operators whose number changed, then the total of all; HTML has all others, too, folded away."""
    rows = text.operator_rows(report.operators_before, report.operators_after)
    return doc.Section("operators", "Operators", _operators(rows, report, form) if rows else ())


def _operators(rows: list[tuple[str, int, int]], report: Report, form: Form) -> tuple[doc.Block, ...]:
    whole = rows[-1]
    most = max(max(before, after) for _, before, after in rows[:-1])
    total = doc.Span(whole[0], "strong") if form is Form.HTML else doc.name(whole[0])
    columns: tuple[doc.Column[tuple[str, int, int]], ...] = (
        doc.Column("operator", lambda row: total if row is whole else doc.name(row[0])),
        doc.Column("before", lambda row: str(row[1])),
        doc.Column("after", lambda row: str(row[2])),
        doc.Column("change", lambda row: text.change(row[1], row[2]), ~Form.MARKDOWN),
        doc.Column("", lambda row: "" if row is whole else doc.bars(row[1] / most, row[2] / most), Form.HTML),
    )
    table = doc.tabulated(rows, columns, form)
    differ = {op for op, _, _ in rows[:-1]}
    same = sorted((op, n) for op, n in report.operators_before.items() if op not in differ)
    return (table, doc.Hook("unchanged", same)) if form is Form.HTML and same else (table,)
