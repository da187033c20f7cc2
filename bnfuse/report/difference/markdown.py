"""The difference as Markdown for a pull-request comment or a CI job summary on GitHub."""

from __future__ import annotations

from bnfuse.difference.result import Difference
from bnfuse.report.difference.section import Row, Section
from bnfuse.report.difference.sections import headline, sections
from bnfuse.report.markdown import code, prose

# GitHub cuts a comment at 65 536 characters and a summary at 1 MiB.
_MOST_ROWS = 50


def render(found: Difference) -> str:
    """The whole difference as one Markdown document, long tables cut."""
    parts = [f"## bnfuse diff: {prose(headline(found))}", *map(_section, sections(found, _MOST_ROWS))]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    parts = [f"### {section.title}"]
    if section.lines:
        parts.append("\n".join(f"- {label}: {prose(sentence)}" for label, sentence in section.lines))
    if section.rows:
        rule = tuple("---" if i < section.texts else "---:" for i in range(len(section.head)))
        cells = (section.head, rule, *(_cells(row, named=bool(section.head[0])) for row in section.rows))
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
    if section.left_out:
        parts.append(f"{section.left_out} more")
    return "\n\n".join(parts)


def _cells(row: Row, *, named: bool) -> Row:
    """The first cell is a name, or a label of this report's own where its column has no heading."""
    first, *others = row
    return code(first) if named and first else prose(first), *map(prose, others)
