"""A patch applied to a parsed ONNX model, in place: nodes go, names live on, constants are replaced.

Knows nothing of folding. Inputs, outputs, names, opset, IR version, metadata, attributes, functions
and all that is not named in the patch stay. Which changes are pending lies in ``pool``; ``assemble``
makes the result of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx

from bnfuse.core.apply import Merged, Moved, NewAffine, NewLinear, OverflowingFold, Patch
from bnfuse.core.scaled import ScaledTensor, is_small, round_once
from bnfuse.core.tensor import Array, Tensor, as_float64, size, whole
from bnfuse.formats.onnx.edit.assemble import EditedModel, assemble
from bnfuse.formats.onnx.edit.deferred import Deferred
from bnfuse.formats.onnx.edit.names import Names
from bnfuse.formats.onnx.edit.pending import Pending, Pool
from bnfuse.formats.onnx.file.wire import location
from bnfuse.formats.onnx.rows.statistics import epsilon_of
from bnfuse.formats.onnx.rows.view import NodeHandle, handle_of

if TYPE_CHECKING:
    from bnfuse.core.graph import Graph, Node
    from bnfuse.core.linear_rule import Linear
    from bnfuse.core.reparam import Vector
    from bnfuse.formats.onnx.graph.constants import Constants
    from bnfuse.formats.onnx.graph.read import ModelFile


class ModelEditor:
    """Applies one patch."""

    def __init__(
        self, source: ModelFile, graph: Graph, constants: Constants, rank_of: Callable[[str], int | None]
    ) -> None:
        self._source = source
        self._graph = graph
        self._constants = constants
        self._rank_of = rank_of
        self._pending = {scope: Pending(scope, source.uses) for scope in source.scopes}
        self._pool = Pool(self._pending, source.uses)
        self._payloads: dict[int, ScaledTensor] = {}
        self._deferred = Deferred()
        self._flushed = 0

    def run(self, patch: Patch) -> EditedModel:
        """Edit and hand over.

        Raises:
            OverflowingFold: a new small constant does not fit its type.
        """
        for node, linear in patch.linears.items():
            self._linear(node, linear)
        for node, constant in patch.sources.items():
            handle = handle_of(node)
            self._values(handle, handle.operand or 0, constant.values)  # an embedding's table is input 0
        self._deferred.finish()
        for node, affine in patch.affines.items():
            self._affine(node, affine)
        for node in sorted(patch.removed, key=lambda n: handle_of(n).index):
            self._pool.drop(handle_of(node))
        names = Names(self._graph, self._pool)
        names.merge(patch.removed)
        for moved in patch.moved:
            self._move(moved)
        for merged in patch.merged:
            self._merge(merged)
        constants = self._source.scopes[0].initializers
        edited = assemble(self._source.proto, list(self._pending.values()), constants)
        edited.name_of, edited.made = names.name_of, self._pending[self._source.scopes[0]].after
        edited.payloads, edited.flushed = self._payloads, self._flushed + self._deferred.flushed
        return edited

    # --- linear ops

    def _linear(self, node: Node, new: NewLinear) -> None:
        handle = handle_of(node)
        if new.weight is not None:
            self._values(handle, 0 if new.rule.in_port == 1 else 1, new.weight)
        if node.op == "Gemm":
            _set_to_one(handle.proto, ("alpha", "beta"))
        if new.makes_bias:
            put = partial(self._bias, node, handle, new.rule)
            self._deferred.vector(new.bias(), new.rule.weight.dtype, new.folded, put)

    def _values(self, handle: NodeHandle, at: int, new: ScaledTensor) -> None:
        """New values of a constant: a payload that is streamed into the file, or worked out if small."""
        if is_small(new):
            self._deferred.weight(new, partial(self._pool.replace, handle, at))
            return
        number = len(self._source.files.slices) + len(self._payloads)
        self._payloads[number] = new
        proto = onnx.TensorProto(
            data_type=onnx.helper.np_dtype_to_tensor_dtype(new.dtype),
            dims=list(new.shape),
            data_location=onnx.TensorProto.EXTERNAL,
        )
        proto.external_data.add(key="location", value=location(number))
        self._pool.replace_large(handle, at, proto)

    def _bias(self, node: Node, handle: NodeHandle, rule: Linear, bias: Array) -> None:
        kind = node.op
        if handle.bias_index is not None:
            add = NodeHandle(handle.scope, handle.bias_index, handle.scope.body.node[handle.bias_index])
            at = next(i for i, n in enumerate(add.proto.input) if handle.scope.is_constant(n))
            self._pool.replace(add, at, bias)
        elif kind == "MatMul" and rule.bias_nodes == 0:
            handle.proto.op_type = "Gemm"
            self._append_input(handle, 2, bias)
        elif kind == "MatMul" and len(rule.weight.shape) == 1:
            self._add_after(handle, bias.reshape(()))  # what a vector leaves has no channels
        elif kind == "MatMul":
            self._add_after(handle, bias.reshape(-1, 1) if rule.in_port == 1 else bias)
        elif kind == "Einsum":
            letters = _output_letters(handle.proto)
            self._add_after(handle, bias.reshape((-1,) + (1,) * (letters - 1 - rule.out_axis)))
        elif kind in ("LSTM", "GRU", "RNN"):
            self._input_bias(handle, rule, bias)
        elif rule.bias is not None:
            old = rule.bias.shape
            keeps = size(rule.bias) == bias.size
            self._pool.replace(handle, 2, bias.reshape(old) if keeps else bias)
        else:
            self._append_input(handle, 2, bias)

    def _input_bias(self, handle: NodeHandle, rule: Linear, bias: Array) -> None:
        """The first half of a recurrent op's bias; the second half is the recurrent one."""
        directions, gates, _ = rule.weight.shape
        both = np.zeros((directions, 2 * gates), bias.dtype)
        if rule.bias is not None:
            both[:] = whole(self._constant(handle, 3))
        both[:, :gates] = bias.reshape(directions, gates)
        if rule.bias is not None:
            self._pool.replace(handle, 3, both)
        else:
            self._append_input(handle, 3, both)

    def _append_input(self, handle: NodeHandle, at: int, values: Array) -> None:
        base = handle.proto.name or handle.proto.output[0]
        self._pool.append_input(handle, at, values, f"{base}_bias")

    def _add_after(self, handle: NodeHandle, bias: Array) -> None:
        """A bias as a node of its own; the product gets a new name, the sum the old one."""
        proto, scope = handle.proto, handle.scope
        product = self._pool.unique(f"{proto.output[0]}_product")
        name = self._pool.new(scope, f"{proto.output[0]}_bias", bias)
        label = self._pool.unique_label(f"{proto.name or product}_bias")
        add = onnx.helper.make_node("Add", [product, name], [proto.output[0]], name=label)
        proto.output[0] = product
        self._pending[scope].after.setdefault(handle.index, []).append(add)

    # --- affines and operands

    def _affine(self, node: Node, new: NewAffine) -> None:
        handle = handle_of(node)
        with _Blaming(new.folded):
            match node.op:
                case "BatchNormalization":
                    self._batchnorm(handle, new.a.reshape(-1), new.c.reshape(-1), slice(None))
                case "Mul" | "Div" | "Add" | "Sub":
                    self._arithmetic(node.op, handle, new)
                case _:
                    self._normalization(handle, new)

    def _batchnorm(self, handle: NodeHandle, a: Vector, c: Vector, channels: slice) -> None:
        """γ' = a·√(σ² + ε), β' = c + μ·a; of the statistics those of the channels that stay."""
        mean, variance = (as_float64(self._constant(handle, i)).reshape(-1)[channels] for i in (3, 4))
        self._round_into(handle, 1, a * np.sqrt(variance + epsilon_of(handle.proto)))
        self._round_into(handle, 2, c + mean * a)
        if mean.size != size(self._constant(handle, 3)):
            self._round_into(handle, 3, mean)
            self._round_into(handle, 4, variance)

    def _normalization(self, handle: NodeHandle, new: NewAffine) -> None:
        self._round_into(handle, 1, new.a)
        if len(handle.proto.input) > 2:
            self._round_into(handle, 2, new.c)
        elif new.c.any():
            bias, flushed = round_once(new.c, self._constant(handle, 1).dtype)
            self._flushed += flushed
            self._append_input(handle, 2, bias)

    def _arithmetic(self, kind: str, handle: NodeHandle, new: NewAffine) -> None:
        at = 1 - new.rule.in_port
        values: Vector = new.a if kind == "Mul" else new.c
        if kind == "Div":
            values = 1.0 / new.a
        elif kind == "Sub" and at == 1:
            values = -new.c
        old = self._constant(handle, at)
        shape = old.shape
        if values.size != size(old):
            shape = (values.size,) + (1,) * self._axes_behind(handle, new)
        self._round_into(handle, at, values.reshape(shape))

    def _axes_behind(self, handle: NodeHandle, new: NewAffine) -> int:
        """How many axes of its input come after the one that a number becomes a vector along."""
        (axis,) = new.axes
        if axis < 0:
            return -1 - axis
        rank = self._rank_of(handle.scope.key(handle.proto.input[new.rule.in_port]))
        assert rank is not None, "a row that knows no rank takes no vector (affine_ops.NumberOnly)"
        return rank - 1 - axis

    def _move(self, new: Moved) -> None:
        """From behind the joint in front of its input; the joint's output takes the name of what went."""
        bn, joint = handle_of(new.node), handle_of(new.joint)
        with _Blaming((new.node.name,)):
            self._batchnorm(bn, new.a, new.c, new.channels)
        branch = joint.proto.input[new.port]
        joint.proto.output[0] = bn.proto.output[0]
        bn.proto.input[0] = branch
        bn.proto.output[0] = joint.proto.input[new.port] = self._pool.unique(f"{branch}_normalized")
        pending = self._pending[joint.scope]
        pending.dead.add(bn.index)
        before = pending.after.setdefault(joint.index - 1, []) if joint.index else pending.fresh
        before.append(bn.proto)

    def _merge(self, merged: Merged) -> None:
        """A chain of affine nodes as one BatchNormalization: γ = a, β = c, μ = 0, σ² = 1, ε = 0."""
        handles = [handle_of(node) for node in merged.nodes]
        scope, last = handles[0].scope, handles[-1]
        rule = self._graph.rule(merged.nodes[0])
        x = handles[0].proto.input[getattr(rule, "in_port", 0)]
        dtype = self._constant(handles[0], 1 - getattr(rule, "in_port", 0)).dtype
        name = last.proto.name or last.proto.output[0]
        try:
            rounded = [round_once(values, dtype) for values in (merged.a, merged.c)]
        except FloatingPointError:
            return  # it stays as it is
        self._flushed += sum(flushed for _, flushed in rounded)
        zero = np.zeros(merged.a.shape, dtype)
        arrays = {
            "scale": rounded[0][0],
            "bias": rounded[1][0],
            "mean": zero,
            "var": zero + zero.dtype.type(1),
        }
        inputs = [self._pool.new(scope, f"{name}_{key}", array) for key, array in arrays.items()]
        label = self._pool.unique_label(f"{name}_merged")
        made = onnx.helper.make_node(
            "BatchNormalization", [x, *inputs], [last.proto.output[0]], name=label, epsilon=0.0
        )
        for handle in handles:
            self._pool.drop(handle)
        self._pending[scope].after.setdefault(last.index, []).append(made)

    # --- what both need

    def _round_into(self, handle: NodeHandle, at: int, values: Vector) -> None:
        """New values for a small constant, in the type it is stored in."""
        old = self._constant(handle, at)
        shape = old.shape if size(old) == values.size else values.shape
        rounded, flushed = round_once(values.reshape(shape), old.dtype)
        self._flushed += flushed
        self._pool.replace(handle, at, rounded)

    def _constant(self, handle: NodeHandle, at: int) -> Tensor:
        tensor = self._constants.get(handle.scope, handle.proto.input[at])
        assert tensor is not None
        return tensor


def _output_letters(proto: onnx.NodeProto) -> int:
    """The rank of an Einsum's output."""
    equation = next(a.s.decode() for a in proto.attribute if a.name == "equation")
    return len(equation.replace(" ", "").partition("->")[2])


def _set_to_one(proto: onnx.NodeProto, names: tuple[str, ...]) -> None:
    for attribute in proto.attribute:
        if attribute.name in names:
            attribute.f = 1.0


class _Blaming:
    """Turns an overflow into the names of the folds that led to it."""

    def __init__(self, folded: tuple[str, ...]) -> None:
        self._folded = folded

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        if isinstance(value, FloatingPointError):
            raise OverflowingFold(self._folded) from value
