"""Text for what is no terminal: the lines and tables that rich makes there, without loading rich.

Importing rich takes a tenth of a small ``inspect``. Does not draw what takes more than whole words side by
side (a word wider than its column, several blanks in a row, characters of another width than one, a caption
wider than its table): ``table`` says so, and rich draws it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import TextIO

WIDTH = 140
_ONE_PLACE = frozenset(("N", "Na", "H", "A"))  # east Asian widths
# The blank between a number and its unit, at which no line ends.
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[µm]?s|[kMGT]?B|dB)(?:[^\w]|$))")


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
        known = all(
            _is_plain(cell) and _goes_by_words(cell, width)
            for row in every
            for cell, width in zip(row, widths, strict=True)
        )
        if not rows or not known or len(caption) > whole or not _is_plain(caption):
            return False
        for line in _drawn(head, rows, widths, texts):
            self.file.write(f"{line}\n")
        if caption:
            self.file.write(f"{caption:<{whole}}\n")
        self.file.flush()
        return True


def unbroken(text: str) -> list[str]:
    """What a line may end between: a number and its unit are one."""
    return _UNIT.sub("\xa0", text).split(" ")


def wrapped(text: str, width: int) -> list[str]:
    """``text`` on lines of at most this width, if no word is longer."""
    lines = wrap(_UNIT.sub("\xa0", text), width, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def _drawn(
    head: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], texts: int
) -> Iterator[str]:
    rules = ["─" * (width + 2) for width in widths]

    def lines(row: Sequence[str]) -> Iterator[str]:
        columns = [wrapped(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
        for parts in zip_longest(*columns, fillvalue=""):
            placed = (
                part.ljust(width) if at < texts else part.rjust(width)
                for at, (part, width) in enumerate(zip(parts, widths, strict=True))
            )
            yield f"│ {' │ '.join(placed)} │"

    yield f"╭{'┬'.join(rules)}╮"
    yield from lines(head)
    yield f"├{'┼'.join(rules)}┤"
    for row in rows:
        yield from lines(row)
    yield f"╰{'┴'.join(rules)}╯"


def _goes_by_words(cell: str, width: int) -> bool:
    """Whether it fits, or goes onto several lines without a word being cut, and one blank between two."""
    if len(cell) <= width:
        return "  " not in cell and cell == cell.strip()
    every = unbroken(cell)
    return all(every) and max(map(len, every)) <= width


def _is_plain(text: str) -> bool:
    """Whether each character takes one place."""
    if text.isascii():
        return text.isprintable()
    return all(
        unicodedata.east_asian_width(c) in _ONE_PLACE and unicodedata.category(c)[0] not in "MC" for c in text
    )
