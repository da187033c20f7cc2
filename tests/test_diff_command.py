"""``bnfuse diff`` as a user calls it: what it prints, its reports, its exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfuse.cli import main
from bnfuse.report import FORMS
from tests.cli_models import convnet
from tests.command import ROOT, Cli, call
from tests.diff_nets import array, changed, mlp, set_array, value
from tests.diff_schema import assert_fits
from tests.test_outcomes import assert_junit, assert_sarif


def test_the_document(diff_pair: tuple[Path, Path]) -> None:
    done = call("diff", *diff_pair, "--json")
    assert done.exit_code == 0 and done.stderr == ""
    document = json.loads(done.stdout)
    assert_fits(document)
    assert document["schema"] == "bnfuse.diff/1" and document["differs"] is True
    (weight,) = document["weights"]["changed"]
    assert weight["before"]["name"] == "w1" and weight["max_rel"] == 1.0
    (node,) = document["nodes"]["changed"]
    assert node["settings"] == [{"label": "alpha", "before": 0.25, "after": 0.5}]
    assert (document["nodes"]["same"], document["weights"]["same"]) == (5, 5)
    assert len(document["before"]["file"]["sha256"]) == 64


def test_exit_codes(diff_pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = diff_pair
    assert call("diff", a, b).exit_code == 0
    for quiet in ((), ("-q",), ("--json",)):
        done = call("diff", a, b, "--exit-code", *quiet)
        assert done.exit_code == 1
        said = "the models differ: nodes: 1 changed; weights: 1 changed (--exit-code)"
        assert done.stderr == f"bnfuse: {said}\n"
    same = call("diff", a, a, "--exit-code")
    assert same.stderr == ""
    assert same.exit_code == 0 and same.stdout.startswith("no difference")
    assert call("diff", a).exit_code == 2
    assert call("diff", a, b, "--ignore-below", "-1").exit_code == 2
    assert call("diff", a, b, "--ignore-below", "nan").exit_code == 2
    for report in ("r.txt", a / "r.json", a, b):
        refused = call("diff", a, b, "--report", report)
        assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
    assert call("diff", a, tmp_path / "none.onnx").exit_code == 3


def test_every_form_carries_the_gate(diff_pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = diff_pair
    files = {suffix: tmp_path / f"r{suffix}" for suffix in FORMS}
    asked = [word for path in files.values() for word in ("--report", path)]
    said = {}
    for other, code in ((b, 1), (a, 0)):
        assert call("diff", a, other, "--exit-code", *asked).exit_code == code
        shown = {suffix: path.read_text() for suffix, path in files.items()}
        (gate,) = json.loads(shown[".json"])["gates"]
        assert_fits(json.loads(shown[".json"]))
        assert gate["option"] == "--exit-code" and gate["passed"] is (code == 0)
        assert len(assert_junit(shown[".xml"]).findall("testcase/failure")) == code
        run = assert_sarif(shown[".sarif"])
        assert [result["ruleId"] for result in run["results"]] == ["differs", "gate"][: 2 * code]
        assert run["invocations"][0]["exitCode"] == code
        said[code] = gate["message"]
        for suffix in (".md", ".html"):
            assert ("said no" in shown[suffix]) == (code == 1) and "exit-code" in shown[suffix]
    assert said == {0: "no difference", 1: "the models differ: nodes: 1 changed; weights: 1 changed"}


def test_weights_below_the_limit_do_not_count(diff_pair: tuple[Path, Path]) -> None:
    a, b = diff_pair
    plain = changed(mlp(), set_array("w1", array(mlp(), "w1") * np.float32(1 + 1e-6)))
    b.write_bytes(plain.SerializeToString())
    assert call("diff", a, b, "--exit-code").exit_code == 1
    done = call("diff", a, b, "--exit-code", "--ignore-below", "1e-5")
    assert done.exit_code == 0
    assert "no difference but changes of weights below the limit (1)" in done.stdout
    document = json.loads(call("diff", a, b, "--ignore-below", "1e-5", "--json").stdout)
    assert_fits(document)
    assert document["weights"]["ignored"] == 1 and 0 < document["weights"]["largest_ignored"] < 1e-5


def test_what_is_printed(diff_pair: tuple[Path, Path]) -> None:
    text = call("diff", *diff_pair).stdout
    assert text.startswith("nodes: 1 changed; weights: 1 changed\n")
    assert re.search(r"│ act2 │ LeakyRelu │ alpha │ 0.25 +│ 0.5 +│", text)
    assert re.search(r"│ w1 +│ \[9, 7\] │ Gemm gemm1 │ +[\d.]+ │ +1 │ +[\d.]+ │ +all 63 │", text)
    assert "5 nodes are the same" in text and "5 weights are the same" in text
    assert call("diff", *diff_pair, "-q").stdout == ""


def test_reports(diff_pair: tuple[Path, Path], tmp_path: Path) -> None:
    forms = [tmp_path / f"r.{form}" for form in ("json", "md", "html")]
    done = call("diff", *diff_pair, *(part for path in forms for part in ("--report", path)))
    assert done.exit_code == 0, done.stderr
    document, markdown, page = (path.read_text(encoding="utf-8") for path in forms)
    assert_fits(json.loads(document))
    assert "<code>w1</code> | &#91;9, 7&#93; | Gemm gemm1 |" in markdown
    assert "<code>act2</code> | LeakyRelu | alpha | 0.25 | 0.5 |" in markdown
    assert "<code>w1</code>" in page and "src=" not in page and "http-equiv" in page


def test_more_than_fit_are_cut_but_not_with_v(tmp_path: Path) -> None:
    count = 45
    nodes, weights = [], {}
    for i in range(count):
        weights[f"w{i}"] = np.full((6, 6), 1 + i, np.float32)
        nodes.append(helper.make_node("MatMul", ["x", f"w{i}"], [f"m{i}"], name=f"mm{i}"))
    nodes.append(helper.make_node("Sum", [f"m{i}" for i in range(count)], ["y"], name="sum"))
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x")],
        [value("y")],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    before = helper.make_model(graph)
    after = changed(
        before, *(set_array(n, w * np.float32(1 + float(w[0, 0]) / 99)) for n, w in weights.items())
    )
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path, proto in zip(paths, (before, after), strict=True):
        path.write_bytes(proto.SerializeToString())
    shown = call("diff", *paths).stdout
    listed = re.findall(r"│ (w\d+) +│ \[6, 6\]", shown)
    assert listed == [f"w{i}" for i in range(count - 1, count - 21, -1)]  # the largest changes
    assert "25 more: -v shows them all" in shown
    every = call("diff", *paths, "-v").stdout
    assert len(re.findall(r"│ (w\d+) +│ \[6, 6\]", every)) == count


def test_every_option_is_explained() -> None:
    assert "Exit code 0 whatever it finds" in " ".join(call("diff", "--help").stdout.split())
    for parameter in main.commands["diff"].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_it_needs_no_runtime(diff_pair: tuple[Path, Path]) -> None:
    script = (
        "import sys\nfrom bnfuse.cli import main\n"
        "try:\n    main(sys.argv[1:], prog_name='bnfuse')\nexcept SystemExit:\n    pass\n"
        "print('\\n' + ' '.join({name.split('.')[0] for name in sys.modules}))"
    )
    for options in ([], ["--json"]):
        line = [sys.executable, "-c", script, "diff", *map(str, diff_pair), *options]
        done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
        loaded = set(done.stdout.splitlines()[-1].split())
        assert not loaded & {"onnxruntime", "tensorflow", "keras", "torch", "jax"}
        assert "onnx" in loaded and "rich" not in loaded


def test_in_python(diff_pair: tuple[Path, Path]) -> None:
    import bnfuse

    found = bnfuse.diff(*map(str, diff_pair))
    assert found.differs and found.weights_changed[0].before.name == "w1"
    with pytest.raises(bnfuse.errors.UsageError):
        bnfuse.diff(*diff_pair, ignore_below=float("nan"))


def test_a_folded_model_end_to_end(tmp_path: Path, bnfuse_cli: Cli) -> None:
    path, after = tmp_path / "m.onnx", tmp_path / "f.onnx"
    onnx.save(convnet(), path)
    assert bnfuse_cli("optimize", path, "-o", after, "--no-verify", "--no-bench").returncode == 0
    done = bnfuse_cli("diff", path, after, "--exit-code")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stdout.startswith("nodes: 1 removed; weights: 4 removed, 2 changed\n")
    assert "removed  1 BatchNormalization (bn)" in done.stdout
