"""Many models as one page: a row for each, which leads to its own report, closed until it is wanted.

What a report of one model is made of is the same here; the ids that its parts refer to each other by get the
model's number before them, since a page has each id but once. Only this package writes attributes, and no
text holds a bare quotation mark, so they are found for certain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnfuse.report import document as doc
from bnfuse.report.content import many as content
from bnfuse.report.html import fragment, plain_section
from bnfuse.report.html.markup import code, esc
from bnfuse.report.html.page import frame

if TYPE_CHECKING:
    from bnfuse.results.many import Collected, Outcome

_IDS = re.compile(r' (id|for|aria-labelledby)="([^"]*)"')


def pieces(collected: Collected) -> Iterator[str]:
    """The page, model by model."""
    found = content.summary(collected)
    title = content.headline(found)
    links = '<a href="#models">Models</a><a href="#reports">Reports</a>'
    before, after = frame(f"bnfuse: {title}", f'<nav aria-label="Contents">{links}</nav>')
    yield before
    yield (
        f'<header><p class="product">bnfuse {esc(collected.command)}</p><h1>{esc(title)}</h1>'
        f'<p class="lead">{esc(content.spent(collected))}</p></header>\n'
    )
    yield plain_section(doc.Section("models", "Models", (content.table(found, doc.Form.HTML),)))
    yield '\n<section id="reports" aria-labelledby="reports-title">\n<h2 id="reports-title">Reports</h2>\n'
    for row, outcome in zip(found.rows, collected.outcomes, strict=True):
        yield _model(row, outcome)
    yield "</section>"
    yield after


def _model(row: content.Row, outcome: Outcome) -> str:
    prefix = f"m{row.number}"
    inner = "\n".join(_inner(outcome))
    return (
        f'<details class="model" data-prefix="{prefix}-"><summary>{code(outcome.model)} '
        f'<span class="badge {row.kind}">{esc(row.ended)}</span></summary>\n'
        f'<div class="report" id="{prefix}">\n{_numbered(inner, prefix)}\n</div></details>\n'
    )


def _inner(outcome: Outcome) -> Iterator[str]:
    if outcome.failure is not None:
        yield fragment(outcome.failure)
    if outcome.report is not None:
        yield fragment(outcome.report).replace("<h1>", '<h2 class="headline">').replace("</h1>", "</h2>")


def _numbered(html: str, prefix: str) -> str:
    return _IDS.sub(lambda found: f' {found[1]}="{_each(found[2], prefix)}"', html)


def _each(names: str, prefix: str) -> str:
    return " ".join(f"{prefix}-{name}" for name in names.split(" "))
