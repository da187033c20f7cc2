"""BatchNormalization inside the bodies of If, Loop and Scan and inside functions, through the command line.

Every row is proved by the command itself, and compared once more here in onnxruntime, its own graph
optimisation off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.reasons import Reason
from tests.command import optimized
from tests.onnx_graphs import Net, Shape, all_nodes, assert_equal

Build = Callable[[Net], onnx.ModelProto]
FOLD = None
IMAGE: dict[str, Shape] = {"x": (2, 4, 6, 5)}


@dataclass(frozen=True)
class Row:
    """``decisions``: by node, FOLD or the reason that is given first."""

    name: str
    decisions: dict[str, Reason | None]
    build: Build


ROWS: list[Row] = []


def row(name: str, **decisions: Reason | None) -> Callable[[Build], Build]:
    """Add a row; its nodes are named by the last part of their path."""

    def add(build: Build) -> Build:
        ROWS.append(Row(name, decisions, build))
        return build

    return add


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


# --- Loop and Scan -----------------------------------------------------------------------------------------


@row("Loop: Conv → BN, all weights in the body", bn=FOLD)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    y = inner.bn(inner.conv("h", 4, 4, 3, 3, pads=[1] * 4), 4, name="bn")
    names = loop(net, "x", inner, "h", inner.op("Tanh", y))
    return net.build(IMAGE, names, ranks={"last": 4})


@row("Loop: Conv → BN, all weights captured from outside, and used there too", bn=FOLD, outer=FOLD)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    w, b, stats = net.weight(4, 4, 1, 1, fan_in=4), net.vector(4), net.statistics(4)
    y = inner.op("BatchNormalization", inner.op("Conv", "h", w, b), *stats, name="bn")
    outer = net.op("BatchNormalization", net.op("Conv", "x", w, b), *stats, name="outer")
    names = loop(net, net.op("Tanh", outer), inner, "h", inner.op("Tanh", y))
    return net.build(IMAGE, names, ranks={"last": 4})


@row("Loop: BN of the state → Conv, and what is stacked", bn=FOLD, stack=Reason.BODY_BOUNDARY)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    y = inner.op("Tanh", inner.conv(inner.bn("h", 4, name="bn"), 4, 4, 1, 1))
    stack = inner.bn(y, 4, name="stack")
    return net.build(IMAGE, loop(net, "x", inner, "h", y, scan=stack), ranks={"last": 4, "stacked": 5})


@row("Loop: BN of a tensor captured from outside", bn=Reason.CAPTURED)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    x = net.conv("x", 4, 4, 1, 1)
    y = inner.op("Tanh", inner.op("Add", inner.op("Tanh", inner.bn(x, 4, name="bn")), "h"))
    return net.build(IMAGE, loop(net, "x", inner, "h", y), ranks={"last": 4})


@row("Scan: BN → Conv → BN", first=FOLD, second=FOLD)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    x = inner.conv(inner.bn("slice", 4, name="first"), 4, 3, 2, 2)
    y = inner.op("Tanh", inner.bn(x, 3, name="second"))
    state = inner.op("Identity", "s")
    body = helper.make_graph(
        inner.nodes,
        "body",
        [value("s", shape=[1]), value("slice", shape=[2, 4, 6, 5])],
        [value(state, shape=[1]), value(y, shape=[2, 3, 5, 4])],
        inner.initializers,
    )
    start = net.const(np.zeros(1))
    net.op("Scan", start, "x", out=["end", "stacked"], body=body, num_scan_inputs=1)
    return net.build({"x": (3, 2, 4, 6, 5)}, "stacked", ranks={"stacked": 5})


# --- If, and If in a Loop -----------------------------------------------------------------------------------


def branches(net: Net, condition: str, then: tuple[Net, str], other: tuple[Net, str]) -> str:
    graphs: dict[str, Any] = {
        name: helper.make_graph(inner.nodes, name, [], [value(out)], inner.initializers)
        for name, (inner, out) in (("then_branch", then), ("else_branch", other))
    }
    return net.op("If", condition, name="if", **graphs)


@row("If: both branches fold into weights captured from outside", then_bn=FOLD, else_bn=FOLD)
def _(net: Net) -> onnx.ModelProto:
    w, x, then, other = net.weight(5, 4, 3, 2, fan_in=24), net.op("Relu", "x"), Inside(1), Inside(2)
    a = then.op("Tanh", then.bn(then.op("Conv", x, w, out="then_c"), 5, name="then_bn"))
    b = other.op("Tanh", other.bn(other.op("Conv", x, w, out="else_c"), 5, name="else_bn"))
    y = branches(net, "cond", (then, a), (other, b))
    return net.build({"cond": (), **IMAGE}, y, ranks={y: 4})


@row("If in a Loop: weights from two scopes outside", deep=FOLD, also=FOLD)
def _(net: Net) -> onnx.ModelProto:
    w, b, stats = net.weight(4, 4, 1, 1, fan_in=4), net.vector(4), net.statistics(4)
    turn, then, other = Inside(1), Inside(2), Inside(3)
    own = turn.weight(4, 4, 1, 1, fan_in=4)
    y = then.op("BatchNormalization", then.op("Conv", "h", w, b), *stats, name="deep")
    a = then.op("Conv", then.op("Tanh", y), own)
    z = other.op("BatchNormalization", other.op("Conv", "h", own), *stats, name="also")
    chosen = branches(turn, "go_on", (then, then.op("Tanh", a)), (other, other.op("Sigmoid", z)))
    names = loop(net, "x", turn, "h", turn.op("Tanh", chosen))
    return net.build(IMAGE, names, ranks={"last": 4})


# --- functions ----------------------------------------------------------------------------------------------


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


@row("a function that is called twice: Conv → BN → Relu → Conv", bn=FOLD)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    x = inner.op("Relu", inner.bn(inner.conv("v", 4, 6, 3, 3, pads=[1] * 4), 6, name="bn"))
    inner.op("Tanh", inner.conv(x, 6, 4, 1, 1), out="out")
    block = function([*stored(inner), *inner.nodes], ["v"])
    first = net.op("Block", "x", domain="local")
    return calling(net, net.op("Block", first, domain="local"), [block])


@row("a function whose weights its callers give", bn=Reason.WEIGHT_NOT_CONSTANT)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    inner.op("Tanh", inner.bn(inner.op("Conv", "v", "w"), 4, name="bn"), out="out")
    block = function([*stored(inner), *inner.nodes], ["v", "w"])
    x = net.op("Block", "x", net.weight(4, 4, 1, 1, fan_in=4), domain="local")
    return calling(net, net.op("Block", x, net.weight(4, 4, 1, 1, fan_in=4), domain="local"), [block])


@row("a function whose statistics its callers give", bn=Reason.PARAMETER_IS_ARGUMENT)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    inner.const(np.ones(4))  # γ of its own; β, μ and σ² through nodes, which change nothing of whose they are
    names = [inner.op("Neg", inner.op("Neg", name)) for name in ("s", "t", "u")]
    y = inner.op("BatchNormalization", inner.conv("v", 4, 4, 1, 1), "body1_c0", *names, name="bn")
    inner.op("Tanh", y, out="out")
    block = function([*stored(inner), *inner.nodes], ["v", "s", "t", "u"])
    variance = net.const(net.factors(4, positive=True))
    return calling(net, net.op("Block", "x", net.vector(4), net.vector(4), variance, domain="local"), [block])


@row(
    "a BN around calls: the function's input and output stay as they are",
    before=FOLD,
    after=Reason.UNSUPPORTED_OP,
)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    inner.op("Tanh", "v", out="out")
    x = net.bn(net.conv("x", 4, 4, 1, 1), 4, name="before")
    y = net.bn(net.op("Block", x, domain="local"), 4, name="after")
    return calling(net, net.op("Tanh", y), [function(inner.nodes, ["v"])])


@row("ε is an attribute that the callers give", bn=Reason.UNSUPPORTED_OP)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    inner.op("Tanh", inner.bn(inner.conv("v", 4, 4, 1, 1), 4, name="bn"), out="out")
    bn = next(n for n in inner.nodes if n.op_type == "BatchNormalization")
    del bn.attribute[:]
    bn.attribute.add(name="epsilon", ref_attr_name="eps", type=onnx.AttributeProto.FLOAT)
    block = function([*stored(inner), *inner.nodes], ["v"], attributes=["eps"])
    x = net.op("Block", "x", domain="local", eps=0.1)
    return calling(net, net.op("Block", x, domain="local", eps=0.7), [block])


@row("a function that calls a function, with a BN in each", outer=FOLD, inner=FOLD)
def _(net: Net) -> onnx.ModelProto:
    low, high = Inside(1), Inside(2)
    low.op("Tanh", low.bn(low.conv("v", 4, 4, 3, 1, pads=[1, 0, 1, 0]), 4, name="inner"), out="out")
    x = high.op("Low", high.bn(high.conv("v", 4, 4, 1, 1), 4, name="outer"), domain="local")
    high.op("Tanh", x, out="out")
    functions = [
        function([*stored(low), *low.nodes], ["v"], "Low"),
        function([*stored(high), *high.nodes], ["v"], "High"),
    ]
    return calling(net, net.op("High", "x", domain="local"), functions)


@pytest.mark.parametrize("case", ROWS, ids=lambda r: r.name)
def test_scopes(case: Row, tmp_path: Path) -> None:
    made = case.build(Net(sum(case.name.encode())))
    done = optimized(made, tmp_path)
    found = {name.rsplit("/", 1)[-1]: reason for name, reason in done.decisions.items()}
    assert found == {name: reason and reason.name for name, reason in case.decisions.items()}
    kept = [name for name, reason in case.decisions.items() if reason is not FOLD]
    after = onnx.load(done.after)
    nodes = [*all_nodes(after.graph), *(n for f in after.functions for n in f.node)]
    assert sorted(n.name for n in nodes if n.op_type == "BatchNormalization") == sorted(kept)
    assert len(nodes) == len([*all_nodes(made.graph), *(n for f in made.functions for n in f.node)]) - (
        len(case.decisions) - len(kept)
    ) - _constants(made) + _constants(after)
    assert_equal(done.before, done.after)


def _constants(model: onnx.ModelProto) -> int:
    """Constant nodes in functions: a removed BN's go with it, a new bias's come."""
    return sum(n.op_type == "Constant" for f in model.functions for n in f.node)


def test_a_weight_outside_that_bodies_change_is_copied_not_changed(tmp_path: Path) -> None:
    """The captured weight still serves the convolution outside, bit for bit."""
    net, then, other = Net(1), Inside(1), Inside(2)
    w = net.weight(5, 4, 3, 2, fan_in=24)
    a = then.op("Tanh", then.bn(then.op("Conv", "x", w, out="then_c"), 5))
    b = other.op("Conv", "x", w, out="else_c")
    y = branches(net, "cond", (then, a), (other, b))
    made = net.build({"cond": (), **IMAGE}, [y, net.op("Conv", "x", w, name="outside")], ranks={y: 4})
    done = optimized(made, tmp_path)
    after = onnx.load(done.after)
    outside = next(n for n in after.graph.node if n.name == "outside")
    weights = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    np.testing.assert_array_equal(weights[outside.input[1]], numpy_helper.to_array(made.graph.initializer[0]))
    assert_equal(done.before, done.after, seeds=(0, 1))
