"""Many models on a terminal: a table, and below it why some of them are not done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfuse.report import document as doc
from bnfuse.report.many import content
from bnfuse.report.terminal import Out, blank, print_report, print_sections

if TYPE_CHECKING:
    from bnfuse.results.many import Collected

_MOST_ROWS = 100


def print_many(collected: Collected, out: Out, *, verbose: bool = False) -> content.Summary:
    """Everything; ``verbose`` lists every model, and then the whole report of each."""
    found = content.summary(collected)
    form = doc.Form.VERBOSE if verbose else doc.Form.BRIEF
    blocks = (
        doc.Paragraph(content.headline(found), style="bold"),
        content.table(found, form, None if verbose else _MOST_ROWS),
        doc.Facts([("time", content.spent(collected), "dim")]),
    )
    print_sections([doc.Section("models", "Models", blocks)], out)
    for outcome in collected.outcomes if verbose else ():
        if outcome.report is not None:
            blank(out)
            print_sections([doc.Section("model", "Model", (doc.Facts([("model", outcome.model)]),))], out)
            print_report(outcome.report, out, verbose=True)
    return found
