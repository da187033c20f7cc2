"""Gates, comparisons and errors in every form of report: a pipeline reads one file, whatever happened."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from msgspec.structs import replace

from bnfuse.measure.verdicts import SLOWER
from bnfuse.report import FORMS, render
from bnfuse.results import Agreement, FileInfo, Latency, OutputAgreement, Report, Status
from bnfuse.results.outcomes import Comparison, Failure, Gate
from tests.command import call
from tests.html_pages import Page
from tests.report_samples import HOSTILE, bench_run, report

DOCS = Path(__file__).parents[1] / "docs"
bench_module = import_module("bnfuse.use_cases.bench")


def assert_document(text: str, name: str) -> Any:
    """Strict JSON that fits the published schema; returns it."""
    schema = json.loads((DOCS / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} in JSON"))
    jsonschema.Draft202012Validator(schema).validate(document)
    return document


# What Jenkins' XSD allows (xunit-plugin, junit-10.xsd): attributes and children, in this order where told.
_JUNIT: dict[str, tuple[set[str], set[str], set[str]]] = {  # required, other attributes, children
    "testsuites": (set(), {"name", "time", "tests", "failures", "disabled", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name"},
        {
            "tests",
            "failures",
            "errors",
            "time",
            "disabled",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
        },
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "testcase": (
        {"name"},
        {"assertions", "time", "classname", "status"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "skipped": (set(), {"message", "type"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "failure": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}
_ORDER = ["properties", "testcase", "system-out", "system-err"]


def assert_junit(text: str) -> ElementTree.Element:
    """One suite as Jenkins' schema wants it, its counts those of its cases."""
    root = ElementTree.fromstring(text)
    for element in root.iter():
        required, others, children = _JUNIT[element.tag]
        assert required <= element.attrib.keys() <= required | others, element.tag
        assert {child.tag for child in element} <= children
    (suite,) = root
    tags = [_ORDER.index(child.tag) for child in suite]
    assert tags == sorted(tags)
    for plural, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
        found = suite.findall("testcase" if tag == "testcase" else f"testcase/{tag}")
        assert suite.get(plural) == str(len(found))
    return suite


def assert_sarif(text: str) -> Any:
    """What SARIF 2.1.0 requires, and what GitHub asks for beyond it; returns the only run."""
    log = json.loads(text)
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert run["tool"]["driver"]["name"] == "bnfuse" and len(set(rules)) == len(rules)
    assert all(rule["shortDescription"]["text"] for rule in run["tool"]["driver"]["rules"])
    for result in run["results"]:
        assert result["ruleId"] in rules and result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"]
        for location in result["locations"]:
            place = location["physicalLocation"]
            assert place["region"]["startLine"] == 1 and " " not in place["artifactLocation"]["uri"]
    for invocation in run["invocations"]:
        assert isinstance(invocation["executionSuccessful"], bool)
    return run


NO = Gate("--check", False, "2 nodes of 'model.onnx' can be folded")
YES = Gate("--check", True, "nothing in the model can be folded")
SLOW = Gate("--fail-if-slower 3%", False, "slower by at least 5.0 % with optimisation on, batch 1")


def compared(command: str, *gates: Gate, **changes: Any) -> Comparison:
    a, b = (FileInfo(Path(f"{name}.onnx"), "onnx", "c" * 64, 10) for name in "ab")
    proof = Agreement(Status.EQUAL, (OutputAgreement("y", 1e-6, 1e-6, 120.0, 1e-5),), 8, 1e-5, "runtime 1")
    found = Latency("cpu", 1, ("CPU",), (bench_run("optimisation on"),))
    values: dict[str, Any] = {"agreement": proof} if command == "verify" else {"latency": found}
    values |= {"after": b, "gates": gates, "versions": {"bnfuse": "1"}}
    return Comparison(command, a, **(values | changes))


VERDICTS = [(Status.EQUAL, False), (Status.DIFFERENT, True), (Status.INCONCLUSIVE, True)]


@pytest.mark.parametrize(("status", "alert"), VERDICTS)
def test_a_verdict_that_is_not_equal_is_red_as_a_gate_is(status: Status, alert: bool) -> None:
    """Of ``verify``; of ``optimize`` too, whose page has it as a badge in its head."""
    found = compared("verify")
    assert found.agreement is not None
    found = replace(found, agreement=replace(found.agreement, status=status))
    assert ("> [!CAUTION]" in render(found, ".md")) is alert
    assert (("class", "alert") in Page(render(found, ".html")).attributes) is alert
    optimized = report(verification=found.agreement, gates=())
    assert ("> [!CAUTION]" in render(optimized, ".md")) is alert
    assert (f'class="badge {status.value}"' in render(optimized, ".html")) is True


GATED = [replace(report(), gates=(NO,)), compared("bench", SLOW), replace(report(), gates=(YES,))]


@pytest.mark.parametrize("found", GATED)
def test_every_form_carries_the_gates(found: Report | Comparison) -> None:
    (gate,) = found.gates
    shown = {suffix: render(found, suffix) for suffix in FORMS}
    name = "report" if isinstance(found, Report) else "bench"
    told = {"option": gate.option, "passed": gate.passed, "message": gate.message}
    assert assert_document(shown[".json"], name)["gates"] == [told]
    suite = assert_junit(shown[".xml"])
    (case,) = [case for case in suite if case.get("classname") == "bnfuse.gate"]
    assert (case.get("name"), case[0].tag) == (gate.option, "system-out" if gate.passed else "failure")
    assert gate.passed or case[0].get("message") == gate.message
    assert ("[!CAUTION]" in shown[".md"]) is not gate.passed
    page = Page(shown[".html"])
    assert (("class", "alert") in page.attributes) is not gate.passed
    assert gate.message in " ".join(page.words)
    run = assert_sarif(shown[".sarif"])
    results = run["results"]
    assert run["invocations"] == [{"exitCode": 0 if gate.passed else 1, "executionSuccessful": True}]
    assert any(result["ruleId"] == "gate" for result in results) is not gate.passed
    foldable = [one["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] for one in results[1:]]
    assert foldable == (["bn1", "mul"] if gate is NO else [])


COMPARED = [  # what was found, the headline, in JUnit, the exit code
    (compared("verify"), "'a.onnx' and 'b.onnx' are equal", "system-out", 0),
    (compared("verify", agreement=Agreement(Status.DIFFERENT, detail="off")), "differ", "failure", 1),
    (compared("verify", agreement=Agreement(Status.INCONCLUSIVE, detail="?")), "for certain", "error", 4),
    (compared("bench"), "latency of 'a.onnx' and 'b.onnx'", "system-out", 0),
    (compared("bench", after=None), "latency of 'a.onnx'", "system-out", 0),
]


@pytest.mark.parametrize(("found", "headline", "tag", "code"), COMPARED)
def test_comparisons_have_every_form(found: Comparison, headline: str, tag: str, code: int) -> None:
    shown = {suffix: render(found, suffix) for suffix in FORMS}
    assert_document(shown[".json"], found.command)
    suite = assert_junit(shown[".xml"])
    assert [case[0].tag for case in suite if case.tag == "testcase"] == [tag]
    run = assert_sarif(shown[".sarif"])
    assert len(run["results"]) == (code != 0)
    assert run["invocations"] == [{"exitCode": code, "executionSuccessful": True}]
    for words in (
        " ".join(Page(shown[".html"]).words),
        shown[".md"].replace("&#39;", "'").replace("&#46;", "."),
    ):
        assert headline in words


@pytest.mark.parametrize("name", HOSTILE)
def test_no_string_escapes_from_an_error(name: str) -> None:
    found = Failure("optimize", "UnreadableModel", f"'{name}' is no model", 3, Path("m.onnx"))
    assert_document(render(found, ".json"), "error")
    assert_junit(render(found, ".xml"))
    assert_sarif(render(found, ".sarif"))
    clean = Page(render(replace(found, message="x"), ".html"))
    page = Page(render(found, ".html"))
    assert (page.tags, page.attributes, page.unclosed) == (clean.tags, clean.attributes, [])
    assert render(found, ".md").count("\n") == render(replace(found, message="x"), ".md").count("\n")


# --- the command line ----------------------------------------------------------------------------


def reports(folder: Path) -> tuple[list[object], dict[str, Path]]:
    """Options that ask for every form, and the files by suffix."""
    files = {suffix: folder / f"report{suffix}" for suffix in FORMS}
    return [word for path in files.values() for word in ("--report", path)], files


def test_a_check_that_says_no_is_in_its_reports(model: Path, tmp_path: Path) -> None:
    options, files = reports(tmp_path)
    done = call("optimize", model, "--check", "--json", *options)
    assert done.exit_code == 1 and "can be folded (--check)" in done.stderr
    for text in (done.stdout, files[".json"].read_text()):
        (gate,) = assert_document(text, "report")["gates"]
        assert (gate["option"], gate["passed"]) == ("--check", False)
    assert assert_junit(files[".xml"].read_text()).get("failures") == "1"


def test_a_model_that_is_not_slower_passes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for verdict, ci95, code in (("faster", (1.1, 1.2), 0), (SLOWER, (0.8, 0.9), 1)):
        run = bench_run("optimisation on", verdict=verdict, ci95=ci95, speedup=sum(ci95) / 2)
        found = Latency("cpu", 1, ("CPU",), (run,))
        monkeypatch.setattr(bench_module, "bench", lambda *_, found=found, **__: found)
        options, files = reports(tmp_path)
        done = call("bench", model, model, "--fail-if-slower", "3", *options)
        assert done.exit_code == code
        assert assert_document(files[".json"].read_text(), "bench")["gates"][0]["passed"] is (code == 0)
        assert assert_junit(files[".xml"].read_text()).get("failures") == str(code)
        done = call("optimize", model, "--force", "--no-verify", "--fail-if-slower", "3", *options)
        assert done.exit_code == code, done.output
        assert assert_document(files[".json"].read_text(), "report")["gates"][0]["passed"] is (code == 0)


ERRORS = [  # arguments, exit code, class of the error
    (("optimize", "BROKEN"), 3, "UnreadableModel"),
    (("inspect", "BROKEN"), 3, "UnreadableModel"),
    (("verify", "BROKEN", "MODEL"), 3, "UnreadableModel"),
    (("bench", "BROKEN"), 3, "UnreadableModel"),
    (("optimize", "MODEL", "--keep", "nobody"), 2, "UsageError"),
    (("optimize", "MODEL", "--no-bench", "--profile"), 2, "UsageError"),
]


@pytest.mark.parametrize(("arguments", "code", "kind"), ERRORS)
def test_an_error_is_told_in_every_form(
    model: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, kind: str
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    named = [{"BROKEN": str(broken), "MODEL": str(model)}.get(word, word) for word in arguments]
    options, files = reports(tmp_path)
    done = call(*named, "--json", *options)
    assert done.exit_code == code and done.stderr.count("\n") >= 1
    for text in (done.stdout, files[".json"].read_text()):
        document = assert_document(text, "error")
        assert (document["command"], document["kind"], document["exit_code"]) == (arguments[0], kind, code)
        assert document["message"] in done.stderr and document["path"] == named[1]
    suite = assert_junit(files[".xml"].read_text())
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    run = assert_sarif(files[".sarif"].read_text())
    (invocation,) = run["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, code)
    assert "[!CAUTION]" in files[".md"].read_text()
    assert ("class", "alert") in Page(files[".html"].read_text()).attributes


def test_wrong_usage_is_json_too_but_writes_no_file(model: Path, tmp_path: Path) -> None:
    for wrong in (("--no-such-option",), ("--report", tmp_path / "report.txt"), ("--report", model)):
        done = call("optimize", model, "--json", *wrong)
        assert done.exit_code == 2
        assert assert_document(done.stdout, "error")["kind"] == "UsageError"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_an_error_without_json_prints_nothing_on_stdout(tmp_path: Path) -> None:
    done = call("optimize", tmp_path / "missing.onnx")
    assert (done.exit_code, done.stdout) == (3, "")


def test_what_was_not_proved_is_one_document(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify = import_module("bnfuse.use_cases.verify")
    different = Agreement(Status.INCONCLUSIVE, detail="nothing could be run")
    monkeypatch.setattr(verify, "verify", lambda *_, **__: different)
    done = call("optimize", model, "--json", "--no-bench")
    assert done.exit_code == 4
    assert assert_document(done.stdout, "report")["verification"]["status"] == "inconclusive"
