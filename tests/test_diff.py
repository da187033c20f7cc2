"""What differs between two ONNX models: each change that is made is found, and nothing else is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.difference.result import Changed, Difference, NodeName
from tests.diff_nets import (
    Change,
    array,
    changed,
    compared,
    mlp,
    model,
    node_of,
    renamed,
    set_array,
    value,
    without_names,
    without_node,
)

LISTS = [
    "interface",
    "facts",
    "nodes_renamed",
    "nodes_changed",
    "nodes_removed",
    "nodes_added",
    "weights_renamed",
    "weights_changed",
    "weights_removed",
    "weights_added",
]


def kinds(found: Difference) -> set[str]:
    """Which of the lists hold anything."""
    assert {*LISTS} <= {field.name for field in fields(found)}
    return {name for name in LISTS if getattr(found, name)}


def test_a_model_and_itself(tmp_path: Path) -> None:
    found = compared(tmp_path, mlp(), mlp())
    assert not found.differs and kinds(found) == set()
    assert (found.nodes_same, found.weights_same) == (6, 6)
    sizes = 6 * 9 + 9 + 9 * 7 + 7 + 7 * 6 + 6
    for side in (found.before, found.after):
        assert (side.parameters, side.weight_bytes, side.weights) == (sizes, 4 * sizes, 6)
        assert side.totals == {"Gemm": 3, "Relu": 2, "LeakyRelu": 1}
        assert side.file.total_bytes == side.file.path.stat().st_size


# Weights


def test_weights_are_listed_by_the_size_of_their_change(tmp_path: Path) -> None:
    before = mlp()
    w0, w1, b2 = (array(before, name).copy() for name in ("w0", "w1", "b2"))
    w0[2, 3] += np.float32(0.5)
    w1 *= np.float32(1.5)
    b2[1] = 40
    found = compared(tmp_path, before, changed(before, *map(set_array, ("w0", "w1", "b2"), (w0, w1, b2))))
    assert kinds(found) == {"weights_changed"} and found.weights_same == 3
    assert found.nodes_same == 6
    expected = {}
    for name, after in (("w0", w0), ("w1", w1), ("b2", b2)):
        a, b = array(before, name).astype(np.float64), after.astype(np.float64)
        apart = np.abs(a - b)
        expected[name] = (
            int((a != b).sum()),
            apart.max(),
            apart.max() / np.abs(a).max(),
            math.sqrt((apart**2).mean()),
        )
    order = sorted(expected, key=lambda name: -expected[name][2])
    assert [change.before.name for change in found.weights_changed] == order
    for change in found.weights_changed:
        figures = change.figures
        assert figures is not None and change.what == ("values",)
        got = (figures.changed, figures.max_abs, figures.max_rel, figures.rms)
        assert got == pytest.approx(expected[change.before.name], rel=1e-12)
    reader = next(c.before for c in found.weights_changed if c.before.name == "b2")
    assert (reader.reader, reader.slot) == (NodeName("gemm2", "Gemm"), "input 2")


def test_small_changes_can_be_left_out(tmp_path: Path) -> None:
    before = mlp()
    w0, w1 = array(before, "w0"), array(before, "w1")
    after = changed(before, set_array("w0", w0 * np.float32(1 + 1e-6)), set_array("w1", 2 * w1))
    every = compared(tmp_path, before, after)
    assert [change.before.name for change in every.weights_changed] == ["w1", "w0"]
    small = every.weights_changed[1].figures
    assert small is not None and 0 < small.max_rel < 2e-6
    found = compared(tmp_path, before, after, ignore_below=1e-5)
    assert [change.before.name for change in found.weights_changed] == ["w1"]
    assert (found.weights_ignored, found.largest_ignored) == (1, small.max_rel)
    assert (found.weights_same, found.differs) == (4, True)
    found = compared(tmp_path, before, after, ignore_below=1.5)
    assert (found.weights_ignored, found.differs) == (2, False)


def test_another_dtype_is_compared_by_value(tmp_path: Path) -> None:
    before = mlp()
    w = array(before, "w1")
    found = compared(tmp_path, before, changed(before, set_array("w1", w.astype(np.float16))))
    (change,) = found.weights_changed
    assert (change.what, change.before.dtype, change.after.dtype) == (
        ("values", "dtype"),
        "float32",
        "float16",
    )
    error = np.abs(w.astype(np.float64) - w.astype(np.float16).astype(np.float64)).max()
    assert change.figures is not None and change.figures.max_abs == error
    whole = np.round(w)
    pair = changed(before, set_array("w1", whole)), changed(before, set_array("w1", whole.astype(np.float64)))
    (change,) = compared(tmp_path, *pair, ignore_below=1.0).weights_changed
    assert (change.what, change.figures) == (("dtype",), None)


@pytest.mark.parametrize(
    ("shape", "what"),
    [((9, 7, 1), ("shape",)), ((7, 9), ("values", "shape")), ((9, 6), ("values", "shape"))],
)
def test_another_shape(shape: tuple[int, ...], what: tuple[str, ...], tmp_path: Path) -> None:
    before = mlp()
    values = np.resize(array(before, "w1"), shape)
    (change,) = compared(tmp_path, before, changed(before, set_array("w1", values))).weights_changed
    assert (change.what, change.after.shape, change.figures) == (what, shape, None)


def share(*pairs: tuple[str, str]) -> Change:
    """Let nodes read another weight; those that nobody reads any more go."""

    def change(proto: onnx.ModelProto) -> None:
        for old, new in pairs:
            for node in proto.graph.node:
                node.input[:] = [new if name == old else name for name in node.input]
            dead = next(t for t in proto.graph.initializer if t.name == old)
            proto.graph.initializer.remove(dead)

    return change


def siblings() -> onnx.ModelProto:
    """x → three MatMuls, summed; their weights are alike but for a factor."""
    weight = np.random.default_rng(2).standard_normal((6, 6)).astype(np.float32)
    weights = {f"w{i}": weight * np.float32(1 + i / 4) for i in range(3)}
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"m{i}"], name=f"mm{i}") for i in range(3)]
    return model([*nodes, helper.make_node("Sum", ["m0", "m1", "m2"], ["y"], name="sum")], weights)


def test_a_shared_weight_is_one_and_its_copies_are_compared_with_it(tmp_path: Path) -> None:
    own = siblings()
    shared = changed(own, share(("w1", "w0"), ("w2", "w0")))
    found = compared(tmp_path, shared, own)
    assert kinds(found) == {"weights_changed"} and found.weights_same == 1
    assert found.before.weights == 1 and found.after.weights == 3
    got = [(c.before.name, c.after.name, c.shared, c.figures) for c in found.weights_changed]
    assert [line[:3] for line in got] == [("w0", "w2", "split"), ("w0", "w1", "split")]
    for (_, _, _, figures), factor in zip(got, (0.5, 0.25), strict=True):
        assert figures is not None and figures.max_rel == pytest.approx(factor)
    back = compared(tmp_path, own, shared)
    got = [(c.before.name, c.after.name, c.shared, c.figures) for c in back.weights_changed]
    assert [line[:3] for line in got] == [("w2", "w0", "merged"), ("w1", "w0", "merged")]
    for (_, _, _, figures), factor in zip(got, (0.5 / 1.5, 0.25 / 1.25), strict=True):
        assert figures is not None and figures.max_rel == pytest.approx(factor)
    assert kinds(back) == {"weights_changed"}


def as_constants(proto: onnx.ModelProto) -> None:
    """Initializers become Constant nodes, as many exporters write them."""
    made = [helper.make_node("Constant", [], [t.name], value=t) for t in proto.graph.initializer]
    kept = list(proto.graph.node)
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend([*made, *kept])


def test_constant_nodes_hold_weights(tmp_path: Path) -> None:
    before = changed(mlp(), as_constants)
    w1 = array(mlp(), "w1") * 2
    found = compared(tmp_path, before, changed(mlp(), set_array("w1", w1), as_constants))
    assert kinds(found) == {"weights_changed"}
    assert found.weights_changed[0].before.reader == NodeName("gemm1", "Gemm")
    found = compared(tmp_path, mlp(), before)
    assert kinds(found) == {"nodes_added"} and found.weights_same == 6
    assert {node.operator for node in found.nodes_added} == {"Constant"}


@pytest.mark.parametrize("threshold", [0, 100])
def test_where_weights_are_stored_is_no_difference(threshold: int, tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "a.onnx")
    big = changed(mlp(), set_array("w1", array(mlp(), "w1") + 1))
    for name, proto in (("b", mlp()), ("c", big)):
        onnx.save_model(
            proto,
            tmp_path / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.bin",
            size_threshold=threshold,
        )
        (tmp_path / f"{name}.bin").chmod(0o644)
    from bnfuse.diff import diff

    found = diff(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert not found.differs and found.weights_same == 6
    assert (found.before.storage, found.after.storage) == ({}, {"external data": "b.bin"})
    assert found.after.file.total_bytes == sum(p.stat().st_size for p in tmp_path.glob("b.*"))
    (change,) = diff(tmp_path / "b.onnx", tmp_path / "c.onnx").weights_changed
    assert change.before.name == "w1"


def test_one_place_is_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models beside one file of weights: what lies at the same place is equal."""
    from bnfuse.diff import diff
    from bnfuse.formats.onnx.storage import FileTensor

    path = tmp_path / "a.onnx"
    onnx.save_model(mlp(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").chmod(0o644)
    (tmp_path / "b.onnx").write_bytes(path.read_bytes())

    def read(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(FileTensor, "read", read)
    assert not diff(path, tmp_path / "b.onnx").differs


# Nodes


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


# The interface, and facts


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
