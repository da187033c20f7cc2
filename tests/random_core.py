"""Random graphs of core's own: linear ops with and without biases, affines that lack a half, joints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bnfuse.core.rules.base import ShapeOnly, Sign
from bnfuse.core.rules.joint import ConcatSplit, Product, Select
from tests.core_nets import LEVEL, CoreNet, pair_of
from tests.removable import Network, Op

Step = Callable[[CoreNet, list[str]], str]


def _conv(net: CoreNet, x: list[str]) -> str:
    bias = bool(net.rng.integers(2))
    gains: dict[str, Any] = {"gain": -0.5, "bias_gain": 2.0} if net.rng.integers(4) == 0 else {}
    taps, padded = int(net.rng.integers(1, 3)), not net.rng.integers(3)
    storable, nodes = bias or bool(net.rng.integers(2)), int(net.rng.integers(2))
    return net.conv(x[0], taps=taps, padded=padded, bias=bias, has_bias=storable, bias_nodes=nodes, **gains)


def _affine(net: CoreNet, x: list[str]) -> str:
    """A factor or a summand alone."""
    n = net.channels[x[0]]
    if net.rng.integers(2):
        a = np.exp(net.rng.standard_normal(n)) * net.rng.choice((1.0, 1.0, -1.0), n)
        return net.bn(x[0], a, np.zeros(n), op="Mul", has_shift=False, divides=bool(net.rng.integers(2)))
    return net.bn(x[0], np.ones(n), op="Add", has_scale=False)


def _bn(net: CoreNet, x: list[str]) -> str:
    n = net.channels[x[0]]
    a = np.exp(net.rng.standard_normal(n))
    kind = net.rng.integers(4)
    if kind == 0:
        a = a * net.rng.choice((1.0, -1.0), n)
    elif kind == 1:
        a[int(net.rng.integers(n))] = 0.0
    return net.bn(x[0], a, net.rng.standard_normal(n) * bool(net.rng.integers(4)))


def _product(net: CoreNet, x: list[str]) -> str:
    rule = Product((1, 1), (LEVEL, LEVEL))
    return net.add("Gate", rule, *x, does=lambda a, b: a * b)


def _greatest(net: CoreNet, x: list[str]) -> str:
    return net.add("Max", Select((0, 1), Sign.NONNEGATIVE), *x, does=np.maximum)


def _shape(net: CoreNet, x: list[str]) -> str:
    return net.add("Shape", ShapeOnly(), x[0], does=lambda v: np.zeros_like(v))


def _halves(net: CoreNet, x: list[str]) -> str:
    """Side by side with another, cut apart again elsewhere, and one part of it."""
    whole = net.concat(*x)
    sizes = (net.channels[whole] - 3, 3)
    name = f"split{len(net.nodes)}"
    outputs = (f"{name}_a", f"{name}_b")
    net.add("Split", ConcatSplit(0, (~0, ~1), 1, sizes), whole, name=name, outputs=outputs,
            does=lambda v: [v[:, : sizes[0]], v[:, sizes[0] :]])  # fmt: skip
    net.channels |= dict(zip(outputs, sizes, strict=True))
    net.tanh(outputs[0])
    return outputs[1]


def _with_constant(net: CoreNet, x: list[str]) -> str:
    pair = (x[0], net.constant())
    return net.sum(*pair[:: int(net.rng.choice((1, -1)))], signs=(1.0, float(net.rng.choice((1.0, -2.0)))))


STEPS: dict[Step, int] = {
    _conv: 4,
    _bn: 5,
    _affine: 2,
    lambda net, x: net.sum(*x, signs=(1.0, float(net.rng.choice((1.0, -1.0))))): 4,
    lambda net, x: net.relu(x[0]): 2,
    lambda net, x: net.identity(x[0]): 1,
    lambda net, x: net.tanh(x[0]): 1,
    _with_constant: 1,
    _product: 1,
    _greatest: 1,
    _halves: 1,
    _shape: 1,
}


def random_net(seed: int) -> tuple[CoreNet, list[str]]:
    """About ten nodes on values of three channels, and its outputs: whatever nobody reads."""
    net = CoreNet(seed)
    values = ["x", net.conv("x")]
    steps = [step for step, often in STEPS.items() for _ in range(often)]
    for _ in range(int(net.rng.integers(4, 12))):
        first = values[-1] if net.rng.integers(4) else values[int(net.rng.integers(len(values)))]
        x = [first, values[int(net.rng.integers(len(values)))]]
        values.append(steps[int(net.rng.integers(len(steps)))](net, x))
    read = {v for node in net.nodes for v in node.inputs}
    outputs = [v for node in net.nodes for v in node.outputs if v not in read]
    return net, outputs


# As often as they should come up; these are the kinds that ``removable`` knows.
_KINDS = ("Conv", "Conv", "padded", "BatchNormalization", "BatchNormalization", "BatchNormalization",
          "Add", "Add", "Sub", "Relu", "Relu", "Identity", "Concat", "Sigmoid")  # fmt: skip


def random_network(seed: int) -> tuple[CoreNet, Network]:
    """About ten nodes twice, for core and as equations; up to four BatchNormalizations."""
    net = CoreNet(seed)
    rng, ops, values = net.rng, list[Op](), ["x"]
    positive = bool(rng.integers(2))
    for at in range(int(rng.integers(4, 12))):
        kind = "Conv" if not at and rng.integers(3) else str(rng.choice(_KINDS))
        x = values[-1] if rng.integers(3) else values[int(rng.integers(len(values)))]
        others = [v for v in values if net.channels[v] == net.channels[x] and v != x]
        if (len(net.candidates) == 4 and kind == "BatchNormalization") or (
            kind in ("Add", "Sub", "Concat") and not others
        ):
            continue
        inputs = (x, others[int(rng.integers(len(others)))]) if kind in ("Add", "Sub", "Concat") else (x,)
        values.append(_made(net, kind, inputs, positive))
        a, c = pair_of(net.graph(), net.candidates[-1]) if kind == "BatchNormalization" else ((), ())
        padded = kind == "padded"
        ops.append(Op("Conv" if padded else kind, inputs, values[-1], tuple(a), tuple(c), padded))
    ends = [v for v in values[1:] if not any(v in op.inputs for op in ops)]
    fixed = {"x"}
    for v in ends:
        if rng.integers(3):
            ops.append(Op("Conv", (v,), net.conv(v)))
            v = ops[-1].output
        fixed.add(v)
    channels = {v: n for v, n in net.channels.items() if v == "x" or any(v == op.output for op in ops)}
    return net, Network(tuple(ops), channels, frozenset(fixed))


def _made(net: CoreNet, kind: str, inputs: tuple[str, ...], positive: bool) -> str:
    match kind:
        case "Conv" | "padded":
            return net.conv(inputs[0], taps=2, padded=kind == "padded")
        case "BatchNormalization":
            scale = np.exp(net.rng.standard_normal(net.channels[inputs[0]]))
            return net.bn(inputs[0], scale if positive else None)
        case "Relu":
            return net.relu(*inputs)
        case "Identity":
            return net.identity(*inputs)
        case "Sigmoid":
            return net.tanh(*inputs)
        case "Concat":
            return net.concat(*inputs)
    return net.sum(*inputs, signs=(1.0, -1.0 if kind == "Sub" else 1.0))
