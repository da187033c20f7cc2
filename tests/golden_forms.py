"""The golden records: one report in each of its forms, as ``tests/golden/`` holds them.

Where a form changes on purpose, ``python -m tests.golden_forms`` writes all of them anew: look at the diff.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bnfuse.report import render
from bnfuse.results import Report
from tests.html_pages import whole_report
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


if __name__ == "__main__":
    for name, form in FORMS.items():
        (FOLDER / name).write_text(form(golden_report()), encoding="utf-8", newline="\n")
