"""``bnfuse diff`` as a user calls it: what it prints, its reports, its exit codes, its cost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import click
import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from bnfuse.cli import main
from bnfuse.diff import diff
from bnfuse.difference.result import (
    Changed,
    Difference,
    FactChange,
    Figures,
    InterfaceChange,
    NodeChange,
    NodeName,
    Side,
    WeightChange,
    WeightName,
)
from bnfuse.formats.base import TensorSpec
from bnfuse.report.difference import render
from bnfuse.report.difference.terminal import print_difference
from bnfuse.results import FileInfo
from tests.cli_models import convnet
from tests.command import Cli, call
from tests.diff_nets import array, changed, mlp, node_of, set_array, value
from tests.test_report import HOSTILE

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = json.loads((ROOT / "docs" / "diff.schema.json").read_text(encoding="utf-8"))


def assert_fits(document: Any) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(document)


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """An mlp, and the same with one weight and one setting changed."""
    after = changed(mlp(), set_array("w1", 2 * array(mlp(), "w1")))
    node_of(after, "act2").attribute[0].f = 0.5
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path, proto in zip(paths, (mlp(), after), strict=True):
        path.write_bytes(proto.SerializeToString())
    return paths


def test_the_document(models: tuple[Path, Path]) -> None:
    done = call("diff", *models, "--json")
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


def test_exit_codes(models: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = models
    assert call("diff", a, b).exit_code == 0
    assert call("diff", a, b, "--exit-code").exit_code == 1
    assert call("diff", a, b, "--exit-code", "-q").exit_code == 1
    same = call("diff", a, a, "--exit-code")
    assert same.exit_code == 0 and same.stdout.startswith("no difference")
    assert call("diff", a).exit_code == 2
    assert call("diff", a, b, "--ignore-below", "-1").exit_code == 2
    assert call("diff", a, b, "--ignore-below", "nan").exit_code == 2
    for report in ("r.txt", "r.xml", tmp_path / "nowhere" / "r.json", a, b):
        refused = call("diff", a, b, "--report", report)
        assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
    assert call("diff", a, tmp_path / "none.onnx").exit_code == 3


def test_weights_below_the_limit_do_not_count(models: tuple[Path, Path]) -> None:
    a, b = models
    plain = changed(mlp(), set_array("w1", array(mlp(), "w1") * np.float32(1 + 1e-6)))
    b.write_bytes(plain.SerializeToString())
    assert call("diff", a, b, "--exit-code").exit_code == 1
    done = call("diff", a, b, "--exit-code", "--ignore-below", "1e-5")
    assert done.exit_code == 0
    assert "no difference but changes of weights below the limit (1)" in done.stdout
    document = json.loads(call("diff", a, b, "--ignore-below", "1e-5", "--json").stdout)
    assert_fits(document)
    assert document["weights"]["ignored"] == 1 and 0 < document["weights"]["largest_ignored"] < 1e-5


def test_what_is_printed(models: tuple[Path, Path]) -> None:
    text = call("diff", *models).stdout
    assert text.startswith("nodes: 1 changed; weights: 1 changed\n")
    assert re.search(r"│ act2 │ LeakyRelu │ alpha │ 0.25 +│ 0.5 +│", text)
    assert re.search(r"│ w1 +│ \[9, 7\] │ Gemm gemm1 │ +[\d.]+ │ +1 │ +[\d.]+ │ +all 63 │", text)
    assert "5 nodes are the same" in text and "5 weights are the same" in text
    assert call("diff", *models, "-q").stdout == ""


def test_reports(models: tuple[Path, Path], tmp_path: Path) -> None:
    forms = [tmp_path / f"r.{form}" for form in ("json", "md", "html")]
    done = call("diff", *models, *(part for path in forms for part in ("--report", path)))
    assert done.exit_code == 0, done.stderr
    document, markdown, page = (path.read_text(encoding="utf-8") for path in forms)
    assert_fits(json.loads(document))
    assert "<code>w1</code> | &#91;9, 7&#93; | Gemm gemm1 |" in markdown
    assert "<code>act2</code> | LeakyRelu | alpha | 0&#46;25 | 0&#46;5 |" in markdown
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


def test_it_needs_no_runtime(models: tuple[Path, Path]) -> None:
    script = (
        "import sys\nfrom bnfuse.cli import main\n"
        "try:\n    main(sys.argv[1:], prog_name='bnfuse')\nexcept SystemExit:\n    pass\n"
        "print('\\n' + ' '.join({name.split('.')[0] for name in sys.modules}))"
    )
    for options in ([], ["--json"]):
        line = [sys.executable, "-c", script, "diff", *map(str, models), *options]
        done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
        loaded = set(done.stdout.splitlines()[-1].split())
        assert not loaded & {"onnxruntime", "tensorflow", "keras", "torch", "jax"}
        assert "onnx" in loaded and ("rich" in loaded) == (not options)


def test_in_python(models: tuple[Path, Path]) -> None:
    import bnfuse

    found = bnfuse.diff(*map(str, models))
    assert found.differs and found.weights_changed[0].before.name == "w1"
    with pytest.raises(bnfuse.errors.UsageError):
        bnfuse.diff(*models, ignore_below=float("nan"))


# Hostile files


UNREADABLE = [
    ("empty", b""),
    ("garbage", b"\x08" + bytes(range(200))),
    ("a pointer", b"version https://git-lfs.github.com/spec/v1\n"),
    ("half", None),
]


@pytest.mark.parametrize(("what", "data"), UNREADABLE, ids=[line[0] for line in UNREADABLE])
def test_unreadable_files(what: str, data: bytes | None, models: tuple[Path, Path]) -> None:
    a, b = models
    b.write_bytes(b.read_bytes()[:200] if data is None else data)
    for line in ((a, b), (b, a)):
        done = call("diff", *line)
        assert done.exit_code == 3 and done.stdout == ""
        assert done.stderr.startswith("bnfuse: ") and done.stderr.count("\n") == 1
        assert str(b) in done.stderr and "internal" not in done.stderr


TENSORS = [
    ("too few bytes", {"raw_data": bytes(8)}),
    ("a negative size", {"dims": [-6, -9]}),
    ("too large", {"dims": [1 << 40, 1 << 40]}),
    ("an unknown type", {"data_type": 99}),
]


@pytest.mark.parametrize(("what", "fields"), TENSORS, ids=[line[0] for line in TENSORS])
def test_tensors_that_make_no_sense(what: str, fields: dict[str, Any], models: tuple[Path, Path]) -> None:
    a, b = models
    proto = mlp()
    tensor = proto.graph.initializer[0]
    for name, content in fields.items():
        if name == "dims":
            tensor.dims[:] = content
        else:
            setattr(tensor, name, content)
    b.write_bytes(proto.SerializeToString())
    done = call("diff", a, b)
    shapes_differ = what in ("a negative size", "too large")  # never read, then
    assert done.exit_code == (0 if shapes_differ and not done.stderr else 3), done.stderr
    assert "internal" not in done.stderr and "Traceback" not in done.stderr


def test_external_data_outside_the_folder_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = models
    proto = mlp()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    b.write_bytes(proto.SerializeToString())
    done = call("diff", a, b)
    assert done.exit_code == 3 and "outside the model's folder" in done.stderr


def test_a_cycle(models: tuple[Path, Path]) -> None:
    a, b = models
    proto = mlp()
    node_of(proto, "gemm0").input[0] = "r1"
    b.write_bytes(proto.SerializeToString())
    for node in proto.graph.node:
        node.name = ""
        node.op_type = "Relu"
        node.input[1:] = []
    a.write_bytes(proto.SerializeToString())
    assert call("diff", a, b).exit_code == 0 and call("diff", b, a).exit_code == 0


def hostile(name: str) -> Difference:
    """A difference in which every string that a model can choose is ``name``."""
    node, other = NodeName(name, name), NodeName(f"{name}2", name)
    weight = WeightName(name, (2, 3), "float32", 24, node, name)
    side = Side(
        FileInfo(Path("model.onnx"), "onnx", "", 1),
        {"": {name: 3}, name: {"a": 1}},
        1,
        6,
        24,
        {"external data": name},
    )
    spec = TensorSpec(name, "float32", (name, 3, None))
    return Difference(
        side,
        Side(FileInfo(Path("other.onnx"), "onnx", "", 1), {"": {name: 1}}, 0, 0, 0, {}),
        True,
        (InterfaceChange("input", ("renamed", "shape"), spec, TensorSpec(name, "", None)),),
        (FactChange(name, name, None),),
        1,
        ((name, name),),
        (NodeChange(node, other, (Changed(name, name, [name]),), (Changed("input 0", name, None),)),),
        (node,),
        (node,),
        1,
        ((name, name),),
        0,
        0.0,
        (
            WeightChange(
                weight, weight, ("values",), Figures(1, 6, float("inf"), float("nan"), 0.1), "split"
            ),
            WeightChange(weight, weight, ("shape",), None),
        ),
        (weight,),
        (weight,),
        (f"about {name}",),
    )


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_string_reaches_the_terminal_unescaped(name: str, verbose: bool) -> None:
    stream = StringIO()
    out = Console(file=stream, width=120, markup=False, highlight=False, emoji=False, force_terminal=False)
    print_difference(hostile(name), out, verbose=verbose)
    text = stream.getvalue()
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "##[" not in text and not any(line.startswith("::") for line in text.splitlines())
    for sign in ("[red]x[/]", "<script>"):
        if sign in name and len(name) < 30:
            assert sign in text  # as it is: not parsed as markup


class Elements(HTMLParser):
    """Every element with its attributes, without their texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(attrs)))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_string_becomes_markup(name: str) -> None:
    page, harmless = (Elements(render(hostile(one), ".html")).found for one in (name, "harmless"))
    if name:  # an empty one leaves out a <code>
        assert page == harmless
    text = render(hostile(name), ".md")
    assert set(re.findall(r"<[^>]*>", text)) <= {"<code>", "</code>"}
    assert "](" not in text and "![" not in text
    assert not re.search(r"@\w|(?<!&)#\d", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows and all(line.endswith("|") for line in rows)
    assert_fits(json.loads(render(hostile(name), ".json")))


# Cost


def chain(count: int, norm: bool) -> onnx.ModelProto:
    """Conv, BatchNormalization (or none) and Relu in turn, names as an exporter gives them."""
    rng = np.random.default_rng(0)
    nodes, tensors, last = [], [], "x"
    for i in range(count // 3):
        arrays = {"w": rng.standard_normal((4, 4, 1, 1)), "b": rng.standard_normal(4)}
        parameters = {k: rng.uniform(0.5, 2, 4) for k in ("s", "o", "m", "v")} if norm else {}
        for key, values in (arrays | parameters).items():
            tensors.append(numpy_helper.from_array(values.astype(np.float32), f"{i}.{key}"))
        nodes.append(helper.make_node("Conv", [last, f"{i}.w", f"{i}.b"], [f"c{i}"], name=f"conv{i}"))
        last = f"c{i}"
        if norm:
            read = [last, *(f"{i}.{key}" for key in parameters)]
            nodes.append(helper.make_node("BatchNormalization", read, [f"n{i}"], name=f"bn{i}"))
            last = f"n{i}"
        nodes.append(helper.make_node("Relu", [last], [f"r{i}"], name=f"relu{i}"))
        last = f"r{i}"
    nodes.append(helper.make_node("Identity", [last], ["y"], name="end"))
    axes = ("N", 4, 3, 3)
    return helper.make_model(helper.make_graph(nodes, "g", [value("x", axes)], [value("y", axes)], tensors))


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_a_large_graph_takes_seconds(named: bool, tmp_path: Path) -> None:
    """Time in proportion to the number of nodes, whatever they are called."""
    seconds = []
    for count in (3_000, 24_000):
        before, after = chain(count, norm=True), chain(count, norm=False)
        if not named:
            for i, node in enumerate(after.graph.node):
                node.name = ""
                node.output[:] = ["y" if n == "y" else f"v{i}" for n in node.output]
                node.input[:] = [f"v{i - 1}" if n[0] in "cr" else n for n in node.input]
        paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
        for path, proto in zip(paths, (before, after), strict=True):
            path.write_bytes(proto.SerializeToString())
        started = time.process_time()
        found = diff(*paths)
        seconds.append(time.process_time() - started)
        assert len(found.nodes_removed) == count // 3 and not found.nodes_added
        assert found.nodes_same == 2 * (count // 3) + 1
        assert not found.nodes_changed
    assert seconds[1] < 8 and seconds[1] < 24 * max(seconds[0], 0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak of one process")
def test_memory_does_not_grow_with_the_weights(tmp_path: Path) -> None:
    """Weights of 80 MB in each model, half of them changed throughout."""
    paths = []
    for number in range(2):
        array = np.random.default_rng(0).standard_normal((2, 10_000_000), np.float32)
        array[1] += np.float32(number)
        weights = [numpy_helper.from_array(row.reshape(1000, -1), f"w{i}") for i, row in enumerate(array)]
        nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(2)]
        outputs = [value("y0", ("N", 10_000)), value("y1", ("N", 10_000))]
        graph = helper.make_graph(nodes, "g", [value("x", ("N", 1000))], outputs, weights)
        paths.append(tmp_path / f"{number}.onnx")
        paths[-1].write_bytes(helper.make_model(graph).SerializeToString())
    script = (
        "import sys\nfrom bnfuse.diff import diff\nfound = diff(*sys.argv[1:])\n"
        "print(found.weights_same, len(found.weights_changed), found.weights_changed[0].figures.changed)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    line = [sys.executable, "-c", script, *map(str, paths)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
    figures, peak_kib = done.stdout.splitlines()
    assert figures == "1 1 10000000"
    assert int(peak_kib) < 100 * 1024  # of which half is Python, numpy and onnx


def test_a_folded_model_end_to_end(tmp_path: Path, bnfuse_cli: Cli) -> None:
    path, after = tmp_path / "m.onnx", tmp_path / "f.onnx"
    onnx.save(convnet(), path)
    assert bnfuse_cli("optimize", path, "-o", after, "--no-verify", "--no-bench").returncode == 0
    done = bnfuse_cli("diff", path, after, "--exit-code")
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout.startswith("nodes: 1 removed; weights: 4 removed, 2 changed\n")
    assert "removed  1 BatchNormalization (bn)" in done.stdout
