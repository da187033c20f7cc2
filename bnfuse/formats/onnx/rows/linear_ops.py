"""Rows of the op table: linear operators with constant weights, in canonical form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from bnfuse.core.linear import LinearForm, linear_form
from bnfuse.core.linear_rule import Linear
from bnfuse.core.reasons import Reason
from bnfuse.core.rules import Opaque, Rule
from bnfuse.core.tensor import Array, ArrayTensor, Tensor, size, whole
from bnfuse.formats.onnx.graph.constants import is_float
from bnfuse.formats.onnx.graph.extents import rules as extents
from bnfuse.formats.onnx.graph.origin import Origin
from bnfuse.formats.onnx.graph.scope import text_of
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.stored import LinearStore
from bnfuse.formats.onnx.rows.view import NodeHandle, View

if TYPE_CHECKING:
    from bnfuse.formats.onnx.edit.apply_patch import ModelEditor


def _weight(view: View, i: int) -> Tensor | Opaque:
    """Input i as a floating-point constant."""
    name = view.overridable(i)
    if name is not None:
        return Opaque(Reason.WEIGHT_NOT_CONSTANT, f"a caller may override '{name}'")
    tensor = view.const(i)
    if tensor is None:
        source = view.origin(i)
        return Opaque(Reason.WEIGHT_NOT_CONSTANT, "" if source is Origin.RUN_TIME else source.value)
    if not is_float(tensor):
        return Opaque(Reason.UNSUPPORTED_OP, f"weights of type {tensor.dtype}")
    return tensor


def _bias(view: View, i: int, channels: int) -> Tensor | Opaque | None:
    """Input i as a per-channel bias; None where there is none."""
    if not view.has_input(i):
        return None
    tensor = _weight(view, i)
    if isinstance(tensor, Opaque):
        return tensor
    per_channel = size(tensor) == 1 or (tensor.shape[-1] == channels and size(tensor) == channels)
    return tensor if per_channel else Opaque(Reason.BAD_PARAMETERS, f"bias of shape {tensor.shape}")


def _linear(
    view: View,
    layout: str,
    groups: int,
    *,
    shift_in: Reason | None,
    in_axis: int = 1,
    out_axis: int = 1,
) -> Rule:
    """Conv-like: weight is input 1, bias input 2."""
    weight = _weight(view, 1)
    if isinstance(weight, Opaque):
        return weight
    form = _form(weight, layout, groups)
    if form is None:
        return Opaque(Reason.BAD_PARAMETERS, f"weight of shape {weight.shape}, {groups} groups")
    bias = _bias(view, 2, form.channels_out)
    if isinstance(bias, Opaque):
        return bias
    return Linear(weight, form, bias, in_axis, out_axis, shift_in=shift_in)


def _form(weight: Tensor, layout: str, groups: int) -> LinearForm | None:
    try:
        return linear_form(weight.shape, layout, groups)
    except ValueError:
        return None


def conv(view: View) -> Rule:
    """Conv 1–3D, grouped, depthwise: W is (G·O, I, k…)."""
    return _linear(
        view, "go i k*", view.attr("group", 1), shift_in=Reason.ZERO_PADDING if _pads(view) else None
    )


def _pads(view: View) -> bool:
    """Whether a convolution pads with zeros; SAME pads nothing where the window is one element."""
    auto = view.attr("auto_pad", b"NOTSET")
    if auto.startswith(b"SAME"):
        kernel = view.attr("kernel_shape")
        if kernel is None:
            weight = view.const(1)
            kernel = weight.shape[2:] if weight is not None else (2,)
        return any(k != 1 for k in kernel)
    return auto != b"VALID" and any(view.attr("pads", []))


def conv_transpose(view: View) -> Rule:
    """ConvTranspose: W is (G·I, O, k…); border outputs sum over fewer taps, so no shift comes in."""
    return _linear(view, "gi o k*", view.attr("group", 1), shift_in=Reason.SHIFT_REFUSED)


def gemm(view: View) -> Rule:
    """Gemm: y = α·A'·B' + β·C with B and C constant."""
    weight = _weight(view, 1)
    if isinstance(weight, Opaque):
        return weight
    alpha, beta = view.attr("alpha", 1.0), view.attr("beta", 1.0)
    if alpha == 0.0 or len(weight.shape) != 2:
        return Opaque(Reason.BAD_PARAMETERS, f"alpha {alpha}, weight of shape {weight.shape}")
    form = linear_form(weight.shape, "o i" if view.attr("transB", 0) else "i o")
    bias = _bias(view, 2, form.channels_out)
    if isinstance(bias, Opaque):
        return bias
    in_axis = 0 if view.attr("transA", 0) else 1
    return Linear(weight, form, bias, in_axis, 1, gain=alpha, bias_gain=beta, bias_nodes=int(view.opset < 7))


def matmul(view: View) -> Rule:
    """MatMul with one constant side; a bias of its own lies in the Add that follows, if any."""
    left = view.is_const(0)
    weight = _weight(view, 0 if left else 1)
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
    return None if index is None else view.handle.scope.body.node[index]


def _constant_of(view: View, add: onnx.NodeProto) -> Tensor | None:
    name = next(n for n in add.input if view.handle.scope.is_constant(n))
    return view.constants.get(view.handle.scope, name)


def _bias_of_product(handle: NodeHandle, rule: Linear, bias: Array, out: ModelEditor) -> None:
    """In the Add that follows, as a Gemm's, or in an Add of its own."""
    if handle.bias_index is not None:
        add = NodeHandle(handle.scope, handle.bias_index, handle.scope.body.node[handle.bias_index])
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
    weight = _weight(view, 1)
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
    weight = _weight(view, k)
    if isinstance(weight, Opaque):
        return weight
    left, arrow, out = text_of(view.attr("equation", b"")).replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != 2 or len(set(terms[k])) != 2 or len(terms[k]) != 2 or "." in left:
        return Opaque(Reason.UNSUPPORTED_OP, "its equation")
    x, kernel = terms[1 - k], terms[k]
    contracted = [c for c in kernel if c in x and c not in out]
    new = [c for c in kernel if c not in x and c in out]
    if len(contracted) != 1 or len(new) != 1 or len(set(x)) != len(x) or set(out) - set(x) != set(new):
        return Opaque(Reason.UNSUPPORTED_OP, "its equation")
    if set(x) - set(out) != set(contracted) or len(weight.shape) != 2:
        return Opaque(Reason.UNSUPPORTED_OP, "its equation")
    form = linear_form(weight.shape, " ".join("i" if c == contracted[0] else "o" for c in kernel))
    axes = x.index(contracted[0]), out.index(new[0])
    return Linear(weight, form, None, *axes, in_port=1 - k, bias_nodes=1)


def _bias_of_einsum(handle: NodeHandle, rule: Linear, bias: Array, out: ModelEditor) -> None:
    """In an Add of its own, along the new letter."""
    equation = next(a.s.decode() for a in handle.proto.attribute if a.name == "equation")
    rank = len(equation.replace(" ", "").partition("->")[2])
    out.add_behind(handle, bias.reshape((-1,) + (1,) * (rank - 1 - rule.out_axis)))


ROWS = (
    OpKind(("Conv",), conv, extents.conv(1), LinearStore()),
    OpKind(("ConvTranspose",), conv_transpose, extents.conv_transpose, LinearStore()),
    OpKind(("Gemm",), gemm, extents.gemm, LinearStore(gains=("alpha", "beta"))),
    OpKind(("MatMul",), matmul, extents.matmul, LinearStore(_bias_of_product)),
    OpKind(("Einsum",), einsum, stored=LinearStore(_bias_of_einsum)),
    OpKind(("LSTM", "GRU", "RNN"), recurrent, extents.recurrent, LinearStore(_input_bias)),
    # not looked into
    OpKind(("FusedConv", "ConvInteger"), extents=extents.conv(1)),
    OpKind(("QLinearConv",), extents=extents.conv(3)),
)
