"""Who else reads or writes what a fold would change."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from bnfuse.core.reasons import Reason
from tests.onnx_graphs import Net, body
from tests.traps.table import FOLD, IMAGE, trap


@trap("one weight, two convolutions, two BNs", FOLD, FOLD)
def _(net: Net) -> onnx.ModelProto:
    w, b = net.weight(5, 3, 3, 3, fan_in=27), net.vector(5)
    outs = [net.bn(net.op("Conv", "x", w, b), 5) for _ in range(2)]
    return net.build(IMAGE, outs)


@trap("one weight, only one of its convolutions has a BN")
def _(net: Net) -> onnx.ModelProto:
    w, b = net.weight(5, 3, 3, 3, fan_in=27), net.vector(5)
    return net.build(IMAGE, [net.op("Conv", "x", w, b), net.bn(net.op("Conv", "x", w, b), 5)])


@trap("γ and β shared by two BNs, σ² is another's weight", FOLD, FOLD)
def _(net: Net) -> onnx.ModelProto:
    stats = net.statistics(5)
    outs = [net.op("BatchNormalization", net.conv("x", 3, 5, 3, 3), *stats) for _ in range(2)]
    return net.build(IMAGE, [*outs, net.op("Mul", net.op("GlobalAveragePool", "x"), stats[3])])


@trap("the tensor before BN is read by a Sigmoid too", Reason.NONLINEAR)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, [net.op("Sigmoid", x), net.bn(x, 5)])


@trap("the tensor before BN is a graph output", Reason.GRAPH_OUTPUT)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, [x, net.bn(x, 5)])


@trap("the tensor before BN is read by a Shape alone")
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, [net.op("Cast", net.op("Shape", x), to=TensorProto.FLOAT), net.bn(x, 5)])


@trap("the tensor before BN is captured by an If body", Reason.CAPTURED)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3, pads=[1] * 4)
    then, other = Net(1), Net(2)
    a = then.op("Neg", x, out="then_y")
    b = other.op("Sigmoid", x, out="else_y")
    y = net.op("If", "cond", then_branch=body(then, a, "then"), else_branch=body(other, b, "else"))
    return net.build({"cond": (), **IMAGE}, [y, net.bn(x, 5)], ranks={y: 4})


@trap("the weight of the convolution is captured by an If body")
def _(net: Net) -> onnx.ModelProto:
    net.const(net.rng.standard_normal((5, 3, 3, 3)), "w")
    then, other = Net(1), Net(2)
    a = then.op("Conv", "x", "w", out="then_y")
    b = other.op("Neg", "x", out="else_y")
    y = net.op("If", "cond", then_branch=body(then, a, "then"), else_branch=body(other, b, "else"))
    return net.build({"cond": (), **IMAGE}, [y, net.bn(net.op("Conv", "x", "w"), 5)], ranks={y: 4})


@trap("a Relu's output is read by a BN and by the convolution beside it", Reason.SHIFT_THROUGH_ACTIVATION)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Relu", net.conv("x", 3, 5, 3, 3))
    return net.build(IMAGE, [net.op("Sigmoid", net.bn(x, 5)), net.conv(x, 5, 2, 1, 1)])


@trap("siblings that take the inverse: scale and shift")
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, [net.op("Sigmoid", net.bn(x, 5)), net.conv(x, 5, 4, 3, 2)])
