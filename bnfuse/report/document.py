"""What a report is made of, whatever the form: sections of facts, sentences and tables.

Content (``report.content``) yields sections; a form (terminal, Markdown, HTML) only writes them down. Strings
are plain text: each form escapes them, and shows a model's own names, which are untrusted, as names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Flag, auto
from typing import Any, Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Form(Flag):
    """Who asks for a section; a section may tell the one more than the other."""

    BRIEF = auto()  # a terminal
    VERBOSE = auto()  # a terminal, with -v
    MARKDOWN = auto()
    HTML = auto()
    TERMINAL = BRIEF | VERBOSE
    TEXT = TERMINAL | MARKDOWN
    ALL = TEXT | HTML


class Span(Struct, frozen=True, eq=False):
    """Some words of one kind.

    ``name``: a string of the model. ``own``: words of this report alone, of which a form need escape nothing,
    as of a ``key …`` to the colours of a drawing. ``strong``, ``small`` and ``below`` (these two on a
    line of their own) matter to HTML; any other kind is a style's name there, and some a terminal's colour.
    """

    text: str
    kind: str


class Number(Struct, frozen=True, eq=False):
    """A figure with so many significant digits, which each form writes in its own signs."""

    value: float
    digits: int = 3
    unit: str = ""


class Chart(Struct, frozen=True, eq=False):
    """A drawing that HTML alone has: a function of ``report.html.charts``, and its arguments."""

    name: str
    arguments: tuple[Any, ...] = ()


Inline = str | Span | Number | Chart
Words = Inline | tuple[Inline, ...]
Line = tuple[str, Words] | tuple[str, Words, str]


class Cell(Struct, frozen=True, eq=False):
    """A cell of a table that sorts by ``key``, whatever it shows."""

    words: Words
    key: float


Cells = Sequence[Words | Cell]


class Facts(Struct, frozen=True, eq=False):
    """Lines of (label, words), or (label, words, style of a terminal)."""

    lines: Sequence[Line]


class Notes(Struct, frozen=True, eq=False):
    """Sentences as a list; a terminal puts ``label`` before each."""

    sentences: Sequence[Words]
    label: str = "note"
    style: str = "dim"


class Paragraph(Struct, frozen=True, eq=False):
    """A sentence by itself; ``label`` and ``style`` are a terminal's, ``style`` is HTML's, too."""

    words: Words
    label: str = ""
    style: str = ""


class Table(Struct, frozen=True, eq=False):
    """Rows of cells.

    Attributes:
        head: the columns.
        rows: cells by column.
        texts: how many columns from the left hold text; the others hold figures, set to the right.
        aligned: whether Markdown sets figures to the right, too.
        sortable: whether a reader of HTML can sort it.
        caption: what is said below, of rows that were left out.
    """

    head: Sequence[str]
    rows: Sequence[Cells]
    texts: int = 1
    aligned: bool = False
    sortable: bool = False
    caption: str = ""


class Subpart(Struct, frozen=True, eq=False):
    """Blocks that belong together under a title, if any.

    Markdown folds them away under it, HTML makes it a heading, a terminal says it after ``label``.
    """

    title: Words
    blocks: tuple[Block, ...]
    label: str = ""


class Hook(Struct, frozen=True, eq=False):
    """What HTML shows in a way of its own (``report.html.HOOKS``), and what it is about."""

    name: str
    subject: Any


Block = Facts | Notes | Paragraph | Table | Subpart | Hook


class Section(Struct, frozen=True, eq=False):
    """Blocks under a heading.

    ``name`` is one word, for links; ``word`` names it in a table of contents: None for the title, "" for not
    at all. ``titled`` tells the forms that write the title; in the others the blocks speak for themselves.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]
    word: str | None = None
    titled: Form = Form.HTML


class Document(Struct, frozen=True, eq=False):
    """What a form shows of one result: a sentence ("" for none), and section after section.

    ``command`` is the one that found it, "" where that goes without saying.
    """

    headline: str
    sections: Iterable[Section]
    command: str = ""


class Column(Struct, Generic[T], frozen=True, eq=False):
    """One column of a table over things of one kind, in some of the forms."""

    head: str
    cell: Callable[[T], Words | Cell]
    forms: Form = Form.ALL


def tabulated(items: Iterable[T], columns: Iterable[Column[T]], form: Form, **options: Any) -> Table:
    """The columns that a form shows, a row for each item; ``options`` are as in ``Table``."""
    shown = [column for column in columns if form in column.forms]
    rows = [[column.cell(item) for column in shown] for item in items]
    return Table([column.head for column in shown], rows, **options)


def spans(words: Words) -> tuple[Inline, ...]:
    """The parts of what may be a single one."""
    return words if isinstance(words, tuple) else (words,)


def name(text: str) -> Span:
    """A string of the model."""
    return Span(text, "name")


def own(text: str) -> Span:
    """Words of this report alone."""
    return Span(text, "own")


_COMMA = Span(", ", "own")


def joined(parts: Iterable[Inline], between: Inline = _COMMA) -> tuple[Inline, ...]:
    """Parts with something between them."""
    return tuple(each for part in parts for each in (between, part))[1:]


def bars(before: float, after: float | None = None) -> Chart:
    """A bar for each of these shares of the longest."""
    pairs = ((before, "before"), (after, "after"))
    return Chart("bars", tuple([(share, kind)] for share, kind in pairs if share is not None))


def cut(every: Sequence[T], most: int | None, form: Form, what: str) -> tuple[Sequence[T], list[Block]]:
    """The first ``most`` (None: all), and, on a terminal, a sentence about the others."""
    shown = every[:most]
    more = f"{len(every) - len(shown)} more {what}: -v shows them all"
    return shown, [Paragraph(more, style="dim")] if form is Form.BRIEF and len(shown) < len(every) else []
