"""``bnfuse diff`` of files that are broken or hostile: one sentence, and no string that escapes its place."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto
from rich.console import Console

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
from bnfuse.report import render
from bnfuse.report.terminal import show
from bnfuse.results import FileInfo
from tests.command import call
from tests.diff_nets import mlp, node_of
from tests.diff_schema import assert_fits
from tests.report_samples import HOSTILE

UNREADABLE = [
    ("empty", b""),
    ("garbage", b"\x08" + bytes(range(200))),
    ("a pointer", b"version https://git-lfs.github.com/spec/v1\n"),
    ("half", None),
]


@pytest.mark.parametrize(("what", "data"), UNREADABLE, ids=[line[0] for line in UNREADABLE])
def test_unreadable_files(what: str, data: bytes | None, diff_pair: tuple[Path, Path]) -> None:
    a, b = diff_pair
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
def test_tensors_that_make_no_sense(what: str, fields: dict[str, Any], diff_pair: tuple[Path, Path]) -> None:
    a, b = diff_pair
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


def test_external_data_outside_the_folder_is_refused(diff_pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = diff_pair
    proto = mlp()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    b.write_bytes(proto.SerializeToString())
    done = call("diff", a, b)
    assert done.exit_code == 3 and "outside the model's folder" in done.stderr


def test_a_cycle(diff_pair: tuple[Path, Path]) -> None:
    a, b = diff_pair
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
    show(hostile(name), out, verbose=verbose)
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
