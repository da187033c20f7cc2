"""What the functions answer with can be written in every form; keywords reach the requests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

import bnfuse
from bnfuse.api import options as known
from bnfuse.api.requests import bench_request, read_options, verify_request
from bnfuse.cli.app import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A result of every function, by the name of its schema."""
    fixture, folder = ROOT / "fixtures" / "digits_cnn.onnx", tmp_path_factory.mktemp("results")
    out = folder / "out.onnx"
    report = bnfuse.optimize(fixture, out, verify_time=0.2, max_time=0.2)
    return {
        "report": report,
        "verify": bnfuse.verify(str(fixture), out, verify_time=0.2),
        "bench": bnfuse.bench(fixture, out, max_time=0.2),
        "diff": bnfuse.diff(fixture, str(out)),
    }


@pytest.mark.parametrize("name", ["report", "verify", "bench", "diff"])
def test_every_form(found: dict[str, Any], name: str, tmp_path: Path) -> None:
    result = found[name]
    document = json.loads(result.to_json())
    schema = json.loads((ROOT / "docs" / f"{name}.schema.json").read_text())
    jsonschema.validate(document, schema)
    assert document["schema"] == f"bnfuse.{name}/1"
    assert result.to_html().startswith("<!doctype html>") and result.to_markdown().startswith("#")
    forms = {".json": result.to_json(), ".html": result.to_html(), ".md": result.to_markdown()}
    if name != "diff":
        ElementTree.fromstring(result.to_junit())
        assert json.loads(result.to_sarif())["version"] == "2.1.0"
        forms |= {".xml": result.to_junit(), ".sarif": result.to_sarif()}
    for suffix, text in forms.items():
        path = result.save(str(tmp_path / "new" / f"r{suffix}"))
        assert path.read_text(encoding="utf-8") == text
    with pytest.raises(bnfuse.UsageError, match="no form of report"):
        result.save(tmp_path / "r.pdf")


def test_the_page_of_a_report_has_its_details(found: dict[str, Any]) -> None:
    assert found["report"].details is not None and "layers" in json.loads(found["report"].to_json())
    fixture = ROOT / "fixtures" / "digits_cnn.onnx"
    assert bnfuse.inspect(fixture, details=False, hashes=False).details is None


def test_a_result_is_the_result_of_the_use_case(found: dict[str, Any]) -> None:
    from bnfuse import results

    assert isinstance(found["report"], results.Report) and isinstance(found["verify"], bnfuse.Agreement)
    assert isinstance(found["bench"], results.Latency) and issubclass(bnfuse.Agreement, results.Agreement)
    assert found["verify"].equal and found["verify"].comparison.versions["bnfuse"] == bnfuse.__version__


def test_everything_that_is_named_is_there() -> None:
    for name in bnfuse.__all__:
        assert getattr(bnfuse, name) is not None
    assert set(bnfuse.__all__) <= set(dir(bnfuse))
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        bnfuse.optimise  # type: ignore[attr-defined]  # noqa: B018


def test_importing_costs_nothing() -> None:
    code = "import sys, bnfuse; print([m for m in ('numpy', 'onnx', 'h5py', 'click') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# What the commands have, and functions do not need: files of reports, gates of pipelines, the terminal.
_NOT_IN_PYTHON = {
    "output", "dry_run", "check", "no_verify", "no_bench", "report", "json", "quiet", "verbose", "model", "a",
    "output_dir", "recursive", "jobs", "resume", "cluster",  # ``optimize_many`` has them
    "b", "explain", "exit_code", "runtime_timeout", "runtime_memory", "help",
}  # fmt: skip
KINDS = [
    ("optimize", known.OptimizeOptions),
    ("inspect", known.InspectOptions),
    ("verify", known.VerifyOptions),
    ("bench", known.BenchOptions),
    ("diff", known.DiffOptions),
]


@pytest.mark.parametrize(("command", "kinds"), KINDS)
def test_keywords_are_named_as_the_options_are(command: str, kinds: Any) -> None:
    """A new option of a command is a keyword, too, or is listed as one that no function needs."""
    names = {
        opt.removeprefix("--").replace("-", "_")
        for param in main.commands[command].params
        for opt in param.opts
        if opt.startswith("--")
    }
    assert names - _NOT_IN_PYTHON <= kinds.__optional_keys__
    assert names > {"verbose"}


def test_keywords_reach_the_requests() -> None:
    labels, inputs = {"y": "l.npy"}, Path("x.npz")
    given = {
        "labels": labels, "verify_time": 3, "samples": 2, "batch": 4, "shape": {"x": [1, 2]},
        "inputs": inputs, "device": "gpu", "threads": 2, "seed": 9, "allow_unsafe": True,
    }  # fmt: skip
    request = verify_request(given)
    assert request == bnfuse.VerifyRequest(
        labels=labels, verify_time=3, samples=2, batch=4, shape={"x": (1, 2)}, inputs=inputs, device="gpu",
        threads=2, seed=9, allow_unsafe=True,
    )  # fmt: skip
    assert verify_request({"labels": "l.npy"}, request).labels == {"": "l.npy"}
    assert verify_request({"verify_time": 5}, request).samples == 2
    assert verify_request({}) == bnfuse.VerifyRequest()
    measured = bench_request({"precision": "0.5%", "bench_time": 4, "batch": [1, 8], "threads": 2, "seed": 3})
    assert measured == bnfuse.BenchRequest(precision=0.005, max_time=4, batch=(1, 8), threads=(2,), seed=3)
    assert bench_request({"batch": None, "profile": True, "cold": True}, measured) == bnfuse.BenchRequest(
        precision=0.005, max_time=4, threads=(2,), seed=3, profile=True, cold=True
    )
    base = bnfuse.ReadOptions(keep=("a",), strict_inputs=True)
    read = read_options({"read": base, "keep": "b", "activations": "move", "freeze_inputs": True})
    assert read == bnfuse.ReadOptions(
        keep=("a", "b"), activations="move", strict_inputs=True, freeze_inputs=True
    )


def test_gates_end_no_program(found: dict[str, Any], tmp_path: Path) -> None:
    """They are among the result's: what was measured, held against the other model or an earlier report."""
    fixture = ROOT / "fixtures" / "digits_cnn.onnx"
    quick: dict[str, Any] = {"max_time": 0.3}
    out = found["report"].model
    earlier = found["bench"].save(tmp_path / "earlier.json")
    (gate,) = bnfuse.bench(fixture, out, fail_if_slower="400%", **quick).gates
    assert gate.passed in (True, False) and gate.option == "--fail-if-slower 400%"
    latency = bnfuse.bench(fixture, out, baseline=earlier, fail_if_slower=9000, **quick)
    assert latency.baseline is not None and latency.baseline.path == str(earlier)
    assert json.loads(latency.to_json())["gates"] and json.loads(latency.to_json())["benchmark"]["baseline"]
    report = bnfuse.optimize(fixture, tmp_path / "o.onnx", verify=False, fail_if_slower=9000, **quick)
    assert [one.option for one in report.gates] == ["--fail-if-slower 9000%"]
    assert bnfuse.optimize(fixture, tmp_path / "p.onnx", verify=False, bench=False).gates == ()


REFUSED_GATES: list[tuple[str, dict[str, Any], str]] = [
    ("bench", {"fail_if_slower": 3}, "compares two models"),
    ("bench", {"fail_if_slower": "much", "baseline": "earlier.json"}, "earlier.json"),
    ("optimize", {"fail_if_slower": "much"}, "give a percentage, such as 3"),
    ("optimize", {"fail_if_slower": -1}, "give a percentage, such as 3"),
    ("optimize", {"fail_if_slower": 3, "bench": False}, "need the measurement"),
    ("optimize", {"baseline": "none.json"}, "none.json"),
]


@pytest.mark.parametrize(("call", "options", "sentence"), REFUSED_GATES)
def test_gates_that_cannot_be(call: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(bnfuse.UsageError, match=sentence):
        getattr(bnfuse, call)(ROOT / "fixtures" / "digits_cnn.onnx", **options)
