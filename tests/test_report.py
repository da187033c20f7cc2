"""Every form of a report says what the result holds, and no model string escapes its place."""

from __future__ import annotations

import json
import math
import re
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from rich.console import Console

from bnfuse.core.decisions import Fold, Keep, Plan, Split
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.errors import OutputError, UsageError
from bnfuse.report import check_reports, render, text, write_report
from bnfuse.report import json as json_form
from bnfuse.report.terminal import print_agreement, print_latency, print_report
from bnfuse.results import (
    Agreement,
    BenchRun,
    FileInfo,
    Latency,
    OutputAgreement,
    Percentiles,
    Report,
    Status,
)

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "report.schema.json").read_text(encoding="utf-8"))
FORMS = (".json", ".md", ".html", ".xml")

HOSTILE = [
    "[red]x[/]",
    "[/nonsense]",
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "a|b||c",
    "`tick` ``two`` ```three",
    "line\nbreak\r\n\ttab",
    "]]> <![CDATA[ & &amp; &lt;",
    "\x00\x01\x1b[31mred\x1b[0m\x07",
    "::error file=a::owned",
    "##[error]owned",
    "@everyone #1 GH-1 https://evil.example",
    "![image](https://evil.example/x.png) [link](javascript:alert(1))",
    "\u202egnp.exe \u2028 \ufffe \udc80",
    "'\"><b onmouseover=x>",
    "",
    "x" * 5000,
]


def fold(name: str, *, into: tuple[str, ...] = ("conv",), batchnorm: bool = True) -> Fold:
    op = "BatchNormalization" if batchnorm else "Mul"
    return Fold(name, op, batchnorm, 8, Split.UP, into, ())


def keep(name: str, reason: Reason = Reason.NONLINEAR, node: str = "Softmax 's'") -> Keep:
    refusals = (
        Refusal(reason, node, "v", split="up"),
        Refusal(Reason.GRAPH_OUTPUT, node, "out", split="down"),
    )
    return Keep(name, "BatchNormalization", True, 4, refusals)


def report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "input": FileInfo(Path("dir/model.onnx"), "ONNX", "a" * 64, 102_400_000),
        "plan": Plan((fold("bn1"), keep("bn2"), fold("mul", batchnorm=False)), (fold("bn1"),)),
        "operators_before": {"Conv": 2, "BatchNormalization": 2, "Mul": 1},
        "operators_after": {"Conv": 2, "BatchNormalization": 1},
        "output": FileInfo(Path("dir/model.fused.onnx"), "ONNX", "b" * 64, 102_300_000),
        "verification": Agreement(
            Status.EQUAL,
            (OutputAgreement("y", 1e-6, 2e-7, 131.5, 1e-5, 1.0), OutputAgreement("z", 0, 0, math.inf, 1e-5)),
            6,
            1e-5,
            "onnxruntime 1.32, graph optimisation off, 6 input sets",
        ),
        "benchmark": Latency(
            "cpu", 2, ("CPUExecutionProvider",), (bench_run("optimisation off"), bench_run("optimisation on"))
        ),
        "notes": ("a note",),
        "versions": {"bnfuse": "0.1.0"},
        "seconds": {"read": 0.1, "verify": 1.5},
    }
    return Report(**(values | changes))


def bench_run(setting: str, **changes: Any) -> BenchRun:
    values: dict[str, Any] = {
        "setting": setting,
        "batch": 1,
        "before_ms": Percentiles(1.5, 1.75, 2.125),
        "after_ms": Percentiles(1.25, 1.5, 2.0),
        "speedup": 1.2,
        "ci95": (1.15, 1.25),
        "control": (0.99, 1.01),
        "pairs": 100,
        "verdict": "faster",
    }
    return BenchRun(**(values | changes))


def hostile_report(name: str) -> Report:
    """A report in which every string that a model can choose is ``name``."""
    return report(
        input=FileInfo(Path("model.onnx"), "ONNX", "", 1),
        plan=Plan((fold(name, into=(name,)), keep(name, node=name), fold(name, batchnorm=False))),
        operators_before={name: 3, "Conv": 1},
        operators_after={"Conv": 1},
        verification=Agreement(
            Status.DIFFERENT, (OutputAgreement(name, 1.0, 1.0, 1.0, 1e-5),), 1, 1e-5, name, f"output '{name}'"
        ),
        notes=(f"about {name}",),
    )


def in_terminal(value: Report, *, verbose: bool = False, width: int = 200) -> str:
    stream = StringIO()
    print_report(value, Console(file=stream, width=width, markup=False, highlight=False), verbose=verbose)
    return stream.getvalue()


# ---- JSON -----------------------------------------------------------------------------------------

VARIANTS = {
    "written": report(),
    "inspected": report(output=None, verification=Agreement(Status.SKIPPED), benchmark=None),
    "one model timed": report(
        benchmark=Latency(
            "cpu", 1, (), (bench_run("s", after_ms=None, speedup=None, ci95=None, control=None),)
        )
    ),
    "empty": report(plan=Plan(()), operators_before={}, operators_after={}, versions={}, seconds={}),
    "not finite": report(
        verification=Agreement(
            Status.INCONCLUSIVE, (OutputAgreement("y", math.nan, math.inf, -math.inf, 1e-5, math.nan),), 1
        ),
        benchmark=Latency("cpu", 1, (), (bench_run("s", speedup=math.inf, ci95=(math.nan, math.inf)),)),
    ),
    **{f"hostile {number}": hostile_report(name) for number, name in enumerate(HOSTILE)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_json_is_strict_and_fits_the_schema(name: str) -> None:
    document = json.loads(
        render(VARIANTS[name], ".json"), parse_constant=lambda c: pytest.fail(f"{c} in JSON")
    )
    jsonschema.Draft202012Validator(SCHEMA).validate(document)


def test_the_schema_refuses_what_is_wrong() -> None:
    good = json_form.document(report())
    bad = [
        good | {"schema": "bnfuse.report/2"},
        good | {"batchnorms": {"found": 1, "folded": 1}},
        good | {"decisions": [good["decisions"][0] | {"reason": "NONLINEAR"}]},
        good | {"decisions": [good["decisions"][1] | {"reason": None}]},
        good | {"verification": good["verification"] | {"status": "fine"}},
        {key: value for key, value in good.items() if key != "output"},
    ]
    validator = jsonschema.Draft202012Validator(SCHEMA)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert [validator.is_valid(document) for document in bad] == [False] * len(bad)


def test_json_says_what_the_result_holds() -> None:
    document = json.loads(render(report(), ".json"))
    assert document["input"] == {
        "path": str(Path("dir/model.onnx")),
        "format": "ONNX",
        "sha256": "a" * 64,
        "bytes": 102_400_000,
    }
    assert document["batchnorms"] == {"found": 2, "folded": 1, "kept": 1}
    assert document["affines"] == {"found": 1, "folded": 1, "kept": 0}
    first, second, _ = document["decisions"]
    assert (first["action"], first["split"], first["into"], first["reason"]) == ("fold", "up", ["conv"], None)
    assert (second["action"], second["split"], second["reason"]) == ("keep", None, "NONLINEAR")
    assert [refusal["reason"] for refusal in second["refusals"]] == ["NONLINEAR", "GRAPH_OUTPUT"]
    assert second["message"].startswith("up: Softmax 's' is nonlinear")
    assert [output["snr_db"] for output in document["verification"]["outputs"]] == [131.5, None]
    run = document["benchmark"]["runs"][0]
    assert (run["before_ms"]["p99"], run["after_ms"]["p50"], run["ci95"]) == (2.125, 1.25, [1.15, 1.25])


def test_a_hash_that_was_not_computed_is_null() -> None:
    value = report(input=FileInfo(Path("m.onnx"), "ONNX", "", 5))
    assert json.loads(render(value, ".json"))["input"]["sha256"] is None


# ---- hostile strings ------------------------------------------------------------------------------


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
    body = re.sub(r"</?(code|details|summary)>", "", document)
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


# ---- what the forms say ---------------------------------------------------------------------------


def test_terminal_says_everything() -> None:
    printed = in_terminal(report())
    for part in (
        "1 of 2 BatchNormalizations and 1 per-channel",
        "into conv",
        "Softmax 's' is nonlinear",
        "102.4 MB → 102.3 MB (−0.098 %)",
        "equal, within 2e-07 of the output's range (allowed: 1e-05)",
        "6 input sets",
        "model.fused.onnx",
        "1.5 ms",
        "1.200× (1.150–1.250)",
        "faster",
        "a note",
    ):
        assert part in printed
    assert re.search(r"BatchNormalization\s+│\s+2 │\s+1 │\s+−1", printed)
    assert re.search(r"all nodes\s+│\s+5 │\s+3 │\s+−2", printed)
    assert not re.search(r"│ Conv\s+│", printed)  # unchanged operators are left out


def test_long_plans_are_grouped_unless_verbose() -> None:
    plan = Plan((*(fold(f"bn{i}") for i in range(60)), *(keep(f"kept{i}") for i in range(20))))
    short, full = in_terminal(report(plan=plan)), in_terminal(report(plan=plan), verbose=True)
    assert "bn0 and 59 more" in short and "kept0 and 19 more" in short
    assert "folded 60" in short and "kept 20" in short
    assert all(f"bn{i} " in full for i in range(60))
    assert short.count("\n") < 40 < 80 < full.count("\n")


def test_many_different_reasons_are_cut_unless_verbose() -> None:
    plan = Plan(tuple(Keep(f"k{i}", f"Op{i}", True, 1, keep("k").refusals) for i in range(100)))
    assert len(re.findall(r"│ k\d", in_terminal(report(plan=plan)))) == 30
    assert len(re.findall(r"│ k\d", in_terminal(report(plan=plan), verbose=True))) == 100


HEADLINES = [
    (Plan(()), "nothing to fold: the model has no BatchNormalization"),
    (Plan((keep("a"),)), "nothing could be folded: the one BatchNormalization stays"),
    (Plan((keep("a"), keep("b"))), "nothing could be folded: all 2 BatchNormalizations stay"),
    (Plan((fold("a"), keep("b"))), "1 of 2 BatchNormalizations folded"),
    (
        Plan((fold("m", batchnorm=False),)),
        "0 of 0 BatchNormalizations and 1 per-channel Mul/Add/Sub/Div folded",
    ),
]


@pytest.mark.parametrize(("plan", "expected"), HEADLINES)
def test_headline(plan: Plan, expected: str) -> None:
    assert text.headline(report(plan=plan)) == expected


SIZES = [
    (0, "0 B"),
    (999, "999 B"),
    (1000, "1 kB"),
    (102_400_000, "102.4 MB"),
    (999_960, "1 MB"),
    (6_070_000_000, "6.07 GB"),
]


@pytest.mark.parametrize(("total_bytes", "expected"), SIZES)
def test_sizes_are_decimal(total_bytes: int, expected: str) -> None:
    assert text.size(total_bytes) == expected


CHANGES = [
    (1000, None, "1 kB"),
    (1000, 1000, "1 kB, unchanged"),
    (1000, 950, "1 kB → 950 B (−5 %)"),
    (1000, 1500, "1 kB → 1.5 kB (+50 %)"),
    (214_300, 23_110_000, "214.3 kB → 23.11 MB (108 times as large)"),
]


@pytest.mark.parametrize(("before", "after", "expected"), CHANGES)
def test_size_changes(before: int, after: int | None, expected: str) -> None:
    infos = [None if b is None else FileInfo(Path("m"), "ONNX", "", b) for b in (before, after)]
    assert infos[0] is not None
    assert text.size_change(infos[0], infos[1]) == expected


@pytest.mark.parametrize("status", list(Status))
def test_every_form_tells_the_status_of_the_proof(status: Status) -> None:
    value = report(verification=Agreement(status, detail="because of this"))
    word = {Status.SKIPPED: "not verified", Status.DIFFERENT: "DIFFERENT"}.get(status, status.value)
    for printed in (in_terminal(value), render(value, ".md"), render(value, ".html"), render(value, ".xml")):
        assert word in printed
        assert "because of this" in printed


def test_the_worst_output_is_the_one_that_is_named() -> None:
    outputs = (
        OutputAgreement("good", 0.0, 1e-7, 140.0, 1e-5),
        OutputAgreement("loose", 0.0, 5e-3, 40.0, 1e-2),
        OutputAgreement("bad", 0.0, 1e-4, 60.0, 1e-5),
    )
    assert "'bad'" in text.proof(Agreement(Status.DIFFERENT, outputs))
    broken = OutputAgreement("nan", math.nan, math.nan, math.nan, 1e-5)
    assert "'nan'" in text.proof(Agreement(Status.DIFFERENT, (*outputs, broken)))


JUNIT = [
    (Status.EQUAL, "system-out", ("0", "0", "1")),
    (Status.DIFFERENT, "failure", ("1", "0", "1")),
    (Status.INCONCLUSIVE, "error", ("0", "1", "1")),
    (Status.SKIPPED, "skipped", ("0", "0", "2")),
]


@pytest.mark.parametrize(("status", "tag", "totals"), JUNIT)
def test_junit_has_one_case_per_batchnorm_and_one_for_the_proof(
    status: Status, tag: str, totals: tuple[str, str, str]
) -> None:
    root = ElementTree.fromstring(render(report(verification=Agreement(status)), ".xml"))
    suite = root.find("testsuite")
    assert suite is not None
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == ["bn1", "bn2", "the result equals the original"]
    assert [child.tag for case in cases for child in case] == ["system-out", "skipped", tag]
    skipped = cases[1].find("skipped")
    assert skipped is not None and (skipped.get("message") or "").startswith("NONLINEAR: ")
    assert suite.get("tests") == "3"
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == totals


def test_agreement_and_latency_stand_alone() -> None:
    stream = StringIO()
    out = Console(file=stream, width=160, markup=False, highlight=False)
    print_agreement(report().verification, out)
    single = bench_run("optimisation on", after_ms=None, speedup=None, ci95=None, verdict="")
    print_latency(Latency("cpu", 1, ("CPUExecutionProvider",), (single,), ("noisy machine",)), out)
    printed = stream.getvalue()
    assert "131.5 dB" in printed and "100 %" in printed
    assert "1 thread," in printed and "2.12 ms" in printed and "noisy machine" in printed
    assert "after" not in printed


# ---- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMS)
def test_reports_replace_an_older_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"report{suffix}"
    path.write_text("old")
    write_report(report(), path)
    assert path.read_text(encoding="utf-8") == render(report(), suffix)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_reports_are_checked_before_any_work(tmp_path: Path) -> None:
    model = tmp_path / "model.json"
    model.write_bytes(b"x")
    (tmp_path / "folder.md").mkdir()
    check_reports([tmp_path / "a.md", tmp_path / "b.JSON"], model)
    for bad in (tmp_path / "a.txt", tmp_path / "a", model):
        with pytest.raises(UsageError):
            check_reports([bad], model)
    for bad in (tmp_path / "missing" / "a.md", tmp_path / "folder.md"):
        with pytest.raises(OutputError):
            check_reports([bad], model)
