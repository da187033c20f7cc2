"""The JSON report is strict, fits its schema, and says what the result holds."""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path

import jsonschema
import pytest
from msgspec import Struct

from bnfuse.core.decisions import Plan
from bnfuse.report import json as json_form
from bnfuse.report import render
from bnfuse.results import (
    Agreement,
    Comparison,
    FileInfo,
    Latency,
    OutputAgreement,
    Status,
)
from tests.report_samples import HOSTILE, bench_run, hostile_report, report

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "report.schema.json").read_text(encoding="utf-8"))

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
        "weight_bytes": None,
        "state_bytes": None,
        "container_bytes": None,
        "weights_path": None,
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


_MODULES = [
    "bnfuse.core.decisions",
    "bnfuse.core.explanation",
    "bnfuse.core.reasons",
    "bnfuse.difference.result",
    "bnfuse.formats.base",
    "bnfuse.report.groups",
    *(f"bnfuse.results.{name}" for name in ("annotations", "inputs", "latency", "many", "proof", "report")),
]


def test_every_key_of_the_table_is_an_attribute() -> None:
    """A class or a field that got another name would silently get another key."""
    known = {name: kind for module in _MODULES for name, kind in vars(import_module(module)).items()}
    known |= {"verify": Comparison, "bench": Comparison}
    for name, entries in json_form._KEYS.items():
        assert issubclass(known[name], Struct), name
        for _, source in json_form._keys(name, known[name]):
            first = source.rstrip("?").split(".")[0]
            assert (name, source) in json_form._MADE or hasattr(known[name], first), (name, entries, source)
    assert {name for name, _ in json_form._MADE} <= set(json_form._KEYS)


def test_a_hash_that_was_not_computed_is_null() -> None:
    value = report(input=FileInfo(Path("m.onnx"), "ONNX", "", 5))
    assert json.loads(render(value, ".json"))["input"]["sha256"] is None
