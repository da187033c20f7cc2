"""Decisions as rows of a table: one each, or one for all that share operator, action and reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bnfuse.core.decisions import Decision, Fold, Keep
from bnfuse.report import text

if TYPE_CHECKING:
    from bnfuse.results import Report


@dataclass(frozen=True, slots=True)
class Row:
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


def rows(report: Report) -> list[Row]:
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
