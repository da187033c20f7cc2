"""Rows of the op table: convolutions with constant weights, in canonical form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from onnx import AttributeProto

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Rule
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.formats.onnx.graph.extents import rules as extents
from bnfuse.formats.onnx.rows.activated import activated
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.padding import takes_in_padding
from bnfuse.formats.onnx.rows.stored import LinearStore, bias_input
from bnfuse.formats.onnx.rows.view import View
from bnfuse.formats.onnx.rows.weights import channel_bias, constant_weight, form_of

Kernel = tuple[int, ...]  # sizes of a window


def _linear(
    view: View, layout: str, shift_in: Callable[[View, Kernel], Reason | None], bias_at: int = 2
) -> Linear | Opaque:
    """Weight is input 1; channels lie along axis 1; ``shift_in`` tells why no shift comes in."""
    weight = constant_weight(view, 1)
    if isinstance(weight, Opaque):
        return weight
    groups = view.attr("group", 1)
    form = form_of(weight, layout, groups)
    if form is None:
        return Opaque(Reason.BAD_PARAMETERS, f"weight of shape {weight.shape}, {groups} groups")
    bias = channel_bias(view, bias_at, form.channels_out)
    if isinstance(bias, Opaque):
        return bias
    return Linear(weight, form, bias, 1, 1, shift_in=shift_in(view, weight.shape[2:]))


def conv(view: View) -> Linear | Opaque:
    """Conv 1–3D, grouped, depthwise: W is (G·O, I, k…)."""
    return _linear(
        view, "go i k*", lambda view, kernel: Reason.ZERO_PADDING if takes_in_padding(view, kernel) else None
    )


def conv_transpose(view: View) -> Rule:
    """ConvTranspose: W is (G·I, O, k…)."""
    return _linear(view, "gi o k*", _border)


def _border(view: View, kernel: Kernel) -> Reason | None:
    """No shift comes in: outputs at the border of a ConvTranspose sum over fewer taps.

    There is no border where the window is one element and moves by one, and nothing is put behind.
    """
    alone = all(k == 1 for k in kernel) and all(s == 1 for s in view.attr("strides", ()))
    alone &= not any(view.attr("output_padding", ())) and view.attr("output_shape") is None
    return None if alone else Reason.SHIFT_REFUSED


def deform_conv(view: View) -> Rule:
    """DeformConv: a Conv of what is sampled at offsets, which is zero outside and may be masked.

    So no shift comes in; offsets and mask are not looked into.
    """
    return _linear(view, "go i k*", lambda view, kernel: Reason.SHIFT_REFUSED, bias_at=3)


def fused_conv(view: View) -> Rule:
    """f(Conv(x) + z): where there is a z, what comes in behind would have to come into z, too."""
    rule = conv(view)
    if isinstance(rule, Linear) and view.has_input(3):
        return Opaque(Reason.UNSUPPORTED_OP, "it adds a tensor of run time")
    return activated(view, rule)


# Of onnxruntime's FusedConv (docs/ContribOperators.md).
_CONV = {"group": AttributeProto.INT, "auto_pad": AttributeProto.STRING, "activation": AttributeProto.STRING,
         "activation_params": AttributeProto.FLOATS,
         **dict.fromkeys(("kernel_shape", "strides", "dilations", "pads"), AttributeProto.INTS)}  # fmt: skip
ROWS = (
    OpKind(("Conv",), conv, extents.conv(1), LinearStore()),
    OpKind(("ConvTranspose",), conv_transpose, extents.conv_transpose, LinearStore()),
    OpKind(("DeformConv",), deform_conv, extents.conv(1), LinearStore(partial(bias_input, at=3))),
    OpKind(("com.microsoft.FusedConv",), fused_conv, extents.conv(1), LinearStore(), attributes=_CONV),
    # not looked into
    OpKind(("ConvInteger",), extents=extents.conv(1)),
    OpKind(("QLinearConv",), extents=extents.conv(3)),
)
