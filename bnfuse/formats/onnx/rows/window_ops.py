"""Rows of the op table: what averages, pads or resizes along axes.

Axes are checked against the rank here, since the maps of ``core.axes`` believe what they are given.
What does not fit raises ``Malformed``, which refuses the node.
"""

from __future__ import annotations

from functools import partial

from bnfuse.core.axes import Relabel
from bnfuse.core.reasons import Reason
from bnfuse.core.rules import Opaque, Pass, Rule, Sign
from bnfuse.formats.base import Malformed
from bnfuse.formats.onnx.graph.extents import layout
from bnfuse.formats.onnx.graph.extents import rules as extents
from bnfuse.formats.onnx.graph.scope import text_of
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.layout_ops import axes_from_zero, dropping
from bnfuse.formats.onnx.rows.view import View


def _spatial(axis: int) -> bool:
    return axis >= 2 or axis < 0


def _max_pool(view: View) -> Rule:
    """Monotone: commutes with increasing maps; padding counts as minus infinity."""
    one = all(k == 1 for k in view.attr("kernel_shape", [0]))
    return Pass(Sign.ANY if one else Sign.NONNEGATIVE, mixes=_spatial)


def _average_pool(view: View) -> Rule:
    """An average of valid elements commutes with every affine map; one that counts zeros does not."""
    counts = view.attr("count_include_pad", 0)
    auto = view.attr("auto_pad", b"NOTSET").startswith(b"SAME")
    padded = any(view.attr("pads", [])) or auto or view.attr("ceil_mode", 0)
    return Pass(shift=Reason.ZERO_PADDING if counts and padded else None, mixes=_spatial)


def _global_pool(view: View, sign: Sign = Sign.ANY, shift: Reason | None = None) -> Rule:
    return Pass(sign, shift, mixes=_spatial)


def reduce(view: View, sign: Sign = Sign.ANY, shift: Reason | None = None) -> Rule:
    """Mean, Max, Min, Sum over axes: what varies along other axes commutes as far as the op allows."""
    rank = view.rank(0)
    if rank is None:
        return Opaque(Reason.SHAPE_UNKNOWN)
    axes = view.axes_argument(1)
    if axes is None:
        if view.has_input(1):
            return Opaque(Reason.SHAPE_UNKNOWN)
        axes = [] if view.attr("noop_with_empty_axes", 0) else list(range(rank))
    gone = set(axes_from_zero(axes, rank))
    kept = bool(view.attr("keepdims", 1))
    relabel = Relabel(tuple(range(rank)), rank) if kept else dropping(rank, gone)
    return Pass(sign, shift, mixes=gone.__contains__, axes=relabel, mixed_out=gone if kept else frozenset())


def pad(view: View) -> Rule:
    """Zeros refuse a shift, reflected or repeated borders pass everything, other constants nothing."""
    mode = view.attr("mode", b"constant")
    pads = view.attr("pads") or view.attr("paddings") or view.ints(1)
    shape = view.shape(0)
    if pads is None or shape is None:
        return Opaque(Reason.SHAPE_UNKNOWN)
    if view.has_input(3) and view.ints(3) is None:
        return Opaque(Reason.SHAPE_UNKNOWN)
    axes = axes_from_zero(view.ints(3) or range(len(shape)), len(shape))
    half = len(axes)
    if len(pads) != 2 * half:
        raise Malformed(f"{len(pads)} pads for {half} axes")
    padded = {a for k, a in enumerate(axes) if pads[k] or pads[k + half]}
    grows = any(n > 0 for n in pads)
    if mode != b"constant" or not grows:
        return Pass(mixes=padded.__contains__)
    fill = view.attr("value", 0.0) if view.opset < 11 else (view.scalar(2) if view.has_input(2) else 0.0)
    if fill != 0.0:
        return Opaque(Reason.UNSUPPORTED_OP, "it pads with a constant other than zero")
    return Pass(shift=Reason.ZERO_PADDING, mixes=padded.__contains__)


def resize(view: View) -> Rule:
    """Nearest and linear interpolation average with weights that sum to 1."""
    mode = view.attr("mode", b"nearest")
    crop = view.attr("coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
    before, after = view.shape(0), view.out_shape()
    if mode not in (b"nearest", b"linear", b"bilinear") or crop:
        return Opaque(Reason.UNSUPPORTED_OP, f"mode {text_of(mode)}")
    if before is None:
        return Opaque(Reason.SHAPE_UNKNOWN)
    if after is not None and len(after) != len(before):
        raise Malformed(f"{len(before)} axes become {len(after)}")
    scales = _scales(view)

    def mixes(axis: int) -> bool:
        if axis >= len(before):
            return True
        if scales is not None and len(scales) == len(before):
            return scales[axis] != 1.0
        return after is None or before[axis] != after[axis] or not isinstance(before[axis], int)

    return Pass(mixes=mixes)


def _scales(view: View) -> list[float] | None:
    given = view.attr("scales")
    if given is not None:
        return [float(v) for v in given]
    tensor = view.const(2 if view.proto.op_type == "Resize" and view.opset >= 11 else 1)
    if tensor is None or tensor.dtype.kind != "f":
        return None
    return [float(v) for v in tensor.read(0, tensor.shape[0] if tensor.shape else 1)]


_MONOTONE = partial(_global_pool, sign=Sign.NONNEGATIVE)
_NORM = partial(_global_pool, sign=Sign.NONNEGATIVE, shift=Reason.SHIFT_REFUSED)
ROWS = (
    OpKind(("MaxPool",), _max_pool, extents.pool),
    OpKind(("AveragePool",), _average_pool, extents.pool),
    OpKind(("LpPool",), _NORM, extents.pool),
    OpKind(("GlobalMaxPool",), _MONOTONE, extents.global_pool),
    OpKind(("GlobalAveragePool",), _global_pool, extents.global_pool),
    OpKind(("GlobalLpPool",), _NORM, extents.global_pool),
    OpKind(("ReduceMean",), reduce, extents.reduce),
    OpKind(("ReduceMax", "ReduceMin"), partial(reduce, sign=Sign.NONNEGATIVE), extents.reduce),
    OpKind(("ReduceSum",), partial(reduce, shift=Reason.SHIFT_REFUSED), extents.reduce),
    OpKind(
        ("ReduceL1", "ReduceL2"), partial(reduce, sign=Sign.NONNEGATIVE, shift=Reason.SHIFT_REFUSED),
        extents.reduce,
    ),
    OpKind(("Pad",), pad, layout.pad),
    OpKind(("Resize", "Upsample"), resize, layout.resize),
    # not looked into
    OpKind(("ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"), extents=extents.reduce),
    OpKind(("ArgMax", "ArgMin"), extents=extents.arg),
)  # fmt: skip
