"""A section of a difference, and words that several of them share."""

from __future__ import annotations

from collections.abc import Sequence

from bnfuse.report import document as doc
from bnfuse.report import text

_MOST_CHARACTERS = 120  # of a setting or a fact
Row = tuple[str, ...]


def section(
    word: str,
    title: str,
    head: Row = (),
    rows: Sequence[Row] = (),
    *,
    lines: Sequence[tuple[str, str]] = (),
    texts: int = 1,
    titled: doc.Form = doc.Form.ALL,
) -> doc.Section:
    """Labelled sentences above a table; its first column holds names, or labels where it has no heading."""
    named = [(doc.name(first) if head[0] and first else first, *others) for first, *others in rows]
    table = (doc.Table(head, named, texts, aligned=True),) if rows else ()
    return doc.Section(word, title, (*((doc.Facts(lines),) if lines else ()), *table), titled=titled)


def number(count: int) -> str:
    """``1,234``."""
    return f"{count:,}"


def short(value: str) -> str:
    """The start of a long value."""
    return value if len(value) <= _MOST_CHARACTERS else f"{value[: _MOST_CHARACTERS - 1]}…"


def equal(count: int, what: str) -> str:
    """How many are the same."""
    return f"{number(count)} {what}{' is' if count == 1 else 's are'} the same"


def renames(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """A line about what only has another name."""
    if not pairs:
        return []
    names = text.names([f"{before} → {after}" for before, after in pairs])
    return [("renamed", f"{number(len(pairs))} ({names})")]


def arrow(before: str, after: str) -> str:
    """Both, or the one that they are."""
    return before if before == after else f"{before} → {after}"
