"""Nets inside other nets: the bodies of Loop and If, and functions of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.onnx_graphs import Net


class Inside(Net):
    """A net for a body: its names do not hide those outside."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._mark = f"body{seed}"

    def const(self, array: Any, name: str = "") -> str:
        return super().const(array, name or f"{self._mark}_c{len(self.initializers)}")

    def op(self, kind: str, *inputs: str, out: str | Sequence[str] = "", **attributes: Any) -> str:
        return super().op(kind, *inputs, out=out or f"{self._mark}_v{len(self.nodes)}", **attributes)


def value(
    name: str, element: int = TensorProto.FLOAT, shape: Sequence[int | None] | None = None
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def loop(net: Net, state: str, inner: Net, into: str, result: str, *, scan: str = "") -> list[str]:
    """Two turns of a body with one state; its stacked values too, if asked for."""
    inner.op("Identity", "go_on", out="goes_on")
    inputs = [value("turn", TensorProto.INT64, []), value("go_on", TensorProto.BOOL, []), value(into)]
    outputs = [value("goes_on", TensorProto.BOOL), value(result)] + ([value(scan)] if scan else [])
    body = helper.make_graph(inner.nodes, "body", inputs, outputs, inner.initializers)
    turns, go = net.const(np.array(2)), net.const(np.array(True))
    names = ["last", "stacked"] if scan else ["last"]
    net.op("Loop", turns, go, state, out=names, body=body, name="loop")
    return names


def branches(net: Net, condition: str, then: tuple[Net, str], other: tuple[Net, str]) -> str:
    graphs: dict[str, Any] = {
        name: helper.make_graph(inner.nodes, name, [], [value(out)], inner.initializers)
        for name, (inner, out) in (("then_branch", then), ("else_branch", other))
    }
    return net.op("If", condition, name="if", **graphs)


def function(
    nodes: Sequence[onnx.NodeProto], inputs: list[str], name: str = "Block", **at: Any
) -> onnx.FunctionProto:
    opset = at.pop("opset", 17)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, inputs, ["out"], list(nodes), imports, **at)


def stored(net: Net) -> list[onnx.NodeProto]:
    """The net's initializers as Constant nodes, which functions have instead."""
    return [helper.make_node("Constant", [], [t.name], value=t) for t in net.initializers]


def calling(net: Net, result: str, functions: list[onnx.FunctionProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        net.nodes,
        "net",
        [value("x", shape=[2, 4, 6, 5])],
        [value(result, shape=[None] * 4)],
        net.initializers,
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)
