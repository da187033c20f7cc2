"""Rows of the op table: products with constant matrices, and what is made of them, in canonical form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Rule
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import linear_form
from bnfuse.core.weights.tensor import Array, ArrayTensor, Tensor, whole
from bnfuse.formats.onnx.graph.constants import is_float
from bnfuse.formats.onnx.graph.extents import rules as extents
from bnfuse.formats.onnx.graph.scope import text_of
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.stored import LinearStore
from bnfuse.formats.onnx.rows.view import NodeHandle, View
from bnfuse.formats.onnx.rows.weights import constant_weight

if TYPE_CHECKING:
    from bnfuse.formats.onnx.edit.apply_patch import ModelEditor


def matmul(view: View) -> Rule:
    """MatMul with one constant side; a bias of its own lies in the Add that follows, if any."""
    left = view.is_const(0)
    weight = constant_weight(view, 0 if left else 1)
    if isinstance(weight, Opaque):
        return weight
    rank = len(weight.shape)
    if rank < 2:
        return _vector_product(view, weight, left)
    batched = any(n != 1 for n in weight.shape[:-2])
    add = _added_bias(view)
    if add is not None and any(a.name == "axis" for a in add.attribute):
        return Opaque(Reason.BROADCAST, "below opset 7 a bias may lie along any axis")
    form = linear_form(weight.shape, "k* o i" if left else "k* i o")
    x = 1 if left else 0
    axis = view.axis(-2 if left else -1, x)
    out = view.shapes.rank(view.node.outputs[0]) or view.rank(x)
    out_axis = (-2 if left else -1) + (out or 0)
    return Linear(
        weight,
        form,
        None if add is None else _constant_of(view, add),
        axis,
        out_axis,
        in_port=x,
        shift_in=Reason.SHIFT_REFUSED if batched else None,
        bias_nodes=0 if _as_gemm(view, left, rank) else 1,
    )


def _vector_product(view: View, weight: Tensor, left: bool) -> Rule:
    """x·w or w·x of a vector w: one number is left of the channels, so nothing along them comes back."""
    if not weight.shape:
        return Opaque(Reason.BAD_PARAMETERS, "weight of shape ()")
    x = 1 if left else 0
    axis = view.axis(-2 if left else -1, x)
    return Linear(weight, linear_form(weight.shape, "i"), None, axis, -1, x, bias_nodes=1, writes=False)


def _as_gemm(view: View, left: bool, rank: int) -> bool:
    """Whether a bias can be had by turning the MatMul into a Gemm."""
    return not left and rank == 2 and view.rank(0) == 2 and view.opset >= 11


def _added_bias(view: View) -> onnx.NodeProto | None:
    """The Add of a constant that the reader joined to this MatMul."""
    index = view.handle.bias_index
    return None if index is None else view.handle.scope.nodes[index]


def _constant_of(view: View, add: onnx.NodeProto) -> Tensor | None:
    name = next(n for n in add.input if view.handle.scope.is_constant(n))
    return view.constants.get(view.handle.scope, name)


def _bias_of_product(handle: NodeHandle, rule: Linear, bias: Array, out: ModelEditor) -> None:
    """In the Add that follows, as a Gemm's, or in an Add of its own."""
    if handle.bias_index is not None:
        add = NodeHandle(handle.scope, handle.bias_index)
        at = next(i for i, n in enumerate(add.proto.input) if handle.scope.is_constant(n))
        out.pool.replace(add, at, bias)
    elif rule.bias_nodes == 0:
        handle.proto.op_type = "Gemm"
        out.append(handle, 2, bias)
    elif len(rule.weight.shape) == 1:
        out.add_behind(handle, bias.reshape(()))  # what a vector leaves has no channels
    else:
        out.add_behind(handle, bias.reshape(-1, 1) if rule.in_port == 1 else bias)


def recurrent(view: View) -> Rule:
    """LSTM, GRU, RNN: what they make of W·x + b is not looked into; W is (directions, gates·units, I)."""
    weight = constant_weight(view, 1)
    if isinstance(weight, Opaque):
        return weight
    if len(weight.shape) != 3 or (view.has_input(3) and view.const(3) is None):
        return Opaque(Reason.WEIGHT_NOT_CONSTANT)
    form = linear_form(weight.shape, "o o i")
    both = view.const(3)
    bias = None if both is None else _input_half(both, weight)
    if both is not None and bias is None:
        return Opaque(Reason.BAD_PARAMETERS, f"bias of shape {both.shape}")
    if view.shapes.rank(view.node.inputs[0]) not in (3, None):
        return Opaque(Reason.BAD_PARAMETERS)
    return Linear(weight, form, bias, 2, 2, writes=False)


def _input_half(both: Tensor, weight: Tensor) -> Tensor | None:
    """B is (directions, 2·gates·units): the input's bias, then the recurrent one."""
    directions, gates, _ = weight.shape
    if both.shape != (directions, 2 * gates) or not is_float(both):
        return None
    return ArrayTensor(whole(both)[:, :gates])


def _input_bias(handle: NodeHandle, rule: Linear, bias: Array, out: ModelEditor) -> None:
    """The first half of a recurrent op's bias; the second half is the recurrent one."""
    directions, gates, _ = rule.weight.shape
    both = np.zeros((directions, 2 * gates), bias.dtype)
    if rule.bias is not None:
        both[:] = whole(out.constant(handle, 3))
    both[:, :gates] = bias.reshape(directions, gates)
    if rule.bias is not None:
        out.pool.replace(handle, 3, both)
    else:
        out.append(handle, 3, both)


def einsum(view: View) -> Rule:
    """Einsum of a run-time tensor and a constant matrix: one letter is contracted, one is new."""
    sides = [view.is_const(i) for i in range(len(view.proto.input))]
    if len(sides) != 2 or sides.count(True) != 1:
        return Opaque(Reason.UNSUPPORTED_OP)
    k = sides.index(True)
    weight = constant_weight(view, k)
    if isinstance(weight, Opaque):
        return weight
    left, _, out = text_of(view.attr("equation", b"")).replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2 or len(terms[k]) != 2 or len(weight.shape) != 2:
        return Opaque(Reason.UNSUPPORTED_OP, "its equation")
    x, kernel = terms[1 - k], terms[k]
    contracted, new = ([c for c in kernel if c in side] for side in (x, out))
    if len(contracted) != 1 or len(new) != 1 or len(set(x)) != len(x):  # … is three of one letter
        return Opaque(Reason.UNSUPPORTED_OP, "its equation")
    if set(out) - set(x) != set(new) or set(x) - set(out) != set(contracted):
        return Opaque(Reason.UNSUPPORTED_OP, "its equation")
    form = linear_form(weight.shape, " ".join("i" if c == contracted[0] else "o" for c in kernel))
    axes = x.index(contracted[0]), out.index(new[0])
    return Linear(weight, form, None, *axes, in_port=1 - k, bias_nodes=1)


def _bias_of_einsum(handle: NodeHandle, rule: Linear, bias: Array, out: ModelEditor) -> None:
    """In an Add of its own, along the new letter."""
    equation = next(a.s.decode() for a in handle.proto.attribute if a.name == "equation")
    rank = len(equation.replace(" ", "").partition("->")[2])
    out.add_behind(handle, bias.reshape((-1,) + (1,) * (rank - 1 - rule.out_axis)))


def fused_matmul(view: View) -> Rule:
    """α·op(A)·op(B) with one constant matrix; an op may turn the last two axes."""
    left = view.is_const(0)
    weight = constant_weight(view, 0 if left else 1)
    if isinstance(weight, Opaque):
        return weight
    alpha, x = view.attr("alpha", 1.0), 1 if left else 0
    turned = [bool(view.attr(name, 0)) for name in ("transA", "transB")]
    if view.attr("transBatchA", 0) or view.attr("transBatchB", 0):
        return Opaque(Reason.UNSUPPORTED_OP, "its batch axes change places")
    if alpha == 0.0 or len(weight.shape) != 2:
        return Opaque(Reason.BAD_PARAMETERS, f"alpha {alpha}, weight of shape {weight.shape}")
    rank = view.rank(x)
    if rank is None or rank < 2:
        return Opaque(Reason.SHAPE_UNKNOWN)
    form = linear_form(weight.shape, "o i" if left != turned[1 - x] else "i o")
    in_axis = rank - 2 if left != turned[x] else rank - 1
    out_axis = rank - 2 if left else rank - 1
    return Linear(weight, form, None, in_axis, out_axis, in_port=x, gain=alpha, bias_nodes=1)


# Of onnxruntime's FusedMatMul (docs/ContribOperators.md).
_FUSED = {
    "alpha": onnx.AttributeProto.FLOAT,
    **dict.fromkeys(("transA", "transB", "transBatchA", "transBatchB"), onnx.AttributeProto.INT),
}
ROWS = (
    OpKind(("MatMul",), matmul, extents.matmul, LinearStore(_bias_of_product)),
    OpKind(
        ("com.microsoft.FusedMatMul", "com.microsoft.TransposeMatMul"),
        fused_matmul,
        stored=LinearStore(_bias_of_product, ("alpha",)),
        attributes=_FUSED,
    ),
    OpKind(("Einsum",), einsum, stored=LinearStore(_bias_of_einsum)),
    OpKind(("LSTM", "GRU", "RNN"), recurrent, extents.recurrent, LinearStore(_input_bias)),
)
