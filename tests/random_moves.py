"""Steps of random graphs: pooling, and ops that move, drop, repeat or average elements."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from onnx import helper

from tests.random_choices import CHOOSING
from tests.random_joints import JOINTS
from tests.random_nets import MAX_ELEMENTS, Net, Step, Value
from tests.random_quantised import QUANTISED
from tests.random_steps import COMPUTING, batchnorm


def pool(net: Net, x: Value) -> Value | None:
    """MaxPool, AveragePool, LpPool with and without (counted) padding, also over windows of 1."""
    if x.rank not in (3, 4) or min(x.space) < 3:
        return None
    d, k = x.rank - 2, net.pick(1, 2, 2)
    pad, stride = net.pick(0, k - 1), net.pick(1, 2)
    shape = (*x.shape[:2], *((n + 2 * pad - k) // stride + 1 for n in x.space))
    window: dict[str, Any] = {"kernel_shape": [k] * d, "strides": [stride] * d, "pads": [pad] * (2 * d)}
    kind = net.pick(*(("MaxPool",) if net.double else ("MaxPool", "AveragePool", "AveragePool", "LpPool")))
    if kind == "AveragePool":
        window["count_include_pad"] = net.dice(2)
    return net.node(kind, [x.name], shape, **window)


def global_pool(net: Net, x: Value) -> Value | None:
    """Pooling over all of space."""
    if x.rank < 3 or net.double:
        return None
    kind = net.pick("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
    return net.node(kind, [x.name], (*x.shape[:2], *[1] * (x.rank - 2)))


def reduce(net: Net, x: Value) -> Value | None:
    """Any reduction, over space or over one axis, which stays or goes."""
    if x.rank < 3:
        return None
    kind = net.pick("Mean", "Mean", "Max", "Min", "Sum", "L1", "L2")
    axes = net.pick(tuple(range(2, x.rank)), (x.rank - 1,), (1,))
    keep = net.dice(2)
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    shape = kept if keep else tuple(n for a, n in enumerate(x.shape) if a not in axes)
    if len(shape) < 2:
        return None
    given = [a - x.rank if net.dice(2) else a for a in axes]
    return net.node(f"Reduce{kind}", [x.name, net.ints(*given)], shape, keepdims=keep)


def same(net: Net, x: Value) -> Value:
    """Identity, Dropout, a Cast to the same type (or, for float32, there and back)."""
    kind = net.pick("Identity", "Dropout", "Cast")
    if kind != "Cast":
        return net.node(kind, [x.name], x.shape)
    if net.double:
        return net.node(kind, [x.name], x.shape, to=net.element)
    net.node(kind, [x.name], x.shape, to=11)
    wide = net.values.pop()  # no other step may read a float64 value
    return net.node(kind, [wide.name], x.shape, to=net.element)


def transpose(net: Net, x: Value) -> Value | None:
    """Transpose that keeps the batch in front."""
    if x.rank < 3:
        return None
    perm = [0, *(1 + int(i) for i in net.rng.permutation(x.rank - 1))]
    return net.node("Transpose", [x.name], tuple(x.shape[p] for p in perm), perm=perm)


def reshape(net: Net, x: Value) -> Value | None:
    """Flatten, merging all of space, or splitting channels in two."""
    n, rest = x.shape[0], prod(x.shape[1:])
    kind = net.pick("flatten", "flatten", "space", "channels")
    if kind == "channels" and x.rank < 5 and x.channels % 2 == 0 and x.channels > 2:
        shape = (n, 2, x.channels // 2, *x.space)
        return net.node("Reshape", [x.name, net.ints(-1, *shape[1:])], shape)
    if x.rank == 2:
        return None
    if kind == "space" and x.rank > 3:
        return net.node("Reshape", [x.name, net.ints(0, 0, -1)], (n, x.channels, prod(x.space)))
    if net.dice(2):
        return net.node("Reshape", [x.name, net.ints(0, -1)], (n, rest))
    return net.node("Flatten", [x.name], (n, rest))


def singletons(net: Net, x: Value) -> Value | None:
    """Squeeze where an axis has one element, else Unsqueeze."""
    ones = [a for a in range(1, x.rank) if x.shape[a] == 1]
    if ones and x.rank > 2:
        a = net.pick(*ones)
        axes = net.ints(net.pick(a, a - x.rank))
        return net.node("Squeeze", [x.name, axes], x.shape[:a] + x.shape[a + 1 :])
    if x.rank > 3:
        return None
    a = 1 + net.dice(x.rank)
    return net.node("Unsqueeze", [x.name, net.ints(a)], (*x.shape[:a], 1, *x.shape[a:]))


def shuffle(net: Net, x: Value) -> Value | None:
    """Channel shuffle (Reshape, Transpose, Reshape), DepthToSpace, SpaceToDepth."""
    n, c = x.shape[:2]
    if x.rank != 4:
        return None
    h, w = x.space
    if c % 4 == 0 and net.dice(2):
        mode = net.pick("DCR", "CRD")
        return net.node("DepthToSpace", [x.name], (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=mode)
    if h % 2 == 0 and w % 2 == 0:
        return net.node("SpaceToDepth", [x.name], (n, 4 * c, h // 2, w // 2), blocksize=2)
    if c % 2:
        return None
    y = net.node("Reshape", [x.name, net.ints(-1, 2, c // 2, h, w)], (n, 2, c // 2, h, w))
    y = net.node("Transpose", [y.name], (n, c // 2, 2, h, w), perm=[0, 2, 1, 3, 4])
    return net.node("Reshape", [y.name, net.ints(-1, c, h, w)], x.shape)


def pad(net: Net, x: Value) -> Value | None:
    """Pad: zeros, another constant, edge, reflect; of space or channels; cropping."""
    if x.rank < 3 or min(x.space) < 2:
        return None
    kind = net.pick("zero", "constant", "edge", "reflect", "crop")
    axis = 1 if kind == "zero" and net.dice(3) == 0 else x.rank - 1
    before, after = (0, -1) if kind == "crop" else net.pick((1, 0), (0, 1), (1, 1))
    numbers = [0] * (2 * x.rank)
    numbers[axis], numbers[axis + x.rank] = before, after
    inputs = [x.name, net.ints(*numbers)]
    inputs += [net.const(np.array(0.7))] if kind == "constant" else []
    shape = tuple(n + (before + after) * (a == axis) for a, n in enumerate(x.shape))
    return net.node("Pad", inputs, shape, mode=kind if kind in ("edge", "reflect") else "constant")


def split(net: Net, x: Value) -> Value | None:
    """Split along channels or the last axis; the parts are joined in another order, or one is dropped."""
    axis = net.pick(1, x.rank - 1)
    if x.shape[axis] < 3:
        return None
    sizes = (1, x.shape[axis] - 1) if net.dice(2) else (1, 1, x.shape[axis] - 2)
    shapes = [(*x.shape[:axis], k, *x.shape[axis + 1 :]) for k in sizes]
    net.node("Split", [x.name, net.ints(*sizes)], *shapes, axis=net.pick(axis, axis - x.rank))
    parts = net.last(len(sizes))
    if net.dice(2):
        return parts[-1]
    first = batchnorm(net, parts[0]) if net.dice(2) else parts[0]
    return net.node("Concat", [v.name for v in (*parts[1:], first)], x.shape, axis=axis)


def take(net: Net, x: Value) -> Value | None:
    """Slice (also by steps and backwards) or Gather (also with repeats, or one element) along an axis."""
    axis = net.pick(1, x.rank - 1)
    n = x.shape[axis]
    if n < 3:
        return None

    def sized(k: int) -> tuple[int, ...]:
        return (*x.shape[:axis], k, *x.shape[axis + 1 :])

    kind = net.pick("slice", "backwards", "gather", "repeats", "one", "twice")
    if kind == "slice":
        return net.node("Slice", [x.name, *map(net.ints, (1, n, axis, 1))], sized(n - 1))
    if kind == "backwards":
        return net.node("Slice", [x.name, *map(net.ints, (-1, -n - 1, axis, -2))], sized(-(-n // 2)))
    if kind == "one" and x.rank > 2:
        index = net.const(np.array(net.pick(1, -1), np.int64))
        return net.node("Gather", [x.name, index], x.shape[:axis] + x.shape[axis + 1 :], axis=axis)
    order = [int(i) for i in net.rng.permutation(n)]
    picks = [*order, order[0]] if kind == "repeats" else order * 2 if kind == "twice" else order[:-1]
    if prod(sized(len(picks))) > MAX_ELEMENTS:
        return None
    return net.node("Gather", [x.name, net.ints(*picks)], sized(len(picks)), axis=axis)


def resize(net: Net, x: Value) -> Value | None:
    """Upsampling by 2, by scales or by sizes: nearest, linear, cubic."""
    if net.double or x.rank != 4 or prod(x.shape) > MAX_ELEMENTS // 4:
        return None
    shape = (*x.shape[:2], *(2 * n for n in x.space))
    mode = net.pick("nearest", "linear", "linear", "cubic")
    if net.dice(2):
        net.static = True
        return net.node("Resize", [x.name, "", "", net.ints(*shape)], shape, mode=mode)
    scales = net.const(np.array([1, 1, 2, 2], np.float32))
    return net.node("Resize", [x.name, "", scales], shape, mode=mode)


def by_shape(net: Net, x: Value) -> Value:
    """Flattened by its own Size and brought back by its own Shape, both read at run time."""

    def told(op: str, shape: tuple[int, ...]) -> str:
        name = net.fresh()
        source = net.pick(x, *(v for v in net.values if v.shape == x.shape))
        net.nodes.append(helper.make_node(op, [source.name], [name], name=f"n{len(net.nodes)}_{op}"))
        if shape:
            return name
        flat = net.fresh()
        inputs = [name, net.ints(0)]
        net.nodes.append(helper.make_node("Unsqueeze", inputs, [flat], name=f"n{len(net.nodes)}_Unsqueeze"))
        return flat

    net.node("Reshape", [x.name, told("Size", ())], (prod(x.shape),))
    flat = net.values.pop()
    return net.node("Reshape", [flat.name, told("Shape", (x.rank,))], x.shape)


MOVING: dict[str, tuple[int, Step]] = {
    "pool": (3, pool),
    "global_pool": (1, global_pool),
    "reduce": (3, reduce),
    "same": (1, same),
    "transpose": (3, transpose),
    "reshape": (2, reshape),
    "singletons": (2, singletons),
    "shuffle": (2, shuffle),
    "pad": (2, pad),
    "split": (2, split),
    "take": (2, take),
    "resize": (2, resize),
    "by_shape": (1, by_shape),
}
_WEIGHTED = COMPUTING | JOINTS | MOVING | CHOOSING | QUANTISED
STEPS: dict[str, Step] = {name: step for name, (_, step) in _WEIGHTED.items()}
# Each name as often as it should come up.
NAMES: tuple[str, ...] = tuple(name for name, (weight, _) in _WEIGHTED.items() for _ in range(weight))
