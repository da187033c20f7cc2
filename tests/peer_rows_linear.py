"""Places in which a BatchNormalization, or its arithmetic, stands next to a linear op."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx

from bnfuse.core.reasons import Reason
from tests.onnx_graphs import Net
from tests.peer_rows import FOLD, Row, adding_to

ROWS: list[Row] = []
row = adding_to(ROWS)


def _conv_bn(net: Net, args: tuple[tuple[int, ...], int, int, int, bool, int]) -> onnx.ModelProto:
    space, cin, cout, group, bias, pad = args
    kernel = (3, 2, 3)[: len(space)]
    x = net.conv("x", cin, cout, *kernel, group=group, bias=bias, pads=[pad] * 2 * len(space))
    return net.build({"x": ("N", cin, *space)}, net.bn(x, cout))


_CONVS: dict[str, tuple[tuple[int, ...], int, int, int, bool, int]] = {
    "Conv1D → BN": ((9,), 3, 5, 1, True, 1),
    "Conv2D → BN": ((7, 6), 3, 5, 1, True, 1),
    "Conv2D without bias → BN": ((7, 6), 3, 5, 1, False, 1),
    "Conv3D → BN": ((5, 6, 7), 3, 4, 1, True, 1),
    "Conv2D in groups → BN": ((7, 5), 4, 6, 2, True, 0),
    "Conv1D in groups → BN": ((9,), 6, 9, 3, False, 1),
    "depthwise Conv2D → BN": ((7, 5), 4, 4, 4, True, 1),
    "depthwise Conv2D, multiplier 2 → BN": ((7, 5), 4, 8, 4, False, 1),
}


for _name, _args in _CONVS.items():
    row(_name)(partial(_conv_bn, args=_args))


def _transposed(net: Net, cin: int, cout: int, group: int, *, bias: bool) -> onnx.ModelProto:
    inputs = ["x", net.weight(cin, cout // group, 3, 2, fan_in=cin // group)]
    x = net.op("ConvTranspose", *inputs, *([net.vector(cout)] if bias else []), group=group, strides=[2, 1])
    return net.build({"x": ("N", cin, 5, 7)}, net.bn(x, cout))


row("ConvTranspose → BN")(lambda net: _transposed(net, 4, 6, 1, bias=True))
row("ConvTranspose in groups → BN")(lambda net: _transposed(net, 4, 6, 2, bias=True))
row("ConvTranspose in groups without bias → BN")(lambda net: _transposed(net, 6, 9, 3, bias=False))


def _gemm_bn(net: Net, *, bias: bool = True, ta: int = 0, tb: int = 0, **gains: Any) -> onnx.ModelProto:
    w = net.weight(*((7, 4) if tb else (4, 7)), fan_in=4)
    x = net.op("Gemm", "x", w, *([net.vector(7)] if bias else []), transA=ta, transB=tb, **gains)
    return net.build({"x": (4, 6) if ta else ("N", 4)}, net.bn(x, 7))


_GEMMS: dict[str, dict[str, Any]] = {
    "Gemm → BN": {},
    "Gemm, alpha → BN": {"alpha": 0.3},
    "Gemm, beta → BN": {"beta": -2.5},
    "Gemm, alpha, beta, transB → BN": {"alpha": -1.7, "beta": 0.4, "tb": 1},
    "Gemm, transA → BN": {"ta": 1},
    "Gemm, transA, transB → BN": {"ta": 1, "tb": 1, "alpha": 2.5},
    "Gemm without C → BN": {"bias": False},
    "Gemm without C, alpha and beta → BN": {"bias": False, "alpha": 0.6, "beta": 3.0},
    "Gemm, beta 0 → BN": {"beta": 0.0},
}


for _name, _keys in _GEMMS.items():
    row(_name)(partial(_gemm_bn, **_keys))


@row("Gemm with a scalar C → BN")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Gemm", "x", net.weight(4, 7, fan_in=4), net.const(np.array([0.7])), beta=2.0)
    return net.build({"x": ("N", 4)}, net.bn(x, 7))


@row("MatMul 2-D → BN")
def _(net: Net) -> onnx.ModelProto:
    return net.build({"x": ("N", 4)}, net.bn(net.op("MatMul", "x", net.weight(4, 7, fan_in=4)), 7))


@row("MatMul 3-D, channels on the left → BN", gone=0)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("MatMul", net.weight(7, 4, fan_in=4), "x")  # (N, 7, 6): the MatMul's rows are the channels
    return net.build({"x": ("N", 4, 6)}, net.bn(x, 7))


@row("MatMul 3-D → BN over tokens, as many as channels", Reason.AXIS)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("MatMul", "x", net.weight(4, 6, fan_in=4))  # (N, 6, 6): axis 1 is not the MatMul's
    return net.build({"x": ("N", 6, 4)}, net.bn(x, 6))


@row("MatMul → Transpose → BN", gone=0)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("MatMul", "x", net.weight(4, 7, fan_in=4))
    return net.build({"x": ("N", 5, 4)}, net.bn(net.op("Transpose", x, perm=[0, 2, 1]), 7))


@row("MatMul → Reshape → BN, tokens folded into rows", gone=0)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("MatMul", "x", net.weight(4, 7, fan_in=4))
    x = net.op("Reshape", x, net.const(np.array([-1, 7])))
    return net.build({"x": (3, 5, 4)}, net.bn(x, 7))


@row("MatMul → Reshape that splits the channels → BN")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("MatMul", "x", net.weight(4, 12, fan_in=4))
    x = net.op("Reshape", x, net.const(np.array([0, 3, 4])))
    return net.build({"x": ("N", 4)}, net.bn(x, 3))


@row("MatMul → Add → BN 2-D")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("MatMul", "x", net.weight(4, 7, fan_in=4))
    return net.build({"x": ("N", 4)}, net.bn(net.op("Add", net.vector(7), x), 7))


@row("MatMul → Add → Transpose → BN")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Add", net.op("MatMul", "x", net.weight(4, 7, fan_in=4)), net.vector(7))
    return net.build({"x": ("N", 5, 4)}, net.bn(net.op("Transpose", x, perm=[0, 2, 1]), 7))


@row("Conv → Mul → Add", FOLD, FOLD)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    x = net.op("Mul", x, net.const(net.factors(5).reshape(1, 5, 1, 1)))
    x = net.op("Add", x, net.const(net.factors(5).reshape(1, 5, 1, 1)))
    return net.build({"x": ("N", 3, 7, 6)}, x)


@row("Conv → Mul → Add, one number", FOLD, FOLD)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Mul", net.conv("x", 3, 5, 3, 3), net.const(np.array(-2.5)))
    return net.build({"x": ("N", 3, 7, 6)}, net.op("Add", x, net.const(np.array([0.3]))))


def _decomposed(net: Net, *, swapped: bool, rank: int) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    for kind in ("Sub", "Div", "Mul", "Add"):
        constant = net.const(net.factors(5).reshape((1,) * (rank - 3) + (5, 1, 1)))
        x = net.op(kind, *((constant, x) if swapped and kind != "Div" else (x, constant)))
    return net.build({"x": ("N", 3, 7, 6)}, x)


row("Conv → Sub → Div → Mul → Add", *[FOLD] * 4)(lambda n: _decomposed(n, swapped=False, rank=4))
row("Conv → Sub → Div → Mul → Add, constants first", *[FOLD] * 4)(
    lambda n: _decomposed(n, swapped=True, rank=4)
)
row("Conv → Sub → Div → Mul → Add, rank-3 constants", *[FOLD] * 4)(
    lambda n: _decomposed(n, swapped=True, rank=3)
)


@row("Conv → constant − x")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Sub", net.const(net.factors(5).reshape(5, 1, 1)), net.conv("x", 3, 5, 3, 3))
    return net.build({"x": ("N", 3, 7, 6)}, x)


def _bn_conv(net: Net, group: int = 1, **conv: Any) -> onnx.ModelProto:
    x = net.conv(net.bn("x", 4), 4, 6, 3, 2, group=group, **conv)
    return net.build({"x": ("N", 4, 7, 9)}, x)


row("BN → Conv")(_bn_conv)
row("BN → Conv in groups, no bias")(lambda net: _bn_conv(net, group=2, bias=False))
row("BN → Conv, auto_pad VALID")(lambda net: _bn_conv(net, auto_pad="VALID"))
row("BN → padded Conv", Reason.ZERO_PADDING)(lambda net: _bn_conv(net, pads=[1, 0, 0, 0]))
row("BN → Conv, auto_pad SAME_UPPER", Reason.ZERO_PADDING)(lambda net: _bn_conv(net, auto_pad="SAME_UPPER"))
row("BN → Conv, auto_pad SAME_LOWER", Reason.ZERO_PADDING)(lambda net: _bn_conv(net, auto_pad="SAME_LOWER"))


@row("BN without shift → padded Conv")
def _(net: Net) -> onnx.ModelProto:
    return net.build({"x": ("N", 4, 7, 9)}, net.conv(net.bn("x", 4, shift=False), 4, 6, 3, 3, pads=[1] * 4))


@row("BN → 1×1 Conv, auto_pad SAME_UPPER")
def _(net: Net) -> onnx.ModelProto:
    return net.build({"x": ("N", 4, 7, 9)}, net.conv(net.bn("x", 4), 4, 6, 1, 1, auto_pad="SAME_UPPER"))


@row("BN → ConvTranspose", Reason.SHIFT_REFUSED)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("ConvTranspose", net.bn("x", 4), net.weight(4, 6, 3, 2, fan_in=4))
    return net.build({"x": ("N", 4, 5, 7)}, x)


def _bn_gemm(net: Net, *, bias: bool = True, tb: int = 0, **gains: Any) -> onnx.ModelProto:
    w = net.weight(*((7, 4) if tb else (4, 7)), fan_in=4)
    x = net.op("Gemm", net.bn("x", 4), w, *([net.vector(7)] if bias else []), transB=tb, **gains)
    return net.build({"x": ("N", 4)}, x)


row("BN → Gemm")(_bn_gemm)
row("BN → Gemm, alpha, beta, transB")(lambda net: _bn_gemm(net, alpha=-0.6, beta=2.5, tb=1))
row("BN → Gemm without C, alpha")(lambda net: _bn_gemm(net, bias=False, alpha=1.8))


@row("BN → Gemm, transA", Reason.AXIS)
def _(net: Net) -> onnx.ModelProto:
    # transA contracts axis 0, the BN runs along axis 1: they are different axes of equal size.
    x = net.op("Gemm", net.bn("x", 4), net.weight(4, 7, fan_in=4), transA=1)
    return net.build({"x": (4, 4)}, x)


@row("BN → Flatten → Gemm")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Flatten", net.bn("x", 4))
    return net.build({"x": ("N", 4, 2, 3)}, net.op("Gemm", x, net.weight(24, 7, fan_in=24), net.vector(7)))


@row("BN → MatMul")
def _(net: Net) -> onnx.ModelProto:
    return net.build({"x": ("N", 4)}, net.op("MatMul", net.bn("x", 4), net.weight(4, 7, fan_in=4)))


@row("BN → Transpose → MatMul → Add")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Transpose", net.bn("x", 4), perm=[0, 2, 1])
    x = net.op("Add", net.op("MatMul", x, net.weight(4, 7, fan_in=4)), net.vector(7))
    return net.build({"x": ("N", 4, 5)}, x)
