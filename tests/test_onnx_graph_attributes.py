"""Graphs as attributes of calls of a model's own functions: what loads before loads afterwards, and is equal.

onnxruntime looks names in such a graph up in the function first, and then around the call. So these calls are
not written out, and a default whose graph reads what its function does not define is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper

from bnfuse.errors import UnreadableModel
from bnfuse.use_cases.optimize import inspect
from tests.calls import optimize
from tests.onnx_bodies import Inside, calling, function, value
from tests.onnx_graphs import Net, assert_equal, session
from tests.runtime_versions import TELLS_FUNCTIONS_APART

STATISTICS = ["s", "b", "m", "v"]
GRAPH = AttributeProto.GRAPH
Make = Callable[[Net], onnx.GraphProto]


def normalized(name: str, *, reads: str = "x", mark: str = "given") -> Make:
    """A graph with a convolution and a BatchNormalization of a value around it.

    Its statistics are its own, or those of the graph around it.
    """

    def make(net: Net) -> onnx.GraphProto:
        inner = Inside(7)
        inner._mark = mark
        around = net if name == "statistics of the caller" else inner
        x = reads if name == "no convolution" else inner.conv(reads, 4, 4, 1, 1)
        out = inner.op("BatchNormalization", x, *around.statistics(4), name=f"{mark}_bn")
        return helper.make_graph(inner.nodes, "g", [], [value(out)], inner.initializers)

    return make


BODIES = ("its own statistics", "statistics of the caller", "no convolution")


def taking(*more: str) -> onnx.FunctionProto:
    """F: If with the given graph as both of its branches; then, asked for, Conv → BatchNormalization."""
    inner = Inside(1)
    x = inner.op("If", "c", name="if")
    for branch in ("then_branch", "else_branch"):
        inner.nodes[-1].attribute.add(name=branch, type=GRAPH, ref_attr_name="body")
    if more:
        x = inner.op("BatchNormalization", inner.op("Conv", x, "w"), *STATISTICS, name="bn")
    inner.op("Tanh", x, out="out")
    return function(inner.nodes, ["x", "c", *more], "F", attributes=["body"])


def passing() -> onnx.FunctionProto:
    """G: hands what it is given to F."""
    inner = Inside(2)
    inner.op("F", "x", "c", domain="local", out="out")
    inner.nodes[-1].attribute.add(name="body", type=GRAPH, ref_attr_name="body")
    return function(inner.nodes, ["x", "c"], "G", attributes=["body"])


def ignoring() -> onnx.FunctionProto:
    """F: looks at none of what it is given."""
    inner = Inside(1)
    inner.op("Tanh", "x", out="out")
    return function(inner.nodes, ["x", "c"], "F", attributes=["body"])


WHO: dict[str, list[onnx.FunctionProto]] = {
    "taken": [taking()],
    "taken before a fold": [taking("w", *STATISTICS)],
    "handed on": [taking(), passing()],
    "ignored": [ignoring()],
}


def called(functions: list[onnx.FunctionProto], body: str, calls: int, reads: str) -> onnx.ModelProto:
    """Conv → BN, such calls in a row, Conv → BN."""
    net = Net(3)
    x = net.op("Relu", net.bn(net.conv("x", 4, 4, 1, 1), 4), out="pre")
    last = functions[-1]
    for k in range(calls):
        more = [net.weight(4, 4, 1, 1, fan_in=4), *net.statistics(4)] if len(last.input) > 2 else []
        given = normalized(body, reads=reads, mark=f"given{k}")(net)
        x = net.op(last.name, x, "cond", *more, domain="local", name=f"call{k}", body=given)
    made = calling(net, net.bn(net.conv(x, 4, 4, 1, 1), 4), functions)
    made.graph.input.append(value("cond", TensorProto.BOOL, []))
    return made


@pytest.mark.parametrize("who", WHO)
def test_what_loads_still_loads_and_computes_the_same(who: str, tmp_path: Path) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    forms = [(body, calls, reads) for body in BODIES for calls in (1, 2) for reads in ("x", "pre")]
    loaded = 0
    for form in forms:
        onnx.save(called(WHO[who], *form), before)
        assert optimize(before, after, verify=False, bench=False, force=True).plan.order, form
        try:
            session(before)
        except Exception:  # noqa: BLE001 - onnxruntime's have no base of their own
            continue
        loaded += 1
        assert_equal(before, after)
    if TELLS_FUNCTIONS_APART:  # before, they do not load
        assert loaded >= len(forms) / 3 or (who, loaded) == ("handed on", 0)  # which no version loads yet


def with_default(net: Net, graph: onnx.GraphProto, calls: int = 1) -> onnx.ModelProto:
    """F gives its graph itself; a second call gives another one."""
    taker = taking()
    del taker.attribute[:]
    taker.attribute_proto.append(helper.make_attribute("body", graph))
    x = net.op("F", net.bn(net.conv("x", 4, 4, 1, 1), 4), "cond", domain="local", name="call")
    if calls > 1:
        given = normalized("its own statistics", mark="other")(net)
        x = net.op("F", x, "cond", domain="local", name="again", body=given)
    made = calling(net, net.bn(net.conv(x, 4, 4, 1, 1), 4), [taker])
    made.graph.input.append(value("cond", TensorProto.BOOL, []))
    return made


@pytest.mark.parametrize("calls", [1, 2] if TELLS_FUNCTIONS_APART else [1])
@pytest.mark.parametrize("body", ["its own statistics", "no convolution"])
def test_a_default_loads_and_computes_the_same(body: str, calls: int, tmp_path: Path) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    net = Net(4)
    onnx.save(with_default(net, normalized(body)(Net(5)), calls), before)
    assert optimize(before, after, verify=False, bench=False).plan.order
    assert_equal(before, after)


def _outside(function: onnx.FunctionProto) -> None:
    """Its graph reads what the model, by chance, calls so: a fold removes it, and nothing loads any more."""
    graph = function.attribute_proto[0].g
    graph.node[-1].input[1] = "c1"


def _twice(function: onnx.FunctionProto) -> None:
    """onnxruntime takes the first one."""
    again = function.attribute_proto.add()
    again.CopyFrom(function.attribute_proto[0])


SPOILT: dict[str, tuple[Callable[[onnx.FunctionProto], None], str]] = {
    "a default that reads what is outside": (_outside, "has a graph as a default, which reads 'c1'"),
    "two defaults": (_twice, "the function 'F' has two defaults for one attribute"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_readers_take_differently_is_refused(what: str, tmp_path: Path) -> None:
    spoil, says = SPOILT[what]
    path = tmp_path / "model.onnx"
    made = with_default(Net(4), normalized("its own statistics")(Net(5)))
    spoil(made.functions[0])
    onnx.save(made, path)
    session(path)
    with pytest.raises(UnreadableModel, match=says):
        inspect(path)
