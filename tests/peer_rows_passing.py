"""Places in which other ops stand between a BatchNormalization and what takes it on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from bnfuse.core.reasons import Reason
from tests.onnx_graphs import Net, body
from tests.peer_rows import FOLD, Row, adding_to

ROWS: list[Row] = []
row = adding_to(ROWS)


def _between(
    net: Net, kind: str, *rest: str, positive: bool = False, shift: bool = True, **attributes: Any
) -> onnx.ModelProto:
    x = net.op(kind, net.conv("x", 3, 5, 3, 3, pads=[1] * 4), *rest, **attributes)
    return net.build({"x": ("N", 3, 8, 9)}, net.bn(x, 5, positive=positive, shift=shift))


row("Conv → Relu → positive scale")(lambda n: _between(n, "Relu", positive=True, shift=False))
row("Conv → LeakyRelu → positive scale")(
    lambda n: _between(n, "LeakyRelu", alpha=0.2, positive=True, shift=False)
)
row("Conv → Relu → mixed scale", Reason.NEGATIVE_SCALE)(lambda n: _between(n, "Relu", shift=False))
row("Conv → Relu → shift", Reason.SHIFT_THROUGH_ACTIVATION)(lambda n: _between(n, "Relu", positive=True))
row("Conv → Sigmoid → BN", Reason.NONLINEAR)(lambda n: _between(n, "Sigmoid", positive=True))
_POOL: dict[str, Any] = {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 1, 0, 1]}
row("Conv → MaxPool → positive BN")(lambda n: _between(n, "MaxPool", positive=True, **_POOL))
row("Conv → MaxPool → mixed BN", Reason.NEGATIVE_SCALE)(lambda n: _between(n, "MaxPool", **_POOL))
row("Conv → AveragePool → BN")(lambda n: _between(n, "AveragePool", **_POOL))
row("Conv → AveragePool that counts its padding → BN", Reason.ZERO_PADDING)(
    lambda n: _between(n, "AveragePool", count_include_pad=1, **_POOL)
)
row("Conv → GlobalAveragePool → BN")(lambda n: _between(n, "GlobalAveragePool"))


@row("BN → Relu → Conv, positive scale")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Relu", net.bn("x", 4, positive=True, shift=False))
    return net.build({"x": ("N", 4, 7, 9)}, net.conv(x, 4, 6, 3, 3, pads=[1] * 4))


@row("Conv → Pad(reflect) → BN")
def _(net: Net) -> onnx.ModelProto:
    x = net.op(
        "Pad", net.conv("x", 3, 5, 3, 3), net.const(np.array([0, 0, 2, 1, 0, 0, 1, 2])), mode="reflect"
    )
    return net.build({"x": ("N", 3, 8, 9)}, net.bn(x, 5))


@row("BN → Pad(reflect) → Conv")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Pad", net.bn("x", 4), net.const(np.array([0, 0, 2, 1, 0, 0, 1, 2])), mode="reflect")
    return net.build({"x": ("N", 4, 8, 9)}, net.conv(x, 4, 6, 3, 3))


@row("BN → Pad(zeros) → Conv", Reason.ZERO_PADDING)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Pad", net.bn("x", 4), net.const(np.array([0, 0, 2, 1, 0, 0, 1, 2])))
    return net.build({"x": ("N", 4, 8, 9)}, net.conv(x, 4, 6, 3, 3))


@row("two Conv → Add → BN")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Add", net.conv("x", 3, 5, 3, 3), net.conv("x", 3, 5, 3, 3, bias=False))
    return net.build({"x": ("N", 3, 8, 9)}, net.bn(x, 5))


@row("Conv, MatMul-free branches → Concat → BN")
def _(net: Net) -> onnx.ModelProto:
    branches = [net.conv("x", 3, 5, 3, 3, pads=[1] * 4), net.conv("x", 3, 2, 1, 1, bias=False)]
    return net.build({"x": ("N", 3, 8, 9)}, net.bn(net.op("Concat", *branches, axis=1), 7))


@row("MatMul → layout Transpose → BN", gone=0)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("MatMul", "x", net.weight(4, 7, fan_in=4))  # N, H, W, C
    return net.build({"x": ("N", 5, 6, 4)}, net.bn(net.op("Transpose", x, perm=[0, 3, 1, 2]), 7))


@row("Conv → Transpose to channels last → Mul → Add", FOLD, FOLD)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Transpose", net.conv("x", 3, 5, 3, 3), perm=[0, 2, 3, 1])
    x = net.op("Add", net.op("Mul", x, net.const(net.factors(5))), net.const(net.factors(5)))
    return net.build({"x": ("N", 3, 8, 9)}, x)


@row("Conv → BN → BN", FOLD, FOLD)
def _(net: Net) -> onnx.ModelProto:
    return net.build({"x": ("N", 3, 8, 9)}, net.bn(net.bn(net.conv("x", 3, 5, 3, 3), 5), 5))


@row("BN → BN with nothing linear about", FOLD, Reason.GRAPH_INPUT)
def _(net: Net) -> onnx.ModelProto:
    return net.build({"x": ("N", 5, 8, 9)}, net.op("Sigmoid", net.bn(net.bn("x", 5), 5)))


@row("pre-activation residual net", *[FOLD] * 7)
def _(net: Net) -> onnx.ModelProto:
    stream = net.conv("x", 3, 6, 3, 3, pads=[1] * 4)
    for _block in range(3):
        inner = net.op("Relu", net.bn(stream, 6, positive=True))
        inner = net.conv(inner, 6, 4, 3, 3, pads=[1] * 4)
        inner = net.op("Relu", net.bn(inner, 4))
        stream = net.op("Add", stream, net.conv(inner, 4, 6, 1, 1, bias=False))
    x = net.op("GlobalAveragePool", net.op("Relu", net.bn(stream, 6, positive=True)))
    return net.build({"x": ("N", 3, 7, 8)}, net.op("Gemm", net.op("Flatten", x), net.weight(6, 5, fan_in=6)))


@row("BN in both bodies of an If", FOLD, FOLD)
def _(net: Net) -> onnx.ModelProto:
    then, other = Net(1), Net(2)
    a = then.bn(then.conv("x", 3, 5, 3, 3), 5, out="then_y")
    b = other.bn(other.conv("x", 3, 5, 3, 3, bias=False), 5, out="else_y")
    net.op("If", "cond", out="y", then_branch=body(then, a, "then"), else_branch=body(other, b, "else"))
    return net.build({"cond": (), "x": ("N", 3, 8, 9)}, "y", ranks={"y": 4})


@row("If bodies that share the outer graph's weights", FOLD, FOLD)
def _(net: Net) -> onnx.ModelProto:
    net.const(net.rng.standard_normal((5, 3, 3, 3)) / 5, "shared")
    bodies = []
    for seed, name in ((1, "then"), (2, "else")):
        inner = Net(seed)
        y = inner.bn(inner.op("Conv", "x", "shared", out=f"{name}_c"), 5, out=f"{name}_y")
        bodies.append(body(inner, y, name))
    net.op("If", "cond", out="y", then_branch=bodies[0], else_branch=bodies[1])
    return net.build({"cond": (), "x": ("N", 3, 8, 9)}, "y", ranks={"y": 4})
