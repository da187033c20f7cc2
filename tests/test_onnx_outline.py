"""Large graphs are read without a message for every node: the same result in less memory and time."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.planning.plan import plan
from bnfuse.errors import UnreadableModel
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from bnfuse.formats.onnx.edit.pending import Pool
from bnfuse.formats.onnx.file import nodes
from bnfuse.formats.onnx.file.protobuf import tag, varint
from bnfuse.formats.onnx.graph.read import parse
from bnfuse.formats.onnx.model import OnnxModel
from tests.onnx_bodies import Inside, branches
from tests.onnx_graphs import Net, fold
from tests.traps.table import IMAGE, plain

BYTES_A_NODE = 620  # that ``inspect`` may take, of a chain; parsed whole it took 1,640


def _twice(model: bytes) -> bytes:
    """Another graph field, which protobuf adds to the first."""
    return model + tag(7, 2) + varint(0)


def _split(model: bytes) -> bytes:
    """The last node behind all else."""
    made = onnx.ModelProto.FromString(model)
    last = made.graph.node.pop().SerializeToString()
    graph = made.graph.SerializeToString() + tag(1, 2) + varint(len(last)) + last
    made.ClearField("graph")
    return made.SerializeToString() + tag(7, 2) + varint(len(graph)) + graph


def _no_text(model: bytes) -> bytes:
    return model.replace(b"Conv", b"Con\xff", 1)


def _cut_node(model: bytes) -> bytes:
    """A node whose first name goes beyond it."""
    made = onnx.ModelProto.FromString(model)
    node = made.graph.node[0].SerializeToString()
    return model.replace(node, node[:1] + b"\x7f" + node[2:])


WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "two graphs": _twice,
    "nodes in two places": _split,
    "a name that is no text": _no_text,
    "a damaged node": _cut_node,
}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small a graph is."""
    monkeypatch.setattr(nodes, "LEAST_BYTES", 0)


def _saved(tmp_path: Path, model: bytes) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    return path


def test_nodes_are_what_they_were(tmp_path: Path, always: None) -> None:
    made = onnx.ModelProto()
    made.CopyFrom(plain())
    for k in range(100):  # several parts
        made.graph.node.append(onnx.helper.make_node("Relu", ["x"], [f"more{k}"], name="n" * (k * 3)))
    source = parse(_saved(tmp_path, made.SerializeToString()), outline=True)
    stored = source.stored
    assert stored is not None and len(source.outline.graph.node) == 0
    expected = list(made.graph.node)
    assert list(stored) == expected and len(stored) == len(expected)
    assert [stored[k] for k in reversed(range(len(stored)))] == expected[::-1]
    assert list(stored[30:70]) == expected[30:70]
    assert source.proto == made and source.stored is None


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_not_as_usual_is_parsed_whole(name: str, tmp_path: Path, always: None) -> None:
    path = _saved(tmp_path, WHOLE[name](plain().SerializeToString()))
    try:
        assert parse(path, outline=True).stored is None
    except UnreadableModel as refused:
        with pytest.raises(UnreadableModel) as whole:
            parse(path)
        assert str(whole.value) == str(refused)


def _with_bodies() -> onnx.ModelProto:
    net, then, other = Net(1), Inside(1), Inside(2)
    w, x = net.weight(5, 4, 3, 2, fan_in=24), net.op("Relu", "x")
    a = then.op("Tanh", then.bn(then.op("Conv", x, w, out="then_c"), 5))
    y = branches(net, "cond", (then, a), (other, other.op("Conv", x, w, out="else_c")))
    return net.build({"cond": (), **IMAGE}, y, ranks={y: 4})


@pytest.mark.parametrize("name", ["as listed", "in another order", "with bodies"])
def test_results_are_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _with_bodies() if name == "with bodies" else plain()
    if name == "in another order":
        listed = list(made.graph.node)[::-1]
        del made.graph.node[:]
        made.graph.node.extend(listed)
    path = _saved(tmp_path, made.SerializeToString())
    whole = fold(path, tmp_path / "whole.onnx")
    monkeypatch.setattr(nodes, "LEAST_BYTES", 0)
    parts = fold(path, tmp_path / "parts.onnx")
    assert parts.plan == whole.plan and parts.plan.order
    assert (tmp_path / "parts.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


def test_a_plan_without_folds_makes_no_messages(tmp_path: Path, always: None) -> None:
    made = plain()
    made.graph.node[1].op_type = "Relu"
    del made.graph.node[1].input[1:], made.graph.node[1].attribute[:]
    path = _saved(tmp_path, made.SerializeToString())
    source = parse(path, outline=True)
    model = OnnxModel(source, ReadOptions())
    model.operators_after(apply(model.graph, plan(model.graph)))
    assert source.stored is not None
    assert model.operators() == FORMAT.read(path, ReadOptions()).operators()


def test_folds_make_messages_of_the_nodes_that_change_alone(tmp_path: Path, always: None) -> None:
    """And who asks for the model meanwhile gets what was read."""
    path = _saved(tmp_path, plain().SerializeToString())
    source = parse(path, outline=True)
    model = OnnxModel(source, ReadOptions())
    patch = apply(model.graph, plan(model.graph))
    assert patch.changes
    left = model.operators_after(patch)
    assert sum(left.values()) < len(plain().graph.node)
    assert source.stored is not None and len(source.outline.graph.node) == 0
    assert source.proto == plain()
    model.write(patch, tmp_path / "folded.onnx")
    written = onnx.load(tmp_path / "folded.onnx").graph
    assert Counter(node.op_type for node in written.node) == left


class _Looked(set[str]):
    """Counts what is asked of it."""

    times = 0

    def __contains__(self, name: object) -> bool:
        _Looked.times += 1
        return super().__contains__(name)


def test_names_of_a_shared_weight_cost_no_more_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the copies of one weight: about four times the names tried (they were 16 times as many)."""
    made = Pool.__init__

    def counted(self: Pool, *given: Any) -> None:
        made(self, *given)
        self._made = _Looked()

    monkeypatch.setattr(Pool, "__init__", counted)
    costs = []
    for count in (40, 160):
        net = Net(0)
        x, w = "x", net.weight(3, 3, 1, 1, fan_in=3)
        for _ in range(count):
            x = net.op("Sigmoid", net.bn(net.op("Conv", x, w), 3))
        path = _saved(tmp_path, net.build(IMAGE, x).SerializeToString())
        _Looked.times = 0
        fold(path, tmp_path / f"{count}.onnx")
        costs.append(_Looked.times)
        names = {t.name for t in onnx.load(tmp_path / f"{count}.onnx").graph.initializer}
        assert {f"{w}_folded", f"{w}_folded_2", f"{w}_folded_{count - 1}"} <= names
    assert costs[0] >= 40 and costs[1] <= 5 * costs[0]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="how much memory a process took")
@pytest.mark.parametrize("folds", [False, True])
def test_memory_of_a_long_chain(folds: bool, tmp_path: Path) -> None:
    taken = {}
    rng = np.random.default_rng(0)
    stored = [onnx.numpy_helper.from_array(rng.uniform(1, 2, 4).astype(np.float32), name) for name in "abcd"]
    stored.append(onnx.numpy_helper.from_array(rng.normal(size=(4, 4, 1, 1)).astype(np.float32), "w"))
    for count in (3, 200_001):
        names = [f"v{k}" for k in range(count)]
        made = [onnx.helper.make_node("Relu", [x], [y], name=f"Relu_{y}") for x, y in pairwise(names)]
        if folds:
            for linear, normalised in zip(made[::1000], made[1::1000], strict=True):
                linear.op_type, normalised.op_type = "Conv", "BatchNormalization"
                linear.input.append("w")
                normalised.input.extend("abcd")
        ends = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4, 1, 1])
            for name in (names[0], names[-1])
        ]
        graph = onnx.helper.make_graph(made, "chain", ends[:1], ends[1:], stored)
        path = _saved(tmp_path, onnx.helper.make_model(graph, ir_version=8).SerializeToString())
        del made, graph
        command = [sys.executable, "-m", "bnfuse", "inspect", str(path)]
        _, status, used = os.wait4(os.spawnv(os.P_NOWAIT, sys.executable, command), 0)
        assert os.waitstatus_to_exitcode(status) == 0
        taken[count] = used.ru_maxrss * 1024
    assert taken[200_001] - taken[3] < BYTES_A_NODE * 200_000
