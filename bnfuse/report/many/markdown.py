"""Many models as Markdown: a table, what went wrong, and below it the reports of those that call for a look.

A code host cuts what is long (a comment at 65 536 characters), so what is most wanted comes first, and not
every report is there; the JSON and the HTML form have them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnfuse.report import document as doc
from bnfuse.report.many import content
from bnfuse.report.markdown import prose, written

if TYPE_CHECKING:
    from bnfuse.results import Report
    from bnfuse.results.many import Collected

_MOST_ROWS = 200
_MOST_COMPLAINTS = 50
_MOST_REPORTS = 20


def parts(collected: Collected) -> Iterator[str]:
    """The document in one piece: it is short."""
    found = content.summary(collected)
    said = found.complaints[:_MOST_COMPLAINTS]
    alerts = tuple(doc.Paragraph((doc.name(model), f": {why}"), style="alert") for model, why in said)
    left = len(found.complaints) - len(said)
    more = (doc.Paragraph(f"{left} more models ended in an error or at a gate"),) if left else ()
    blocks = (*alerts, *more, content.table(found, doc.Form.MARKDOWN, _MOST_ROWS))
    title = f"bnfuse {collected.command}: {prose(content.headline(found))}"
    reports = tuple(_reports(collected))
    time = doc.Paragraph(content.spent(collected))
    yield written(title, [doc.Section("models", "Models", (*blocks, *reports, time))])


def _reports(collected: Collected) -> Iterator[doc.Block]:
    """Those that did not end well first."""
    for well in (False, True):
        number = 0
        for outcome in collected.outcomes:
            if outcome.report is None or (outcome.exit_code == 0) is not well:
                continue
            number += 1
            if number > _MOST_REPORTS:
                return
            yield doc.Subpart(doc.name(outcome.model), _whole(outcome.report))


def _whole(report: Report) -> tuple[doc.Block, ...]:
    from bnfuse.report.content.whole import sections

    return tuple(block for section in sections(report, doc.Form.MARKDOWN) for block in section.blocks)
