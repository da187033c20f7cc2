"""Training mode, extra outputs, operator sets, ranks."""

from __future__ import annotations

from functools import partial

import onnx

from bnfuse.core.reasons import Reason
from tests.onnx_graphs import Net
from tests.traps.table import IMAGE, trap


@trap("training_mode = 1", Reason.TRAINING_MODE)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    y = net.op("BatchNormalization", x, *stats, out=["y", "m", "v"], training_mode=1)
    return net.build(IMAGE, y, opset=15)


@trap("live extra outputs in training", Reason.TRAINING_MODE)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    net.op("BatchNormalization", x, *stats, out=["y", "m", "v"], training_mode=1)
    return net.build(IMAGE, ["y", "m", "v"], opset=15)


@trap("live statistics out of training", Reason.LIVE_STATISTICS, runs=False)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    net.op("BatchNormalization", x, *stats, out=["y", "m", "v"])
    return net.build(IMAGE, ["y", "m"], opset=15, ranks={"y": 4, "m": 1})


@trap("live extra outputs below opset 14", Reason.TRAINING_MODE)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    net.op("BatchNormalization", x, *stats, out=["y", "m", "v", "sm", "sv"])
    return net.build(IMAGE, ["y", "m"], opset=9, ranks={"y": 4, "m": 1})


@trap("dead extra outputs below opset 14", Reason.TRAINING_MODE)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    net.op("BatchNormalization", x, *stats, out=["y", "m", "v", "sm", "sv"])
    return net.build(IMAGE, "y", opset=9, ranks={"y": 4})


@trap("empty extra outputs", runs=False)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    return net.build(IMAGE, net.op("BatchNormalization", x, *stats, out=["y", "", ""]), opset=9)


def _in_opset(net: Net, opset: int) -> onnx.ModelProto:
    return net.build(IMAGE, net.bn(net.conv("x", 3, 5, 3, 3), 5), opset=opset)


for _opset in (7, 9, 14, 15):
    trap(f"opset {_opset}")(partial(_in_opset, opset=_opset))


@trap("BN of a rank-2 input")
def _(net: Net) -> onnx.ModelProto:
    return net.build({"x": ("N", 4)}, net.op("Gemm", net.bn("x", 4), net.weight(4, 7, fan_in=4)))
