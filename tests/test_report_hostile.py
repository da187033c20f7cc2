"""No string of a model escapes its place in XML, in Markdown or in the terminal."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from bnfuse.report import render, text
from tests.report_samples import HOSTILE, hostile_report, in_terminal


@pytest.mark.parametrize("name", HOSTILE)
def test_xml_is_well_formed_and_keeps_the_name(name: str) -> None:
    root = ElementTree.fromstring(render(hostile_report(name), ".xml"))
    names = [case.get("name") for case in root.iter("testcase")]
    assert names == [text.plain(name) or "(no name)"] * 2 + ["the result equals the original"]


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_holds_no_markup_of_the_model(name: str) -> None:
    document = render(hostile_report(name), ".md")
    harmless = render(hostile_report("harmless"), ".md")
    assert document.count("\n") == harmless.count("\n")
    assert document.count("|") == harmless.count("|")
    # What is left once our own few elements are gone must hold no sign that starts markup.
    body = re.sub(r"</?(code|details|summary)>|^> \[!CAUTION\]\n> ", "", document, flags=re.MULTILINE)
    assert not re.search(r"[<>\[\]`*_@]|!\(|https?:|javascript:", body.replace("/", "|"))


@pytest.mark.parametrize("name", HOSTILE)
def test_terminal_prints_names_as_they_are_and_no_control_characters(name: str) -> None:
    printed = in_terminal(hostile_report(name), verbose=True)
    assert all(c == "\n" or c.isprintable() for c in printed)
    assert "##[" not in printed
    assert not any(line.lstrip().startswith("::") for line in printed.splitlines())
    if len(name) < 50:
        assert text.plain(name) in printed  # [red] was not parsed as markup


def test_plain_text_is_left_alone() -> None:
    assert text.plain("StatefulPartitionedCall/модель/バッチ:0") == "StatefulPartitionedCall/модель/バッチ:0"
    assert text.plain("a\nb\x1b") == r"a\nb\x1b"
