"""ONNX models for the tests of ``diff``, ways to change one of them, and which lists a difference fills."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnfuse.difference.result import Difference
from bnfuse.use_cases.diff import diff

Change = Callable[[onnx.ModelProto], object]
Axes = tuple[int | str | None, ...]

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


def value(name: str, shape: Axes | None = ("N", 6), dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Iterable[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    inputs: Iterable[onnx.ValueInfoProto] = (),
    outputs: Iterable[onnx.ValueInfoProto] = (),
    **more: Any,
) -> onnx.ModelProto:
    """A model; of one input x and one output y where nothing else is said."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        list(inputs) or [value("x")],
        list(outputs) or [value("y")],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **more)


def mlp(seed: int = 3) -> onnx.ModelProto:
    """x → Gemm → Relu → Gemm → Relu → Gemm → LeakyRelu → y, all weights of other shapes."""
    rng = np.random.default_rng(seed)
    sizes = (6, 9, 7, 6)
    nodes, weights, last = [], {}, "x"
    for i in range(3):
        weights[f"w{i}"] = rng.standard_normal((sizes[i], sizes[i + 1])).astype(np.float32)
        weights[f"b{i}"] = rng.standard_normal(sizes[i + 1]).astype(np.float32)
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"g{i}"], name=f"gemm{i}"))
        last = "y" if i == 2 else f"r{i}"
        nodes.append(helper.make_node("LeakyRelu" if i == 2 else "Relu", [f"g{i}"], [last], name=f"act{i}"))
    nodes[-1].attribute.append(helper.make_attribute("alpha", 0.25))
    return model(nodes, weights)


def siblings() -> onnx.ModelProto:
    """x → three MatMuls, summed; their weights are alike but for a factor."""
    weight = np.random.default_rng(2).standard_normal((6, 6)).astype(np.float32)
    weights = {f"w{i}": weight * np.float32(1 + i / 4) for i in range(3)}
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"m{i}"], name=f"mm{i}") for i in range(3)]
    return model([*nodes, helper.make_node("Sum", ["m0", "m1", "m2"], ["y"], name="sum")], weights)


def changed(original: onnx.ModelProto, *changes: Change) -> onnx.ModelProto:
    """A copy with these changes made."""
    copy = onnx.ModelProto()
    copy.CopyFrom(original)
    for change in changes:
        change(copy)
    return copy


def compared(folder: Path, before: onnx.ModelProto, after: onnx.ModelProto, **options: Any) -> Difference:
    """Save both and compare them."""
    paths = folder / "a.onnx", folder / "b.onnx"
    for path, proto in zip(paths, (before, after), strict=True):
        path.write_bytes(proto.SerializeToString())
    return diff(*paths, **options)


def kinds(found: Difference) -> set[str]:
    """Which of the lists hold anything."""
    assert {*LISTS} <= set(found.__struct_fields__)
    return {name for name in LISTS if getattr(found, name)}


def array(proto: onnx.ModelProto, name: str) -> np.ndarray:
    """An initializer, by name."""
    return next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == name)


def set_array(name: str, values: np.ndarray) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return change


def renamed(names: Callable[[str], str], *, nodes: bool = True) -> Change:
    """New names for every weight and inner value, and for nodes where asked; the interface keeps its own."""

    def change(proto: onnx.ModelProto) -> None:
        kept = {"", *(v.name for v in (*proto.graph.input, *proto.graph.output))}
        for tensor in proto.graph.initializer:
            tensor.name = names(tensor.name)
        for node in proto.graph.node:
            node.input[:] = [n if n in kept else names(n) for n in node.input]
            node.output[:] = [n if n in kept else names(n) for n in node.output]
            if nodes:
                node.name = names(node.name)

    return change


def without_names(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.name = ""


def without_node(name: str) -> Change:
    """The node goes; its readers read what it read."""

    def change(proto: onnx.ModelProto) -> None:
        node = next(n for n in proto.graph.node if n.name == name)
        read, written = node.input[0], node.output[0]
        proto.graph.node.remove(node)
        for other in proto.graph.node:
            other.input[:] = [read if n == written else n for n in other.input]

    return change


def node_of(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in proto.graph.node if n.name == name)
