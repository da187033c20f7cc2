"""BatchNormalization inside the bodies of If, Loop and Scan, through the command line.

Every row is proved by the command itself, and compared once more here in onnxruntime, its own graph
optimisation off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfuse.core.reasons import Reason
from tests.command import optimized
from tests.onnx_bodies import Inside, branches, loop, value
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


@pytest.mark.parametrize("case", ROWS, ids=lambda r: r.name)
def test_scopes(case: Row, tmp_path: Path) -> None:
    made = case.build(Net(sum(case.name.encode())))
    done = optimized(made, tmp_path)
    found = {name.rsplit("/", 1)[-1]: reason for name, reason in done.decisions.items()}
    assert found == {name: reason and reason.name for name, reason in case.decisions.items()}
    kept = [name for name, reason in case.decisions.items() if reason is not FOLD]
    after = onnx.load(done.after)
    nodes = list(all_nodes(after.graph))
    assert sorted(n.name for n in nodes if n.op_type == "BatchNormalization") == sorted(kept)
    assert len(nodes) == len(list(all_nodes(made.graph))) - (len(case.decisions) - len(kept))
    assert_equal(done.before, done.after)


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
