"""BatchNormalization inside functions of the model and beside their calls, through the command line.

Every row is proved by the command itself, and compared once more here in onnxruntime, which writes all
functions out by itself; its own graph optimisation is off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bnfuse.core.reasons import Reason
from bnfuse.errors import UnreadableModel
from bnfuse.use_cases.optimize import inspect
from tests.command import optimized
from tests.onnx_bodies import Inside, branches, calling, function, loop, stored, value
from tests.onnx_graphs import Net, all_nodes, assert_equal, fold, session
from tests.runtime_versions import tells_functions_apart

Build = Callable[[Net], onnx.ModelProto]
FOLD = None
STATISTICS = ["s", "b", "m", "v"]


@dataclass(frozen=True)
class Row:
    """``decisions``: by node, FOLD or the reason that is given first.

    ``nodes``: operators of the result's main graph and the bodies in it, Constant aside; ``functions``: which
    functions the result has.
    """

    name: str
    decisions: dict[str, Reason | None]
    nodes: str
    functions: str
    build: Build


ROWS: list[Row] = []


def row(
    name: str, decisions: dict[str, Reason | None], nodes: str, functions: str = ""
) -> Callable[[Build], Build]:
    """Add a row."""

    def add(build: Build) -> Build:
        ROWS.append(Row(name, decisions, nodes, functions, build))
        return build

    return add


def conv_bn(**bn: Any) -> onnx.FunctionProto:
    """Conv → BN → Tanh, all weights and statistics from the caller."""
    inner = Inside(1)
    x = inner.op("Conv", "x", "w", name="conv")
    x = inner.op("BatchNormalization", x, *STATISTICS, name="bn", **bn)
    inner.op("Tanh", x, out="out")
    return function(inner.nodes, ["x", "w", *STATISTICS], "ConvBn")


def call(net: Net, x: str, name: str = "", cin: int = 4, cout: int = 4) -> str:
    """A call of ConvBn with 1×1 weights of its own."""
    w = net.weight(cout, cin, 1, 1, fan_in=cin)
    return net.op("ConvBn", x, w, *net.statistics(cout), domain="local", name=name)


# --- weights and statistics from the caller -----------------------------------------------------------------


@row("called once, by a call without a name", {"ConvBn/bn": FOLD}, "Conv Tanh")
def _(net: Net) -> onnx.ModelProto:
    return calling(net, call(net, "x"), [conv_bn()])


@row(
    "called three times with other numbers and sizes",
    {"first/bn": FOLD, "ConvBn/bn": FOLD, "ConvBn_2/bn": FOLD},
    "Conv Tanh Conv Tanh Conv Tanh",
)
def _(net: Net) -> onnx.ModelProto:
    x = call(net, call(net, "x", "first", cout=7), cin=7, cout=3)
    return calling(net, call(net, x, cin=3), [conv_bn()])


@row(
    "all calls give the same statistics and other weights",
    {"a/bn": FOLD, "b/bn": FOLD},
    "Conv Tanh Conv Tanh",
)
def _(net: Net) -> onnx.ModelProto:
    shared = net.statistics(4)
    x = "x"
    for name in "ab":
        x = net.op("ConvBn", x, net.weight(4, 4, 1, 1, fan_in=4), *shared, domain="local", name=name)
    return calling(net, x, [conv_bn()])


@row(
    "one weight for two calls with other statistics", {"a/bn": FOLD, "b/bn": FOLD}, "Conv Tanh Conv Tanh Add"
)
def _(net: Net) -> onnx.ModelProto:
    w = net.weight(4, 4, 1, 1, fan_in=4)
    y, z = (net.op("ConvBn", "x", w, *net.statistics(4), domain="local", name=name) for name in "ab")
    return calling(net, net.op("Add", y, z), [conv_bn()])


@row(
    "one call's statistics come from the model's input: that one stays a call",
    {"given/bn": FOLD, "ran/bn": Reason.PARAMETER_NOT_CONSTANT},
    "Conv Tanh ReduceMean ConvBn",
    "ConvBn",
)
def _(net: Net) -> onnx.ModelProto:
    x = call(net, "x", "given")
    mean = net.op("ReduceMean", x, axes=[0, 2, 3], keepdims=0)
    scale, bias, _, variance = net.statistics(4)
    names = [net.weight(4, 4, 1, 1, fan_in=4), scale, bias, mean, variance]
    return calling(net, net.op("ConvBn", x, *names, domain="local", name="ran"), [conv_bn()])


@row(
    "statistics from the model's input alone",
    {"ConvBn/bn": Reason.PARAMETER_NOT_CONSTANT},
    "ReduceMean Abs ConvBn",
    "ConvBn",
)
def _(net: Net) -> onnx.ModelProto:
    mean = net.op("ReduceMean", "x", axes=[0, 2, 3], keepdims=0)
    w = net.weight(4, 4, 1, 1, fan_in=4)
    x = net.op("ConvBn", "x", w, mean, mean, mean, net.op("Abs", mean), domain="local", name="")
    return calling(net, x, [conv_bn()])


@row("training mode in the function", {"ConvBn/bn": Reason.TRAINING_MODE}, "ConvBn", "ConvBn")
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    x = inner.op("Conv", "x", "w")
    outputs = ["bn_out", "bn_mean", "bn_var"]
    inner.op("BatchNormalization", x, *STATISTICS, out=outputs, name="bn", training_mode=1)
    inner.op("Tanh", "bn_out", out="out")
    block = function(inner.nodes, ["x", "w", *STATISTICS], "ConvBn")
    return calling(net, call(net, "x"), [block])


@row(
    "a module each: the weights of one function, the statistics of another",
    {"BatchNorm/body2_v0": FOLD},
    "Conv Identity Tanh",
)
def _(net: Net) -> onnx.ModelProto:
    conv, norm = Inside(1), Inside(2)
    conv.op("Conv", "x", "w", "", out="out")  # the bias that it has not
    norm.op("Identity", norm.op("BatchNormalization", "x", *STATISTICS, name=""), out="out")
    norm.nodes[0].name = ""
    x = net.op("Conv2d", "x", net.weight(5, 4, 3, 2, fan_in=24), domain="local", name="")
    x = net.op("BatchNorm", x, *net.statistics(5), domain="local", name="")
    functions = [
        function(conv.nodes, ["x", "w", "b"], "Conv2d"),
        function(norm.nodes, ["x", *STATISTICS], "BatchNorm"),
    ]
    return calling(net, net.op("Tanh", x), functions)


@row("weights through nodes, inside and outside", {"Norm/bn": FOLD}, "Conv Tanh")
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    length = inner.op("ReduceL2", "v", axes=[1, 2, 3], keepdims=1)
    w = inner.op("Mul", inner.op("Div", "v", length), "g")
    minus = inner.op("Neg", inner.op("Neg", "m"))
    x = inner.op("BatchNormalization", inner.op("Conv", "x", w), "s", "b", minus, "u", name="bn")
    inner.op("Tanh", x, out="out")
    block = function(inner.nodes, ["x", "v", "g", "s", "b", "m", "u"], "Norm")
    gain = net.op("Reshape", net.vector(4), net.const(np.array([4, 1, 1, 1])))
    names = [net.weight(4, 4, 3, 3, fan_in=36), gain, *net.statistics(4)]
    return calling(net, net.op("Norm", "x", *names, domain="local", name=""), [block])


@row("a function of constants alone", {"bn": FOLD}, "Conv Tanh")
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    inner.op("Mul", inner.op("Div", "v", inner.op("ReduceL2", "v", axes=[1, 2, 3])), "g", out="out")
    gain = net.const(net.factors(5).reshape(5, 1, 1, 1))
    w = net.op("WeightNorm", net.weight(5, 4, 3, 3, fan_in=36), gain, domain="local")
    x = net.bn(net.op("Conv", "x", w), 5, name="bn")
    return calling(net, net.op("Tanh", x), [function(inner.nodes, ["v", "g"], "WeightNorm")])


@row("a weight that is an output of the model too", {"ConvBn/bn": FOLD}, "Conv Tanh")
def _(net: Net) -> onnx.ModelProto:
    made = calling(net, call(net, "x"), [conv_bn()])
    made.graph.output.add().CopyFrom(value(net.initializers[0].name, shape=[4, 4, 1, 1]))
    return made


@row("a call that gives fewer inputs and takes one of two outputs", {"Two/bn": FOLD}, "Conv Tanh Shape")
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    x = inner.op("BatchNormalization", inner.op("Conv", "x", "w", "bias"), *STATISTICS, name="bn")
    inner.op("Tanh", x, out="out")
    inner.op("Shape", "x", out="sizes")
    block = function(inner.nodes, ["x", "w", *STATISTICS, "bias"], "Two")
    block.output.append("sizes")
    names = [net.weight(4, 4, 1, 1, fan_in=4), *net.statistics(4)]
    y = net.op("Two", "x", *names, domain="local", name="", out=["y", ""])
    return calling(net, y, [block])


@row(
    "an input that the function does not use: it is kept for who does",
    {"Lazy/bn": FOLD, "bn": FOLD},
    "Conv Tanh Conv Tanh",
)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    x = inner.op("BatchNormalization", inner.op("Conv", "x", "w"), *STATISTICS, name="bn")
    inner.op("Tanh", x, out="out")
    block = function(inner.nodes, ["x", "w", *STATISTICS, "unused"], "Lazy")
    scale, *others = net.statistics(4)
    names = [net.weight(4, 4, 1, 1, fan_in=4), *net.statistics(4), scale]
    x = net.op("Lazy", "x", *names, domain="local", name="")
    x = net.op("BatchNormalization", net.conv(x, 4, 4, 1, 1), scale, *others, name="bn")
    return calling(net, net.op("Tanh", x), [block])


# --- what stays a call --------------------------------------------------------------------------------------


@row(
    "calls beside a fold stay calls, with their constants",
    {"first/mul0": Reason.GRAPH_INPUT, "ConvBn/bn": FOLD, "last/mul0": Reason.NONLINEAR},
    "Gelu Conv Tanh Gelu",
    "Gelu",
)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(2)
    inner.op("Mul", "x", inner.op("Sigmoid", inner.op("Mul", "x", "k")), out="out")
    k = net.const(np.array(1.7))
    x = net.op("Gelu", "x", k, domain="local", name="first")
    x = net.op("Gelu", call(net, x), k, domain="local", name="last")
    return calling(net, x, [conv_bn(), function(inner.nodes, ["x", "k"], "Gelu")])


@row(
    "of nested calls the outer ones go, where the inner one may stay",
    {"High/body2_bn": FOLD, "High/Gelu/mul0": Reason.NONLINEAR},
    "Conv Gelu",
    "Gelu",
)
def _(net: Net) -> onnx.ModelProto:
    low, high = Inside(1), Inside(2)
    low.op("Mul", "x", low.op("Sigmoid", low.op("Mul", "x", "k")), out="out")
    x = high.op("BatchNormalization", high.op("Conv", "x", "w"), *STATISTICS, name="body2_bn")
    high.op("Gelu", x, "k", domain="local", out="out", name="")
    names = [net.weight(4, 4, 1, 1, fan_in=4), *net.statistics(4), net.const(np.array(1.7))]
    functions = [
        function(low.nodes, ["x", "k"], "Gelu"),
        function(high.nodes, ["x", "w", *STATISTICS, "k"], "High"),
    ]
    return calling(net, net.op("High", "x", *names, domain="local", name=""), functions)


@row(
    "a convolution in a call takes on what is around it, through an Identity",
    {"bn": FOLD},
    "Conv Identity Tanh",
)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    inner.op("Conv", "x", "w", "b", out="out")
    w, b = net.weight(4, 4, 1, 1, fan_in=4), net.vector(4)
    x = net.bn(net.op("Conv2d", "x", w, b, domain="local"), 4, name="bn")
    return calling(
        net, net.op("Tanh", net.op("Identity", x)), [function(inner.nodes, ["x", "w", "b"], "Conv2d")]
    )


# --- functions that know all there is to know ---------------------------------------------------------------


@row("called twice: Conv → BN → Relu → Conv", {"Block/bn": FOLD}, "Block Block", "Block")
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    x = inner.op("Relu", inner.bn(inner.conv("v", 4, 6, 3, 3, pads=[1] * 4), 6, name="bn"))
    inner.op("Tanh", inner.conv(x, 6, 4, 1, 1), out="out")
    block = function([*stored(inner), *inner.nodes], ["v"])
    first = net.op("Block", "x", domain="local")
    return calling(net, net.op("Block", first, domain="local"), [block])


@row("a BN around the only call", {"before": FOLD, "after": FOLD}, "Conv Tanh Flatten Gemm Tanh")
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    x = inner.op("Flatten", inner.op("Tanh", "v"))
    inner.op("MatMul", x, inner.const(inner.rng.standard_normal((120, 4))), out="out")
    x = net.bn(net.conv("x", 4, 4, 1, 1), 4, name="before")
    y = net.bn(net.op("Block", x, domain="local"), 4, name="after")
    made = calling(net, net.op("Tanh", y), [function([*stored(inner), *inner.nodes], ["v"])])
    made.graph.output[0].CopyFrom(value(made.graph.output[0].name, shape=[None] * 2))
    return made


@row(
    "a BN around two calls: the function's input and output stay as they are",
    {"before": FOLD, "after": Reason.UNSUPPORTED_OP},
    "Conv Block Block BatchNormalization Tanh",
    "Block",
)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    inner.op("Tanh", "v", out="out")
    x = net.bn(net.conv("x", 4, 4, 1, 1), 4, name="before")
    x = net.op("Block", net.op("Block", x, domain="local"), domain="local")
    return calling(net, net.op("Tanh", net.bn(x, 4, name="after")), [function(inner.nodes, ["v"])])


@row(
    "a function that calls a function, twice, with a BN in each",
    {"High/outer": FOLD, "Low/inner": FOLD},
    "High High",
    "Low High",
)
def _(net: Net) -> onnx.ModelProto:
    low, high = Inside(1), Inside(2)
    low.op("Tanh", low.bn(low.conv("v", 4, 4, 3, 1, pads=[1, 0, 1, 0]), 4, name="inner"), out="out")
    x = high.op("Low", high.bn(high.conv("v", 4, 4, 1, 1), 4, name="outer"), domain="local")
    high.op("Tanh", high.op("Low", x, domain="local"), out="out")
    functions = [
        function([*stored(low), *low.nodes], ["v"], "Low"),
        function([*stored(high), *high.nodes], ["v"], "High"),
    ]
    return calling(net, net.op("High", net.op("High", "x", domain="local"), domain="local"), functions)


@row(
    "a function that is called twice gives its constants to one that it calls",
    {"High/ConvBn/bn": FOLD},
    "High High",
    "High",
)
def _(net: Net) -> onnx.ModelProto:
    high = Inside(2)
    call(high, "v")
    high.op("Sigmoid", high.nodes[-1].output[0], out="out")
    functions = [conv_bn(), function([*stored(high), *high.nodes], ["v"], "High")]
    return calling(net, net.op("High", net.op("High", "x", domain="local"), domain="local"), functions)


@row(
    "two functions of one name, in two domains",
    {"Same/bn": FOLD, "Same_2/bn": FOLD},
    "Same Same Same Same",
    "Same Same",
)
def _(net: Net) -> onnx.ModelProto:
    functions = []
    for domain, kernel in (("local", 1), ("other", 3)):
        inner = Inside(1)
        x = inner.conv("v", 4, 4, kernel, kernel, pads=[kernel // 2] * 4)
        inner.op("Tanh" if kernel == 1 else "Sigmoid", inner.bn(x, 4, name="bn"), out="out")
        functions.append(function([*stored(inner), *inner.nodes], ["v"], "Same"))
        functions[-1].domain = domain
    x = "x"
    for domain in ("local", "other", "other", "local"):
        x = net.op("Same", x, domain=domain)
    made = calling(net, x, functions)
    made.opset_import.add(domain="other", version=1)
    return made


@row(
    "two functions of one name and domain, told by their overloads",
    {"Same/bn": FOLD, "Same_2/bn": FOLD},
    "Conv Tanh Conv Sigmoid",
)
def _(net: Net) -> onnx.ModelProto:
    functions = []
    x = "x"
    for overload, op in (("", "Tanh"), ("sigmoid", "Sigmoid")):
        inner = Inside(1)
        y = inner.op("BatchNormalization", inner.op("Conv", "x", "w"), *STATISTICS, name="bn")
        inner.op(op, y, out="out")
        functions.append(function(inner.nodes, ["x", "w", *STATISTICS], "Same", overload=overload))
        names = [net.weight(4, 4, 1, 1, fan_in=4), *net.statistics(4)]
        x = net.op("Same", x, *names, domain="local", overload=overload, name="")
    made = calling(net, x, functions)
    made.ir_version = 10
    return made


@row(
    "of two overloads one that there is not, called in a function that could be written out",
    {"High/bn": Reason.PARAMETER_IS_ARGUMENT},
    "High",
    "Act High",
)
def _(net: Net) -> onnx.ModelProto:
    """onnxruntime finds the other one there; in the main graph it would not."""
    act, inner = Inside(1), Inside(2)
    act.op("Tanh", "x", out="out")
    y = inner.op("BatchNormalization", inner.op("Conv", "x", "w"), *STATISTICS, name="bn")
    inner.op("Act", y, domain="local", overload="none", out="out")
    functions = [
        function(act.nodes, ["x"], "Act"),
        function(inner.nodes, ["x", "w", *STATISTICS], "High"),
    ]
    given = [net.weight(4, 4, 1, 1, fan_in=4), *net.statistics(4)]
    return calling(net, net.op("High", "x", *given, domain="local"), functions)


# --- attributes ---------------------------------------------------------------------------------------------


def with_epsilon(
    net: Net, *given: float | None, default: float | None, weights: bool = True
) -> onnx.ModelProto:
    """Calls of a function whose ε its callers give, or leave to the default."""
    inner = Inside(1)
    x = inner.op("Conv", "x", "w") if weights else inner.conv("x", 4, 4, 1, 1)
    inner.op(
        "BatchNormalization", x, *(STATISTICS if weights else inner.statistics(4)), out="normal", name="bn"
    )
    bn = inner.nodes[-1]
    bn.attribute.add(name="epsilon", ref_attr_name="eps", type=onnx.AttributeProto.FLOAT)
    inner.op("Tanh", "normal", out="out")
    names = ["x", "w", *STATISTICS] if weights else ["x"]
    block = function([*stored(inner), *inner.nodes], names, "Block")
    if default is None:
        block.attribute.append("eps")
    else:
        block.attribute_proto.append(helper.make_attribute("eps", default))
    x = "x"
    for k, eps in enumerate(given):
        operands = [net.weight(4, 4, 1, 1, fan_in=4), *net.statistics(4)] if weights else []
        more: dict[str, Any] = {} if eps is None else {"eps": eps}
        x = net.op("Block", x, *operands, domain="local", name=f"call{k}", **more)
    return calling(net, x, [block])


_TWO: dict[str, Reason | None] = {"call0/bn": FOLD, "call1/bn": FOLD}
row("ε is an attribute that the callers give", _TWO, "Conv Tanh Conv Tanh")(
    lambda net: with_epsilon(net, 0.1, 0.7, default=None)
)
row("ε has a default, which one caller changes", _TWO, "Conv Tanh Conv Tanh")(
    lambda net: with_epsilon(net, None, 0.7, default=0.3)
)
row("ε is left out: the operator's own default", {"call0/bn": FOLD}, "Conv Tanh")(
    lambda net: with_epsilon(net, None, default=None)
)
row("ε from the callers, all else from the function", _TWO, "Conv Tanh Conv Tanh")(
    lambda net: with_epsilon(net, 0.1, 0.7, default=None, weights=False)
)


@row("an attribute that goes through two functions", {"High/Low/bn": FOLD}, "Conv Tanh")
def _(net: Net) -> onnx.ModelProto:
    low, high = Inside(1), Inside(2)
    low.op("BatchNormalization", low.op("Conv", "x", "w"), *STATISTICS, out="normal", name="bn")
    low.op("Tanh", "normal", out="out")
    high.op("Low", "x", "w", *STATISTICS, domain="local", out="out", name="")
    functions = []
    for inner, name, at, called in ((low, "Low", "epsilon", "eps"), (high, "High", "eps", "outer_eps")):
        inner.nodes[0 if name == "High" else 1].attribute.add(
            name=at, ref_attr_name=called, type=onnx.AttributeProto.FLOAT
        )
        functions.append(function(inner.nodes, ["x", "w", *STATISTICS], name, attributes=[called]))
    names = [net.weight(4, 4, 1, 1, fan_in=4), *net.statistics(4)]
    return calling(net, net.op("High", "x", *names, domain="local", outer_eps=0.4, name=""), functions)


# --- bodies -------------------------------------------------------------------------------------------------


@row(
    "an If in a function, whose branches read what the caller gives",
    {"then": FOLD, "else": FOLD},
    "Identity Identity If Identity Conv Tanh Conv Sigmoid",
)
def _(net: Net) -> onnx.ModelProto:
    inner, then, other = Inside(1), Inside(2), Inside(3)
    x = inner.op("Identity", "x")
    a = then.op("Tanh", then.op("BatchNormalization", then.op("Conv", x, "w"), *STATISTICS, name="then"))
    b = other.op(
        "Sigmoid", other.op("BatchNormalization", other.op("Conv", x, "w"), *STATISTICS, name="else")
    )
    inner.op("Identity", branches(inner, "go", (then, a), (other, b)), out="out")
    block = function(inner.nodes, ["x", "go", "w", *STATISTICS])
    names = [net.op("Identity", "cond"), net.weight(4, 4, 1, 1, fan_in=4), *net.statistics(4)]
    made = calling(net, net.op("Block", "x", *names, domain="local", name=""), [block])
    made.graph.input.add().CopyFrom(value("cond", TensorProto.BOOL, []))
    return made


@row(
    "calls in the body of a Loop, weights from around it",
    {"a/bn": FOLD, "b/bn": FOLD},
    "Loop Conv Tanh Conv Tanh Identity",
)
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    w, stats = net.weight(4, 4, 1, 1, fan_in=4), net.statistics(4)
    x = inner.op("ConvBn", "h", w, *stats, domain="local", name="a")
    x = inner.op("ConvBn", x, w, *net.statistics(4), domain="local", name="b")
    (last,) = loop(net, "x", inner, "h", x)
    return calling(net, last, [conv_bn()])


# --- operator sets ------------------------------------------------------------------------------------------


@row(
    "a function of an older operator set, all of whose nodes mean the same", {"ConvBn/bn": FOLD}, "Conv Tanh"
)
def _(net: Net) -> onnx.ModelProto:
    block = conv_bn()
    block.opset_import[0].version = 15
    return calling(net, call(net, "x"), [block])


@row(
    "a function of an older operator set, in which a node means another thing",
    {"ConvBn/bn": Reason.PARAMETER_IS_ARGUMENT},
    "ConvBn",
    "ConvBn",
)
def _(net: Net) -> onnx.ModelProto:
    block = conv_bn()
    block.opset_import[0].version = 12
    return calling(net, call(net, "x"), [block])


# --- names --------------------------------------------------------------------------------------------------


@row("names inside that are in use outside", {"Block/bn": FOLD}, "Conv Tanh Add")
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    inner.op("Conv", "x", "w", out="y")
    inner.op("BatchNormalization", "y", *STATISTICS, out="Block/y", name="bn")
    inner.op("Tanh", "Block/y", out="out")
    block = function(inner.nodes, ["x", "w", *STATISTICS])
    names = [net.weight(4, 4, 1, 1, fan_in=4), *net.statistics(4)]
    y = net.op("Block", "x", *names, domain="local", name="", out="Block/y")
    return calling(net, net.op("Add", y, "x", out="y"), [block])


@row("two formal names swapped by the caller", {"Block/bn": FOLD}, "Conv Tanh")
def _(net: Net) -> onnx.ModelProto:
    inner = Inside(1)
    x = inner.op("BatchNormalization", inner.op("Conv", "x", "w"), *STATISTICS, name="bn")
    inner.op("Tanh", x, out="out")
    block = function(inner.nodes, ["w", "x", *STATISTICS])
    scale, bias, mean, variance = net.statistics(4)
    net.initializers[-3].name, net.initializers[-2].name = "m", "b"  # β and μ, by each other's names
    names = [net.weight(4, 4, 1, 1, fan_in=4), "x", scale, "m", "b", variance]
    assert (bias, mean) == ("c1", "c2")
    return calling(net, net.op("Block", *names, domain="local", name=""), [block])


# --- where the fold itself cannot be made -------------------------------------------------------------------


@row(
    "weights that would overflow float16",
    {"fits/bn": FOLD, "bursts/bn": Reason.OVERFLOW},
    "Cast Conv Tanh ConvBn Cast",
    "ConvBn",
)
def _(net: Net) -> onnx.ModelProto:
    half = Net(3, "float16")
    half.op("Cast", "x", to=TensorProto.FLOAT16)
    x = call(half, "v0", "fits")
    w = half.weight(4, 4, 1, 1, fan_in=4)
    scale, bias, mean, variance = half.statistics(4)
    scale = half.const(np.full(4, 3e4))
    variance = half.const(np.full(4, 1e-4))
    x = half.op("ConvBn", x, w, scale, bias, mean, variance, domain="local", name="bursts")
    y = half.op("Cast", x, to=TensorProto.FLOAT)
    return calling(half, y, [conv_bn()])


# ------------------------------------------------------------------------------------------------------------


def _param(row: Row) -> Any:
    marks = tells_functions_apart if "overloads" in row.name else ()
    return pytest.param(row, id=row.name, marks=marks)


@pytest.mark.parametrize("case", [_param(row) for row in ROWS])
def test_functions(case: Row, tmp_path: Path) -> None:
    made = case.build(Net(sum(case.name.encode())))
    done = optimized(made, tmp_path)
    wanted = {name: reason and reason.name for name, reason in case.decisions.items()}
    # what a body's node is called begins with where the body is
    assert {n.rsplit(".0/")[-1]: reason for n, reason in done.decisions.items()} == wanted
    after = onnx.load(done.after)
    nodes = sorted(n.op_type for n in all_nodes(after.graph) if n.op_type != "Constant")
    assert nodes == sorted(case.nodes.split())
    assert sorted(f.name for f in after.functions) == sorted(case.functions.split())
    if set(case.decisions.values()) != {FOLD} and FOLD not in case.decisions.values():
        assert done.after.read_bytes() == done.before.read_bytes()
    assert_equal(done.before, done.after)


def nested(depth: int, calls: int, factor: float) -> onnx.ModelProto:
    """A scale at the bottom of functions, each of which calls the next one so often."""
    bottom = Inside(1)
    bottom.op("Mul", "x", "k", out="out")
    functions = [function(bottom.nodes, ["x", "k"], "F0")]
    for level in range(1, depth):
        inner, x = Inside(1), "x"
        for k in range(calls):
            x = inner.op(f"F{level - 1}", x, "k", domain="local", out="out" if k == calls - 1 else "")
        functions.append(function(inner.nodes, ["x", "k"], f"F{level}"))
    net = Net(1)
    x = net.op(f"F{depth - 1}", net.conv("x", 4, 4, 1, 1), net.const(np.array(factor)), domain="local")
    return calling(net, net.op("Tanh", x), functions)


def test_calls_that_would_be_billions_of_nodes_are_read_in_no_time(tmp_path: Path) -> None:
    """onnx's own inference of shapes would take years."""
    made = nested(12, 10, 1.0)
    done = optimized(made, tmp_path, proof="skipped")
    assert len(done.report["decisions"]) < 6_000


def test_a_few_nested_calls(tmp_path: Path) -> None:
    done = optimized(nested(4, 2, 1.5), tmp_path)
    assert list(done.decisions.values()) == [FOLD] * 8
    assert [n.op_type for n in onnx.load(done.after).graph.node] == ["Conv", "Tanh"]
    assert_equal(done.before, done.after)


@tells_functions_apart
def test_functions_that_call_each_other_are_refused(tmp_path: Path) -> None:
    """As onnxruntime refuses them."""
    a, b, net = Inside(1), Inside(2), Net(3)
    a.op("B", "x", "k", domain="local", out="out")
    b.op("A", "x", "k", domain="local", out="out")
    x = net.bn(net.conv("x", 4, 4, 1, 1), 4, name="bn")
    x = net.op("A", x, net.const(np.array(1.5)), domain="local")
    functions = [function(a.nodes, ["x", "k"], "A"), function(b.nodes, ["x", "k"], "B")]
    path = tmp_path / "model.onnx"
    path.write_bytes(calling(net, x, functions).SerializeToString())
    with pytest.raises(Exception, match="must not be recursive"):
        session(path)
    with pytest.raises(UnreadableModel, match=r"the function '[AB]' calls itself"):
        inspect(path)


def test_an_input_that_a_caller_of_the_model_may_change(tmp_path: Path) -> None:
    made = calling(net := Net(4), call(net, "x"), [conv_bn()])
    made.graph.input.add().CopyFrom(value(net.initializers[1].name, shape=[4]))
    done = optimized(made, tmp_path)
    assert done.decisions == {"ConvBn/bn": "PARAMETER_OVERRIDABLE"}
    assert done.after.read_bytes() == done.before.read_bytes()


@pytest.mark.parametrize("outside", [False, True])
def test_large_weights_of_callers(outside: bool, tmp_path: Path) -> None:
    """Weights that are never held whole: in the file, or beside it."""
    net = Net(5)
    block = conv_bn()
    first, last = (call(net, "x", name, cout=1100) for name in ("first", "last"))
    made = calling(net, net.op("Add", first, last), [block])
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(made, before, save_as_external_data=outside, location="w.bin", size_threshold=0)
    folded = fold(before, after)
    assert [n.op_type for n in folded.proto.graph.node] == ["Conv", "Tanh", "Conv", "Tanh", "Add"]
    assert bool(folded.written.side_files) == outside
    assert not folded.proto.functions
    assert_equal(before, after)
