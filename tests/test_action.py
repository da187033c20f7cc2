"""``action.yml``: its shell steps, run with what GitHub gives them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.actions_runner import action, run
from tests.cli_models import convnet
from tests.documented import ROOT

INSTALL = "Install bnfuse"
FAST = "--verify-time 0.3\n--no-bench"


@pytest.fixture
def temp(tmp_path: Path) -> Path:
    """The runner's folder, with bnfuse as this process has it in place of an installed one."""
    programs = tmp_path / "runner" / "bnfuse" / "bin"
    programs.mkdir(parents=True)
    for name, call in (("python", ""), ("bnfuse", "-m bnfuse")):
        text = f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" {call} "$@"\n'
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return tmp_path / "runner"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a model that can be folded."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    onnx.save(convnet(), folder / "model.onnx")
    return folder


def test_check_fails_on_a_model_that_was_not_folded(checkout: Path, temp: Path) -> None:
    ran = run(checkout, temp, skip=(INSTALL,), model="model.onnx")
    assert (ran.code, ran.outputs["exit-code"]) == (1, "1"), ran.printed
    assert {name: ran.outputs[name] for name in ("found", "folded", "kept", "output")} == {
        "found": "1",
        "folded": "1",
        "kept": "0",
        "output": "",
    }
    assert "1 of 1 BatchNormalizations can be folded" in ran.summary and "[!CAUTION]" in ran.summary
    levels = [re.match(r"::(\w+) file=model\.onnx,title=bnfuse::", line) for line in ran.annotations()]
    assert [found and found[1] for found in levels] == ["error", "warning"]
    written = {path.name for path in Path(ran.outputs["reports"]).iterdir()}
    assert written == {f"bnfuse.{suffix}" for suffix in ("json", "md", "html", "sarif", "xml")}
    assert [path.name for path in checkout.iterdir()] == ["model.onnx"]


def test_optimize_writes_what_computes_the_same(checkout: Path, temp: Path) -> None:
    ran = run(
        checkout, temp, skip=(INSTALL,), model="model.onnx", mode="optimize", output="build/m.onnx", args=FAST
    )
    assert ran.code == 0, ran.printed
    assert ran.outputs["output"] == "build/m.onnx" and ran.outputs["folded"] == "1"
    assert ran.annotations() == []
    assert "[!CAUTION]" not in ran.summary and "equal" in ran.summary
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [
        ort.InferenceSession(str(checkout / path), options, providers=["CPUExecutionProvider"])
        for path in ("model.onnx", "build/m.onnx")
    ]
    shape = [size if isinstance(size, int) else 3 for size in sessions[0].get_inputs()[0].shape]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    before, after = (session.run(None, {session.get_inputs()[0].name: x})[0] for session in sessions)
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()
    # once more, as the next push does: the result is replaced; and checked, it holds nothing to fold
    again = run(checkout, temp, skip=(INSTALL,), model="build/m.onnx")
    assert (again.code, again.outputs["found"]) == (0, "0"), again.printed


ENDS = [  # what is given, exit code, part of an annotation, outputs that are there
    (
        {"model": "missing.onnx"},
        3,
        "::error file=missing.onnx,title=bnfuse::'missing.onnx' does not exist",
        True,
    ),
    ({"model": "model.onnx", "args": "--keep nobody"}, 2, "nobody", True),
    ({"model": "model.onnx", "args": "--no-such-option"}, 2, "called wrongly", True),
    ({"model": "model.onnx", "mode": "fold"}, 2, "mode is check or optimize", False),
    ({"model": "-o", "args": "--no-bench"}, 3, "'-o' does not exist", True),
]


@pytest.mark.parametrize(("given", "code", "annotation", "ran_bnfuse"), ENDS)
def test_what_goes_wrong_is_told(
    given: dict[str, str], code: int, annotation: str, ran_bnfuse: bool, checkout: Path, temp: Path
) -> None:
    ran = run(checkout, temp, skip=(INSTALL,), **given)
    assert ran.code == code, ran.printed
    assert ("exit-code" in ran.outputs) is ran_bnfuse
    assert any(line.startswith("::error ") and annotation in line for line in ran.annotations())
    assert "found" not in ran.outputs


@pytest.mark.parametrize("name", ["a\n::error::b", "::stop-commands::x", "%0A::warning::c", "$(touch pwned)"])
def test_names_in_a_model_are_no_commands(name: str, checkout: Path, temp: Path) -> None:
    proto = convnet()
    (norm,) = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    norm.name = name
    onnx.save(proto, checkout / "model.onnx")
    ran = run(checkout, temp, skip=(INSTALL,), model="model.onnx")
    assert ran.code == 1, ran.printed
    assert [line.partition(" ")[0] for line in ran.annotations()] == ["::error", "::warning"]
    if "%" in name:  # which the runner would read as the end of a line
        assert "%250A" in ran.annotations()[1]
    assert set(ran.outputs) == {"exit-code", "reports", "found", "folded", "kept", "output"}
    assert [path.name for path in checkout.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("name", ["model", "output", "args", "mode"])
def test_what_a_caller_gives_is_no_script(name: str, checkout: Path, temp: Path) -> None:
    given = "model.onnx; touch pwned $(touch pwned) `touch pwned` && touch pwned ' \" touch pwned"
    run(checkout, temp, skip=(INSTALL,), **{"model": "model.onnx", name: given})
    assert not (checkout / "pwned").exists()


INSTALLED = [  # version, extra, what pip is told to install
    ("", "", "{root}"),
    ("", "tensorflow", "{root}[tensorflow]"),
    ("1.2.3", "", "bnfuse==1.2.3"),
    ("1.2.3", "keras2", "bnfuse[keras2]==1.2.3"),
    ("1; touch pwned", "$(touch pwned)", "bnfuse[$(touch pwned)]==1; touch pwned"),
]


@pytest.mark.parametrize(("version", "extra", "wanted"), INSTALLED)
def test_what_is_installed(
    version: str, extra: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step; Python here makes an environment of which it writes down what is asked of it."""
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "python"
    told = 'printf \'%s\\n\' "$@" >> "$RUNNER_TEMP/told"'
    stub.write_text(f'#!/bin/sh\n{told}\nif [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin"; fi\n')
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    skipped = ("Run bnfuse", "Verdict")
    ran = run(tmp_path, tmp_path, skip=skipped, version=version, extra=extra, model="model.onnx")
    assert ran.code == 0, ran.printed
    words = (tmp_path / "told").read_text().splitlines()
    assert words[:3] == ["-m", "venv", f"{tmp_path}/bnfuse"]
    assert words[3:6] == ["-m", "pip", "install"] and words[-1] == wanted.format(root=ROOT)
    assert not (tmp_path / "pwned").exists()


def test_no_expression_stands_in_a_script() -> None:
    """There its text would become part of the script, before the shell sees it."""
    steps = action()["runs"]["steps"]
    assert not any("${{" in step.get("run", "") for step in steps)
    assert all(step["shell"] == "bash" for step in steps if "run" in step)
    assert all("@" in step["uses"] for step in steps if "uses" in step)


def test_outputs_are_those_of_the_step() -> None:
    made = action()
    for name, output in made["outputs"].items():
        assert output["value"] == f"${{{{ steps.run.outputs.{name} }}}}" and output["description"]
    assert all(one["description"] for one in made["inputs"].values())


def _tell() -> Any:
    spec = importlib.util.spec_from_file_location("tell", ROOT / ".github/action/tell.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_more_annotations_than_are_shown_and_a_summary_that_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tell = _tell()
    results = [
        {"level": level, "message": {"text": level}} for level in ("warning", "note") for _ in range(12)
    ]
    log = {"runs": [{"invocations": [{}], "results": results}]}
    (tmp_path / "bnfuse.sarif").write_text(json.dumps(log))
    (tmp_path / "bnfuse.md").write_text("é" * (tell.MOST_SUMMARY_BYTES // 2 + 1), encoding="utf-8")
    (tmp_path / "bnfuse.json").write_text(json.dumps({"schema": "bnfuse.error/1"}))
    for variable in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    tell.main(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["::warning title=bnfuse::warning"] * 10 + ["::notice title=bnfuse::note"] * 10
    assert "too long" in (tmp_path / "GITHUB_STEP_SUMMARY").read_text()
    assert not (tmp_path / "GITHUB_OUTPUT").exists()
