"""A section of the report, and words that several sections share, as plain text without markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnfuse.report import text

_MOST_CHARACTERS = 120  # of a setting or a fact
Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One table, with sentences above it.

    Attributes:
        name: one word, for links.
        title: its heading.
        lines: (label, sentence).
        head: the columns; () where there is no table.
        rows: cells by column.
        texts: how many columns from the left hold text; the others hold figures.
        left_out: rows that the table was cut by.
    """

    name: str
    title: str
    lines: tuple[tuple[str, str], ...] = ()
    head: Row = ()
    rows: tuple[Row, ...] = ()
    texts: int = 1
    left_out: int = 0


def cut(section: Section, most: int) -> Section:
    """With ``most`` rows at most."""
    if len(section.rows) <= most:
        return section
    kept, left_out = section.rows[:most], len(section.rows) - most
    return Section(section.name, section.title, section.lines, section.head, kept, section.texts, left_out)


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
