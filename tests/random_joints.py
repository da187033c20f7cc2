"""Steps of random graphs: ops with several inputs, residual blocks, bodies."""

from __future__ import annotations

from math import prod

import numpy as np
from onnx import TensorProto, helper

from tests.random_nets import MAX_ELEMENTS, Net, Step, Value
from tests.random_nets import Shape as Sizes
from tests.random_steps import batchnorm, same_linear

# --- several inputs ----------------------------------------------------------------------------------


def alike(net: Net, x: Value) -> Value:
    """An earlier value of x's shape, or a branch with a linear op (and BN) of its own, or x."""
    if net.dice(2):
        other = same_linear(net, x)
        if other is not None and other.shape == x.shape:
            return batchnorm(net, other) if net.dice(2) else other
    return net.pick(*[v for v in [*net.values, x] if v.shape == x.shape])


def residual(net: Net, x: Value) -> Value:
    """Add, Sub, Sum, Neg (and Mean) of run-time tensors, one of which may be a constant or broadcast."""
    kind = net.pick("Add", "Add", "Sub", "Sum", "Neg", *(() if net.double else ("Mean",)))
    if kind == "Neg":
        return net.node(kind, [x.name], x.shape)
    others = [alike(net, x).name for _ in range(1 if kind in ("Add", "Sub") else net.pick(1, 2))]
    if net.dice(5) == 0:
        others[-1] = net.const(net.normal(*x.shape[1:]))
    elif x.rank == 4 and net.dice(5) == 0:
        others[-1] = net.node("ReduceMean", [others[-1], net.ints(2, 3)], (*x.shape[:2], 1, 1)).name
    inputs = [x.name, *others]
    return net.node(kind, inputs[:: net.pick(1, -1)], x.shape)


def choice(net: Net, x: Value) -> Value:
    """Max, Min, Where: each element is one of the inputs' elements."""
    kind, other = net.pick("Max", "Min", "Where"), alike(net, x)
    if kind != "Where":
        return net.node(kind, [x.name, other.name], x.shape)
    mask = net.const(net.normal(*net.pick(x.shape[1:], (x.shape[-1],))) > 0)
    return net.node(kind, [mask, x.name, other.name], x.shape)


def gate(net: Net, x: Value) -> Value | None:
    """Squeeze and excite, x · σ(x), x · y, x / (σ(x) + ½)."""
    g: Value | None = x
    if x.rank == 4:
        g = net.node("ReduceMean", [x.name, net.ints(2, 3)], (*x.shape[:2], 1, 1))
        g = same_linear(net, g)
    if g is None or g.shape[:2] != x.shape[:2]:
        return None
    g = net.node("Sigmoid", [g.name], g.shape)
    if net.dice(3) == 0:
        g = net.node("Add", [g.name, net.const(np.array(0.5))], g.shape)
        return net.node("Div", [x.name, g.name], x.shape)
    pair = [x.name, g.name]
    return net.node("Mul", pair[:: net.pick(1, -1)], x.shape)


def concat(net: Net, x: Value) -> Value | None:
    """Concat along any axis but the batch with an earlier value, itself, or a constant."""
    axis = net.pick(1, x.rank - 1)

    def rest(shape: Sizes) -> Sizes:
        return shape[:axis] + shape[axis + 1 :]

    others = [v for v in [*net.values, x] if v.rank == x.rank and rest(v.shape) == rest(x.shape)]
    other = net.pick(*others)
    if net.dice(6) == 0:
        net.static = True
        size = (*x.shape[:axis], 2, *x.shape[axis + 1 :])
        other = Value(net.const(net.normal(*size)), size)
    shape = (*x.shape[:axis], x.shape[axis] + other.shape[axis], *x.shape[axis + 1 :])
    if prod(shape) > MAX_ELEMENTS:
        return None
    pair = [x.name, other.name]
    return net.node("Concat", pair[:: net.pick(1, -1)], shape, axis=net.pick(axis, axis - x.rank))


def block(net: Net, x: Value) -> Value | None:
    """Pre-activation blocks on one stream: x + L(relu(BN(x)))."""
    for _ in range(net.pick(1, 2)):
        y = batchnorm(net, x)
        y = net.node("Relu", [y.name], y.shape)
        branch = same_linear(net, y)
        if branch is None or branch.shape != x.shape:
            return None
        pair = [x.name, branch.name]
        x = net.node("Add", pair[:: net.pick(1, -1)], x.shape)
    return x


def body(net: Net, x: Value) -> Value:
    """An If whose branches capture x: one holds a linear op and BN of its own."""
    condition = net.extra_input("cond", TensorProto.BOOL, ())
    outer, values = net.nodes, list(net.values)
    graphs = []
    for name in ("then", "else"):
        net.nodes = []
        y = net.node("Relu", [x.name], x.shape)
        if name == "then":
            y = batchnorm(net, same_linear(net, x) or y)
            y = y if y.shape == x.shape else net.node("Relu", [x.name], x.shape)
        out = helper.make_tensor_value_info(y.name, net.element, [None] * y.rank)
        graphs.append(helper.make_graph(net.nodes, name, [], [out]))
    net.nodes, net.values = outer, values  # what a body holds is unknown outside
    return net.node("If", [condition], x.shape, then_branch=graphs[0], else_branch=graphs[1])


# Listed as often as they should come up.
JOINTS: dict[str, tuple[int, Step]] = {
    "residual": (7, residual),
    "concat": (4, concat),
    "block": (3, block),
    "gate": (2, gate),
    "choice": (2, choice),
    "body": (1, body),
}
