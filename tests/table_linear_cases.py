"""Cases of the op table: linear operators, and affine ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from bnfuse.core.reasons import Reason
from tests.random_nets import Net, Shape, Value
from tests.table_cases import ALL, PADDED, SCALE, UNSUPPORTED, Build, Table, by_channel, refused, simple, to

LINEAR = Table()
case = LINEAR.case

# --- linear ops --------------------------------------------------------------------------------------


def _conv(
    kernel: Sequence[int], out: int = 6, *, group: int = 1, bias: bool = True, **attributes: Any
) -> Build:
    def build(net: Net, x: Value) -> Value:
        w = net.const(net.normal(out, x.channels // group, *kernel) / np.sqrt(x.channels * np.prod(kernel)))
        inputs = [x.name, w, *([net.const(net.normal(out))] if bias else [])]
        pads = attributes.get("pads", [0] * (2 * len(kernel)))
        if "auto_pad" in attributes:
            space = x.space
        else:
            space = tuple(
                n + a + b - k + 1
                for n, k, a, b in zip(x.space, kernel, pads, pads[len(kernel) :], strict=False)
            )
        return net.node("Conv", inputs, (x.shape[0], out, *space), group=group, **attributes)

    return build


case("Conv", _conv((3, 2)), ALL, ALL)
case("Conv, 1-D, no bias", _conv((3,), bias=False), ALL, ALL, shape=(2, 4, 7))
case("Conv, 3-D", _conv((1, 2, 3)), ALL, ALL, shape=(2, 4, 3, 7, 5))
case("Conv, groups", _conv((3, 2), group=2), ALL, ALL)
case("Conv, depthwise with multiplier 2", _conv((3, 2), 8, group=4, bias=False), ALL, ALL)
case("Conv, padded", _conv((3, 2), pads=[1, 0, 1, 0]), PADDED, ALL)
case("Conv, auto_pad", _conv((3, 2), auto_pad="SAME_LOWER"), PADDED, ALL)
case("Conv, 1×1 with auto_pad", _conv((1, 1), auto_pad="SAME_UPPER"), ALL, ALL)


def _sized(
    out: int, space: Sequence[int], kernel: Sequence[int], op: str = "Conv", **attributes: Any
) -> Build:
    """The operator without a bias, whose windows leave so many elements."""

    def build(net: Net, x: Value) -> Value:
        sizes = (x.channels, out) if op == "ConvTranspose" else (out, x.channels)
        w = net.const(net.normal(*sizes, *kernel) / np.sqrt(x.channels * np.prod(kernel)))
        return net.node(op, [x.name, w], (x.shape[0], out, *space), **attributes)

    return build


# SAME that pads nothing, and pads that no window reaches.
_SAME: dict[str, Any] = {"auto_pad": "SAME_UPPER", "strides": [3, 2]}
case("Conv, SAME in whole steps", _sized(6, (3, 2), (3, 2), **_SAME), ALL, ALL, shape=(2, 5, 9, 4))
case("Conv, SAME and a rest", _sized(6, (3, 3), (3, 2), **_SAME), PADDED, ALL, shape=(2, 4, 9, 5))
_BEHIND: dict[str, Any] = {"pads": [0, 0, 2, 1], "strides": [3, 2]}
case("Conv, padded where no window comes", _sized(6, (3, 2), (3, 2), **_BEHIND), ALL, ALL, shape=(2, 5, 9, 4))
case("Conv, padded behind", _sized(6, (3, 3), (3, 2), **_BEHIND), PADDED, ALL, shape=(2, 4, 9, 5))
case("ConvTranspose, 1×1", _sized(6, (7, 5), (1, 1), "ConvTranspose"), ALL, ALL)
case(
    "ConvTranspose, 1×1 in steps",
    _sized(6, (13, 5), (1, 1), "ConvTranspose", strides=[2, 1]),
    SCALE,
    ALL,
)


def _deform(group: int, offset_group: int, mask: bool, bias: bool) -> Build:
    """Sampled at random offsets, some of them outside."""

    def build(net: Net, x: Value) -> Value:
        space, taps = (x.space[0] - 1, x.space[1] - 2), 6 * offset_group
        w = net.normal(6, x.channels // group, 2, 3) / np.sqrt(x.channels)
        inputs = [x.name, net.const(w), net.const(net.normal(x.shape[0], 2 * taps, *space))]
        inputs += [net.const(net.normal(6)) if bias else ""] if bias or mask else []
        inputs += [net.const(net.normal(x.shape[0], taps, *space))] if mask else []
        more = {"group": group, "offset_group": offset_group, "pads": [0] * 4}
        return net.node("DeformConv", inputs, (x.shape[0], 6, *space), **more)

    return build


case("DeformConv", _deform(1, 1, False, True), SCALE, ALL, opset=19)
case("DeformConv, groups, mask", _deform(2, 2, True, True), SCALE, ALL, opset=19)
case("DeformConv, mask, no bias", _deform(1, 2, True, False), SCALE, ALL, opset=22)


def _conv_transpose(group: int, bias: bool) -> Build:
    def build(net: Net, x: Value) -> Value:
        inputs = [x.name, net.const(net.normal(x.channels, 3, 2, 3) / 3)]
        inputs += [net.const(net.normal(3 * group))] if bias else []
        shape = (x.shape[0], 3 * group, x.shape[2] + 1, x.shape[3] + 2)
        return net.node("ConvTranspose", inputs, shape, group=group)

    return build


case("ConvTranspose", _conv_transpose(1, True), SCALE, ALL)
case("ConvTranspose, groups, no bias", _conv_transpose(2, False), SCALE, ALL)


def _gemm(turned: int, bias: tuple[int, ...] | None, **gains: float) -> Build:
    def build(net: Net, x: Value) -> Value:
        w = net.normal(x.channels, 6) / 2
        inputs = [x.name, net.const(w.T if turned else w)]
        inputs += [] if bias is None else [net.const(net.normal(*bias))]
        return net.node("Gemm", inputs, (x.shape[0], 6), transB=turned, **gains)

    return build


_FLAT = {"shape": (2, 4)}
case("Gemm", _gemm(0, (6,)), ALL, ALL, **_FLAT)
case("Gemm, transB, α and β", _gemm(1, (1, 6), alpha=-0.5, beta=2.5), ALL, ALL, **_FLAT)
case("Gemm, no C, α", _gemm(0, None, alpha=1.5), ALL, ALL, **_FLAT)
case("Gemm, one number as C", _gemm(0, (1,), beta=0.5), ALL, ALL, **_FLAT)
case("Gemm, a scalar as C", _gemm(0, (), beta=0.5), ALL, ALL, **_FLAT)
case("Gemm, a matrix of one as C", _gemm(1, (1, 1)), ALL, ALL, **_FLAT)
case("Gemm, a matrix as C", _gemm(0, (2, 6), alpha=-0.5, beta=2.5), ALL, ALL, **_FLAT)
case("Gemm, a column as C", _gemm(1, (2, 1), beta=-1.5), ALL, ALL, **_FLAT)


def _gemm_and(net: Net, x: Value) -> Value:
    """Gemm whose C is computed at run time."""
    w, c = net.const(net.normal(x.channels, 6) / 2), net.const(net.normal(net.values[0].channels, 6))
    c = net.node("MatMul", ["x", c], (x.shape[0], 6)).name
    return net.node("Gemm", [x.name, w, c], (x.shape[0], 6), alpha=1.5, beta=-0.5)


case("Gemm, C at run time", _gemm_and, ALL, UNSUPPORTED, **_FLAT)

_TOKENS: dict[str, Any] = {"shape": (2, 4, 7)}


def _matmul(n: int) -> Build:
    return simple("MatMul", lambda net, x: net.normal(x.shape[-1], n) / 2, shape=lambda s: (*s[:-1], n))


def _matmul_left(net: Net, x: Value) -> Value:
    w = net.const(net.normal(6, x.shape[-2]) / 2)
    return net.node("MatMul", [w, x.name], (*x.shape[:-2], 6, x.shape[-1]))


def _matmul_stack(net: Net, x: Value) -> Value:
    w = net.const(net.normal(x.channels, 3, x.shape[2]) / 2)
    return net.node("MatMul", [w, x.name], (*x.shape[:2], 3, x.shape[3]))


case("MatMul", _matmul(6), ALL, ALL, **_FLAT)
case("MatMul, constant on the left", _matmul_left, ALL, ALL, **_TOKENS)
case("MatMul, over another axis", _matmul(6), refused(Reason.AXIS), refused(Reason.AXIS), **_TOKENS)
_STACKED = {**refused(Reason.AXIS), "shift": Reason.SHIFT_REFUSED, "both": Reason.SHIFT_REFUSED}
case("MatMul, a matrix per channel", _matmul_stack, _STACKED, refused(Reason.AXIS))


def _matmul_of(*stack: int) -> Build:
    """The channels last, times a stack of matrices."""

    def build(net: Net, x: Value) -> Value:
        n, c, t = x.shape
        y = net.node("Transpose", [x.name], (n, t, c), perm=[0, 2, 1])
        return net.node("MatMul", [y.name, net.const(net.normal(*stack, c, 6) / 2)], (n, t, 6))

    return build


case("MatMul, a stack of one", _matmul_of(1), ALL, None, **_TOKENS, axis_out=2)
case("MatMul, a matrix for each row", _matmul_of(2), SCALE, None, **_TOKENS, axis_out=2)


def _einsum(equation: str, out: Callable[[Shape], Shape], *w: int, first: int = 0) -> Build:
    weight = partial(lambda size, net, x: net.normal(*size) / 2, w)
    return simple("Einsum", weight, shape=out, first=first, equation=equation)


case("Einsum", _einsum("nchw,cd->ndhw", lambda s: (s[0], 6, *s[2:]), 4, 6), ALL, ALL)
case(
    "Einsum, constant first, turned",
    _einsum("dc, nct -> ndt", to(2, 6, 7), 6, 4, first=1),
    ALL,
    ALL,
    **_TOKENS,
)
case(
    "Einsum, output transposed",
    _einsum("nct,cd->ntd", to(2, 7, 6), 4, 6),
    ALL,
    refused(Reason.AXIS),
    **_TOKENS,
)


def _recurrent(kind: str, gates: int, bias: bool, **attributes: Any) -> Build:
    def build(net: Net, x: Value) -> Value:
        ways, hidden = (2 if attributes.get("direction") == "bidirectional" else 1), 3
        inputs = [x.name, net.const(net.normal(ways, gates * hidden, x.shape[2]) / 2)]
        inputs += [net.const(net.normal(ways, gates * hidden, hidden) / 2)]
        inputs += [net.const(net.normal(ways, 2 * gates * hidden))] if bias else []
        shape = (x.shape[0], ways, x.shape[1], hidden)
        return net.node(kind, inputs, shape, hidden_size=hidden, **attributes)

    return build


def _before(build: Build, perm: tuple[int, ...]) -> Build:
    """The operator behind a Transpose."""

    def both(net: Net, x: Value) -> Value:
        x = net.node("Transpose", [x.name], tuple(x.shape[p] for p in perm), perm=perm)
        return build(net, x)

    return both


for _kind, _gates, _more in (
    ("LSTM", 4, {}),
    ("GRU", 3, {"linear_before_reset": 1}),
    ("GRU", 3, {"linear_before_reset": 0}),
    ("RNN", 1, {"direction": "reverse"}),
    ("LSTM", 4, {"direction": "bidirectional"}),
):
    for _bias in (True, False):
        # (N, features, steps) → (steps, N, features): the features are the channels.
        _build = _before(_recurrent(_kind, _gates, _bias, **_more), (2, 0, 1))
        _form = " ".join(map(str, [*_more.values(), "bias" if _bias else "no bias"]))
        case(f"{_kind}, {_form}", _build, ALL, None, **_TOKENS, axis_out=3)

# --- affine ------------------------------------------------------------------------------------------


for _op in ("Mul", "Div", "Add", "Sub"):
    case(f"{_op}, by channel", simple(_op, by_channel), ALL, ALL)
    case(f"{_op}, one number", simple(_op, np.array(-1.7)), ALL, ALL)
    if _op != "Div":
        case(f"{_op}, the constant first", simple(_op, by_channel, first=1), ALL, ALL)


def _vectors(net: Net, x: Value) -> np.ndarray:
    return net.normal(x.shape[1])


def _last(net: Net, x: Value) -> np.ndarray:
    return net.normal(x.shape[-1])


case(
    "BatchNormalization",
    simple("BatchNormalization", _vectors, _vectors, _vectors, lambda net, x: np.exp(net.normal(x.channels))),
    ALL,
    ALL,
)
case("InstanceNormalization", simple("InstanceNormalization", _vectors, _vectors), UNSUPPORTED, ALL)
case(
    "GroupNormalization",
    simple("GroupNormalization", _vectors, _vectors, num_groups=2),
    UNSUPPORTED,
    ALL,
    opset=21,
)
case("LayerNormalization", simple("LayerNormalization", _last, _last), UNSUPPORTED, ALL, **_FLAT)
case("LayerNormalization, no bias", simple("LayerNormalization", _last), UNSUPPORTED, ALL, **_FLAT)
case("RMSNormalization", simple("RMSNormalization", _last), UNSUPPORTED, SCALE, opset=23, **_FLAT)
case(
    "LayerNormalization, of another axis",
    simple("LayerNormalization", _last),
    UNSUPPORTED,
    refused(Reason.AXIS),
)
