"""``inspect --explain`` on the command line: what is printed, what JSON holds, what is wrong usage."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from bnfuse.core.decisions import Split
from bnfuse.core.explanation import Explanations
from bnfuse.report.terminal import show
from bnfuse.use_cases.explain import explain as explain_file
from tests.command import call
from tests.explained_nets import saved
from tests.onnx_graphs import Net
from tests.report_schema import assert_fits
from tests.test_explain_plan import FIXTURES


def test_the_command_says_it_all(tmp_path: Path) -> None:
    done = call("inspect", saved("padded", tmp_path), "--explain", "bn")
    assert done.exit_code == 0, done.stderr
    for part in (
        "node     bn (BatchNormalization)",
        "decision kept: up: a shift cannot pass through Relu 'relu'",
        "5 channels: 5 positive, 0 negative, 0 zero; |a| from ",
        "split    up (x is held as a·x + c): refused: a shift cannot pass through Relu 'relu'",
        "split    down (y is held as (y − c)/a): refused: Conv 'second' pads with zeros",
        "split    scale-up (x is held as a·x, y as y − c): refused: Conv 'second'",
        "a scale and a shift",
    ):
        assert part in done.stdout


def test_the_command_says_what_other_splits_would_need(tmp_path: Path) -> None:
    done = call("inspect", saved("between", tmp_path), "--explain", "bn")
    assert "decision foldable up into first" in done.stdout
    assert "taken: into first (1 node)" in done.stdout
    assert "possible too: into second, through pool (2 nodes; up touches 1)" in done.stdout


def test_json_fits_the_schema_and_says_the_same(tmp_path: Path) -> None:
    path = saved("preactivation", tmp_path)
    written = tmp_path / "report.json"
    done = call("inspect", path, "--explain", "b*", "--json", "--report", written)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert_fits(document)
    explanation = document["explanation"]
    assert explanation["pattern"] == "b*"
    (node,) = explanation["nodes"]
    assert node["decision"] == document["decisions"][0]
    trial = next(t for t in node["splits"] if t["split"] == "shift-up")
    assert (trial["outcome"], sorted(trial["into"])) == ("taken", ["branch", "last"])
    assert [s["node"] for s in trial["steps"]].index("sum") < [s["node"] for s in trial["steps"]].index(
        "branch"
    )
    assert trial["attempts"][-1]["choices"] == [
        {"node": "sum", "op": "Add", "taker": "branch_out", "taken": 1, "of": 2}
    ]
    assert json.loads(written.read_text())["explanation"] == explanation


def test_json_without_it_has_no_explanation(tmp_path: Path) -> None:
    document = json.loads(call("inspect", saved("padded", tmp_path), "--json").stdout)
    assert "explanation" not in document
    assert document["groups"][0]["nodes"] == ["bn"]


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    done = call("inspect", saved("padded", tmp_path), "--explain", "bn", "-q")
    assert (done.exit_code, done.stdout) == (0, "")


@pytest.mark.parametrize("path", FIXTURES[2:], ids=lambda p: p.name)
def test_keras_files_are_explained_too(path: Path) -> None:
    done = call("inspect", path, "--explain", "bn_?", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert_fits(document)
    nodes = document["explanation"]["nodes"]
    assert [node["decision"]["name"] for node in nodes] == ["bn_1", "bn_2", "bn_3"]
    assert all(any(t["outcome"] == "taken" for t in node["splits"]) for node in nodes)


UNKNOWN = [
    ("bm", "no BatchNormalization of", "did you mean 'bn'?"),
    ("relu", "'relu' (Relu) is no BatchNormalization", "there are 'bn'"),
    ("x*y", "is called 'x*y'", "there are 'bn'"),
    ("", "is called ''", "there are 'bn'"),
]


@pytest.mark.parametrize(("pattern", "what", "hint"), UNKNOWN)
def test_an_unknown_name_is_wrong_usage(pattern: str, what: str, hint: str, tmp_path: Path) -> None:
    done = call("inspect", saved("padded", tmp_path), "--explain", pattern)
    assert (done.exit_code, done.stdout) == (2, "")
    assert what in done.stderr
    assert hint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_without_batchnorm_has_nothing_to_explain(plain_model: Path) -> None:
    done = call("inspect", plain_model, "--explain", "bn")
    assert done.exit_code == 2
    assert "has no BatchNormalization to explain" in done.stderr


@pytest.mark.parametrize(
    "name", ["a[b]*?", "[red]x[/]", "::error::owned", "##[error]x", "\x1b[31mred\x07", "a\nb"]
)
def test_names_are_data(name: str, tmp_path: Path) -> None:
    """A name is found as it stands, and printed as it is, without markup or control characters."""
    net = Net()
    value = net.op("Relu", net.conv("x", 3, 5, 3, 3), name=f"relu {name}", out=f"value {name}")
    value = net.conv(net.bn(value, 5, name=name), 5, 4, 3, 3, pads=[1, 1, 1, 1], name=name + "2")
    path = tmp_path / "hostile.onnx"
    onnx.save(net.build({"x": (2, 3, 8, 7)}, value), path)
    (found,) = explain_file(path, name)
    assert found.decision.node == name
    stream = StringIO()
    show(Explanations("*", (found,)), Console(file=stream, width=200, markup=False, highlight=False))
    printed = stream.getvalue()
    assert all(c == "\n" or c.isprintable() for c in printed)
    assert "##[" not in printed
    assert not any(line.startswith("::") for line in printed.splitlines())
    if name.isprintable() and "##[" not in name:
        assert f"Conv '{name}2' pads with zeros" in printed


def test_long_traces_are_cut_unless_verbose(tmp_path: Path) -> None:
    """A chain of 60 activations before the end refuses."""
    net = Net()
    value = net.bn("x", 4, positive=True, shift=False, name="bn")
    for number in range(60):
        value = net.op("Relu", value, name=f"relu{number}")
    path = tmp_path / "long.onnx"
    onnx.save(net.build({"x": (2, 4, 3, 3)}, value), path)
    found = explain_file(path, "bn")
    down = next(t for t in found[0].trials if t.split is Split.DOWN)
    assert [s.node for s in down.steps] == [f"relu{n}" for n in range(60)]
    lengths = []
    for verbose in (False, True):
        stream = StringIO()
        show(Explanations("*", found), Console(file=stream, width=160), verbose=verbose)
        lengths.append(stream.getvalue().count("relu"))
    assert lengths[1] - lengths[0] >= 20


def test_what_stays_by_request_is_at_no_fault(model: Path) -> None:
    done = call("inspect", model, "--keep", "*", "--explain", "*")
    assert done.exit_code == 0, done.stderr
    assert "none was tried, as it is to stay, as you asked" in done.stdout
    assert "at fault" not in done.stdout
