"""docs/report-format.md: made from the schemas, which explain every field; and bnfuse writes no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from docs.report_format import DOCS, PAGE, SCHEMAS, page
from tests.command import FAST, ROOT, call

FIXTURE = ROOT / "fixtures/digits_cnn.onnx"


def test_the_page_is_the_one_that_is_made() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "make docs"


def test_every_reason_is_listed() -> None:
    rows = {line.split("`")[1] for line in page().splitlines() if line.startswith("| `")}
    assert {reason.name for reason in Reason} <= rows


def test_a_field_without_a_word_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads

    def silent(text: str) -> Any:
        schema = told(text)
        gate = schema.get("$defs", {}).get("gate", {"properties": {"message": {}}})
        gate["properties"]["message"].pop("description", "")
        return schema

    monkeypatch.setattr(json, "loads", silent)
    with pytest.raises(ValueError, match="gate: message is not explained"):
        page()


def strict(schema: Any) -> Any:
    """The same, which allows no field that it does not name."""
    match schema:
        case {"properties": _, "type": "object"}:
            closed = {"additionalProperties": False, **schema}
        case dict():
            closed = schema
        case list():
            return [strict(one) for one in schema]
        case _:
            return schema
    return {key: strict(value) for key, value in closed.items()}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What the commands print, with most of what they may tell, by the name of its schema."""
    folder = tmp_path_factory.mktemp("documents")
    folded, report = folder / "folded.onnx", folder / "report.json"
    with np.load(ROOT / "fixtures/digits_inputs.npz") as data:
        samples = {name: data[name][:16] for name in data.files}
    np.savez(folder / "x.npz", **samples)
    (folder / "y.csv").write_text("\n".join("0" * 16))
    own = ("--inputs", folder / "x.npz", "--labels", folder / "y.csv")
    gates = ("--fail-if-slower", "900", "--profile")
    told = ("-o", folded, "--report", report, "--allow-unsafe")
    calls: list[tuple[str, tuple[object, ...]]] = [
        ("report", ("optimize", FIXTURE, *told, *FAST, *own, *gates)),
        ("report", ("optimize", FIXTURE, "--target", "no-bn", "--check")),
        ("report", ("inspect", FIXTURE, "--explain", "*", "--keep", "batchnorm1d_17")),
        ("verify", ("verify", FIXTURE, folded, *FAST[:2], *own)),
        ("bench", ("bench", FIXTURE, folded, *FAST[2:], *gates, "--baseline", report)),
        ("bench", ("bench", FIXTURE, *FAST[2:])),
        ("error", ("inspect", folder / "missing.onnx")),
    ]
    found: dict[str, list[Any]] = {name: [] for name in SCHEMAS}
    for name, words in calls:
        done = call(*words, "--json")
        assert done.exit_code in (0, 1, 3), done.stderr
        found[name].append(json.loads(done.stdout))
    found["report"].append(json.loads(report.read_text(encoding="utf-8")))
    found["report"].append(json.loads(Path(ROOT / "tests/golden/report.json").read_text(encoding="utf-8")))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMAS)
def test_nothing_is_written_that_the_page_does_not_tell(name: str, documents: dict[str, list[Any]]) -> None:
    schema = strict(json.loads((DOCS / f"{name}.schema.json").read_text(encoding="utf-8")))
    assert documents[name]
    for document in documents[name]:
        errors = jsonschema.Draft202012Validator(schema).iter_errors(document)
        assert [f"{error.json_path}: {error.message[-200:]}" for error in errors] == []
