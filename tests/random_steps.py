"""Steps of random graphs: linear ops, affines, activations."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.random_nets import BATCH, MAX_ELEMENTS, Net, Step, Value
from tests.random_nets import Shape as Sizes

# --- linear ------------------------------------------------------------------------------------------


def conv(net: Net, x: Value, out: int | None = None, same: bool = False) -> Value | None:
    """Conv of 1 to 3 dimensions: groups, depthwise, strides, dilations, asymmetric pads, auto_pad."""
    if net.double or x.rank not in (3, 4, 5):
        return None
    space = x.space
    k = net.pick(1, 3) if min(space) >= 3 or same else 1
    mode = "both" if same else net.pick("both", "none", "after", "auto")
    stride = 1 if same else net.pick(1, 1, 2)
    dilation = 2 if mode == "none" and k == 3 and min(space) >= 5 and net.dice(3) == 0 else 1
    out = out or net.pick(x.channels, 3, 6, 2 * x.channels)
    groups = net.pick(*[g for g in (1, 1, 2, x.channels) if x.channels % g == 0 and out % g == 0])
    before, after = {"both": (k // 2, k // 2), "none": (0, 0), "after": (0, k // 2), "auto": (0, 0)}[mode]
    reach = dilation * (k - 1)
    sizes = tuple((n + before + after - reach - 1) // stride + 1 for n in space)
    padding: dict[str, Any] = {"pads": [before] * len(space) + [after] * len(space)}
    if mode == "auto":
        sizes = tuple(-(-n // stride) for n in space)
        padding = {"auto_pad": net.pick("SAME_UPPER", "SAME_LOWER")}
    if min(sizes) < 1 or prod(sizes) * out * BATCH > MAX_ELEMENTS:
        return None
    per = x.channels // groups
    inputs = [x.name, net.weight(out, per, *[k] * len(space), fan_in=per * k ** len(space))]
    inputs += [net.const(net.normal(out))] if net.dice(2) else []
    steps = {"strides": [stride] * len(space), "dilations": [dilation] * len(space)}
    return net.node("Conv", inputs, (x.shape[0], out, *sizes), group=groups, **steps, **padding)


def conv_transpose(net: Net, x: Value) -> Value | None:
    """ConvTranspose of 1 and 2 dimensions with groups and strides."""
    if net.double or x.rank not in (3, 4) or prod(x.shape) > MAX_ELEMENTS // 6:
        return None
    d = x.rank - 2
    groups = 2 if net.dice(2) and x.channels % 2 == 0 else 1
    k, stride, per = net.pick(1, 2, 3), net.pick(1, 2), net.pick(1, 2, 3)
    inputs = [x.name, net.weight(x.channels, per, *[k] * d, fan_in=x.channels * k)]
    inputs += [net.const(net.normal(per * groups))] if net.dice(2) else []
    shape = (x.shape[0], per * groups, *((n - 1) * stride + k for n in x.space))
    return net.node("ConvTranspose", inputs, shape, group=groups, strides=[stride] * d)


def deform_conv(net: Net, x: Value) -> Value | None:
    """DeformConv at random offsets, with or without mask and bias."""
    if net.double or net.opset < 19 or x.rank != 4 or min(x.space) < 2:
        return None
    space, taps = tuple(n - 1 for n in x.space), 4
    net.static = True
    inputs = [x.name, net.weight(3, x.channels, 2, 2, fan_in=x.channels * 4)]
    inputs += [
        net.const(0.7 * net.normal(BATCH, 2 * taps, *space)),
        net.const(net.normal(3)) if net.dice(2) else "",
    ]
    inputs += [net.const(net.normal(BATCH, taps, *space))] if net.dice(2) else []
    shape = (x.shape[0], 3, *space)
    return net.node("DeformConv", inputs if inputs[-1] else inputs[:-1], shape, pads=[0] * 4)


def gemm(net: Net, x: Value, out: int = 0) -> Value | None:
    """Gemm with α, β, transA, transB, with or without C (a vector, a row, one number, a matrix, a column)."""
    if x.rank != 2:
        return None
    turned_x = int(out == 0 and net.dice(8) == 0)
    n_in, rows = (x.shape[0], x.shape[1]) if turned_x else (x.shape[1], x.shape[0])
    net.static |= bool(turned_x)
    out, turned = out or net.pick(4, 7, x.channels), net.dice(2)
    w = net.weight(*((out, n_in) if turned else (n_in, out)), fan_in=n_in)
    c = net.pick([], [(out,)], [(1,)], [(1, out)], [(rows, out)], [(rows, 1)])
    net.static |= bool(c) and c[0][0] == rows
    alpha, beta = net.pick((1.0, 1.0), (0.5, 2.0), (-1.5, 0.0))
    inputs = [x.name, w, *(net.const(net.normal(*s)) for s in c)]
    return net.node("Gemm", inputs, (rows, out), transA=turned_x, transB=turned, alpha=alpha, beta=beta)


def matmul(net: Net, x: Value) -> Value:
    """MatMul over the last axis, alone or with an Add of a bias."""
    n, out = x.shape[-1], net.pick(5, x.shape[-1])
    y = net.node("MatMul", [x.name, net.weight(n, out, fan_in=n)], (*x.shape[:-1], out))
    if net.dice(2):
        pair = [y.name, net.const(net.normal(out))]
        y = net.node("Add", pair[:: net.pick(1, -1)], y.shape)
    return y


def matmul_left(net: Net, x: Value) -> Value | None:
    """A constant times x, over the axis before the last; now and then one matrix per channel."""
    if x.rank < 3:
        return None
    n, out = x.shape[-2], net.pick(3, x.shape[-2])
    stack = (x.channels,) if x.rank == 4 and net.dice(3) == 0 else ()
    w = net.weight(*stack, out, n, fan_in=n)
    return net.node("MatMul", [w, x.name], (*x.shape[:-2], out, x.shape[-1]))


def einsum(net: Net, x: Value, out: int = 0) -> Value:
    """Einsum with a constant over axis 1 or the last, to one output axis or (rank 2 and 3) two."""
    letters = "nchwd"[: x.rank]
    axis = 1 if out else net.pick(1, x.rank - 1)
    n = x.shape[axis]
    if not out and x.rank < 4 and net.dice(4) == 0:
        target, new = (2, 3), letters.replace(letters[axis], "pq")
        sizes = (*x.shape[:axis], *target, *x.shape[axis + 1 :])
        w, word = net.weight(n, *target, fan_in=n), f"{letters[axis]}pq"
    else:
        width = out or net.pick(3, n)
        new = letters.replace(letters[axis], "o")
        sizes = (*x.shape[:axis], width, *x.shape[axis + 1 :])
        turned = net.dice(2)
        w = net.weight(*((width, n) if turned else (n, width)), fan_in=n)
        word = f"o{letters[axis]}" if turned else f"{letters[axis]}o"
    if net.dice(2):
        return net.node("Einsum", [x.name, w], sizes, equation=f"{letters},{word}->{new}")
    return net.node("Einsum", [w, x.name], sizes, equation=f"{word},{letters}->{new}")


def same_linear(net: Net, x: Value) -> Value | None:
    """A linear op from x's channels to as many."""
    if x.rank == 2:
        return gemm(net, x, out=x.channels)
    if net.double:
        return einsum(net, x, out=x.channels)
    return conv(net, x, out=x.channels, same=True)


def recurrent(net: Net, x: Value) -> Value | None:
    """LSTM, GRU or RNN over (steps, batch, features), one way or both, with or without biases."""
    if x.rank != 3 or net.double:
        return None
    kind = net.pick("LSTM", "GRU", "RNN")
    gates, hidden, n = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 3, x.shape[2]
    ways = net.pick(1, 1, 2)
    inputs = [x.name, net.weight(ways, gates * hidden, n, fan_in=n)]
    inputs += [net.weight(ways, gates * hidden, hidden, fan_in=hidden)]
    inputs += [net.const(0.5 * net.normal(ways, 2 * gates * hidden))] if net.dice(2) else []
    more: dict[str, Any] = {"linear_before_reset": net.dice(2)} if kind == "GRU" else {}
    steps, batch = x.shape[:2]
    direction = "bidirectional" if ways == 2 else net.pick("forward", "reverse")
    y = net.node(kind, inputs, (steps, ways, batch, hidden), hidden_size=hidden, direction=direction, **more)
    if ways == 1:
        return net.node("Squeeze", [y.name, net.ints(1)], (steps, batch, hidden))
    y = net.node("Transpose", [y.name], (steps, batch, ways, hidden), perm=[0, 2, 1, 3])
    return net.node("Reshape", [y.name, net.ints(0, 0, -1)], (steps, batch, ways * hidden))


def embedding(net: Net, x: Value) -> Value:
    """Rows of a constant table, picked at run time: (N, 4) ids to (N, 4, C) or (N, C, 4)."""
    n = net.pick(5, 6)
    ids = net.extra_input("ids", TensorProto.INT64, (BATCH, 4))
    y = net.node("Gather", [net.weight(7, n, fan_in=1), ids], (BATCH, 4, n), axis=0)
    return net.node("Transpose", [y.name], (BATCH, n, 4), perm=[0, 2, 1]) if net.dice(2) else y


# --- affine ------------------------------------------------------------------------------------------


def batchnorm(net: Net, x: Value) -> Value:
    """BatchNormalization; γ positive, of mixed signs, or with zeros; with and without a shift."""
    c = x.channels
    gamma = net.pick(np.abs, np.abs, np.asarray, _with_a_zero)(net.mixed(c))
    shifts = net.dice(4) > 0
    statistics = (gamma, net.normal(c) * shifts, net.normal(c) * shifts, np.exp(net.normal(c)))
    names = [net.const(v) for v in statistics]
    return net.node("BatchNormalization", [x.name, *names], x.shape, epsilon=net.pick(1e-5, 1e-3))


def _with_a_zero(gamma: np.ndarray) -> np.ndarray:
    return gamma * (np.arange(gamma.size) != gamma.size // 2)


def arithmetic(net: Net, x: Value) -> Value:
    """One Mul, Add, Sub or Div by a constant, which may be operand 0: channels, last axis, or a number."""
    op = net.pick("Mul", "Add", "Sub", "Div")
    shape: Sizes = net.pick((x.channels, *[1] * (x.rank - 2)), (x.shape[-1],), (1,), ())
    pair = [x.name, net.const(net.mixed(*shape))]
    return net.node(op, pair[::-1] if op != "Div" and net.dice(3) == 0 else pair, x.shape)


def decomposed(net: Net, x: Value) -> Value:
    """(x − μ) / σ · γ + β by channel, operands in any order, any of the four left out."""
    shape = net.pick((x.channels, *[1] * (x.rank - 2)), (1, x.channels, *[1] * (x.rank - 2)))
    positive = net.dice(2)
    for op in ("Sub", "Div", "Mul", "Add"):
        if net.dice(5) == 0:
            continue
        factors = net.mixed(*shape)
        pair = [x.name, net.const(np.abs(factors) if positive else factors)]
        x = net.node(op, pair[::-1] if op in ("Mul", "Add") and net.dice(2) else pair, x.shape)
    return x


def norm(net: Net, x: Value) -> Value | None:
    """LayerNormalization over the last axis, InstanceNormalization, GroupNormalization."""
    kind = net.pick("LayerNormalization", "InstanceNormalization", "GroupNormalization")
    if kind == "LayerNormalization":
        n = x.shape[-1]
        inputs = [x.name, net.const(net.normal(n)), *([net.const(net.normal(n))] if net.dice(2) else [])]
        return net.node(kind, inputs, x.shape, axis=-1, epsilon=1e-2) if n > 2 else None
    if x.rank < 3 or prod(x.space) < 3:
        return None
    inputs = [x.name, net.const(net.normal(x.channels)), net.const(net.normal(x.channels))]
    if kind == "InstanceNormalization":
        return None if net.double else net.node(kind, inputs, x.shape, epsilon=1e-2)
    if net.opset < 21 or x.channels % 2:
        return None
    return net.node(kind, inputs, x.shape, num_groups=2, epsilon=1e-2)


def bordered(net: Net, x: Value) -> Value | None:
    """A convolution, what passes nothing, a BatchNormalization, and a padded convolution."""
    if net.double or x.rank < 3 or prod(x.shape) > MAX_ELEMENTS // 2:
        return None
    d, out, c = x.rank - 2, net.pick(3, 5), x.channels
    inputs = [x.name, net.weight(out, c, *[1] * d, fan_in=c)]
    y = net.node("Conv", inputs + [net.const(net.normal(out))] * net.dice(2), (x.shape[0], out, *x.space))
    y = net.node(net.pick("Sigmoid", "Tanh", "Elu", "Softplus"), [y.name], y.shape)
    if d == 2 and net.dice(3) == 0:
        y = net.node("MaxPool", [y.name], y.shape, kernel_shape=[3, 3], pads=[1] * 4)
    y = batchnorm(net, y)
    w = net.weight(4, out, *[3] * d, fan_in=out * 3**d)
    return net.node("Conv", [y.name, w], (x.shape[0], 4, *x.space), pads=[1] * 2 * d)


# --- activations -------------------------------------------------------------------------------------


def activation(net: Net, x: Value) -> Value:
    """What passes positive scales, and clamps of all sorts: below, above, on both sides, by channel."""
    kind = net.pick(
        "Relu", "Relu", "Abs", "Clip", "clamp", "clamp", *(() if net.double else ("LeakyRelu", "PRelu"))
    )
    if kind == "Clip":
        return net.node(kind, [x.name, net.const(np.array(0.0))], x.shape)
    if kind == "clamp":
        low, high = (net.const(np.array(bound)) for bound in sorted(net.normal(2)))
        kind = net.pick("Clip", "Clip", "Max", "Min")
        if kind == "Clip":
            return net.node(kind, [x.name, *net.pick([low], ["", high], [low, high], [low, high])], x.shape)
        bound = net.normal(*net.pick((x.channels, *[1] * (x.rank - 2)), (x.shape[-1],), ()))
        pair = [x.name, net.const(bound)]
        return net.node(kind, pair[:: net.pick(1, -1)], x.shape)
    if kind == "PRelu":
        slope = net.normal(*net.pick((x.channels, *[1] * (x.rank - 2)), (1,)))
        return net.node(kind, [x.name, net.const(slope)], x.shape)
    return net.node(kind, [x.name], x.shape, **({"alpha": 0.1} if kind == "LeakyRelu" else {}))


def nonlinear(net: Net, x: Value) -> Value:
    """What passes nothing."""
    kind = net.pick("Sigmoid", "Tanh", "Softmax", *(() if net.double else ("Elu", "Softplus", "Erf")))
    return net.node(kind, [x.name], x.shape, **({"axis": 1} if kind == "Softmax" else {}))


# Listed as often as they should come up.
COMPUTING: dict[str, tuple[int, Step]] = {
    "batchnorm": (16, batchnorm),
    "conv": (7, conv),
    "gemm": (4, gemm),
    "matmul": (3, matmul),
    "einsum": (3, einsum),
    "activation": (5, activation),
    "decomposed": (3, decomposed),
    "arithmetic": (2, arithmetic),
    "conv_transpose": (2, conv_transpose),
    "matmul_left": (2, matmul_left),
    "deform_conv": (1, deform_conv),
    "norm": (2, norm),
    "bordered": (4, bordered),
    "nonlinear": (1, nonlinear),
    "recurrent": (2, recurrent),
    "embedding": (1, embedding),
}
