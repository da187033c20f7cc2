"""What differs between the nodes of two ONNX models: by name, by place, in settings, links and scopes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.difference.result import Changed, NodeName
from tests.diff_nets import (
    Change,
    array,
    changed,
    compared,
    kinds,
    mlp,
    model,
    node_of,
    renamed,
    set_array,
    siblings,
    value,
    without_names,
    without_node,
)


def test_everything_under_another_name(tmp_path: Path) -> None:
    found = compared(tmp_path, mlp(), changed(mlp(), renamed(lambda name: f"export/{name}_7")))
    assert kinds(found) == {"nodes_renamed", "weights_renamed"}
    assert found.nodes_renamed == tuple(
        (name, f"export/{name}_7") for name in ("gemm0", "act0", "gemm1", "act1", "gemm2", "act2")
    )
    assert {*found.weights_renamed} == {(f"{k}{i}", f"export/{k}{i}_7") for k in "wb" for i in range(3)}
    assert (found.nodes_same, found.weights_same) == (6, 6)


def test_everything_under_another_name_and_other_values(tmp_path: Path) -> None:
    """Only the places in the graph tell what is what."""
    after = changed(mlp(9), renamed(lambda name: f"export/{name}_7"))
    found = compared(tmp_path, mlp(3), after)
    assert kinds(found) == {"nodes_renamed", "weights_changed"}
    assert {(c.before.name, c.after.name) for c in found.weights_changed} == {
        (f"{k}{i}", f"export/{k}{i}_7") for k in "wb" for i in range(3)
    }
    assert all(c.what == ("values", "renamed") for c in found.weights_changed)


def alike(count: int) -> onnx.ModelProto:
    """A chain of MatMuls of one shape, with a Relu behind each; nothing but the place tells them apart."""
    rng = np.random.default_rng(1)
    nodes, weights, last = [], {}, "x"
    for i in range(count):
        weights[f"w{i}"] = rng.standard_normal((6, 6)).astype(np.float32)
        out = "y" if i == count - 1 else f"r{i}"
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"], name=f"mm{i}"))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [out], name=f"relu{i}"))
        last = out
    return model(nodes, weights)


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("gone", ["relu0", "relu2", "relu3"])
def test_a_node_that_went_is_one_that_went(names: bool, gone: str, tmp_path: Path) -> None:
    steps: list[Change] = [] if names else [without_names, renamed(lambda name: f"v_{name}", nodes=False)]
    before = alike(5)
    found = compared(tmp_path, before, changed(before, without_node(gone), *steps))
    assert [(n.name, n.operator) for n in found.nodes_removed] == [(gone, "Relu")]
    assert kinds(found) - {"nodes_renamed", "weights_renamed"} == {"nodes_removed"}
    assert (found.nodes_same, found.weights_same) == (9, 5)
    back = compared(tmp_path, changed(before, without_node(gone), *steps), before)
    assert [node.name for node in back.nodes_added] == [gone]
    assert kinds(back) - {"nodes_renamed", "weights_renamed"} == {"nodes_added"}


def test_numbers_for_names_that_shift(tmp_path: Path) -> None:
    """An exporter that counts: after a node goes, every later name means another thing."""

    def numbered(proto: onnx.ModelProto) -> None:
        every = [*(t.name for t in proto.graph.initializer), *(n.output[0] for n in proto.graph.node)]
        numbers = {name: str(100 + i) for i, name in enumerate(every)}
        renamed(lambda name: numbers.get(name, ""), nodes=False)(proto)
        for i, node in enumerate(proto.graph.node):
            node.name = f"{node.op_type}_{i}"

    rng = np.random.default_rng(4)
    extra = {"first": rng.standard_normal((6, 6)).astype(np.float32)}
    longer = mlp()
    node_of(longer, "gemm0").input[0] = "f"
    longer.graph.node.insert(0, helper.make_node("MatMul", ["x", "first"], ["f"], name="mm"))
    longer.graph.initializer.insert(0, numpy_helper.from_array(extra["first"], "first"))
    w1 = array(longer, "w1")
    after = changed(mlp(), set_array("w1", 3 * w1), numbered)
    found = compared(tmp_path, changed(longer, numbered), after)
    assert any("names mean different things" in note for note in found.notes)
    assert [node.operator for node in found.nodes_removed] == ["MatMul"]
    assert [weight.shape for weight in found.weights_removed] == [(6, 6)]
    (change,) = found.weights_changed
    assert change.before.shape == w1.shape
    assert change.figures is not None and change.figures.max_rel == pytest.approx(2)
    assert found.weights_same == 5 and found.nodes_same == 6
    assert not found.nodes_changed and not found.nodes_added and not found.weights_added


def set_attribute(node: str, **attributes: object) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        target = node_of(proto, node)
        kept = [a for a in target.attribute if a.name not in attributes]
        del target.attribute[:]
        made = [helper.make_attribute(k, v) for k, v in attributes.items() if v is not None]
        target.attribute.extend([*kept, *made])

    return change


def set_operator(node: str, operator: str) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        node_of(proto, node).op_type = operator

    return change


def read_from(node: str, at: int, name: str) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        node_of(proto, node).input[at] = name

    return change


SETTINGS: list[tuple[str, Change, tuple[Changed, ...]]] = [
    ("a value", set_attribute("act2", alpha=0.5), (Changed("alpha", 0.25, 0.5),)),
    ("the default, left out", set_attribute("act2", alpha=None), (Changed("alpha", 0.25, float("0.01")),)),
    ("one more", set_attribute("gemm1", transA=1), (Changed("transA", 0, 1),)),
    ("an unknown one", set_attribute("gemm1", mine="so"), (Changed("mine", None, "so"),)),
    ("a list", set_attribute("gemm1", mine=[1, 2]), (Changed("mine", None, [1, 2]),)),
    ("the default, spelled out", set_attribute("gemm1", alpha=1.0, transB=0), ()),
]


@pytest.mark.parametrize(("what", "change", "expected"), SETTINGS, ids=[line[0] for line in SETTINGS])
def test_settings(what: str, change: Change, expected: tuple[Changed, ...], tmp_path: Path) -> None:
    found = compared(tmp_path, mlp(), changed(mlp(), change))
    assert kinds(found) == ({"nodes_changed"} if expected else set())
    assert tuple(one for node in found.nodes_changed for one in node.settings) == expected
    assert all(not node.inputs for node in found.nodes_changed)


def test_another_operator_under_the_same_name(tmp_path: Path) -> None:
    found = compared(tmp_path, mlp(), changed(mlp(), set_operator("act1", "Sigmoid")))
    assert kinds(found) == {"nodes_changed"}
    (change,) = found.nodes_changed
    assert (change.before, change.after) == (NodeName("act1", "Relu"), NodeName("act1", "Sigmoid"))
    domain = changed(mlp(), lambda proto: node_of(proto, "act1").__setattr__("domain", "com.microsoft"))
    (change,) = compared(tmp_path, mlp(), domain).nodes_changed
    assert change.after.operator == "com.microsoft.Relu"


WIRES: list[tuple[str, Change, tuple[str, tuple[Changed, ...]]]] = [
    ("past a node", read_from("gemm1", 0, "g0"), ("gemm1", (Changed("input 0", "r0", "g0"),))),
    ("another weight", read_from("gemm2", 2, "b0"), ("gemm2", (Changed("input 2", "b2", "b0"),))),
    (
        "a weight no longer",
        lambda proto: node_of(proto, "gemm2").input.pop(),
        ("gemm2", (Changed("input 2", "b2", None),)),
    ),
    (
        "one more output",
        lambda proto: node_of(proto, "act1").output.append("more"),
        ("act1", (Changed("output 1", None, "more"),)),
    ),
]


@pytest.mark.parametrize(("what", "change", "expected"), WIRES, ids=[line[0] for line in WIRES])
def test_links(what: str, change: Change, expected: tuple[str, tuple[Changed, ...]], tmp_path: Path) -> None:
    found = compared(tmp_path, mlp(), changed(mlp(), change))
    assert kinds(found) == {"nodes_changed"}
    assert [(node.before.name, node.inputs) for node in found.nodes_changed] == [expected]


def test_names_of_values_in_between_are_no_difference(tmp_path: Path) -> None:
    values = {"g0": "r0", "r0": "g0", "g1": "other"}  # swapped: the same names mean other values
    after = changed(mlp())
    for node in after.graph.node:
        node.input[:] = [values.get(n, n) for n in node.input]
        node.output[:] = [values.get(n, n) for n in node.output]
    assert not compared(tmp_path, mlp(), after).differs


def test_order_of_nodes_is_no_difference(tmp_path: Path) -> None:
    after = changed(siblings())
    first = onnx.NodeProto()
    first.CopyFrom(after.graph.node[0])
    del after.graph.node[0]
    after.graph.node.insert(2, first)
    assert not compared(tmp_path, siblings(), after).differs


def test_outputs_that_other_nodes_compute(tmp_path: Path) -> None:
    def two(first: str, second: str) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Relu", ["x"], [first], name="relu"),
            helper.make_node("Exp", ["x"], [second], name="exp"),
        ]
        return model(nodes, {}, outputs=[value("y"), value("z")])

    found = compared(tmp_path, two("y", "z"), two("z", "y"))
    assert [(c.kind, c.what) for c in found.interface] == [("output", ("source",))] * 2
    assert kinds(found) == {"interface"}


def test_scopes(tmp_path: Path) -> None:
    """Bodies of an If, and the model's functions, are graphs of their own."""

    def branches(inner: str, weight: float) -> onnx.ModelProto:
        then = helper.make_graph(
            [helper.make_node("Mul", ["r", "k"], ["t"], name="mul")],
            "then",
            [],
            [value("t")],
            [numpy_helper.from_array(np.full(6, weight, np.float32), "k")],
        )
        other = helper.make_graph(
            [helper.make_node(inner, ["r"], ["e"], name="act")], "else", [], [value("e")]
        )
        nodes = [
            helper.make_node("Relu", ["x"], ["r"], name="relu"),
            helper.make_node("If", ["c"], ["z"], name="if", then_branch=then, else_branch=other),
            helper.make_node("Twice", ["z"], ["y"], name="call", domain="own"),
        ]
        body = [helper.make_node("Add", ["a", "a"], ["b"], name="add")]
        twice = helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
        made = model(nodes, {}, [value("x"), value("c", (), TensorProto.BOOL)], functions=[twice])
        made.opset_import.append(helper.make_opsetid("own", 1))
        return made

    found = compared(tmp_path, branches("Sigmoid", 1.0), branches("Tanh", 3.0))
    assert found.before.operators == {
        "": {"Relu": 1, "If": 1, "own.Twice": 1},
        "if.then_branch/": {"Mul": 1},
        "if.else_branch/": {"Sigmoid": 1},
        "Twice/": {"Add": 1},
    }
    assert kinds(found) == {"nodes_changed", "weights_changed"}
    (node,) = found.nodes_changed
    assert (node.before, node.after) == (
        NodeName("if.else_branch/act", "Sigmoid"),
        NodeName("if.else_branch/act", "Tanh"),
    )
    (weight,) = found.weights_changed
    assert weight.before.name == "if.then_branch/k"
    assert weight.before.reader == NodeName("if.then_branch/mul", "Mul")
    assert weight.figures is not None and weight.figures.max_rel == 2
    assert not compared(tmp_path, branches("Tanh", 1.0), branches("Tanh", 1.0)).differs
