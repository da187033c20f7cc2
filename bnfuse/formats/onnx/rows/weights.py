"""Constant weights and biases of linear operators, as rows ask for them: a tensor, or why there is none."""

from __future__ import annotations

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque
from bnfuse.core.weights.linear import LinearForm, linear_form
from bnfuse.core.weights.tensor import Tensor, size
from bnfuse.formats.onnx.graph.constants import is_float
from bnfuse.formats.onnx.graph.origin import Origin
from bnfuse.formats.onnx.rows.view import View


def constant_weight(view: View, i: int) -> Tensor | Opaque:
    """Input i as a floating-point constant."""
    name = view.overridable(i)
    if name is not None:
        return Opaque(Reason.WEIGHT_NOT_CONSTANT, f"a caller may override '{name}'")
    tensor = view.const(i) or view.quantised(i)
    if tensor is None:
        source = view.origin(i)
        return Opaque(Reason.WEIGHT_NOT_CONSTANT, "" if source is Origin.RUN_TIME else source.value)
    if not is_float(tensor):
        return Opaque(Reason.UNSUPPORTED_OP, f"weights of type {tensor.dtype}")
    return tensor


def channel_bias(view: View, i: int, channels: int) -> Tensor | Opaque | None:
    """Input i as a per-channel bias; None where there is none."""
    if not view.has_input(i):
        return None
    tensor = constant_weight(view, i)
    if isinstance(tensor, Opaque):
        return tensor
    per_channel = size(tensor) == 1 or (tensor.shape[-1] == channels and size(tensor) == channels)
    return tensor if per_channel else Opaque(Reason.BAD_PARAMETERS, f"bias of shape {tensor.shape}")


def form_of(weight: Tensor, layout: str, groups: int) -> LinearForm | None:
    """The weight in canonical form; None where it does not fit the layout or the groups."""
    try:
        return linear_form(weight.shape, layout, groups)
    except ValueError:
        return None
