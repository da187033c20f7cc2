"""The report as one self-contained HTML page: no network, light and dark, for a desk, a phone and paper.

Without its script the page is whole but for the graphs: every table reads as it stands. The script filters
and sorts the tables and draws the graph around a decision when its row is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnfuse.report import document as doc
from bnfuse.report.html.blocks import Hooks, section
from bnfuse.report.html.decisions import decisions, kept, unchanged
from bnfuse.report.html.distributions import distributions
from bnfuse.report.html.graphs import data_block
from bnfuse.report.html.layers import layers
from bnfuse.report.html.markup import code, esc
from bnfuse.report.html.page import page
from bnfuse.report.html.summary import head

if TYPE_CHECKING:
    from bnfuse.difference.result import Difference
    from bnfuse.results import Comparison, Failure, Report

_HOOKS: Hooks = {
    "decisions": decisions,
    "distributions": distributions,
    "kept": kept,
    "layers": layers,
    "unchanged": unchanged,
}


def render(report: Report) -> str:
    """The whole report as one HTML document."""
    from bnfuse.report.content.whole import sections

    drawn = report.details.neighbourhoods if report.details else ()
    title = f"bnfuse: {report.input.path.name}"
    return _page(title, head(report), sections(report, doc.Form.HTML), data_block(drawn))


def fragment(report: Report) -> str:
    """The report as a part of a page on many."""
    from bnfuse.report.content.whole import sections

    drawn = report.details.neighbourhoods if report.details else ()
    shown = (section(one, _HOOKS) for one in sections(report, doc.Form.HTML))
    return "\n".join(filter(None, (head(report), *shown, data_block(drawn))))


def failure_fragment(found: Failure) -> str:
    """An error as a part of a page on many."""
    from bnfuse.report.content.outcomes import failure

    return "\n".join(map(plain_section, failure(found)))


def plain_section(one: doc.Section) -> str:
    """A section in which nothing is shown in a way of its own."""
    return section(one, _HOOKS)


def render_comparison(found: Comparison) -> str:
    """What ``verify`` or ``bench`` found as one HTML document."""
    from bnfuse.report.content.outcomes import headline, sections

    title = headline(found)
    top = f'<header><p class="product">bnfuse {found.command}</p><h1>{esc(title)}</h1></header>'
    return _page(f"bnfuse {found.command}: {title}", top, sections(found, doc.Form.HTML))


def render_failure(found: Failure) -> str:
    """An error as one HTML document."""
    from bnfuse.report.content.outcomes import failure

    top = f'<header><p class="product">bnfuse {found.command}</p><h1>Error</h1></header>'
    return _page(f"bnfuse {found.command}: error", top, failure(found))


def render_difference(found: Difference) -> str:
    """The whole difference as one HTML document."""
    from bnfuse.report.content.difference import headline, sections

    names = f"{found.before.file.path.name} and {found.after.file.path.name}"
    top = f"<header><h1>{esc(headline(found))}</h1><p>{code(names)}</p></header>"
    return _page(f"bnfuse diff: {names}", top, sections(found, doc.Form.HTML))


def _page(title: str, top: str, sections: Sequence[doc.Section], data: str = "") -> str:
    words = ((one.name, one.title if one.word is None else one.word) for one in sections)
    links = "".join(f'<a href="#{name}">{word}</a>' for name, word in words if word)
    body = "\n".join((top, *(section(one, _HOOKS) for one in sections)))
    return page(title, f'<nav aria-label="Contents">{links}</nav>', body, data)
