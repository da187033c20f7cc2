"""Sections as HTML. What HTML shows in a way of its own comes from ``hooks``: functions by a hook's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bnfuse.report import document as doc
from bnfuse.report.html import charts
from bnfuse.report.html.markup import code, esc
from bnfuse.results.figures import figure

Hooks = Mapping[str, Callable[[Any], str]]


def link(place: str, words: str) -> str:
    """A name that leads to a place of the page."""
    return f'<a href="#{place}">{code(words)}</a>'


_CHARTS: Mapping[str, Callable[..., str]] = {
    "bars": charts.bars,
    "interval": charts.interval,
    "link": link,
    "meter": charts.meter,
    "sparkline": charts.sparkline,
}


def section(one: doc.Section, hooks: Hooks) -> str:
    """A section with a heading that the page's contents link to."""
    body = "\n".join(filter(None, (write(block, hooks) for block in one.blocks)))
    heading = f'<h2 id="{one.name}-title">{one.title}</h2>'
    return f'<section id="{one.name}" aria-labelledby="{one.name}-title">\n{heading}\n{body}\n</section>'


def write(block: doc.Block, hooks: Hooks) -> str:
    """A block; "" where it is empty."""
    match block:
        case doc.Facts(lines):
            items = (f"<div><dt>{label}</dt><dd>{inline(words)}</dd></div>" for label, words, *_ in lines)
            return f"<dl>{''.join(items)}</dl>"
        case doc.Notes(sentences):
            items = (f"<li>{inline(sentence)}</li>" for sentence in sentences)
            return f'<ul class="notes">{"".join(items)}</ul>' if sentences else ""
        case doc.Paragraph(words, _, style):
            kind = f' class="{style}"' if style else ""
            return f"<p{kind}>{inline(words)}</p>"
        case doc.Table():
            return table(block)
        case doc.Subpart(title, blocks):
            heading = f"<h3>{inline(title)}</h3>" if title else ""
            return heading + "".join(write(inner, hooks) for inner in blocks)
        case doc.Hook(name, subject):
            return hooks[name](subject)


def inline(words: doc.Words) -> str:
    """Words with what each part of them is."""
    return "".join(map(_part, doc.spans(words)))


def _part(part: str | doc.Span | doc.Number | doc.Chart) -> str:
    match part:
        case str():
            return esc(part)
        case doc.Number(value, digits, unit):
            return f"{figure(value, digits)}{unit}"
        case doc.Chart(name, arguments):
            return _CHARTS[name](*arguments)
        case doc.Span(words, kind):
            own = kind == "own" or kind.startswith("key")
            return _span(words if own else esc(words), kind)


def _span(words: str, kind: str) -> str:
    match kind:
        case "own":
            return words
        case "name":
            return f"<code>{words}</code>"
        case "small":
            return f" <br><small>{words}</small>"
        case "below":
            return f" <br>{words}"
        case "strong":
            return f"<b>{words}</b>"
        case "strong warn":
            return f'<b class="warn">{words}</b>'
        case _:
            return f'<span class="{kind}">{words}</span>'


def table(block: doc.Table) -> str:
    """A table; a region that scrolls must be reachable with the keyboard."""
    kinds = ["" if i < block.texts else ' class="number"' for i in range(len(block.head))]
    header = "".join(
        f'<th{kind} scope="col">{name}</th>' for kind, name in zip(kinds, block.head, strict=True)
    )
    rows = ("".join(_cell(*each) for each in zip(row, kinds, block.head, strict=True)) for row in block.rows)
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    which = ' class="sortable"' if block.sortable else ""
    made = (
        f'<div class="scroll" tabindex="0"><table{which}><thead><tr>{header}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>"
    )
    return f'{made}\n<p class="dim">{block.caption}</p>' if block.caption else made


def _cell(cell: doc.Words | doc.Cell, kind: str, name: str) -> str:
    """``data-label`` names the column where a narrow screen shows each row as a card."""
    label = f' data-label="{name}"' if name else ""
    if isinstance(cell, doc.Cell):
        return f'<td{kind}{label} data-key="{cell.key:.6g}">{inline(cell.words)}</td>'
    return f"<td{kind}{label}>{inline(cell)}</td>"
