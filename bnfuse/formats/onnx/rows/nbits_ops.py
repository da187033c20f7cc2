"""Rows of the op table: MatMulNBits, y = A·W' + b with W (N, K) of a few bits in blocks along K.

A factor of the outputs goes into the scales, whatever its sign; one of the inputs where all of a block share
it. A shift goes into the bias, or an Add behind where it has none: not every runtime knows that input.

Where activations are rounded to integers (accuracy_level 4) no shift comes in at the input: what is rounded
would be another number. Columns in another order (g_idx) and weights in one of their own are not looked into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Rule
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import linear_form
from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.core.weights.tensor import Array
from bnfuse.formats.extents import Shape
from bnfuse.formats.onnx.graph.extents.call import ExtentCall
from bnfuse.formats.onnx.graph.nbits import blocked_weight
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.stored import LinearStore, bias_input
from bnfuse.formats.onnx.rows.view import NodeHandle, View
from bnfuse.formats.onnx.rows.weights import channel_bias
from bnfuse.formats.table import known

if TYPE_CHECKING:
    from bnfuse.core.apply import NewLinear
    from bnfuse.formats.onnx.edit.apply_patch import ModelEditor

_SCALES, _ZERO_POINTS, _ORDER, _BIAS = 2, 3, 4, 5
_ROUNDS_ACTIVATIONS = 4


def matmul_nbits(view: View) -> Rule:
    """Linear with constant B, scales and zero points."""
    freed = next((name for i in range(1, _ORDER) if (name := view.overridable(i)) is not None), None)
    if freed is not None:
        return Opaque(Reason.WEIGHT_NOT_CONSTANT, f"a caller may override '{freed}'")
    if view.has_input(_ORDER) or view.attr("weight_prepacked", 0):
        return Opaque(Reason.UNSUPPORTED_OP, "its weight lies in another order")
    weight = _weight(view)
    if isinstance(weight, Opaque):
        return weight
    last = known(view.rank(0)) - 1
    form = linear_form(weight.shape, "o i")
    bias = channel_bias(view, _BIAS, form.channels_out)
    if isinstance(bias, Opaque):
        return bias
    shift_in = Reason.SHIFT_REFUSED if view.attr("accuracy_level") == _ROUNDS_ACTIVATIONS else None
    return Linear(weight, form, bias, last, last, shift_in=shift_in, bias_nodes=1)


def _weight(view: View) -> QuantisedTensor | Opaque:
    """W as stored."""
    packed, scale, zero = (view.const(i) for i in (1, _SCALES, _ZERO_POINTS))
    if packed is None or scale is None or (zero is None and view.has_input(_ZERO_POINTS)):
        return Opaque(Reason.WEIGHT_NOT_CONSTANT)
    n, k, block = (view.attr(name, 0) for name in ("N", "K", "block_size"))
    weight = blocked_weight(packed, scale, zero, (n, k), view.attr("bits", 4), block)
    return Opaque(Reason.BAD_PARAMETERS, f"B of shape {packed.shape}") if weight is None else weight


class BlockStore(LinearStore, frozen=True):
    """Scales as input 2, in the shape they have there; a bias as input 5 where there is one."""

    def scale(self, handle: NodeHandle, new: NewLinear, out: ModelEditor, gains: tuple[str, ...]) -> None:
        """The scales alone: B stays."""
        if new.weight is not None:
            base = new.weight.base
            assert isinstance(base, QuantisedTensor)
            out.round_into(handle, _SCALES, base.new_scale(new.weight.form, new.weight.factors))


def _bias(handle: NodeHandle, rule: Linear, bias: Array, out: ModelEditor) -> None:
    if rule.bias is None:
        out.add_behind(handle, bias)
    else:
        bias_input(handle, rule, bias, out, at=_BIAS)


def _extents(call: ExtentCall) -> Shape:
    """N in place of K."""
    shape = call.shape(0)
    call.sizes.equal(shape[-1], call.attribute("K"))
    return (*shape[:-1], call.attribute("N"))


# Of onnxruntime's MatMulNBits (docs/ContribOperators.md).
_INTS = ("K", "N", "bits", "block_size", "accuracy_level", "weight_prepacked")
ROWS = (
    OpKind(
        ("com.microsoft.MatMulNBits",),
        matmul_nbits,
        _extents,
        BlockStore(_bias),
        attributes=dict.fromkeys(_INTS, onnx.AttributeProto.INT),
    ),
)
