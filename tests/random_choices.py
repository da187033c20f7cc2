"""Steps of random graphs: ops that choose, repeat and sample elements, or transform whole rows of them."""

from __future__ import annotations

from math import prod

import numpy as np
from onnx import TensorProto

from tests.random_nets import BATCH, MAX_ELEMENTS, Net, Step, Value


def _along(net: Net, x: Value, n: int, axis: int) -> tuple[int, ...]:
    return (*x.shape[:axis], n, *x.shape[axis + 1 :])


def chosen(net: Net, x: Value) -> Value | None:
    """Gather, GatherElements, GatherND, Compress or ReverseSequence, at run time or by constants."""
    axis = net.pick(1, x.rank - 1, x.rank - 1)
    n = x.shape[axis]
    kind = net.pick("Gather", "GatherElements", "GatherND", "Compress", "ReverseSequence")
    if kind == "ReverseSequence":
        if axis != 1:
            return None
        lengths = net.const(net.rng.integers(1, n + 1, BATCH))
        return net.node(kind, [x.name, lengths], x.shape, time_axis=1, batch_axis=0)
    if kind == "Compress":
        keep = net.rng.random(n) < 0.7
        keep[0] = True
        return net.node(kind, [x.name, net.const(keep)], _along(net, x, int(keep.sum()), axis), axis=axis)
    if kind == "GatherElements":
        net.static = True
        return net.node(kind, [x.name, net.const(net.rng.integers(-n, n, x.shape))], x.shape, axis=axis)
    if kind == "GatherND":
        net.static = True
        places = net.const(net.rng.integers(0, x.shape[1], (BATCH, 3, 1)))
        return net.node(kind, [x.name, places], _along(net, x, 3, 1), batch_dims=1)
    if n < 7:  # ids are below 7
        return None
    ids = net.extra_input("ids", TensorProto.INT64, (BATCH, 4))
    return net.node(kind, [x.name, ids], (*x.shape[:axis], BATCH, 4, *x.shape[axis + 1 :]), axis=axis)


def repeated(net: Net, x: Value) -> Value | None:
    """Tile or Expand, of channels or the last axis; now and then copies that are joined again."""
    axis, many = net.pick(1, x.rank - 1), net.pick(2, 3)
    if prod(x.shape) * many > MAX_ELEMENTS or x.rank < 2:
        return None
    if x.shape[axis] == 1 and net.dice(2):
        wanted = [1] * (x.rank - axis)
        wanted[0] = many
        return net.node("Expand", [x.name, net.ints(*wanted)], _along(net, x, many, axis))
    if net.dice(4) == 0:
        return net.node("Expand", [x.name, net.ints(*[1] * x.rank)], x.shape)
    n = x.shape[axis]
    numbers = [1] * x.rank
    numbers[axis] = many
    y = net.node("Tile", [x.name, net.ints(*numbers)], _along(net, x, many * n, axis))
    if net.dice(2):
        return y
    net.node("Split", [y.name, net.ints(*[n] * many)], *[x.shape] * many, axis=axis)
    parts = net.last(many)
    return net.node(net.pick("Max", "Add"), [parts[0].name, parts[-1].name], x.shape)


def largest(net: Net, x: Value) -> Value | None:
    """TopK along the last axis, or the channels; now and then where they were found counts too."""
    axis = net.pick(x.rank - 1, x.rank - 1, 1)
    if x.shape[axis] < 3:
        return None
    shape = _along(net, x, 2, axis)
    y = net.node("TopK", [x.name, net.ints(2)], shape, axis=axis, largest=net.dice(2))
    found = net.fresh()
    net.nodes[-1].output.append(found)
    return y


def sampled(net: Net, x: Value) -> Value | None:
    """GridSample, RoiAlign, MaxRoiPool, or Resize by interpolation of all sorts."""
    if net.double or x.rank != 4 or min(x.space) < 2 or prod(x.shape) > MAX_ELEMENTS // 4:
        return None
    kind = net.pick("GridSample", "RoiAlign", "MaxRoiPool", "Resize")
    net.static = True
    if kind == "GridSample":
        if net.opset < 20:
            return None
        grid = net.const(net.rng.uniform(-1.3, 1.3, (BATCH, 3, 4, 2)))
        more = {"mode": net.pick("linear", "nearest", "cubic")}
        more["padding_mode"] = net.pick("zeros", "border", "reflection")
        return net.node(kind, [x.name, grid], (*x.shape[:2], 3, 4), **more)
    if kind == "Resize":
        sizes = (*x.shape[:2], *(net.pick(n, 2 * n, n + 1, n - 1) for n in x.space))
        more = {"mode": net.pick("linear", "cubic"), "antialias": net.dice(2)}
        return net.node(kind, [x.name, "", "", net.ints(*sizes)], sizes, **more)
    corners = np.sort(net.rng.uniform(0, max(x.space), (BATCH, 2, 2)), axis=1)
    rois = corners.reshape(BATCH, 4)
    if kind == "MaxRoiPool":
        inputs = [x.name, net.const(np.concatenate([np.arange(BATCH)[:, None], rois], 1))]
        return net.node(kind, inputs, (BATCH, x.channels, 2, 3), pooled_shape=[2, 3])
    inputs = [x.name, net.const(rois), net.ints(*range(BATCH))]
    more = {"mode": net.pick("avg", "max"), "output_height": 2, "output_width": 3}
    return net.node(kind, inputs, (BATCH, x.channels, 2, 3), **more)


def unpooled(net: Net, x: Value) -> Value | None:
    """MaxPool, and MaxUnpool by what it found."""
    if net.double or x.rank != 4 or min(x.space) < 2:
        return None
    half = (*x.shape[:2], *(n // 2 for n in x.space))
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    y = net.node("MaxPool", [x.name], half, **window)
    found = net.fresh()
    net.nodes[-1].output.append(found)
    net.static = True
    return net.node("MaxUnpool", [y.name, found, net.ints(*x.shape)], x.shape, **window)


def running(net: Net, x: Value) -> Value | None:
    """CumSum, Trilu, CenterCropPad, a transform there (DFT or STFT)."""
    kind = net.pick("CumSum", "Trilu", "CenterCropPad", "DFT", "STFT")
    axis = net.pick(1, x.rank - 1)
    if kind == "CumSum":
        more = {"exclusive": net.dice(2), "reverse": net.dice(2)}
        return net.node(kind, [x.name, net.const(np.array(axis))], x.shape, **more)
    if kind == "Trilu":
        return net.node(kind, [x.name], x.shape, upper=net.dice(2)) if x.rank > 2 else None
    if kind == "CenterCropPad":
        n = max(1, x.shape[axis] + net.pick(-2, -1, 0, 2))
        return net.node(kind, [x.name, net.ints(n)], _along(net, x, n, axis), axes=[axis])
    if x.rank > (2 if kind == "STFT" else 3) or prod(x.shape) > MAX_ELEMENTS // 4:
        return None
    if kind == "STFT":
        if x.channels < 4:
            return None
        frames = (BATCH, (x.channels - 4) // 2 + 1, 3, 2)
        return net.node(kind, [x.name, net.const(np.array(2)), "", net.const(np.array(4))], frames)
    y = net.node("Unsqueeze", [x.name, net.ints(-1)], (*x.shape, 1))
    inputs = [y.name, "", net.const(np.array(axis))] if net.opset >= 20 else [y.name]
    return net.node(kind, inputs, (*x.shape, 2), **({} if net.opset >= 20 else {"axis": axis}))


CHOOSING: dict[str, tuple[int, Step]] = {
    "chosen": (2, chosen),
    "repeated": (2, repeated),
    "largest": (1, largest),
    "sampled": (2, sampled),
    "unpooled": (1, unpooled),
    "running": (2, running),
}
