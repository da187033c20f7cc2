"""Strings in HTML. Model strings become text here, never markup and never part of an attribute.

Attributes hold only what this package writes itself (numbers, its own words), so a page has the same
elements and attributes whatever a model calls its nodes.
"""

from __future__ import annotations

from html import escape

from bnfuse.report import text


def esc(value: str) -> str:
    """``value`` as text of an element."""
    return escape(text.plain(value), quote=True)


def code(value: str) -> str:
    """``value`` as a name in the page's fixed-width face."""
    return f"<code>{esc(value)}</code>"
