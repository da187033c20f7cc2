"""Text for what is no terminal: the lines and tables that rich makes there, without loading rich.

Importing rich takes a tenth of a small ``inspect``. Does not draw what takes more than putting cells side by side
(a cell that goes onto several lines, characters of another width than one, a caption wider than its table):
``table`` says so, and rich draws it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import TextIO

WIDTH = 140
_ONE_PLACE = frozenset(("N", "Na", "H", "A"))  # east Asian widths


class Pipe:
    """Where text goes that nobody looks at while it is written."""

    width = WIDTH
    is_terminal = False

    def __init__(self, stream: TextIO) -> None:
        self.file = stream

    def line(self, words: str) -> None:
        """One line, however long."""
        self.file.write(f"{words}\n")
        self.file.flush()  # whoever reads has gone? told at once

    def table(
        self,
        head: Sequence[str],
        rows: Sequence[Sequence[str]],
        widths: Sequence[int],
        texts: int,
        caption: str,
    ) -> bool:
        """A table with ``texts`` columns of text, then figures; False where rich must draw it."""
        whole, every = sum(widths) + 3 * len(widths) + 1, (head, *rows)
        fits = all(len(cell) <= width for row in every for cell, width in zip(row, widths, strict=True))
        if not rows or not fits or len(caption) > whole or not _is_plain(caption):
            return False
        if not all(_is_plain(cell) for row in every for cell in row):
            return False
        for line in _drawn(head, rows, widths, texts):
            self.file.write(f"{line}\n")
        if caption:
            self.file.write(f"{caption:<{whole}}\n")
        self.file.flush()
        return True


def _drawn(
    head: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], texts: int
) -> Iterator[str]:
    rules = ["─" * (width + 2) for width in widths]

    def cells(row: Sequence[str]) -> str:
        placed = (
            cell.ljust(width) if at < texts else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"│ {' │ '.join(placed)} │"

    yield f"╭{'┬'.join(rules)}╮"
    yield cells(head)
    yield f"├{'┼'.join(rules)}┤"
    yield from map(cells, rows)
    yield f"╰{'┴'.join(rules)}╯"


def _is_plain(text: str) -> bool:
    """Whether each character takes one place."""
    if text.isascii():
        return text.isprintable()
    return all(
        unicodedata.east_asian_width(c) in _ONE_PLACE and unicodedata.category(c)[0] not in "MC" for c in text
    )
