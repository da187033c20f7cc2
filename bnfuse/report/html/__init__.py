"""The report as one self-contained HTML page: no network, light and dark, for a desk, a phone and paper.

Without its script the page is whole but for the graphs: every table reads as it stands. The script filters
and sorts the tables and draws the graph around a decision when its row is opened.
"""

from __future__ import annotations

from bnfuse.report.html.decisions import kept_section, table_section
from bnfuse.report.html.graphs import data_block
from bnfuse.report.html.latency import latency_section
from bnfuse.report.html.layers import layers_section
from bnfuse.report.html.markup import section
from bnfuse.report.html.operators import environment_section, notes_section, operators_section
from bnfuse.report.html.page import page
from bnfuse.report.html.proof import proof_section
from bnfuse.report.html.summary import files, head
from bnfuse.results import Report

# How the contents name the sections.
_CONTENTS = (
    ("notes", "Notes"),
    ("kept", "What stays"),
    ("decisions", "Decisions"),
    ("layers", "Weights"),
    ("latency", "Latency"),
    ("proof", "Proof"),
    ("operators", "Operators"),
    ("files", "Files"),
)


def render(report: Report) -> str:
    """The whole report as one HTML document."""
    sections = {
        "notes": notes_section(report),
        "kept": kept_section(report),
        "decisions": table_section(report),
        "layers": layers_section(report),
        "latency": latency_section(report.benchmark),
        "proof": proof_section(report.verification),
        "operators": operators_section(report),
        "files": section("files", "Files", files(report)),
    }
    links = "".join(f'<a href="#{name}">{word}</a>' for name, word in _CONTENTS if sections[name])
    contents = f'<nav aria-label="Contents">{links}</nav>'
    body = "\n".join((head(report), *filter(None, sections.values()), environment_section(report)))
    drawn = report.details.neighbourhoods if report.details else ()
    return page(f"bnfuse: {report.input.path.name}", contents, body, data_block(drawn))
