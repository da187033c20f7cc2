"""Text for a pipe is what rich makes there, to the byte; what it does not draw is left to rich."""

from __future__ import annotations

import io
import random
import re
from importlib.metadata import version

import pytest
from rich.console import Console

from bnfuse.report import document as doc
from bnfuse.report.pipe import WIDTH, Pipe
from bnfuse.report.terminal import console, print_sections, show
from tests.report_samples import report as sample

_PADS = int(version("rich").split(".")[0]) < 14  # captions, with blanks behind the text
_BLANKS = re.compile(r" +$", re.MULTILINE)


def both(section: doc.Section) -> tuple[str, str]:
    """As a pipe has it, and as rich makes it."""
    piped, rich = io.StringIO(), io.StringIO()
    print_sections([section], Pipe(piped))
    print_sections([section], Console(file=rich, width=WIDTH, markup=False, highlight=False, emoji=False))
    told = piped.getvalue(), rich.getvalue()
    return (_BLANKS.sub("", told[0]), _BLANKS.sub("", told[1])) if _PADS else told


WORDS = ["bn_7", "0.97 ms (0.93–1.04)", "1.1×", "−2.7 %", "folded → dense", "", "x" * 60, "[b]", "ö"]
WORDS += [
    "a b  c",
    "a sentence of several words, which goes onto more lines " * 2,
    " blank ahead",
    "hyphen-ated " * 9,
]
ODD = ["畳み込み", "e\u0301", "a\u200bb", "\x1b[31m", "word " * 40, "y" * 150, "\t", "🙂"]


@pytest.mark.parametrize("seed", range(60))
def test_tables_of_all_kinds(seed: int) -> None:
    """Text and figures, captions, too many columns, odd characters, cells that do not fit, no rows."""
    rng = random.Random(seed)
    columns = rng.randint(1, 9)
    words = WORDS + (ODD if seed % 3 == 0 else [])
    rows = tuple(tuple(rng.choice(words) for _ in range(columns)) for _ in range(rng.randint(0, 6)))
    table = doc.Table(
        head=tuple(rng.choice(WORDS[:6]) for _ in range(columns)),
        rows=rows,
        texts=rng.randint(0, columns),
        caption=rng.choice(("", "a caption", "a caption " * 20)),
    )
    piped, rich = both(doc.Section("s", "title", (table, doc.Paragraph("after"))))
    assert piped == rich


@pytest.mark.parametrize("verbose", [False, True])
def test_a_whole_report(verbose: bool) -> None:
    piped, rich = io.StringIO(), io.StringIO()
    show(sample(), Pipe(piped), verbose=verbose)
    show(sample(), Console(file=rich, width=WIDTH, markup=False, highlight=False), verbose=verbose)
    assert piped.getvalue() == rich.getvalue()
    assert "╭" in piped.getvalue()


ENVIRONMENTS = [
    ("utf-8", {}, True),
    ("UTF8", {}, True),
    ("ascii", {}, False),  # rich has boxes for it
    ("latin-1", {}, False),
    ("utf-8", {"FORCE_COLOR": "1"}, False),
]


@pytest.mark.parametrize(("encoding", "environment", "expected"), ENVIRONMENTS)
def test_what_writes_to_a_pipe(
    monkeypatch: pytest.MonkeyPatch, encoding: str, environment: dict[str, str], expected: bool
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert isinstance(console(), Pipe) is expected


def test_a_terminal_is_written_to_by_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdout", Terminal(io.BytesIO(), encoding="utf-8"))
    assert isinstance(console(), Console)


def test_no_line_ends_between_a_number_and_its_unit() -> None:
    """Nor in a cell of a table, its head among them, however narrow the terminal is."""
    table = doc.Table(("SNR (95 %)", "time"), (("150.5 dB", "1.5 ms (1.4 ms at least)"),))
    for width in range(24, 60):
        stream = io.StringIO()
        print_sections([doc.Section("s", "t", (table,))], Console(file=stream, width=width, markup=False))
        cells = [cell.strip() for line in stream.getvalue().splitlines() for cell in line.split("│")]
        assert "150.5 dB" in cells or "│ time: 1.5 ms" in stream.getvalue(), width
        assert not {"dB", "%)", "ms"} & {cell.split(" ")[0] for cell in cells}, width


def test_a_row_that_is_a_paragraph_has_its_edge_on_every_line() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=40, markup=False, force_terminal=True, color_system=None)
    rows = (("bn", "a shift cannot pass through " + "a_long_name_that_fits_in_no_box " * 3),)
    print_sections([doc.Section("s", "t", (doc.Table(("node", "why"), rows, texts=2),))], console)
    first, *more = stream.getvalue().splitlines()
    assert first == "╭ bn" and len(more) > 3
    assert all(line.startswith("│        ") and len(line) <= 40 for line in more), more


def test_a_long_name_ends_its_lines_between_its_parts() -> None:
    """A path that fits nowhere is read in pieces that are words; nothing of it is lost."""
    names = ("/home/me/models/light_densenet121.onnx", "block3.batch_normalization", "a" * 70, "b/" * 40)
    table = doc.Table(("model", "size"), tuple((doc.name(name), "1.2 MB") for name in names))
    for width in range(40, 70):
        stream = io.StringIO()
        print_sections([doc.Section("s", "t", (table,))], Console(file=stream, width=width, markup=False))
        rows = [line.split("│") for line in stream.getvalue().splitlines()]
        pieces = [row[1].strip() for row in rows if len(row) == 4][1:]
        assert "".join(pieces) == "".join(names), width
        ends = [piece[-1] for piece in pieces if "a" * 8 not in piece]
        assert set(ends) <= {*"/._", *(name[-1] for name in names)}, (width, pieces)
