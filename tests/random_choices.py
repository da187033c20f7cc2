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
        lengths = net.const(net.rng.integers(1, n + 1, x.shape[0]))
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
        places = net.const(net.rng.integers(0, x.shape[1], (x.shape[0], 3, 1)))
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
        frames = (x.shape[0], (x.channels - 4) // 2 + 1, 3, 2)
        return net.node(kind, [x.name, net.const(np.array(2)), "", net.const(np.array(4))], frames)
    y = net.node("Unsqueeze", [x.name, net.ints(-1)], (*x.shape, 1))
    inputs = [y.name, "", net.const(np.array(axis))] if net.opset >= 20 else [y.name]
    return net.node(kind, inputs, (*x.shape, 2), **({} if net.opset >= 20 else {"axis": axis}))


def insensitive(net: Net, x: Value) -> Value | None:
    """ArgMax, ArgMin, Hardmax, LpNormalization, Sign: of a scale they see nothing."""
    kind = net.pick(
        "ArgMax", "ArgMin", "LpNormalization", "Sign", "EyeLike", *(() if net.double else ("Hardmax",))
    )
    axis = net.pick(1, x.rank - 1)
    if kind == "EyeLike":
        return net.node(kind, [x.name], x.shape) if x.rank == 2 else None
    if kind == "Sign":
        return net.node(kind, [x.name], x.shape)
    if not kind.startswith("Arg"):
        return net.node(kind, [x.name], x.shape, axis=axis)
    y = net.node(kind, [x.name], _along(net, x, 1, axis), axis=axis)
    net.values.pop()  # whole numbers: no other step may read them
    return net.node("Cast", [y.name], y.shape, to=net.element)


def fused(net: Net, x: Value) -> Value | None:
    """What onnxruntime makes of a Conv, Gemm or MatMul with what stands around it."""
    if net.double or x.rank > 4:
        return None
    out, activation = net.pick(3, 5), net.pick("Relu", "Relu", "Tanh")
    bias = [net.const(net.normal(out))] if net.dice(2) else []
    gains = {"alpha": net.pick(1.0, -0.5)}
    if x.rank == 2:
        w = net.weight(out, x.channels, fan_in=x.channels)
        inputs = [x.name, w, *bias]
        return net.node("FusedGemm", inputs, (x.shape[0], out), domain="com.microsoft", transB=1,
                        activation=activation, **gains)  # fmt: skip
    if x.rank == 4 and net.dice(2):
        w = net.weight(out, x.channels, 1, 1, fan_in=x.channels)
        shape = (x.shape[0], out, *x.space)
        return net.node("FusedConv", [x.name, w, *bias], shape, domain="com.microsoft", activation=activation)
    turned, left = net.dice(2), net.dice(2)
    n = x.shape[-2] if left else x.shape[-1]
    w = net.weight(*((out, n) if turned == left ^ 1 else (n, out)), fan_in=n)
    shape = (*x.shape[:-2], out, x.shape[-1]) if left else (*x.shape[:-1], out)
    turns = {"transA": turned} if left else {"transB": turned}
    pair = [w, x.name] if left else [x.name, w]
    return net.node("FusedMatMul", pair, shape, domain="com.microsoft", **turns, **gains)


def learned(net: Net, x: Value) -> Value | None:
    """Scaler and the linear models of ai.onnx.ml, of means over space where there is space."""
    if net.double:
        return None
    if x.rank > 2:
        x = net.node("ReduceMean", [x.name, net.ints(*range(2, x.rank))], x.shape[:2], keepdims=0)
    kind, n, ml = (
        net.pick("Scaler", "LinearRegressor", "LinearClassifier"),
        x.channels,
        "ai.onnx.ml",
    )
    if kind == "Scaler":
        k = net.pick(1, n)
        offset, scale = net.normal(k).tolist(), net.mixed(k).tolist()
        return net.node(kind, [x.name], x.shape, domain=ml, offset=offset, scale=scale)
    weights = (net.normal(3, n) / np.sqrt(n)).ravel().tolist()
    known = {"coefficients": weights, "intercepts": net.normal(3).tolist(), "domain": ml}
    if kind == "LinearRegressor":
        return net.node(kind, [x.name], (x.shape[0], 3), targets=3, **known)
    y = net.node(kind, [x.name], (x.shape[0], 3), classlabels_ints=[4, 5, 6], **known)
    net.nodes[-1].output.insert(0, net.fresh())
    return y


CHOOSING: dict[str, tuple[int, Step]] = {
    "chosen": (2, chosen),
    "repeated": (2, repeated),
    "largest": (1, largest),
    "sampled": (2, sampled),
    "unpooled": (1, unpooled),
    "running": (2, running),
    "insensitive": (1, insensitive),
    "fused": (2, fused),
    "learned": (2, learned),
}
