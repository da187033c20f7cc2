"""Rows of the op table: Gemm, y = α·A'·B' + β·C, whose C is a vector, a matrix, or computed at run time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from onnx import AttributeProto

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Rule
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import linear_form
from bnfuse.core.weights.tensor import Array, Tensor, as_float64
from bnfuse.formats.onnx.graph.extents import rules as extents
from bnfuse.formats.onnx.rows.activated import activated
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.stored import LinearStore
from bnfuse.formats.onnx.rows.view import NodeHandle, View
from bnfuse.formats.onnx.rows.weights import channel_bias, constant_weight

if TYPE_CHECKING:
    from bnfuse.core.apply import NewLinear
    from bnfuse.formats.onnx.edit.apply_patch import ModelEditor

_MOST_ELEMENTS = 1 << 22  # of a C that is a matrix


def gemm(view: View) -> Linear | Opaque:
    """Gemm with B constant.

    A C that is computed at run time stays: then nothing comes in at the output, and a shift that comes in at
    A goes on to the output.
    """
    weight = constant_weight(view, 1)
    if isinstance(weight, Opaque):
        return weight
    alpha, beta = view.attr("alpha", 1.0), view.attr("beta", 1.0)
    if alpha == 0.0 or len(weight.shape) != 2:
        return Opaque(Reason.BAD_PARAMETERS, f"alpha {alpha}, weight of shape {weight.shape}")
    form = linear_form(weight.shape, "o i" if view.attr("transB", 0) else "i o")
    in_axis = 0 if view.attr("transA", 0) else 1
    if view.has_input(2) and not view.is_const(2) and view.overridable(2) is None:
        return Linear(weight, form, None, in_axis, 1, gain=alpha, writes=False, has_bias=False)
    whole = view.const(2)
    if whole is not None and _is_matrix(whole, form.channels_out):
        return Linear(weight, form, None, in_axis, 1, gain=alpha, bias_gain=beta)
    bias = channel_bias(view, 2, form.channels_out)
    if isinstance(bias, Opaque):
        return bias
    return Linear(weight, form, bias, in_axis, 1, gain=alpha, bias_gain=beta)


def _is_matrix(tensor: Tensor, channels: int) -> bool:
    """Whether C has a row of its own for each row of A: (M, N), or (M, 1)."""
    if len(tensor.shape) != 2 or tensor.shape[0] == 1 or tensor.shape[1] not in (1, channels):
        return False
    return tensor.dtype.kind in "fV" and tensor.shape[0] * channels <= _MOST_ELEMENTS


class GemmStore(LinearStore, frozen=True):
    """α and β go into B and C. What C is tells the rule's bias: None for a matrix, no place at run time."""

    def store(self, handle: NodeHandle, new: NewLinear, out: ModelEditor) -> None:
        """B, then C: a matrix is scaled column by column, and every row of it shifted."""
        if new.rule.bias is not None or not any(handle.proto.input[2:]):
            LinearStore.store(self, handle, new, out)
            return
        self.scale(handle, new, out, ("alpha", "beta") if new.rule.has_bias else ("alpha",))
        if new.rule.has_bias:
            matrix = _new_matrix(as_float64(out.constant(handle, 2)), new)
            put = partial(_put_matrix, handle, matrix.shape, out)
            out.deferred.vector(matrix.ravel(), new.rule.weight.dtype, new.folded, put)


def _new_matrix(c: np.ndarray, new: NewLinear) -> np.ndarray:
    """s·(β·C) + s·Σ W·q + t, shape (M, N); s holds the gain α, which C never had."""
    write = new.rewrite.write
    scale = np.ones(new.rule.form.channels_out) if write is None else write[0]
    made: np.ndarray = c * (new.rule.bias_gain / new.rule.gain) * scale + new.bias()
    return made


def _put_matrix(handle: NodeHandle, shape: tuple[int, ...], out: ModelEditor, values: Array) -> None:
    out.pool.replace(handle, 2, values.reshape(shape))


def fused_gemm(view: View) -> Rule:
    """f(α·A'·B' + β·C)."""
    return activated(view, gemm(view))


_STORE = GemmStore(gains=("alpha", "beta"))
# Of onnxruntime's FusedGemm (docs/ContribOperators.md).
_FUSED = {
    **dict.fromkeys(("transA", "transB"), AttributeProto.INT),
    **dict.fromkeys(("alpha", "beta"), AttributeProto.FLOAT),
    "activation": AttributeProto.STRING,
    **dict.fromkeys(("activation_alpha", "activation_beta", "activation_gamma"), AttributeProto.FLOAT),
}
ROWS = (
    OpKind(("Gemm",), gemm, extents.gemm, _STORE),
    OpKind(("com.microsoft.FusedGemm",), fused_gemm, extents.gemm, _STORE, attributes=_FUSED),
)
