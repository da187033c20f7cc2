"""Sections on a terminal, with rich, or into a pipe. Long tables are grouped, or cut, unless ``verbose``.

Model strings become ``Text`` objects and are never parsed as markup. Where the output is no terminal, lines
are wider and uncoloured, and mostly made without rich (``report.pipe``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union

from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.content import document
from bnfuse.report.pipe import WIDTH, Pipe, unbroken, wrapped
from bnfuse.results.figures import digits

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_LEAST_WIDTH = 20
_EDGE = "│"  # of a row that is a paragraph of its own
_STYLES = {"folded": "green", "kept": "yellow"}


Out = Union["Console", Pipe]


def console() -> Out:
    """What writes to stdout, reads no markup and honours NO_COLOR and FORCE_COLOR."""
    stream = sys.stdout
    coloured = stream.isatty() or bool(os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE"))
    utf8 = (stream.encoding or "").lower().replace("-", "").startswith("utf8")
    if utf8 and not coloured and os.name != "nt":
        return Pipe(stream)
    from bnfuse.report.rich_console import GuardedConsole

    width = None if stream.isatty() else WIDTH
    return GuardedConsole(file=stream, width=width, markup=False, highlight=False, emoji=False)


def show(found: Any, out: Out, *, verbose: bool = False) -> None:
    """What a command found; ``verbose`` shows all of it."""
    made = document(found, doc.Form.VERBOSE if verbose else doc.Form.BRIEF)
    if made.headline:
        _say(out, "", made.headline, "bold")
    print_sections(made.sections, out)


def print_sections(sections: Iterable[doc.Section], out: Out) -> None:
    """Section after section."""
    for section in sections:
        if doc.Form.BRIEF in section.titled:
            _say(out, "", section.title, "bold")
        for block in section.blocks:
            _write(block, out)


def _write(block: doc.Block, out: Out) -> None:
    match block:
        case doc.Facts(lines):
            for line in lines:
                _say(out, *line)
        case doc.Notes(sentences, label, style):
            for sentence in sentences:
                _say(out, label, sentence, style)
        case doc.Paragraph(words, label, style):
            _say(out, label, words, style)
        case doc.Table():
            _print_table(block, out)
        case doc.Subpart(title, blocks, label):
            if label:
                _say(out, label, title)
            for inner in blocks:
                _write(inner, out)
        case _:
            pass  # drawings are HTML's


def _print_table(block: doc.Table, out: Out) -> None:
    """With a left edge: a line of the log never starts with a string of the model.

    Where the columns do not fit side by side, each row is a paragraph of its own.
    """
    rows = [[cell.words if isinstance(cell, doc.Cell) else cell for cell in row] for row in block.rows]
    cells = [
        [(head, False), *((_plain(row[at]), _is_name(row[at])) for row in rows)]
        for at, head in enumerate(block.head)
    ]
    # a column has a blank on either side and an edge behind it, the first an edge before it
    widths = fitted(cells, out.width - 3 * len(block.head) - 1)
    if widths is None:
        _print_apart(block, rows, out)
        return
    if isinstance(out, Pipe):
        plain_rows = [[_plain(words) for words in row] for row in rows]
        if out.table(block.head, plain_rows, widths, block.texts, block.caption):
            return
        from bnfuse.report.rich_console import GuardedConsole

        out = GuardedConsole(file=out.file, width=out.width, markup=False, highlight=False, emoji=False)
    from rich import box
    from rich import table as rich_table
    from rich.text import Text

    table = rich_table.Table(box=box.ROUNDED, header_style="bold", border_style="dim", caption_justify="left")
    for number, (head, width) in enumerate(zip(block.head, widths, strict=True)):
        justify: Literal["left", "right"] = "left" if number < block.texts else "right"
        table.add_column(_text(head, width), justify=justify, overflow="fold", width=width)
    for row in rows:
        table.add_row(*map(_text, row, widths))
    if block.caption:
        table.caption = Text(block.caption, "dim")
    out.print(table)


# A name longer than this may go onto several lines.
_WHOLE_NAME = 24


def fitted(columns: Sequence[Sequence[tuple[str, bool]]], available: int) -> list[int] | None:
    """Widths of the columns that sum up to at most ``available``; None where no such widths are enough.

    No word and no number is cut: words go onto more lines, those of the widest column first; a name of a
    model may be cut where it is long.

    Each column is its cells, the head among them: (text, whether it is a name of the model's).
    """
    widths = [max(len(text) for text, _ in cells) for cells in columns]
    least = [max(_least(text, is_name=is_name) for text, is_name in cells) for cells in columns]
    if sum(least) > available:
        return None
    while sum(widths) > available:
        widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _least(text: str, *, is_name: bool) -> int:
    longest = max(map(len, unbroken(text)), default=0)
    return min(longest, _WHOLE_NAME) if is_name else longest


def _print_apart(block: doc.Table, rows: Sequence[Sequence[doc.Words]], out: Out) -> None:
    for row in rows:
        _say(out, "", ("╭ ", *doc.spans(row[0])), "bold")
        for head, words in zip(block.head[1:], row[1:], strict=True):
            if _plain(words):
                _say(out, _EDGE, (f"{head}: ", *doc.spans(words)) if head else words)
    if block.caption:
        _say(out, "", block.caption, "dim")


def _is_name(words: doc.Words) -> bool:
    return any(isinstance(part, doc.Span) and part.kind == "name" for part in doc.spans(words))


def _text(cell: doc.Words, width: int) -> Text:
    """Words that are read as no markup, on lines of this width; a name is cut where it has to be."""
    from rich.text import Text

    style = _STYLES.get(cell.kind, "") if isinstance(cell, doc.Span) else ""
    said = _plain(cell)
    lines = [said] if len(said) <= width else parted(said, width) if _is_name(cell) else wrapped(said, width)
    return Text("\n".join(lines), style)


def parted(name: str, width: int) -> list[str]:
    """A long name, or path, on lines of this width: between its parts where it has any, else anywhere."""
    lines = []
    while len(name) > width:
        end = max(name.rfind(mark, width // 2, width) for mark in "/._-: ") + 1 or width
        lines.append(name[:end])
        name = name[end:]
    return [*lines, name]


def _plain(words: doc.Words) -> str:
    return text.plain("".join(map(_part, doc.spans(words))))


def _part(part: object) -> str:
    match part:
        case str():
            return part
        case doc.Span():
            return part.text
        case doc.Number(value, count, unit):
            return f"{digits(value, count)}{unit}"
        case _:
            return ""


def _say(out: Out, label: str, words: doc.Words, style: str = "") -> None:
    """Print ``label  words``, nothing in it parsed as markup.

    In a log in one line however long; on a terminal whole words go onto the next line, below the first.
    """
    said, head = _plain(words), f"{label:<9}" if label else ""
    if isinstance(out, Pipe):
        out.line(head + said)
        return
    from rich.text import Text

    lines = [said]
    if out.is_terminal and len(head) + len(said) > out.width:
        room = max(_LEAST_WIDTH, out.width - len(head))
        lines = wrapped(said, room)
    for number, line in enumerate(lines):
        before = head if number == 0 or label == _EDGE else " " * len(head)
        out.print(Text.assemble((before, "dim"), (line, style)), soft_wrap=True)
