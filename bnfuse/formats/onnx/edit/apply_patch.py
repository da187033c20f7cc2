"""A patch applied to a parsed ONNX model, in place: nodes go, names live on, constants are replaced.

Knows nothing of folding. Inputs, outputs, names, opset, IR version, metadata, attributes, functions
and all that is not named in the patch stay. Which changes are pending lies in ``pending``; ``assemble``
makes the result of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import onnx

from bnfuse.core.apply import Merged, Moved, NewLinear, Patch, refuse
from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.core.weights.scaled import ScaledTensor, is_small, round_once
from bnfuse.core.weights.tensor import Array, Tensor, size
from bnfuse.core.widened import WidenedLinear, widened
from bnfuse.formats.onnx.edit.assemble import EditedModel, assemble
from bnfuse.formats.onnx.edit.deferred import Deferred
from bnfuse.formats.onnx.edit.names import Names
from bnfuse.formats.onnx.edit.pending import Pending, Pool
from bnfuse.formats.onnx.edit.requantise import quantise_anew, unpack_anew
from bnfuse.formats.onnx.edit.round_bias import in_whole_steps, put_steps
from bnfuse.formats.onnx.file.element_types import onnx_type
from bnfuse.formats.onnx.file.protobuf import location
from bnfuse.formats.onnx.graph.qonnx import is_quantiser
from bnfuse.formats.onnx.graph.quantised import unpacking
from bnfuse.formats.onnx.rows.ops import stored_by
from bnfuse.formats.onnx.rows.stored import (
    AffineStore,
    BatchNormStore,
    ClampStore,
    LinearStore,
    Store,
    TableStore,
    bias_input,
)
from bnfuse.formats.onnx.rows.view import NodeHandle, handle_of
from bnfuse.results.rounding import RoundedBias

if TYPE_CHECKING:
    from bnfuse.core.graph import Graph, Node
    from bnfuse.core.reparam import Vector
    from bnfuse.formats.onnx.graph.constants import Constants
    from bnfuse.formats.onnx.graph.read import ModelFile


class ModelEditor:
    """Applies one patch; the stores of ``rows`` write into it, its ``pool`` and what is ``deferred``."""

    def __init__(
        self,
        source: ModelFile,
        graph: Graph,
        constants: Constants,
        rank_of: Callable[[str], int | None],
        *,
        rounds_biases: bool = False,
    ) -> None:
        self._source = source
        self._graph = graph
        self._constants = constants
        self._rank_of = rank_of
        self._pending = {scope: Pending(scope, source.uses) for scope in source.scopes}
        self.pool = Pool(self._pending, source.uses, source.outline.ir_version)
        self._payloads: dict[int, ScaledTensor] = {}
        self.deferred = Deferred()
        self._flushed = 0
        self._rounds_biases = rounds_biases
        self._rounded: list[RoundedBias] = []

    def run(self, patch: Patch) -> EditedModel:
        """Edit and hand over.

        Raises:
            OverflowingFold: new small constants do not fit their types.
        """
        wider = widened(patch.linears, patch.edits, patch.channels)
        for node, linear in patch.linears.items():
            if node in wider:
                self._blaming(linear.folded, self._widen, handle_of(node), wider[node])
            else:
                self._blaming(linear.folded, _store(node, LinearStore).store, handle_of(node), linear, self)
        for node, constant in patch.sources.items():
            _store(node, TableStore).store(handle_of(node), constant, self)
        self.deferred.finish()
        for node, affine in patch.affines.items():
            self._blaming(affine.folded, _store(node, AffineStore).store, handle_of(node), affine, self)
        for node, clamp in patch.clamps.items():
            self._blaming(clamp.folded, _store(node, ClampStore).store, handle_of(node), clamp, self)
        for node, affine in patch.arithmetic.items():
            self._blaming(affine.folded, _store(node, BatchNormStore).spell, handle_of(node), affine, self)
        refuse(self.deferred.overflowing)
        removed = {node for node in patch.removed if not self._passes_on(node)}
        for node in sorted(removed, key=lambda n: handle_of(n).index):
            self.pool.drop(handle_of(node))
        names = Names(self._graph, self.pool)
        names.merge(removed)
        for moved in patch.moved:
            self._blaming((moved.node.name,), self._move, moved)
        refuse(self.deferred.overflowing)
        for merged in patch.merged:
            self._merge(merged)
        constants = self._source.scopes[0].initializers
        # Shapes of values that carry another channel are left out: onnx finds them out anew.
        wide = (value for channel in patch.channels if channel.added for value in channel.propagation.held)
        self._pending[self._source.scopes[0]].reshaped = frozenset(wide)
        edited = assemble(self._source.outline, list(self._pending.values()), constants)
        if self._source.inlined is not None:
            self._source.inlined.settle(edited.frame, edited.nodes)
        edited.name_of, edited.made = names.name_of, self._pending[self._source.scopes[0]].after
        edited.payloads, edited.flushed = self._payloads, self._flushed + self.deferred.flushed
        edited.rounded = tuple(self._rounded)
        return edited

    def _blaming(
        self, folded: Iterable[str], store: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs
    ) -> None:
        """Store; where that overflows, remember the folds that led to it."""
        try:
            store(*args, **kwargs)
        except FloatingPointError:
            self.deferred.overflowing.update(folded)

    def _passes_on(self, node: Node) -> bool:
        """Whether a removed BN read a constant, which has taken all on: an Identity writes it from now on.

        Who reads the constant is no matter of the graph, as it may be a weight.
        """
        source, handle = self._graph.writer(node.value(0)), handle_of(node)
        if not node.is_batchnorm or source is None or handle_of(source).operand is None:
            return False
        proto, scope = handle.proto, handle.scope
        if handle.index not in self._pending[scope].dead:  # else nobody reads it any more
            for name in proto.input[1:]:
                self.pool.release(scope, name)
            del proto.input[1:]
            del proto.attribute[:]
            proto.op_type = "Identity"
        return True

    def _widen(self, handle: NodeHandle, new: WidenedLinear) -> None:
        """A weight and a bias with one channel more: inputs 1 and 2 (``rows.ops.takes_channel``)."""
        rule = new.new.rule
        self.pool.replace(handle, 1, self.rounded(new.weight, rule.weight.dtype))
        if new.bias is not None:
            bias_input(handle, rule, self.rounded(new.bias, rule.weight.dtype), self)

    def _move(self, new: Moved) -> None:
        """From behind the joint in front of its input; the joint's output takes the name of what went."""
        bn, joint = handle_of(new.node), handle_of(new.joint)
        _store(new.node, BatchNormStore).keep(bn, new.a, new.c, new.channels, self)
        branch = joint.proto.input[new.port]
        joint.proto.output[0] = bn.proto.output[0]
        bn.proto.input[0] = branch
        bn.proto.output[0] = joint.proto.input[new.port] = self.pool.unique(f"{branch}_normalized")
        pending = self._pending[joint.scope]
        pending.dead.add(bn.index)
        self.pool.before(joint, bn.proto)

    def _merge(self, merged: Merged) -> None:
        """A chain of affine nodes as one BatchNormalization: γ = a, β = c, μ = 0, σ² = 1, ε = 0."""
        handles = [handle_of(node) for node in merged.nodes]
        scope, last = handles[0].scope, handles[-1]
        rule = self._graph.rule(merged.nodes[0])
        x = handles[0].proto.input[getattr(rule, "in_port", 0)]
        dtype = _store(merged.nodes[0], AffineStore).dtype(handles[0], getattr(rule, "in_port", 0), self)
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
        inputs = [self.pool.new(scope, f"{name}_{key}", array) for key, array in arrays.items()]
        label = self.pool.unique_label(f"{name}_merged")
        made = onnx.helper.make_node(
            "BatchNormalization", [x, *inputs], [last.proto.output[0]], name=label, epsilon=0.0
        )
        for handle in handles:
            self.pool.drop(handle)
        self._pending[scope].after.setdefault(last.index, []).append(made)

    # --- what the stores ask for

    def constant(self, handle: NodeHandle, at: int) -> Tensor:
        """Input ``at`` as it is stored now."""
        tensor = self._constants.get(handle.scope, handle.proto.input[at])
        assert tensor is not None
        return tensor

    def rank(self, handle: NodeHandle, at: int) -> int | None:
        """How many axes input ``at`` has."""
        return self._rank_of(handle.scope.key(handle.proto.input[at]))

    def scaled(self, handle: NodeHandle, at: int, new: ScaledTensor) -> None:
        """New values of a constant: a payload that is streamed into the file, or worked out if small."""
        if is_small(new):
            self.deferred.weight(new, partial(self.pool.replace, handle, at))
            return
        number = len(self._source.files.slices) + len(self._payloads)
        self._payloads[number] = new
        proto = onnx.TensorProto(
            data_type=onnx_type(new.dtype),
            dims=list(new.shape),
            data_location=onnx.TensorProto.EXTERNAL,
        )
        proto.external_data.add(key="location", value=location(number))
        self.pool.replace_large(handle, at, proto)

    def requantised(self, handle: NodeHandle, at: int, new: ScaledTensor, base: QuantisedTensor) -> None:
        """New scales of a quantised weight, and new integers where signs change: by a node of its own."""
        old = unpacking(self._constants, handle.scope, handle.proto.input[at])
        assert old is not None
        if is_quantiser(old.node):
            scale = self.rounded(base.new_scale(new.form, new.factors), base.dtype)
            quantise_anew(self.pool, handle, at, old, scale, lambda quant: self.scaled(quant, 0, new))
            return
        made = base.rescaled(new.form, new.factors)
        unpack_anew(self.pool, handle, at, old, self.rounded(made.scale, base.dtype), made.stored)

    def round_bias(self, handle: NodeHandle, new: NewLinear) -> bool:
        """Whether the bias, input 2, is one of whole steps that stays so; it is put there then."""
        made = in_whole_steps(self._constants, handle, 2, new) if self._rounds_biases else None
        if made is not None:
            self._rounded.append(put_steps(self.pool, handle, 2, made))
        return made is not None

    def round_into(self, handle: NodeHandle, at: int, values: Vector) -> None:
        """New values for a small constant, in the type it is stored in."""
        old = self.constant(handle, at)
        shape = old.shape if size(old) == values.size else values.shape
        self.pool.replace(handle, at, self.rounded(values.reshape(shape), old.dtype))

    def append(self, handle: NodeHandle, at: int, values: Array) -> None:
        """An input that the node did not have."""
        base = handle.proto.name or handle.proto.output[0]
        self.pool.append_input(handle, at, values, f"{base}_bias")

    def add_behind(self, handle: NodeHandle, values: Array) -> None:
        """A bias as a node of its own."""
        self.follow(handle, "Add", "product", {"bias": values})

    def follow(self, handle: NodeHandle, op: str, result: str, constant: Mapping[str, Array]) -> None:
        """A node behind this one that computes with a constant, and takes the name of what this one wrote."""
        proto, scope = handle.proto, handle.scope
        ((what, values),) = constant.items()
        before = self.pool.unique(f"{proto.output[0]}_{result}")
        name = self.pool.new(scope, f"{proto.output[0]}_{what}", values)
        label = self.pool.unique_label(f"{proto.name or before}_{what}")
        made = onnx.helper.make_node(op, [before, name], [proto.output[0]], name=label)
        proto.output[0] = before
        self._pending[scope].after.setdefault(handle.index, []).append(made)

    def become(self, handle: NodeHandle, op: str, constants: Mapping[str, Array]) -> None:
        """Another operator in place, on the first input and new constants."""
        proto, scope = handle.proto, handle.scope
        for name in proto.input[1:]:
            if name and scope.is_constant(name):
                self.pool.release(scope, name)
        del proto.input[1:]
        del proto.attribute[:]
        base = proto.name or proto.output[0]
        proto.input.extend(self.pool.new(scope, f"{base}_{what}", a) for what, a in constants.items())
        proto.op_type = op

    def rounded(self, values: Array, dtype: np.dtype[Any]) -> Array:
        """Values in the type they are to be stored in.

        Raises:
            FloatingPointError: they do not fit.
        """
        rounded, flushed = round_once(values, dtype)
        self._flushed += flushed
        return rounded


_S = TypeVar("_S", bound=Store)
_P = ParamSpec("_P")


def _store(node: Node, kind: type[_S]) -> _S:
    """How a node stores what it absorbed, which a rule of its kind says."""
    stored = stored_by(node.op, handle_of(node))
    assert isinstance(stored, kind), f"{node.label} absorbs, but its row does not say how it stores"
    return stored
