"""The report as one self-contained HTML page: no network, light and dark, for a desk, a phone and paper.

Without its script the page is whole but for the graphs: every table reads as it stands. The script filters
and sorts the tables and draws the graph around a decision when its row is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bnfuse.difference.result import Difference
from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.content import document
from bnfuse.report.html.blocks import Hooks, section
from bnfuse.report.html.decisions import decisions, kept, unchanged
from bnfuse.report.html.distributions import distributions
from bnfuse.report.html.graphs import data_block
from bnfuse.report.html.layers import layers
from bnfuse.report.html.markup import code, esc
from bnfuse.report.html.page import page
from bnfuse.report.html.summary import head
from bnfuse.results import Failure, Neighbourhood, Report

_HOOKS: Hooks = {
    "decisions": decisions,
    "distributions": distributions,
    "kept": kept,
    "layers": layers,
    "unchanged": unchanged,
}


def pieces(found: Any) -> Iterator[str]:
    """What a command found as one HTML document; of many models piece by piece."""
    if type(found).__name__ == "Collected":
        from bnfuse.report.html import many

        yield from many.pieces(found)
        return
    made = document(found, doc.Form.HTML)
    title, top = _top(found, made)
    yield _page(title, top, made.sections, data_block(_drawn(found)))


def _top(found: Any, made: doc.Document) -> tuple[str, str]:
    """The page's title, and what stands above its sections."""
    match found:
        case Report():
            return f"bnfuse: {found.input.path.name}", head(found)
        case Difference():
            names = f"{text.called(found.before.file)} and {text.called(found.after.file)}"
            top = f"<header><h1>{esc(made.headline)}</h1><p>{code(names)}</p></header>"
            return f"bnfuse diff: {names}", top
    heading = "Error" if isinstance(found, Failure) else esc(made.headline)
    top = f'<header><p class="product">bnfuse {made.command}</p><h1>{heading}</h1></header>'
    return f"bnfuse {made.command}: {made.headline}", top


def fragment(found: Report | Failure) -> str:
    """A report, or an error, as a part of a page on many."""
    top = head(found) if isinstance(found, Report) else ""
    shown = map(plain_section, document(found, doc.Form.HTML).sections)
    return "\n".join(filter(None, (top, *shown, data_block(_drawn(found)))))


def plain_section(one: doc.Section) -> str:
    """A section with what HTML shows in a way of its own."""
    return section(one, _HOOKS)


def _drawn(found: Any) -> Sequence[Neighbourhood | None]:
    return found.details.neighbourhoods if isinstance(found, Report) and found.details else ()


def _page(title: str, top: str, sections: Iterable[doc.Section], data: str) -> str:
    sections = list(sections)
    words = ((one.name, one.title if one.word is None else one.word) for one in sections)
    links = "".join(f'<a href="#{name}">{word}</a>' for name, word in words if word)
    body = "\n".join((top, *map(plain_section, sections)))
    return page(title, f'<nav aria-label="Contents">{links}</nav>', body, data)
