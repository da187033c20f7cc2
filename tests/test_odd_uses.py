"""Odd but plausible ways to call: empty folders, patterns that match nothing, one name for two files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import call
from tests.many_models import save
from tests.test_packed_keras import parts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and folders without any."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.onnx")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nested" / "inner").mkdir(parents=True)
    return tmp_path


def test_a_report_never_takes_the_place_of_the_result(folder: Path) -> None:
    """The result of an architecture in JSON has a suffix of reports; ``-o`` may name any other."""
    parts(folder)
    for model, report, output in (
        ("net.json", "out.json", ("-o", "out.json")),
        ("net.json", "net.fused.json", ()),
        ("a.onnx", "o.md", ("-o", "./o.md")),
    ):
        refused = f"the report '{report}' would overwrite the result: choose another name"
        for several in ((), ("--resume",)):
            found = call("optimize", model, *output, "--report", report, "--no-bench", *several)
            assert found.exit_code == 2
            assert found.stderr == f"bnfuse: {refused}\n"
            assert not Path(report).exists()
    assert call("optimize", "net.json", "--dry-run", "--report", "net.fused.json").exit_code == 0


ODD = [
    (("inspect", ""), 2, "a path is empty"),
    (("optimize", "a.onnx", ""), 2, "a path is empty"),
    (("optimize", "a.onnx", "-o", "new/"), 2, "'new/' is a folder: give a file name, or --output-dir new/"),
    (("optimize", "a.onnx", "--output-dir", "a.onnx"), 2, "would lie in 'a.onnx', which is a file"),
    (("inspect", "*.nope"), 3, "no file matches '*.nope'"),
    (("inspect", "a.onnx", "*.nope"), 3, "no file matches '*.nope'"),
    (("bench", "no[pe].onnx"), 3, "no file matches 'no[pe].onnx'"),
    (("diff", "a.onnx", "nope.onnx"), 3, "'nope.onnx' does not exist"),
    (("inspect", "empty"), 3, "'empty' holds no model (.onnx, .keras, .h5, .hdf5)\n"),
    (("inspect", "nested"), 3, "; --recursive looks into the folders within it, too\n"),
    (("inspect", "-r", "empty", "--json"), 3, "'empty' holds no model"),
    (("bench", "empty"), 3, "'empty' is a folder"),
    (("inspect", "a.onnx", "--report", "r.txt"), 2, "'r.txt' names no form of report"),
    (("inspect", "a.onnx", "--json", "--report", "r"), 2, "'r' names no form of report"),
]


@pytest.mark.parametrize(("asked", "code", "sentence"), ODD)
def test_odd_uses_end_in_a_sentence_and_write_nothing(
    folder: Path, asked: tuple[str, ...], code: int, sentence: str
) -> None:
    before = sorted(folder.rglob("*"))
    found = call(*asked)
    assert found.exit_code == code and sentence in found.stderr
    assert sum("bnfuse: " in line or "Error: " in line for line in found.stderr.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before
    if "--json" in asked:
        assert json.loads(found.stdout)["exit_code"] == code


def test_the_same_said_twice_is_said_once(folder: Path) -> None:
    reports = ("--report", "r.json", "--report", "./r.json")
    found = call("inspect", "a.onnx", "./a.onnx", "--json", "-q", *reports)
    assert (found.exit_code, found.stderr) == (0, "")
    assert json.loads(found.stdout)["models"]["found"] == 1
    assert Path("r.json").read_text(encoding="utf-8") == found.stdout
