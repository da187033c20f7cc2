"""The forms of a report byte for byte, and that what a section holds is in all of them."""

from __future__ import annotations

import html
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from bnfuse.report import document as doc
from bnfuse.report.document import Form
from bnfuse.report.html.blocks import section as in_html
from bnfuse.report.markdown import written as in_markdown
from bnfuse.report.terminal import print_sections
from tests.golden_forms import FOLDER, FORMS, golden_report


@pytest.mark.parametrize("name", FORMS)
def test_forms_are_as_recorded(name: str) -> None:
    recorded = (FOLDER / name).read_text(encoding="utf-8")
    assert FORMS[name](golden_report()) == recorded, "python -m tests.golden_forms writes the records anew"


def test_one_section_is_in_every_form() -> None:
    """What a new section yields needs nothing else to be shown."""
    columns: tuple[doc.Column[float], ...] = (
        doc.Column("quantity", lambda value: doc.name(f"value <{value}>")),
        doc.Column("in figures", doc.Number),
    )
    made = doc.Section(
        "new",
        "A new section",
        (
            doc.Facts([("label", "a labelled fact")]),
            doc.Paragraph(("a sentence by itself about ", doc.name("conv|1"))),
            doc.Subpart("folded away", (doc.tabulated((0.25, 1e-7), columns, Form.TEXT),)),
            doc.Notes(("a note",)),
        ),
        titled=Form.ALL,
    )
    stream = StringIO()
    print_sections([made], Console(file=stream, width=120, markup=False))
    for shown in (stream.getvalue(), in_markdown("title", [made]), in_html(made, {})):
        said = html.unescape(shown)
        for words in ("A new section", "a labelled fact", "conv|1", "value <0.25>", "1e", "a note"):
            assert words in said


def test_a_column_is_shown_in_its_own_forms() -> None:
    columns: tuple[doc.Column[int], ...] = (
        doc.Column("all", str),
        doc.Column("text", str, Form.TEXT),
        doc.Column("page", str, Form.HTML),
    )
    heads = {form: tuple(doc.tabulated((1,), columns, form).head) for form in (Form.BRIEF, Form.HTML)}
    assert heads == {Form.BRIEF: ("all", "text"), Form.HTML: ("all", "page")}


@pytest.mark.parametrize("form", ["", ".markdown", ".html", ".json", ".junit"])
def test_only_a_terminal_needs_rich(form: str) -> None:
    script = f"import sys, bnfuse.report{form}, bnfuse.report.content.whole; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
