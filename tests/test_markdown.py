"""Markdown as a renderer of GitHub's flavour sees it: tables stay tables, and no name becomes markup."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from bnfuse.report import document as doc
from bnfuse.report import render
from bnfuse.report.markdown import written
from tests.golden_forms import golden_report
from tests.report_samples import HOSTILE, hostile_report, report
from tests.test_outcomes import compared

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
REPORTS = {
    "golden": render(golden_report(), ".md"),
    "plain": render(report(), ".md"),
    "verify": render(compared("verify"), ".md"),
    "bench": render(compared("bench"), ".md"),
}


def tokens(text: str) -> list[Token]:
    """All of them, those inside lines too."""
    found = PARSER.parse(text)
    return [inner for token in found for inner in (token, *(token.children or ()))]


def rows(text: str) -> list[list[str]]:
    """Cells of every row of every table."""
    found: list[list[str]] = []
    for token in PARSER.parse(text):
        if token.type == "tr_open":
            found.append([])
        elif token.type == "inline" and found and token.level >= 3:
            found[-1].append(html.unescape(re.sub("<[^>]*>", "", token.content)))
    return found


@pytest.mark.parametrize("name", REPORTS)
def test_every_table_is_one(name: str) -> None:
    """As many tables as there are rules between head and body, each row as wide as its head."""
    text = REPORTS[name]
    rules = [line for line in text.splitlines() if re.fullmatch(r"\|( -+:? \|)+", line)]
    tables = [token for token in PARSER.parse(text) if token.type == "table_open"]
    assert len(tables) == len(rules) > 0
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|") and len(line.split(" | ")) in {len(rule.split(" | ")) for rule in rules}


def test_a_head_with_bars_is_one_column() -> None:
    heads = [row for row in rows(REPORTS["golden"]) if "RMS" in row]
    assert heads and all(row[:3] == ["output", "max |difference|", "RMS"] for row in heads)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup(name: str) -> None:
    """The same elements as with a harmless name, and no link, image or emphasis at all."""
    shown, plain = (tokens(render(hostile_report(each), ".md")) for each in (name, "harmless"))
    kinds = [token.type for token in shown if token.type not in ("softbreak", "text", "text_special")]
    assert kinds == [token.type for token in plain if token.type not in ("softbreak", "text", "text_special")]
    assert not {"link_open", "image", "em_open", "strong_open", "code_inline", "s_open"} & set(kinds)


# GitHub's own additions, which no parser here knows: mentions, references, addresses without markup.
GITHUB = re.compile(
    r"(?<![\w&;])@\w|(?<![\w&])#\d|\bGH-\d|https?://|www\.|^\s*(?:\d+[.)]|[-+*]) ", re.IGNORECASE
)
PROSE = [
    "@all",
    "see #12",
    "GH-12",
    "http://a.example",
    "www.a.example",
    "1. one",
    "2) two",
    "- three",
    "* x",
    "+ y",
]


@pytest.mark.parametrize("words", PROSE)
def test_no_words_become_markup(words: str) -> None:
    shown = written("t", [doc.Section("s", "S", (doc.Paragraph(words),))])
    assert not GITHUB.search(shown.splitlines()[-1])
    (paragraph,) = [token for token in PARSER.parse(shown) if token.type == "inline"][1:]
    assert html.unescape(paragraph.content).replace("\u200b", "") == words
    assert not [token for token in tokens(shown) if token.type in ("bullet_list_open", "ordered_list_open")]


def test_prose_reads_well_as_it_stands() -> None:
    """In a log nobody renders it."""
    shown = written(
        "t", [doc.Section("s", "S", (doc.Paragraph("within 1.2e-07 (allowed: 5.4) of a/b, don't"),))]
    )
    assert shown.splitlines()[-1] == "within 1.2e-07 (allowed: 5.4) of a/b, don't"
