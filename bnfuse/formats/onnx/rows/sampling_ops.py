"""Rows of the op table: what makes elements of sums of others, by weights that are no part of the model's.

Where the weights of every element sum to 1, scale and shift pass (resizing, sampling inside an image); where
they do not (what lies outside counts as zero, running sums, transforms), a scale alone does. Never along the
axes that are summed over.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bnfuse.core.axes import Relabel
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass, Rule, Sign
from bnfuse.core.weights.tensor import as_float64
from bnfuse.formats.onnx.graph.extents import layout
from bnfuse.formats.onnx.graph.extents.rules import same
from bnfuse.formats.onnx.graph.scope import text_of
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.layout_ops import along, spatial
from bnfuse.formats.onnx.rows.view import View
from bnfuse.formats.table import Malformed, counted, known


def resize(view: View) -> Rule:
    """Interpolation averages with weights that sum to 1, antialiased or not, at the border too.

    Cropping as TensorFlow does puts a number of its own beside the image: a zero refuses a shift, any other
    everything.
    """
    mode = view.attr("mode", b"nearest")
    crops = view.attr("coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
    averages = mode in (b"nearest", b"linear", b"cubic")
    averages &= view.attr("keep_aspect_ratio_policy", b"stretch") == b"stretch"  # else one scale for all axes
    if not averages or (crops and view.attr("extrapolation_value", 0.0) != 0.0):
        return Opaque(Reason.UNSUPPORTED_OP, f"mode {text_of(mode)}")
    before, after = known(view.shape(0)), view.out_shape()
    if after is not None and len(after) != len(before):
        raise Malformed(f"{len(before)} axes become {len(after)}")
    axes = counted(view.attr("axes") or range(len(before)), len(before))
    scales, mixed = _scales(view), set(_cropped(view, axes)) if crops else set()
    if scales is not None and len(scales) == len(axes):
        mixed |= {a for a, factor in zip(axes, scales, strict=True) if factor != 1.0}
    else:
        mixed |= {a for a, n in enumerate(before) if after is None or n != after[a] or not isinstance(n, int)}
    return Pass(shift=Reason.ZERO_PADDING if crops else None, mixes=along(mixed))


def _cropped(view: View, axes: Sequence[int]) -> Collection[int]:
    """Of these axes, those of which not all may be sampled: all but where the region is from 0 to 1."""
    region = view.const(1)
    if region is None or region.shape != (2 * len(axes),):
        return axes
    starts, ends = as_float64(region).reshape(2, -1)
    return [a for a, start, end in zip(axes, starts, ends, strict=True) if (start, end) != (0.0, 1.0)]


def _scales(view: View) -> list[float] | None:
    given = view.attr("scales")
    if given is not None:
        return [float(v) for v in given]
    tensor = view.const(2 if view.proto.op_type == "Resize" and view.opset >= 11 else 1)
    return None if tensor is None else as_float64(tensor).ravel().tolist()


def _but_channels(axis: int) -> bool:
    return axis != 1


def roi_align(view: View) -> Rule:
    """Averages or maxima of what is sampled in regions; what lies outside the image is zero."""
    sign = Sign.NONNEGATIVE if view.attr("mode", b"avg") == b"max" else Sign.ANY
    return Pass(sign, Reason.SHIFT_REFUSED, mixes=_but_channels)


def grid_sample(view: View) -> Rule:
    """Interpolation at computed places: zeros outside refuse a shift, a border or mirror passes it."""
    known(view.rank(0))
    zeros = view.attr("padding_mode", b"zeros") not in (b"border", b"reflection")
    return Pass(shift=Reason.ZERO_PADDING if zeros else None, mixes=spatial)


def cum_sum(view: View) -> Rule:
    """Running sums along an axis: each shifts another number of times."""
    rank, axes = known(view.rank(0)), known(view.ints(1))
    if len(axes) != 1:
        return Opaque(Reason.SHAPE_UNKNOWN)
    return Pass(shift=Reason.SHIFT_REFUSED, mixes=along(counted(axes, rank)))


def rotary(view: View) -> Rule:
    """RotaryEmbedding turns pairs of features: heads may be scaled, features only together."""
    return Pass(shift=Reason.SHIFT_REFUSED, mixes=along({known(view.rank(0)) - 1}))


def dft(view: View) -> Rule:
    """A transform along one axis, of real numbers or complex ones, whose parts lie along the last axis."""
    rank = view.rank(0)
    given: Sequence[int] | None = [view.attr("axis", 1)]
    if view.opset >= 20:
        given = view.ints(2) if view.has_input(2) else [-2]
    if rank is None or given is None or len(given) != 1:
        return Opaque(Reason.SHAPE_UNKNOWN)
    return Pass(shift=Reason.SHIFT_REFUSED, mixes=along({*counted(given, rank), rank - 1}))


# Transforms of frames of a signal: (N, L, 1 or 2) becomes (N, frames, frequencies, 2).
_FRAMES = Pass(shift=Reason.SHIFT_REFUSED, mixes=lambda axis: axis != 0, axes=Relabel((0, None, None), 4))
ROWS = (
    OpKind(("Resize", "Upsample"), resize, layout.resize),
    OpKind(("RoiAlign",), roi_align),
    OpKind(("GridSample",), grid_sample),
    # MaxUnpool puts elements back where maxima were, MaxRoiPool finds none in empty bins: the rest is 0.
    OpKind(("MaxRoiPool",), Pass(Sign.NONNEGATIVE, Reason.SHIFT_REFUSED, _but_channels)),
    OpKind(("MaxUnpool",), Pass(shift=Reason.SHIFT_REFUSED, mixes=spatial)),
    OpKind(("CumSum",), cum_sum, same),
    OpKind(("Trilu",), Pass(shift=Reason.SHIFT_REFUSED), same),  # zeros in place of a triangle
    OpKind(("RotaryEmbedding",), rotary, same),
    OpKind(("DFT",), dft),
    OpKind(("STFT",), _FRAMES),
)
