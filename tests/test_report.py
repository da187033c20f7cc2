"""Every form of a report says what the result holds, and is written where it was asked for."""

from __future__ import annotations

import math
import re
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace
from rich.console import Console

from bnfuse.core.decisions import Keep, Plan
from bnfuse.errors import OutputError, UsageError
from bnfuse.measure.verdicts import SAME, TOO_FEW
from bnfuse.report import check_reports, render, text, write
from bnfuse.report import document as doc
from bnfuse.report.content.proof import STYLES
from bnfuse.report.terminal import print_sections, show
from bnfuse.results import (
    Agreement,
    BenchRun,
    Comparison,
    FileInfo,
    Latency,
    OutputAgreement,
    Status,
)
from tests.golden_forms import golden_report
from tests.report_samples import bench_run, fold, in_terminal, keep, on_terminal, report

FORMS = (".json", ".md", ".html", ".xml")


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
        "1.44 ms (1.42–1.46)",
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
        "1 per-channel Mul/Add/Sub/Div folded (the model has no BatchNormalization)",
    ),
]


@pytest.mark.parametrize(("plan", "expected"), HEADLINES)
def test_headline(plan: Plan, expected: str) -> None:
    assert text.headline(report(plan=plan)) == expected


@pytest.mark.parametrize("suffix", ["", ".md", ".html"])
def test_a_plan_alone_says_what_can_be_folded(suffix: str) -> None:
    planned = report(output=None, benchmark=None, verification=Agreement(Status.SKIPPED))
    shown = render(planned, suffix) if suffix else in_terminal(planned)
    assert "1 of 2 BatchNormalizations and 1 per&#45;channel" in shown.replace("per-", "per&#45;")
    assert "can be folded" in shown and "foldable" in shown
    visible = re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]*>", " ", shown, flags=re.S)
    assert not re.search(r"(?<!be )\bfolded\b", visible)


def test_junit_says_of_a_plan_what_would_go() -> None:
    planned = report(output=None, benchmark=None, verification=Agreement(Status.SKIPPED))
    shown, done = render(planned, ".xml"), render(report(), ".xml")
    assert re.findall(r"<system-out>(fold\w+)", shown) == ["foldable"]
    assert re.findall(r"<system-out>(fold\w+)", done) == ["folded"]


def test_what_was_not_proved_was_not_folded() -> None:
    failed = report(output=None, verification=Agreement(Status.DIFFERENT))
    assert text.headline(failed).startswith("nothing was written, as the result was not proved equal: ")


EVIDENCE = [  # sets run, planned, cut, how the sentence begins, whether it is as green as can be
    (8, 8, "", "equal, within 2e-07", True),
    (1, 8, "time", "equal on 1 of 8 planned input sets (time), within 2e-07", False),
    (3, 8, "memory", "equal on 3 of 8 planned input sets (memory)", False),
    (5, 8, "", "equal on 5 of 8 planned input sets (the others stop the original)", False),
    (6, 0, "", "equal, within 2e-07", True),
]


@pytest.mark.parametrize(("ran", "planned", "cut", "begins", "green"), EVIDENCE)
def test_less_evidence_is_told_in_other_words(
    ran: int, planned: int, cut: str, begins: str, green: bool
) -> None:
    proof = replace(report().verification, samples=ran, planned=planned, cut=cut)
    found = report(verification=proof)
    assert text.proof(proof).startswith(begins)
    page = render(found, ".html")
    assert ('class="badge equal"' in page, 'class="tile equal"' in page) == (green, green)
    assert ("✅" in render(found, ".md")) is green
    assert STYLES[proof.shade] == ("green" if green else "yellow")


def test_no_difference_is_not_claimed_where_sets_were_left_out() -> None:
    same = OutputAgreement("y", 0.0, 0.0, math.inf, 1e-5)
    proof = Agreement(Status.EQUAL, (same,), 8, planned=8)
    assert text.proof(proof) == "equal, value by value"
    for weaker in (replace(proof, samples=1, cut="time"), replace(proof, detail="on 7 of 8 they are apart")):
        assert "within" not in text.proof(weaker) and "value by value" not in text.proof(weaker)


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
    (16_000, 23_070_000, "16 kB → 23.07 MB (1442 times as large)"),
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
    file = report().input
    show(Comparison("verify", file, file, report().verification), out)
    single = bench_run("optimisation on", after_ms=None, speedup=None, ci95=None, verdict="")
    found = Latency("cpu", 1, ("CPUExecutionProvider",), (single,), ("noisy machine",))
    show(Comparison("bench", file, latency=found), out)
    printed = stream.getvalue()
    assert "131.5 dB" in printed and "100 %" in printed
    assert "1 thread," in printed and "1.44 ms (1.42–1.46)" in printed and "noisy machine" in printed
    assert "after" not in printed


TOO_WIDE = bench_run("optimisation on", speedup=28.776, ci95=(0.815, 37.771), verdict=SAME, detectable=23.04)
NO_VERDICT = bench_run("cold start", speedup=0.854, ci95=(0.8, 0.9), verdict=TOO_FEW, pairs=2)


@pytest.mark.parametrize("run", [TOO_WIDE, NO_VERDICT])
@pytest.mark.parametrize("suffix", ["", ".md", ".html"])
def test_no_form_tells_a_ratio_that_means_nothing(run: BenchRun, suffix: str) -> None:
    found = report(benchmark=Latency("cpu", 1, (), (run,)))
    shown = render(found, suffix) if suffix else in_terminal(found)
    assert run.verdict in shown and "1.44 ms (1.42–1.46)" in shown
    assert f"{run.speedup:.4g}"[:4] not in shown and "2304" not in shown
    assert ("imprecise" in shown) == (run is TOO_WIDE)
    assert ("All calls" in shown) == (suffix != "" and run is TOO_WIDE)
    assert 'class="interval"' not in shown
    assert ('class="cumulative"' in shown) == (suffix == ".html" and run is TOO_WIDE)


def test_one_start_alone_has_no_percentiles_and_no_curve() -> None:
    alone = bench_run("cold start", pairs=1, verdict="", after_ms=None, speedup=None, ci95=None, control=None)
    page = render(report(benchmark=Latency("cpu", 1, (), (alone,))), ".html")
    assert "1.44 ms" in page and "All calls" not in page and 'class="cumulative"' not in page


def test_optimisation_on_comes_first_in_every_form_and_the_card_has_the_interval() -> None:
    found = report(verification=Agreement(Status.SKIPPED))
    page, *texts = render(found, ".html"), render(found, ".md"), in_terminal(found)
    for shown in (page, *texts):
        assert 0 < shown.index("optimisation on") < shown.index("optimisation off")
    assert "1.15–1.25, faster" in page[page.index('class="tiles"') : page.index("</header>")]


@pytest.mark.parametrize("suffix", FORMS)
def test_reports_replace_an_older_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"report{suffix}"
    path.write_text("old")
    write(render(report(), suffix), path)
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
    for bad in (model / "a.md", tmp_path / "folder.md"):
        with pytest.raises(OutputError):
            check_reports([bad], model)


@pytest.mark.parametrize("width", [40, 80, 100, 200])
@pytest.mark.parametrize("verbose", [False, True])
def test_no_word_and_no_number_is_cut_on_a_terminal(width: int, verbose: bool) -> None:
    """Every word of the widest terminal is there whole, and no line is longer than the terminal."""
    runs = tuple(bench_run(f"optimisation {on}, 12 threads", verdict=SAME) for on in ("on", "off"))
    found = replace(golden_report(), benchmark=Latency("cpu", 2, ("CPUExecutionProvider",), runs))
    shown = on_terminal(found, width, verbose=verbose)
    assert max(len(line) for line in shown.splitlines()) <= width
    wide = on_terminal(found, 1000, verbose=verbose)
    assert words(wide) - words(shown) <= {"setting", "per", "second"}  # of no value, where rows are apart


def words(shown: str) -> set[str]:
    """Words and numbers, without the edges of tables; a head may stand before its value then."""
    return {word.rstrip(":") for word in re.sub("[─-╿]", " ", shown).split()}


@pytest.mark.parametrize("unit", ["%", "ms", "kB", "dB"])
def test_no_number_is_parted_from_its_unit(unit: str) -> None:
    """Wherever in a line it comes to stand."""
    for length in range(1, 40):
        stream = StringIO()
        out = Console(file=stream, width=40, force_terminal=True, color_system=None, markup=False)
        words = doc.Facts([("label", f"{'x' * length} and 12.5 {unit}, and more")])
        print_sections([doc.Section("s", "", (words,))], out)
        assert f"12.5 {unit}" in stream.getvalue()
