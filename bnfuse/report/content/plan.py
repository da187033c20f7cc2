"""What the plan decided: what stays and why, every decision, operators before and after, and ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.core.decisions import Decision, Equalized, Fold, Keep, Spread
from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.document import Form
from bnfuse.report.groups import Group, groups
from bnfuse.results.figures import digits

if TYPE_CHECKING:
    from bnfuse.results import Report


class Row(Struct, frozen=True):
    """One line of a table of decisions; ``count`` nodes share it, ``name`` is one of them."""

    name: str
    op: str
    action: str
    why: str
    reason: str
    count: int = 1
    done: bool = True

    @property
    def verb(self) -> str:
        """``folded`` (``foldable`` where nothing was written), or ``folded 12`` of 12 that share the row."""
        said = text.verb(self.action, done=self.done)
        return f"{said} {self.count}" if self.count > 1 else said


def decision_rows(report: Report) -> list[Row]:
    """One row per decision, in graph order."""
    return [replace(_row(decision), done=report.output is not None) for decision in report.plan.decisions]


def grouped(every: Sequence[Row]) -> list[Row]:
    """Rows that share operator, action and reason (folds: the split), as one row with their number."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in every:
        groups.setdefault((row.op, row.action, row.reason), []).append(row)
    return [_merged(group) for group in groups.values()]


def _merged(group: list[Row]) -> Row:
    first = group[0]
    name = first.name if len(group) == 1 else f"{first.name} and {len(group) - 1} more"
    why = first.why if len(group) == 1 else f"{first.why}, and the like"
    return Row(name, first.op, first.action, why, first.reason, len(group), first.done)


def _row(decision: Decision) -> Row:
    match decision:
        case Fold():
            into = text.names(decision.into) or "nothing (it was the identity)"
            via = f", through {text.names(decision.passed)}" if decision.through else ""
            return Row(decision.node, decision.op, "folded", f"into {into}{via}", decision.split.value)
        case Keep():
            reason = decision.primary.reason.name
            return Row(decision.node, decision.op, "kept", decision.message, reason)


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


_MOST_LAYERS = {Form.BRIEF: 8, Form.MARKDOWN: 100}
_EQUALIZED = "Channel ranges, equalised"

_SPREADS: tuple[doc.Column[Spread], ...] = (
    doc.Column("layer", lambda one: doc.name(one.node)),
    doc.Column("spread folded", lambda one: doc.Cell(digits(one.before), one.before)),
    doc.Column("equalised", lambda one: doc.Cell(digits(one.after), one.after)),
)


def equalized(found: Equalized | None, form: Form) -> doc.Section:
    """The layers whose channel ranges lay apart or do now, the widest first."""
    return doc.Section(
        "equalized", _EQUALIZED, () if found is None else _equalized(found, form), word="Ranges"
    )


def _equalized(found: Equalized, form: Form) -> tuple[doc.Block, ...]:
    changed = [one for one in found.spreads if digits(one.before) != digits(one.after)]
    changed.sort(key=lambda one: -max(one.before, one.after))
    if not changed:
        return ()
    shown, more = doc.cut(changed, _MOST_LAYERS.get(form), form, "layers")
    explained = doc.Paragraph(
        "spread: largest over median |weight| range of a layer's output channels", style="dim"
    )
    table = doc.tabulated(shown, _SPREADS, form, sortable=form is Form.HTML)
    blocks: tuple[doc.Block, ...] = (table, explained, *more)
    return (doc.Subpart(_EQUALIZED, blocks),) if form is Form.MARKDOWN else blocks
