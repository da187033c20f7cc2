"""Constants in other clothes, and constants that broadcast."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from bnfuse.core.reasons import Reason
from tests.onnx_graphs import Net
from tests.traps.table import FOLD, IMAGE, trap


@trap("BN parameters through Constant, Identity, ConstantOfShape and Unsqueeze → Squeeze")
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    gamma = net.op("Constant", value=numpy_helper.from_array(net.factors(5).astype(np.float32)))
    beta = net.op("Identity", net.vector(5))
    mean = net.op("Squeeze", net.op("Unsqueeze", net.vector(5), net.const(np.array([0]))))
    fill = numpy_helper.from_array(np.array([3.5], np.float32))
    variance = net.op("ConstantOfShape", net.const(np.array([5])), value=fill)
    return net.build(IMAGE, net.op("BatchNormalization", x, gamma, beta, mean, variance))


@trap("the weight is a Constant node behind an Identity, the Mul's factor behind Unsqueeze", FOLD)
def _(net: Net) -> onnx.ModelProto:
    array = net.rng.standard_normal((5, 3, 3, 3)).astype(np.float32)
    w = net.op("Identity", net.op("Constant", value=numpy_helper.from_array(array)))
    factor = net.op("Unsqueeze", net.const(net.factors(5)), net.const(np.array([1, 2])))
    return net.build(IMAGE, net.op("Mul", factor, net.op("Conv", "x", w)))


@trap("γ is computed at run time", Reason.PARAMETER_NOT_CONSTANT)
def _(net: Net) -> onnx.ModelProto:
    stats = net.statistics(3)
    pooled = net.op("ReduceMean", "x", axes=[0, 2, 3], keepdims=0)
    x = net.conv("x", 3, 3, 3, 3)
    return net.build(IMAGE, net.op("BatchNormalization", x, pooled, *stats[1:]))


@trap("γ is stored quantised", Reason.PARAMETER_QUANTISED)
def _(net: Net) -> onnx.ModelProto:
    stats = net.statistics(3)
    scale = net.const(np.array(0.02))  # made at run time, and not worked out
    net.initializers.append(numpy_helper.from_array(np.array(0, np.int8), "zero"))
    q = net.op("QuantizeLinear", net.vector(3), scale, "zero")
    gamma = net.op("Reshape", net.op("DequantizeLinear", q, scale, "zero"), net.const(np.array([3])))
    return net.build(IMAGE, net.op("BatchNormalization", net.conv("x", 3, 3, 3, 3), gamma, *stats[1:]))


@trap("γ follows from constants by an operator that is not worked out", Reason.PARAMETER_NOT_CONSTANT)
def _(net: Net) -> onnx.ModelProto:
    stats = net.statistics(3)
    gamma = net.op("Erf", net.vector(3))
    return net.build(IMAGE, net.op("BatchNormalization", net.conv("x", 3, 3, 3, 3), gamma, *stats[1:]))


@trap("a constant of [C] that meets W = C", Reason.GRAPH_OUTPUT)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 7, 3, 3)  # N, 7, 6, 7
    return net.build(IMAGE, net.op("Mul", x, net.const(net.factors(7))))


@trap("a constant that raises the rank of a Gemm's output", nothing=True)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Gemm", "x", net.weight(4, 7, fan_in=4))
    return net.build({"x": ("N", 4)}, net.op("Mul", x, net.const(net.factors(7).reshape(1, 1, 7))))


@trap("a constant that raises the rank of a Conv's output", nothing=True)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, net.op("Add", net.const(net.factors(5).reshape(1, 1, 5, 1, 1)), x))


@trap("a constant that stretches one channel into five", nothing=True)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 1, 3, 3)
    return net.build(IMAGE, net.op("Mul", x, net.const(net.factors(5).reshape(5, 1, 1))))


@trap("a constant divided by x", nothing=True)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Exp", net.conv("x", 3, 5, 3, 3))
    return net.build(IMAGE, net.op("Div", net.const(net.factors(5).reshape(5, 1, 1)), x))
