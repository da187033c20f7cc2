"""What a file of some kilobytes may ask for when it is read ends: counted, not timed.

Constants that are worked out, functions that are written out where they are called, and names that many
things begin with: each would take the square of the file, or more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from bnfuse import inspect
from bnfuse.core.decisions import Keep
from bnfuse.core.planning.plan import plan
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.affine import Affine
from bnfuse.errors import UnreadableModel
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from bnfuse.formats.onnx.graph import constants, functions, inline, read
from bnfuse.formats.onnx.graph.evaluate import evaluate
from bnfuse.formats.onnx.graph.function_copies import copies
from bnfuse.formats.onnx.rows import statistics
from tests.onnx_graphs import Net

X = {"x": (1, 2, 3, 4)}


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators that were worked out, one after another."""
    done: list[str] = []

    def counting(node: onnx.NodeProto, *arguments: Any) -> Any:
        done.append(node.op_type)
        return evaluate(node, *arguments)

    monkeypatch.setattr(constants, "evaluate", counting)
    return done


def test_a_constant_that_is_read_often_is_worked_out_once(tmp_path: Path, counted: list[str]) -> None:
    net = Net(1)
    k = net.op("Sum", *[net.const(np.float32(0.5))] * 100)
    k = net.op("Sum", *[k] * 100)
    path = _saved(net.build(X, net.op("Tanh", net.op("Mul", "x", k))), tmp_path)
    inspect(path)
    assert counted == ["Sum", "Sum"]


def test_what_is_read_to_work_out_constants_is_bounded(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each node makes one number of 300: three of them may, and what the others scale by is not known."""
    monkeypatch.setattr(read, "_LEAST_LOOKED_AT", 1000)
    monkeypatch.setattr(read, "_MOST_LOOKED_AT", 0)
    net, y = Net(1), "x"
    many = net.const(np.linspace(0.5, 2.0, 300))
    for _ in range(10):
        y = net.op("Tanh", net.op("Mul", y, net.op("ReduceMax", many, keepdims=0)))
    found = inspect(_saved(net.build(X, y), tmp_path)).plan.counts(batchnorm=False)[0]
    assert found == 3


def test_products_count_among_what_is_worked_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times ten numbers make a thousand products."""
    monkeypatch.setattr(read, "_LEAST_LOOKED_AT", 2500)
    monkeypatch.setattr(read, "_MOST_LOOKED_AT", 0)
    net, y = Net(1), "x"
    ten = net.const(np.linspace(0.5, 1.0, 10))
    for _ in range(5):
        k = net.op("Einsum", ten, ten, ten, equation="a,b,c->")
        y = net.op("Tanh", net.op("Mul", y, k))
    found = inspect(_saved(net.build(X, y), tmp_path)).plan.counts(batchnorm=False)[0]
    assert found == 2


def test_a_list_of_numbers_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike bytes, it is read number by number."""
    done = [0]
    to_array = onnx.numpy_helper.to_array

    def counting(*arguments: Any) -> Any:
        done[0] += 1
        return to_array(*arguments)

    monkeypatch.setattr(onnx.numpy_helper, "to_array", counting)
    net, y = Net(1), "x"
    net.initializers.append(helper.make_tensor("k", onnx.TensorProto.FLOAT, (2, 1, 1), [0.5, 2.0]))
    for _ in range(10):
        y = net.op("Tanh", net.op("Mul", y, "k"))
    inspect(_saved(net.build(X, y), tmp_path))
    assert done[0] == 1


def _calling(nodes: list[onnx.NodeProto], calls: int, label: str = "") -> onnx.ModelProto:
    """``y = f(x, k)`` in a row."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    net, y = Net(1), "x"
    net.const(np.ones((2, 1, 1)), "k")
    for at in range(calls):
        net.nodes.append(helper.make_node("f", [y, "k"], [f"y{at}"], name=label, domain="own"))
        y = f"y{at}"
    function = helper.make_function("own", "f", ["a", "k"], ["b"], nodes, opsets[:1])
    y = net.bn(net.conv(y, 2, 2, 1, 1), 2)
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, X["x"])
    out = helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(net.nodes, "net", [x], [out], net.initializers)
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of the nodes that copies were begun of; there may be ten times a function of 100 nodes."""
    begun = [0]

    def counting(function: onnx.FunctionProto, *arguments: Any) -> Any:
        begun[0] += function.ByteSize()
        return copies(function, *arguments)

    monkeypatch.setattr(inline, "copies", counting)
    monkeypatch.setattr(inline, "_LEAST_LOOKED_AT_BYTES", 1 << 14)
    monkeypatch.setattr(inline, "_MOST_LOOKED_AT", 0)
    return begun


def _row(count: int, last: str) -> list[onnx.NodeProto]:
    nodes = [helper.make_node("Relu", [f"r{at}"], [f"r{at + 1}"]) for at in range(count)]
    nodes[0].input[0] = "a"
    return [*nodes, helper.make_node("Mul", [f"r{count}", last], ["b"])]


def test_a_function_that_turns_out_unfit_is_not_copied_for_each_call(
    tmp_path: Path, looked_at: list[int]
) -> None:
    """That its last node reads what there is not is told when all others were copied."""
    with pytest.raises(UnreadableModel, match="nowhere"):
        inspect(_saved(_calling(_row(100, "nowhere"), 100), tmp_path))
    assert 0 < looked_at[0] <= 1 << 14


def test_a_function_of_one_node_with_a_large_graph_is_a_large_function(
    tmp_path: Path, looked_at: list[int]
) -> None:
    """It counts with all that it holds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["k"], ["r0"]), *_row(100, "k")[1:]],
        "body",
        [],
        [helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, None)],
    )
    body.node[1].input[0] = "r0"
    body.node.insert(1, helper.make_node("Identity", ["r0"], ["r1"]))
    made = [
        helper.make_node("Greater", ["a", "k"], ["c"]),
        helper.make_node("If", ["c"], ["b"], then_branch=body, else_branch=body),
    ]
    inspect(_saved(_calling(made, 100), tmp_path))
    assert 0 < looked_at[0] <= 1 << 14


def test_names_of_copies_do_not_repeat_a_long_name(tmp_path: Path) -> None:
    """The call's own begins all of them."""
    found = inspect(_saved(_calling(_row(100, "k"), 1, "c" * 5000), tmp_path)).plan.decisions
    assert found and max(len(each.node) for each in found) < 400


def test_functions_of_one_name_are_told_apart_in_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins where the one before it ended, and a long name is not repeated."""
    model = onnx.ModelProto()
    for at in range(200):
        model.functions.append(helper.make_function(f"d{at}", "f" * 5000, ["a"], ["b"], _row(1, "a"), []))
    begun = [0]
    begins = functions._begins

    def counting(*arguments: Any) -> bool:
        begun[0] += 1
        return begins(*arguments)

    monkeypatch.setattr(functions, "_begins", counting)
    found = functions.prefixes(model)
    assert len(set(found)) == 200 and begun[0] <= 400 and max(map(len, found)) < 300


def test_a_tensor_of_too_many_axes_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Its size in bytes would have more digits than Python writes."""
    net = Net(1)
    tensor = onnx.TensorProto(name="k", data_type=onnx.TensorProto.FLOAT, dims=[1 << 62] * 1000)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="model.onnx")
    model = net.build(X, net.op("Tanh", "x"))
    model.graph.initializer.append(tensor)
    with pytest.raises(UnreadableModel, match="1000 axes"):
        inspect(_saved(model, tmp_path))


def _shared(net: Net, row: Callable[[str], str]) -> onnx.ModelProto:
    """Ten nodes that name the same vectors of 30 numbers."""
    y = "x"
    for _ in range(10):
        y = net.op("Tanh", row(y))
    return net.build({"x": (1, 30, 2, 2)}, y)


@pytest.mark.parametrize("op", ["BatchNormalization", "Mul"])
def test_many_nodes_of_the_same_large_vectors_are_not_held_each(
    op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where 100 numbers may be held, three nodes are; the others stay, and say so."""
    monkeypatch.setattr(statistics, "_LEAST_NUMBERS", 100)
    monkeypatch.setattr(statistics, "_BYTES_A_NUMBER", inf)
    net = Net(1)
    names = net.statistics(30) if op == "BatchNormalization" else [net.const(np.full((30, 1, 1), 2.0))]
    path = _saved(_shared(net, lambda x: net.op(op, x, *names)), tmp_path)
    with closing(FORMAT.read(path, ReadOptions())) as opened:
        rules = [opened.graph.rule(node) for node in opened.graph.candidates]
        decisions = plan(opened.graph).plan.decisions
    assert [isinstance(rule, Affine) for rule in rules] == [True] * 3 + [False] * 7
    reasons = [each.primary.reason for each in decisions if isinstance(each, Keep)]
    assert reasons.count(Reason.TOO_LARGE) == 7


def test_refusals_do_not_repeat_a_long_name(tmp_path: Path) -> None:
    """One node refuses many, and the file holds its name once; a value's as often as it is read."""
    net = Net(1)
    parts = [net.bn(net.op("Relu", "x"), 2) for _ in range(20)]
    y = net.op("Concat", *parts, axis=1, name="c" * 9000, out="v" * 9000)
    path = _saved(net.build(X, net.op("Tanh", y, name="t" * 9000)), tmp_path)
    kept = [each for each in inspect(path).plan.decisions if isinstance(each, Keep)]
    told = [each.node + each.sentence for keep in kept for each in keep.refusals]
    assert len(kept) == 20 and any("c" * 150 in text or "t" * 150 in text for text in told)
    assert max(map(len, told)) < 2000
