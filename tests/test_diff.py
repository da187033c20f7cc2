"""A model and itself, its interface, and facts of its file: each change is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.diff_nets import (
    changed,
    compared,
    kinds,
    mlp,
    node_of,
    value,
)


def test_a_model_and_itself(tmp_path: Path) -> None:
    found = compared(tmp_path, mlp(), mlp())
    assert not found.differs and kinds(found) == set()
    assert (found.nodes_same, found.weights_same) == (6, 6)
    sizes = 6 * 9 + 9 + 9 * 7 + 7 + 7 * 6 + 6
    for side in (found.before, found.after):
        assert (side.parameters, side.weight_bytes, side.weights) == (sizes, 4 * sizes, 6)
        assert side.totals == {"Gemm": 3, "Relu": 2, "LeakyRelu": 1}
        assert side.file.total_bytes == side.file.path.stat().st_size


Edit = Callable[[onnx.ModelProto], object]


def _shape(at: int, name: str, axes: tuple[int | str | None, ...] | None, dtype: int = 1) -> Edit:
    return lambda proto: proto.graph.input[at].CopyFrom(value(name, axes, dtype))


INTERFACE: list[tuple[str, Edit, list[tuple[str, ...]]]] = [
    ("shape", _shape(0, "x", (4, 6)), [("shape",)]),
    ("symbol", _shape(0, "x", ("M", 6)), [("shape",)]),
    ("rank", _shape(0, "x", None), [("shape",)]),
    ("dtype", _shape(0, "x", ("N", 6), TensorProto.DOUBLE), [("dtype",)]),
    ("more", lambda proto: proto.graph.input.append(value("extra")), [("added",)]),
    ("fewer", lambda proto: proto.graph.input.pop(), [("removed",)]),
    ("moved", lambda proto: proto.graph.input.reverse(), [("moved",), ("moved",)]),
]


@pytest.mark.parametrize(("what", "edit", "expected"), INTERFACE, ids=[line[0] for line in INTERFACE])
def test_interface(what: str, edit: Edit, expected: list[tuple[str, ...]], tmp_path: Path) -> None:
    before = changed(mlp(), lambda proto: proto.graph.input.append(value("unused")))
    found = compared(tmp_path, before, changed(before, edit))
    assert kinds(found) == {"interface"}
    assert [change.what for change in found.interface] == expected
    assert {change.kind for change in found.interface} == {"input"}


def test_a_renamed_input_is_the_same_one(tmp_path: Path) -> None:
    def rename(proto: onnx.ModelProto) -> None:
        proto.graph.input[0].name = "image"
        node_of(proto, "gemm0").input[0] = "image"

    found = compared(tmp_path, mlp(), changed(mlp(), rename))
    assert kinds(found) == {"interface"}  # the node that reads it is no other
    (change,) = found.interface
    assert change.before is not None and change.after is not None
    assert (change.what, change.before.name, change.after.name) == (("renamed",), "x", "image")


def test_initializers_among_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    def listed(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            proto.graph.input.append(value(tensor.name, tuple(tensor.dims)))

    found = compared(tmp_path, changed(mlp(), listed), mlp())
    assert kinds(found) == {"facts"}
    assert [(f.label, f.before, f.after) for f in found.facts] == [
        ("initializers that are also inputs", "6", None)
    ]


FACTS: list[tuple[str, Edit, tuple[str, str | None, str | None]]] = [
    ("ir", lambda p: setattr(p, "ir_version", 9), ("IR version", "8", "9")),
    ("opset", lambda p: setattr(p.opset_import[0], "version", 18), ("opset ai.onnx", "17", "18")),
    ("domain", lambda p: p.opset_import.append(helper.make_opsetid("own", 3)), ("opset own", None, "3")),
    ("producer", lambda p: setattr(p, "producer_name", "pytorch"), ("producer", None, "pytorch")),
    ("words", lambda p: setattr(p, "doc_string", "Hello."), ("description", None, "Hello.")),
    ("metadata", lambda p: p.metadata_props.add(key="a", value="b"), ("metadata 'a'", None, "b")),
    ("version", lambda p: setattr(p, "model_version", 3), ("model version", None, "3")),
    ("name", lambda p: setattr(p.graph, "name", "other"), ("graph", "net", "other")),
]


@pytest.mark.parametrize(("what", "edit", "expected"), FACTS, ids=[line[0] for line in FACTS])
def test_facts(what: str, edit: Edit, expected: tuple[str, str | None, str | None], tmp_path: Path) -> None:
    found = compared(tmp_path, mlp(), changed(mlp(), edit))
    assert kinds(found) == {"facts"} and found.differs
    assert [(f.label, f.before, f.after) for f in found.facts] == [expected]
