"""Rows of the op table: what averages, adds up or pads along axes.

Axes are checked against the rank here, since the maps of ``core.axes`` believe what they are given.
What does not fit raises ``Malformed``, which refuses the node.
"""

from __future__ import annotations

from functools import partial
from math import prod

from bnfuse.core.axes import AxisMap, Chain, Relabel, dropping
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass, Rule, Sign
from bnfuse.core.rules.counted import Put, Times
from bnfuse.formats.onnx.graph.extents import layout
from bnfuse.formats.onnx.graph.extents import rules as extents
from bnfuse.formats.onnx.rows.insensitive import Even, Unseen
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.layout_ops import along, spatial
from bnfuse.formats.onnx.rows.padding import takes_in_padding
from bnfuse.formats.onnx.rows.view import View
from bnfuse.formats.table import Malformed, counted, known


def _max_pool(view: View) -> Pass:
    """Monotone: commutes with increasing maps; padding counts as minus infinity."""
    if all(k == 1 for k in view.attr("kernel_shape")):
        return Pass(mixes=spatial)
    told = any(view.proto.output[1:])  # where each maximum lies: a zero would make all alike
    return Pass(Sign.POSITIVE if told else Sign.NONNEGATIVE, mixes=spatial)


def _average_pool(view: View) -> Pass:
    """An average of valid elements commutes with every affine map; one that counts zeros does not."""
    padded = view.attr("count_include_pad", 0) and takes_in_padding(
        view, view.attr("kernel_shape"), ceils=bool(view.attr("ceil_mode", 0))
    )
    return Pass(shift=Reason.ZERO_PADDING if padded else None, mixes=spatial)


def _as_it_is(view: View, value: float) -> float | None:
    """A pool of one number is that number where it takes a shift: no window takes in a zero."""
    return value if _average_pool(view).shift is None else None


def _norm(view: View) -> Rule:
    """(Σ|x|ᵖ)^(1/p) along axes."""
    return Even(reduce(view, Sign.NONNEGATIVE, Reason.SHIFT_REFUSED))


def _insensitive(view: View, axis: int = 0, shift: Reason | None = None) -> Rule:
    """What lies along one axis in which order, or in which direction; Hardmax along all from it on, once."""
    rank = known(view.rank(0))
    old = view.proto.op_type == "Hardmax" and view.opset < 13
    axes = counted(view.attr("axis", 1 if old else axis), rank)
    return Unseen(along(range(axes[0], rank) if old else axes), shift)


def reduce(view: View, sign: Sign = Sign.ANY, shift: Reason | None = None) -> Pass:
    """Mean, Max, Min, Sum over axes: what varies along other axes commutes as far as the op allows.

    A sum over n elements, where n is known, shifts n times as far.
    """
    shape = known(view.shape(0))
    axes, rank = view.axes_argument(1), len(shape)
    if not axes and not view.attr("noop_with_empty_axes", 0):
        axes = list(range(rank))
    gone = set(counted(axes or (), rank))
    kept = bool(view.attr("keepdims", True))
    relabel: AxisMap = Relabel(tuple(range(rank)), rank) if kept else dropping(rank, gone)
    sizes = [n for n in (shape[a] for a in gone) if isinstance(n, int)]
    if view.proto.op_type == "ReduceSum" and len(sizes) == len(gone):
        relabel, shift = Chain((relabel, Times(prod(sizes)))), None
    return Pass(sign, shift, mixes=along(gone), axes=relabel)


def pad(view: View) -> Rule:
    """Zeros refuse a shift, reflected or repeated borders pass everything, other constants nothing.

    Zeros beside the channels are channels of their own, which stay as they are.
    """
    mode = view.attr("mode", b"constant")
    pads = known(view.attr("pads") or view.attr("paddings") or view.ints(1))
    shape = known(view.shape(0))
    axes = counted(view.given_ints(3) or range(len(shape)), len(shape))
    half = len(axes)
    if len(pads) != 2 * half:
        raise Malformed(f"{len(pads)} pads for {half} axes")
    both = zip(axes, pads[:half], pads[half:], strict=True)
    padded = {a: (begin, end) for a, begin, end in both if begin or end}
    grows = any(n > 0 for n in pads)
    if mode != b"constant" or not grows:
        return Pass(mixes=along(padded))
    fill = view.attr("value", 0.0) if view.opset < 11 else (view.scalar(2) if view.has_input(2) else 0.0)
    if fill != 0.0:
        return Opaque(Reason.UNSUPPORTED_OP, "it pads with a constant other than zero")
    if set(padded) == {1} and min(padded[1]) >= 0 and isinstance(channels := shape[1], int):
        return Pass(axes=Put(1, padded[1][0], channels, channels + sum(padded[1])))
    return Pass(shift=Reason.ZERO_PADDING, mixes=along(padded))


_MONOTONE = Pass(Sign.NONNEGATIVE, mixes=spatial)
# (Σ|x|ᵖ)^(1/p) over a window.
_NORM_POOL = Even(Pass(Sign.NONNEGATIVE, Reason.SHIFT_REFUSED, spatial))
ROWS = (
    OpKind(("MaxPool",), _max_pool, extents.pool, constant=_as_it_is),
    OpKind(("AveragePool",), _average_pool, extents.pool, constant=_as_it_is),
    OpKind(("LpPool",), _NORM_POOL, extents.pool),
    OpKind(("GlobalMaxPool",), _MONOTONE, extents.global_pool, constant=_as_it_is),
    OpKind(("GlobalAveragePool",), Pass(mixes=spatial), extents.global_pool, constant=_as_it_is),
    OpKind(("GlobalLpPool",), _NORM_POOL, extents.global_pool),
    OpKind(("ReduceMean",), reduce, extents.reduce),
    OpKind(("ReduceMax", "ReduceMin"), partial(reduce, sign=Sign.NONNEGATIVE), extents.reduce),
    OpKind(("ReduceSum",), partial(reduce, shift=Reason.SHIFT_REFUSED), extents.reduce),
    OpKind(("ReduceL1", "ReduceL2"), _norm, extents.reduce),
    OpKind(("Pad",), pad, layout.pad),
    OpKind(("ArgMax", "ArgMin"), _insensitive, extents.arg),
    OpKind(("Hardmax",), partial(_insensitive, axis=-1), extents.same),
    OpKind(
        ("LpNormalization",), partial(_insensitive, axis=-1, shift=Reason.SHIFT_REFUSED), extents.same
    ),
    # not looked into
    OpKind(("ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"), extents=extents.reduce),
)  # fmt: skip
