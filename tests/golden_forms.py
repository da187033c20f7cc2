"""The golden records: one report in each of its forms, as ``tests/golden/`` holds them.

Where a form changes on purpose, ``python -m tests.golden_forms`` writes all of them anew: look at the diff.
"""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

from rich.console import Console

from bnfuse.report import render
from bnfuse.report.terminal import show
from bnfuse.results import Report
from bnfuse.results.many import Collected
from tests.html_pages import whole_report
from tests.many_models import outcomes
from tests.report_samples import in_terminal

FOLDER = Path(__file__).parent / "golden"


def _page(report: Report) -> str:
    """Without what is the same in all pages: style, script, and the hashes of both."""
    page = render(report, ".html")
    return page[page.index("<body>") : page.rindex("<script>")]


FORMS: dict[str, Callable[[Report], str]] = {
    "report.txt": lambda report: in_terminal(report, width=100),
    "report-v.txt": lambda report: in_terminal(report, width=100, verbose=True),
    "report.md": lambda report: render(report, ".md"),
    "report.html": _page,
    "report.json": lambda report: render(report, ".json"),
    "report.xml": lambda report: render(report, ".xml"),
}


def golden_report() -> Report:
    """Every section has something to show."""
    return whole_report("node")


def _many(suffix: str) -> str:
    """Four models, of which two failed; the page without style and script, as above."""
    made = render(Collected("optimize", outcomes(), 2, 4.5, {"bnfuse": "1"}), suffix)
    return made if suffix != ".html" else made[made.index("<body>") : made.rindex("<script>")]


def _many_in_terminal() -> str:
    stream = StringIO()
    show(Collected("optimize", outcomes(), 2, 4.5), Console(file=stream, width=100, markup=False))
    return stream.getvalue()


# Of the report on many models; those of one are in ``FORMS``.
MANY_FORMS: dict[str, Callable[[], str]] = {
    "reports.txt": _many_in_terminal,
    "reports.md": lambda: _many(".md"),
    "reports.html": lambda: _many(".html"),
    "reports.json": lambda: _many(".json"),
    "reports.xml": lambda: _many(".xml"),
    "reports.sarif": lambda: _many(".sarif"),
}


if __name__ == "__main__":
    for name, made in MANY_FORMS.items():
        (FOLDER / name).write_text(made(), encoding="utf-8", newline="\n")
    for name, form in FORMS.items():
        (FOLDER / name).write_text(form(golden_report()), encoding="utf-8", newline="\n")
