"""Element types, and what quantisers leave."""

from __future__ import annotations

import numpy as np
import onnx

from bnfuse.core.reasons import Reason
from tests.onnx_graphs import Net
from tests.traps.table import IMAGE, trap

trap("float16", dtype="float16")(lambda net: net.build(IMAGE, net.bn(net.conv("x", 3, 5, 3, 3), 5)))


@trap("float64", dtype="float64")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Gemm", "x", net.weight(4, 7, fan_in=4), net.vector(7), alpha=0.3)
    return net.build({"x": ("N", 4)}, net.bn(x, 7))


@trap("float16 convolution, float32 statistics", dtype="float16")
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    net.dtype = np.dtype("float32")
    return net.build(IMAGE, net.op("BatchNormalization", x, *net.statistics(5)), opset=15)


@trap("float16 weights that would overflow", Reason.OVERFLOW, dtype="float16")
def _(net: Net) -> onnx.ModelProto:
    w = net.const(np.linspace(-300, 300, 15).reshape(5, 3, 1, 1))
    stats = [np.full(5, 50.0), np.ones(5), np.zeros(5), np.full(5, 0.04)]  # a = 250
    x = net.op("Conv", "x", net.const(1e-3 * net.rng.standard_normal((3, 3, 1, 1))))
    x = net.op("Conv", net.op("Tanh", x), w)
    return net.build(IMAGE, net.op("BatchNormalization", x, *[net.const(v) for v in stats]))


@trap("QuantizeLinear → DequantizeLinear on the weight", Reason.WEIGHT_NOT_CONSTANT)
def _(net: Net) -> onnx.ModelProto:
    scale, zero = net.const(np.array(0.02)), net.const(np.array(0, np.int8))
    q = net.op("QuantizeLinear", net.weight(5, 3, 3, 3, fan_in=27), scale, zero)
    x = net.op("Conv", "x", net.op("DequantizeLinear", q, scale, zero))
    return net.build(IMAGE, net.bn(x, 5))


@trap("DequantizeLinear of a stored int8 weight: its scales take it on")
def _(net: Net) -> onnx.ModelProto:
    stored = net.const(net.rng.integers(-127, 127, (5, 3, 3, 3)).astype(np.int8))
    w = net.op("DequantizeLinear", stored, net.const(np.array(0.02)), net.const(np.array(0, np.int8)))
    return net.build(IMAGE, net.bn(net.op("Conv", "x", w), 5))
