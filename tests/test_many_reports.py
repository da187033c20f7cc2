"""One report on many models in every form: whole, by its schema, and harmless whatever models are called."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace

from bnfuse.errors import ExitCode
from bnfuse.report import render
from bnfuse.report.content.many import headline, summary
from bnfuse.results.archive import archived, restored
from bnfuse.results.many import WORST_FIRST, Collected, Outcome, worst
from bnfuse.results.outcomes import Failure, Gate
from bnfuse.results.places import Address, place_of
from tests.golden_forms import FOLDER, MANY_FORMS
from tests.html_pages import whole_report
from tests.many_models import outcomes
from tests.report_schema import assert_many_fit

EVERY = Collected("optimize", outcomes(), 2, 4.5, {"bnfuse": "1"})
SUFFIXES = (".json", ".md", ".html", ".xml", ".sarif")


def form(suffix: str, found: Collected = EVERY) -> str:
    return render(found, suffix)


@pytest.mark.parametrize("name", MANY_FORMS)
def test_forms_are_as_recorded(name: str) -> None:
    recorded = (FOLDER / name).read_text(encoding="utf-8")
    assert MANY_FORMS[name]() == recorded, "python -m tests.golden_forms writes the records anew"


def test_json_fits_its_schema_and_holds_the_report_of_each_as_it_is_by_itself() -> None:
    document = json.loads(form(".json"))
    assert_many_fit(document)
    assert document["exit_code"] == 70
    assert document["models"] == {"found": 4, "done": 2, "failed": 2, "resumed": 1}
    assert document["batchnorms"] == {"found": 6, "folded": 3, "kept": 3}
    report = outcomes()[0].report
    assert report is not None
    alone = json.loads(render(report, ".json"))
    assert [entry["report"] for entry in document["reports"]] == [alone, alone, None, alone]
    assert [entry["error"] and entry["error"]["exit_code"] for entry in document["reports"]] == [
        None,
        None,
        3,
        70,
    ]


@pytest.mark.parametrize(("seconds", "told"), [(54.2, "54.2 s"), (999.6, "1000 s"), (3725.4, "3725 s")])
def test_what_a_long_run_took_is_a_plain_number(seconds: float, told: str) -> None:
    slow = replace(outcomes()[0], seconds=seconds)
    for suffix in (".md", ".html"):
        written = form(suffix, Collected("optimize", [slow], 2, seconds))
        assert f"{told}, 2 models at once" in written and f"{told}<" in written.replace(" |", "<")


def test_no_model_at_all_is_a_document_too() -> None:
    none = Collected("inspect", [], 1)
    document = json.loads(form(".json", none))
    assert_many_fit(document)
    assert document["reports"] == []
    for suffix in SUFFIXES[1:]:
        assert form(suffix, none)


def test_junit_has_a_suite_for_each_model_and_sarif_an_invocation_that_failed() -> None:
    suites = ET.fromstring(form(".xml")).findall("testsuite")
    names = Counter(suite.get("name") for suite in suites)
    assert names == {"a.onnx": 1, "sub/<b>.onnx": 1, "c.onnx": 1, "e.onnx": 2}
    assert sum(int(suite.get("errors", "0")) for suite in suites) == 2
    (run,) = json.loads(form(".sarif"))["runs"]
    (invocation,) = run["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 70)
    kinds = [told["descriptor"]["id"] for told in invocation["toolExecutionNotifications"]]
    assert kinds == ["UnreadableModel", "ValueError"]


class _Ids(HTMLParser):
    """Every id of a page, and every id that something refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.meant: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            elif name in ("for", "aria-labelledby"):
                self.meant.update((value or "").split())
            elif name == "href" and (value or "").startswith("#"):
                self.meant.add((value or "")[1:])


def test_a_page_has_each_id_once_and_what_it_refers_to_is_there() -> None:
    page = _Ids()
    page.feed(form(".html"))
    assert {name for name, count in page.ids.items() if count > 1} == set()
    assert page.meant <= page.ids.keys()
    assert {"m0", "m1", "m2", "m3", "m0-every", "m3-graphs"} <= page.ids.keys()


def test_names_are_harmless_in_every_form() -> None:
    evil = '"><img src=x onerror=alert(1)> | `x` id="m0" \x1b[31m'
    found = [replace(one, model=evil) for one in outcomes()]
    for suffix in (".html", ".md"):
        assert "<img" not in form(suffix, Collected("optimize", found))
    page = _Ids()
    page.feed(form(".html", Collected("optimize", found)))
    assert max(page.ids.values()) == 1
    assert "\x1b" not in "".join(form(suffix, Collected("optimize", found)) for suffix in SUFFIXES)


def test_much_is_cut_in_markdown_and_what_went_wrong_is_not() -> None:
    fine, failed = outcomes()[0], outcomes()[2]
    many = [replace(fine, model=f"fine{k}.onnx") for k in range(300)] + [replace(failed, model="last.onnx")]
    text = html.unescape(form(".md", Collected("optimize", many)))
    assert "last.onnx" in text
    assert "fine0.onnx" in text
    assert "101 more models" in text
    assert len(re.findall("<summary><code>fine", text)) == 20


def test_weights_are_what_is_told_of_sizes_where_they_are_known() -> None:
    """Else an optimiser's state that is left out would read as a gain."""
    fine = outcomes()[0]
    assert fine.report is not None and fine.report.output is not None
    before = replace(fine.report.input, total_bytes=1000, weight_bytes=400, state_bytes=500)
    after = replace(fine.report.output, total_bytes=400, weight_bytes=380, state_bytes=0)
    grown = replace(after, total_bytes=90_000, weight_bytes=80_000)
    known = [replace(fine, report=replace(fine.report, input=before, output=each)) for each in (after, grown)]
    table = html.unescape(form(".md", Collected("optimize", [*known, outcomes()[2]])))
    assert "| folded | weights | time |" in table
    assert "| 380 B (−5 %) |" in table and "| 80 kB (200 times as large) |" in table
    assert "| folded | size | time |" in form(".md", Collected("optimize", [fine]))


def test_beside_results_what_was_not_proved_was_not_folded() -> None:
    """In the headline, the table and the JSON; of plans alone all is told that could go."""
    fine = outcomes()[0]
    assert fine.report is not None
    failed = Failure("optimize", "NotEqual", "'b.onnx' could not be proved equal", 4, Path("b.onnx"))
    plan = replace(fine.report, output=None)
    unproved = replace(fine, model="b.onnx", report=plan, failure=failed)
    found = Collected("optimize", [fine, unproved])
    assert headline(summary(found)).endswith("; 1 of 4 BatchNormalizations folded")
    assert [row.folded for row in summary(found).rows] == [1, 0]
    assert json.loads(form(".json", found))["batchnorms"] == {"found": 4, "folded": 1, "kept": 3}
    plans = Collected("inspect", [replace(fine, report=plan), unproved])
    assert headline(summary(plans)).endswith("; 2 of 4 BatchNormalizations can be folded")


def test_what_could_not_be_written_is_no_wrong_usage() -> None:
    full = Failure("optimize", "OutputError", "'d.onnx' cannot be written: full", 2, Path("d.onnx"))
    usage = replace(full, kind="UsageError", message="'x' is no input of the model")
    every = [Outcome("d.onnx", failure=full), Outcome("e.onnx", failure=usage)]
    found = summary(Collected("optimize", every))
    assert [row.ended for row in found.rows] == ["not written", "wrong usage"]
    assert headline(found).startswith("2 models: 0 done, 1 wrong usage, 1 not written; ")
    assert found.exit_code == 2


# Each code with what it must outweigh: the order that docs/exit-codes.md promises.
ORDER = [70, 2, 5, 4, 3, 1, 0]


def test_the_worst_exit_code_speaks_for_all() -> None:
    assert [int(code) for code in WORST_FIRST] == ORDER
    assert set(WORST_FIRST) == set(ExitCode)
    for at, code in enumerate(ORDER):
        assert worst([*ORDER[at:], code]) == code
        assert worst(reversed(ORDER[at:])) == code
    assert worst([]) == 0


def test_a_gate_that_says_no_counts_as_one() -> None:
    gates = (Gate("--check", True, "fine"), Gate("--check", False, "3 nodes can be folded"))
    refused = Outcome("a.onnx", replace(whole_report("node"), gates=gates))
    assert refused.exit_code == 1
    found = summary(Collected("inspect", [refused]))
    assert found.complaints == (("a.onnx", "3 nodes can be folded (--check)"),)
    assert headline(found).startswith("1 model: 0 done, 1 refused by a gate; ")


def test_what_is_kept_of_a_run_comes_back_as_it_was() -> None:
    for outcome in outcomes():
        assert restored(archived(outcome)) == outcome
        assert restored(archived(outcome)).exit_code == outcome.exit_code


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"x"', '{"of":"Outcome","has":{}}', '{"of":"Popen","has":{"args":"true"}}', '{"a":1}',
     '{"of":"Path","has":{}}', "[" * 100000],
)  # fmt: skip
def test_only_results_come_out_of_what_was_kept(text: str) -> None:
    with pytest.raises(ValueError, match=r"archived|Expecting|Outcome"):
        restored(text)


def test_an_address_reads_like_a_path_and_keeps_its_slashes() -> None:
    found = place_of("s3://bucket/deep/model.onnx")
    assert isinstance(found, Address)
    assert (str(found), found.name, found.suffix) == ("s3://bucket/deep/model.onnx", "model.onnx", ".onnx")
    assert found.resolve().as_uri() == str(found)
    report = whole_report("node")
    moved = replace(report, input=replace(report.input, path=found))
    again = restored(archived(Outcome("x", moved)))
    assert again.report is not None
    assert str(again.report.input.path) == "s3://bucket/deep/model.onnx"
    assert place_of("a/b.onnx") == Path("a/b.onnx")
