"""The difference as one self-contained HTML page: no network, light and dark, tables that sort."""

from __future__ import annotations

from bnfuse.difference.result import Difference
from bnfuse.report.difference.section import Row, Section
from bnfuse.report.difference.sections import headline, sections
from bnfuse.report.html.markup import code, esc, facts, section, shortened, table
from bnfuse.report.html.page import page

_MOST_ROWS = 2000


def render(found: Difference) -> str:
    """The whole difference as one HTML document."""
    every = sections(found, _MOST_ROWS)
    links = "".join(f'<a href="#{one.name}">{one.title}</a>' for one in every)
    names = f"{found.before.file.path.name} and {found.after.file.path.name}"
    head = f"<header><h1>{esc(headline(found))}</h1><p>{code(names)}</p></header>"
    body = "\n".join((head, *map(_section, every)))
    return page(f"bnfuse diff: {names}", f'<nav aria-label="Contents">{links}</nav>', body, "")


def _section(one: Section) -> str:
    lines = facts((label, esc(sentence)) for label, sentence in one.lines)
    rows = (
        table(one.head, (_cells(row, named=bool(one.head[0])) for row in one.rows), text_columns=one.texts)
        if one.rows
        else ""
    )
    more = f'<p class="dim">{one.left_out} more</p>' if one.left_out else ""
    return section(one.name, one.title, lines, rows, more)


def _cells(row: Row, *, named: bool) -> Row:
    """The first cell is a name, or a label of this report's own where its column has no heading."""
    first, *others = (shortened(cell) for cell in row)
    return code(first) if named and first else esc(first), *map(esc, others)
