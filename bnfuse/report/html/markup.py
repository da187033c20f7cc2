"""Pieces of HTML. Model strings become text here, never markup and never part of an attribute.

Attributes hold only what this package writes itself (numbers, its own words), so a page has the same
elements and attributes whatever a model calls its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from bnfuse.report import text

# A name longer than this is cut in the middle wherever it is only a label.
MOST_LABEL = 160


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table that sorts by ``key``, whatever it shows; ``html`` is finished HTML."""

    html: str
    key: float


def esc(value: str) -> str:
    """``value`` as text of an element."""
    return escape(text.plain(value), quote=True)


def code(value: str) -> str:
    """``value`` as a name in the page's fixed-width face."""
    return f"<code>{esc(value)}</code>"


def shortened(value: str, most: int = MOST_LABEL) -> str:
    """``value``, its middle left out where it is long: both ends of a node's name tell something."""
    if len(value) <= most:
        return value
    head = (most - 1) // 2
    return f"{value[:head]}…{value[len(value) - (most - 1 - head) :]}"


def table(
    head: Sequence[str],
    lines: Iterable[Sequence[str | Cell]],
    *,
    text_columns: int = 1,
    sortable: bool = False,
) -> str:
    """A table of cells that are HTML already; the first ``text_columns`` are text, the others figures."""
    kinds = ["" if i < text_columns else ' class="number"' for i in range(len(head))]
    header = "".join(f'<th{kind} scope="col">{name}</th>' for kind, name in zip(kinds, head, strict=True))
    rows = ("".join(_cell(*each) for each in zip(line, kinds, head, strict=True)) for line in lines)
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    which = ' class="sortable"' if sortable else ""
    # A region that scrolls must be reachable with the keyboard.
    return (
        f'<div class="scroll" tabindex="0"><table{which}><thead><tr>{header}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def _cell(cell: str | Cell, kind: str, name: str) -> str:
    """``data-label`` names the column where a narrow screen shows each row as a card."""
    label = f' data-label="{name}"' if name else ""
    if isinstance(cell, str):
        return f"<td{kind}{label}>{cell}</td>"
    return f'<td{kind}{label} data-key="{cell.key:.6g}">{cell.html}</td>'


def section(name: str, title: str, *parts: str) -> str:
    """A section with a heading that the page's contents link to; "" where all parts are empty."""
    body = "\n".join(part for part in parts if part)
    if not body:
        return ""
    heading = f'<h2 id="{name}-title">{title}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">\n{heading}\n{body}\n</section>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of (what, HTML)."""
    items = "".join(f"<div><dt>{what}</dt><dd>{value}</dd></div>" for what, value in pairs)
    return f"<dl>{items}</dl>" if items else ""


def notes(every: Iterable[str]) -> str:
    """Sentences as a list; "" where there are none."""
    items = "".join(f"<li>{esc(note)}</li>" for note in every)
    return f'<ul class="notes">{items}</ul>' if items else ""


def figure(number: float, digits: int = 3) -> str:
    """A number with so many significant digits, in typographic signs: ``1.2e−07``, ``5,500``, ``∞``."""
    if 1000 <= abs(number) < 1e6:
        return f"{number:,.0f}".replace("-", "−")
    return f"{number:.{digits}g}".replace("inf", "∞").replace("nan", "not a number").replace("-", "−")
