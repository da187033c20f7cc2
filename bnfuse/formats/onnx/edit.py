"""A patch applied to (a copy of) the ModelProto: nodes go, names live on, constants are replaced.

Knows nothing of folding. A constant that others use too is copied before it is changed; one that
nobody uses any more leaves, with its entry among the inputs. Inputs, outputs, names, opset, IR
version, metadata, attributes, functions and all that is not named in the patch stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from bnfuse.core.affine import Vector
from bnfuse.core.apply import NewAffine, NewLinear, NewSource, OverflowingFold, Patch
from bnfuse.core.graph import Graph, Node
from bnfuse.core.linear import ScaledTensor, round_once
from bnfuse.core.ops import Linear
from bnfuse.core.tensor import Array, Tensor, as_float64, size
from bnfuse.formats.onnx.affine_ops import DEFAULT_EPSILON
from bnfuse.formats.onnx.constants import Constants
from bnfuse.formats.onnx.read import Source
from bnfuse.formats.onnx.scope import Scope, locate
from bnfuse.formats.onnx.view import Handle
from bnfuse.formats.onnx.wire import LARGE_BYTES, location

Payload = Tensor | ScaledTensor


@dataclass(eq=False)
class Edited:
    """The edited proto, the payloads its tensors point to, and subnormals flushed so far."""

    proto: onnx.ModelProto
    payloads: dict[int, ScaledTensor]
    flushed: int


@dataclass(eq=False)
class _Body:
    """Pending changes to one scope.

    ``body`` is read, ``target`` is where the result goes. Where they are one, nodes are changed in
    place; else a node is copied before it is changed (``changed``), and nothing else twice.
    """

    scope: Scope
    body: onnx.GraphProto | onnx.FunctionProto
    target: onnx.GraphProto | onnx.FunctionProto
    changed: dict[int, onnx.NodeProto] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)  # node positions
    after: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)  # new nodes by position
    gone: set[str] = field(default_factory=set)  # initializer names
    added: list[onnx.TensorProto] = field(default_factory=list)
    fresh: list[onnx.NodeProto] = field(default_factory=list)  # new Constant nodes (functions)
    replaced: dict[str, onnx.TensorProto] = field(default_factory=dict)


class Editor:
    """Applies one patch."""

    def __init__(
        self, source: Source, graph: Graph, constants: Constants, rank_of: Callable[[str], int | None]
    ) -> None:
        self._source = source
        self._graph = graph
        self._constants = constants
        self._rank_of = rank_of
        if len(source.scopes) == 1:
            self._proto = _frame(source.proto)
            self._bodies = {s: _Body(s, s.body, self._proto.graph) for s in source.scopes}
        else:  # bodies lie inside nodes: one whole copy keeps all paths valid
            self._proto = onnx.ModelProto()
            self._proto.CopyFrom(source.proto)
            found = {s: locate(self._proto, s.path) for s in source.scopes}
            self._bodies = {s: _Body(s, body, body) for s, body in found.items()}
        # Messages of their own cost a memory arena each; thousands of them live in this one.
        self._scratch = onnx.GraphProto()
        self._uses: Counter[str] = Counter(source.uses)
        self._payloads: dict[int, ScaledTensor] = {}
        self._flushed = 0
        self._names: set[str] | None = None
        self._positions: dict[Scope, dict[str, int]] = {}

    def run(self, patch: Patch) -> Edited:
        """Edit and hand over.

        Raises:
            OverflowingFold: a new small constant does not fit its type.
        """
        for node, linear in patch.linears.items():
            self._linear(node, linear)
        for node, affine in patch.affines.items():
            self._affine(node, affine)
        for node, constant in patch.sources.items():
            self._operand(node, constant)
        for node in sorted(patch.removed, key=lambda n: _handle(n).index):
            self._drop_parameters(node)
        self._alias(patch)
        listed = self._frozen_inputs()
        for body in reversed(self._bodies.values()):  # inner ones first: outer ones copy them
            self._rebuild(body)
        self._drop_inputs(listed)
        return Edited(self._proto, self._payloads, self._flushed)

    # --- what nodes take on

    def _linear(self, node: Node, new: NewLinear) -> None:
        handle = _handle(node)
        proto = self._node(handle)
        weight_at = 0 if new.rule.in_port == 1 else 1
        if new.weight is not None:
            self._replace_large(handle, weight_at, new.weight)
        if handle.proto.op_type == "Gemm":
            _set_to_one(proto, ("alpha", "beta"))
        if new.makes_bias:
            with _Blaming(new.folded):
                bias, flushed = round_once(new.bias(), new.rule.weight.dtype)
            self._flushed += flushed
            self._bias(node, handle, new.rule, bias)

    def _bias(self, node: Node, handle: Handle, rule: Linear, bias: Array) -> None:
        proto = self._node(handle)
        kind = handle.proto.op_type
        if handle.bias_index is not None:
            add = Handle(handle.scope, handle.bias_index, handle.scope.body.node[handle.bias_index])
            at = next(i for i, n in enumerate(add.proto.input) if handle.scope.is_constant(n))
            self._replace(add, at, bias)
        elif kind == "MatMul" and rule.bias_nodes == 0:
            proto.op_type = "Gemm"
            self._append_input(handle, 2, bias)
        elif kind == "MatMul":
            self._add_after(handle, bias.reshape(-1, 1) if rule.in_port == 1 else bias)
        elif rule.bias is not None:
            old = rule.bias.shape
            keeps = size(rule.bias) == bias.size
            self._replace(handle, 2, bias.reshape(old) if keeps else bias)
        else:
            self._append_input(handle, 2, bias)

    def _add_after(self, handle: Handle, bias: Array) -> None:
        """A bias as a node of its own; the product gets a new name, the sum the old one."""
        proto = self._node(handle)
        scope = handle.scope
        product = self._unique(f"{proto.output[0]}_product")
        name = self._new_constant(scope, f"{proto.output[0]}_bias", bias)
        add = onnx.helper.make_node(
            "Add", [product, name], [proto.output[0]], name=self._unique(f"{proto.name or product}_bias")
        )
        proto.output[0] = product
        self._bodies[scope].after.setdefault(handle.index, []).append(add)

    def _affine(self, node: Node, new: NewAffine) -> None:
        handle = _handle(node)
        with _Blaming(new.folded):
            match handle.proto.op_type:
                case "BatchNormalization":
                    self._batchnorm(handle, new)
                case "Mul" | "Div" | "Add" | "Sub":
                    self._arithmetic(handle, new)
                case _:
                    self._round_into(handle, 1, new.a)
                    if len(handle.proto.input) > 2:
                        self._round_into(handle, 2, new.c)
                    elif new.c.any():
                        scale = self._constants.get(handle.scope, handle.proto.input[1])
                        assert scale is not None
                        bias, flushed = round_once(new.c, scale.dtype)
                        self._flushed += flushed
                        self._append_input(handle, 2, bias)

    def _batchnorm(self, handle: Handle, new: NewAffine) -> None:
        """γ' = a'·√(σ² + ε), β' = c' + μ·a'; statistics stay as they are."""
        given = (a.f for a in handle.proto.attribute if a.name == "epsilon")
        epsilon = next(given, DEFAULT_EPSILON)
        mean, variance = (self._float64(handle, i) for i in (3, 4))
        self._round_into(handle, 1, new.a.reshape(-1) * np.sqrt(variance.reshape(-1) + epsilon))
        self._round_into(handle, 2, new.c.reshape(-1) + mean.reshape(-1) * new.a.reshape(-1))

    def _arithmetic(self, handle: Handle, new: NewAffine) -> None:
        kind, at = handle.proto.op_type, 1 - new.rule.in_port
        values: Vector = new.a if kind == "Mul" else new.c
        if kind == "Div":
            values = 1.0 / new.a
        elif kind == "Sub" and at == 1:
            values = -new.c
        old = self._constants.get(handle.scope, handle.proto.input[at])
        assert old is not None
        shape = old.shape
        if values.size != size(old):
            rank = self._rank(handle, new)
            shape = (values.size,) + (1,) * (rank - 1 - new.axes[0] if new.axes[0] >= 0 else -1 - new.axes[0])
        self._round_into(handle, at, values.reshape(shape))

    def _rank(self, handle: Handle, new: NewAffine) -> int:
        rank = self._rank_of(handle.scope.key(handle.proto.input[new.rule.in_port]))
        if rank is None:
            raise OverflowingFold(new.folded)  # cannot be stored: keep what was folded into it
        return rank

    def _operand(self, node: Node, new: NewSource) -> None:
        handle = _handle(node)
        assert handle.operand is not None
        with _Blaming(new.folded):
            values, flushed = round_once(new.values, np.dtype(new.dtype))
        self._flushed += flushed
        self._replace(handle, handle.operand, values)

    def _round_into(self, handle: Handle, at: int, values: Vector) -> None:
        """New values for a small constant, in the type it is stored in."""
        old = self._constants.get(handle.scope, handle.proto.input[at])
        assert old is not None
        shape = old.shape if size(old) == values.size else values.shape
        rounded, flushed = round_once(values.reshape(shape), old.dtype)
        self._flushed += flushed
        self._replace(handle, at, rounded)

    def _float64(self, handle: Handle, at: int) -> Vector:
        tensor = self._constants.get(handle.scope, handle.proto.input[at])
        assert tensor is not None
        return as_float64(tensor)

    # --- constants

    def _replace(self, handle: Handle, at: int, values: Array) -> None:
        self._put(handle, at, self._tensor(values))

    def _replace_large(self, handle: Handle, at: int, new: ScaledTensor) -> None:
        """A weight as a stream; small ones are worked out at once."""
        count = size(new.base)
        data_type = onnx.helper.np_dtype_to_tensor_dtype(new.dtype)
        proto = self._scratch.initializer.add(data_type=data_type, dims=list(new.shape))
        if count * new.dtype.itemsize < LARGE_BYTES:
            with _Blaming(new.folded):
                for _, block, flushed in new.blocks():
                    proto.raw_data += block.tobytes()
                    self._flushed += flushed
        else:
            number = len(self._source.files.slices) + len(self._payloads)
            self._payloads[number] = new
            proto.data_location = onnx.TensorProto.EXTERNAL
            proto.external_data.add(key="location", value=location(number))
        self._put(handle, at, proto)

    def _put(self, handle: Handle, at: int, tensor: onnx.TensorProto) -> None:
        """Make input ``at`` of a node this tensor: in place if nobody else uses the old one."""
        scope = handle.scope
        proto = self._node(handle)
        old = proto.input[at]
        owner = scope.owner(old)
        if owner is not None and old in owner.initializers and self._uses[owner.prefix + old] == 1:
            tensor.name = old
            tensor.doc_string = owner.initializers[old].doc_string
            self._bodies[owner].replaced[old] = tensor
            return
        proto.input[at] = self._store(scope, self._unique(f"{old}_folded"), tensor)
        self._release(scope, old)

    def _append_input(self, handle: Handle, at: int, values: Array) -> None:
        proto = self._node(handle)
        while len(proto.input) <= at:
            proto.input.append("")
        base = proto.name or proto.output[0]
        proto.input[at] = self._new_constant(handle.scope, f"{base}_bias", values)

    def _tensor(self, values: Array) -> onnx.TensorProto:
        """A small constant, still without a name."""
        return self._scratch.initializer.add(
            data_type=onnx.helper.np_dtype_to_tensor_dtype(values.dtype),
            dims=list(values.shape),
            raw_data=np.ascontiguousarray(values).tobytes(),
        )

    def _new_constant(self, scope: Scope, wanted: str, values: Array) -> str:
        return self._store(scope, self._unique(wanted), self._tensor(values))

    def _store(self, scope: Scope, name: str, tensor: onnx.TensorProto) -> str:
        """An initializer; in a function, which has none, a Constant node."""
        tensor.name = name
        body = self._bodies[scope]
        if scope.is_function:
            body.fresh.append(onnx.helper.make_node("Constant", [], [name], value=tensor))
        else:
            body.added.append(tensor)
        return name

    def _release(self, scope: Scope, name: str) -> None:
        """One reader less; a constant without readers leaves, and what it was made of."""
        pending = [(scope, name)]
        while pending:
            at, current = pending.pop()
            owner = at.owner(current)
            if owner is None:
                continue
            key = owner.prefix + current
            self._uses[key] -= 1
            if self._uses[key] > 0:
                continue
            body = self._bodies[owner]
            if current in owner.initializers:
                body.gone.add(current)
            elif current in owner.constants:
                node = owner.constants[current]
                if any(self._uses[owner.prefix + o] > 0 for o in node.output):
                    continue
                body.dead.add(self._position(owner, current))
                pending += [(owner, i) for i in node.input if i]

    def _position(self, scope: Scope, output: str) -> int:
        if scope not in self._positions:
            self._positions[scope] = {o: i for i, n in enumerate(scope.body.node) for o in n.output}
        return self._positions[scope][output]

    # --- nodes that go

    def _drop_parameters(self, node: Node) -> None:
        """A removed node's own constants lose a reader."""
        handle = _handle(node)
        self._bodies[handle.scope].dead.add(handle.index)
        for name in handle.proto.input:
            if name and handle.scope.is_constant(name):
                self._release(handle.scope, name)

    def _alias(self, patch: Patch) -> None:
        """Each removed node's x and y become one name: the pinned one of the two, else x's."""
        survivor: dict[str, str] = {}

        def find(value: str) -> str:
            while value in survivor:
                value = survivor[value]
            return value

        for node in self._graph.nodes:
            if node not in patch.removed:
                continue
            handle = _handle(node)
            rule = self._graph.rule(node)
            x, y = find(node.value(getattr(rule, "in_port", 0))), node.outputs[0]
            if y not in self._graph.pinned:
                survivor[y] = x
            elif x not in self._graph.pinned and self._same_scope(x, handle):
                survivor[x] = y
            else:
                self._keep_as_identity(handle, x)
        self._rename(survivor, find)

    def _same_scope(self, value: str, handle: Handle) -> bool:
        """Whether a value is written in the node's own scope (and so can be renamed there)."""
        writer = self._graph.writer(value)
        return writer is not None and _handle(writer).scope is handle.scope

    def _keep_as_identity(self, handle: Handle, x: str) -> None:
        """Both names must live on: an Identity joins them."""
        proto = self._node(handle)
        inner = x[len(handle.scope.prefix) :] if x.startswith(handle.scope.prefix) else x
        name, output = proto.name, proto.output[0]
        proto.Clear()
        proto.CopyFrom(onnx.helper.make_node("Identity", [inner], [output], name=name))
        self._bodies[handle.scope].dead.discard(handle.index)

    def _rename(self, survivor: dict[str, str], find: Callable[[str], str]) -> None:
        for value in survivor:
            final = find(value)
            for node, port in self._graph.adjacent(value):
                handle = _handle(node)
                if handle.operand is not None:
                    continue
                proto = self._node(handle)
                name = self._local(handle.scope, final)
                if port >= 0:
                    proto.input[port] = name
                elif handle.index not in self._bodies[handle.scope].dead:
                    self._set_output(handle, ~port, name)

    def _set_output(self, handle: Handle, j: int, name: str) -> None:
        """The written name: of the bias's Add where there is one, of a new Add where one was made."""
        added = self._bodies[handle.scope].after.get(handle.index)
        if added:
            added[-1].output[0] = name
        elif handle.bias_index is not None:
            self._at(handle.scope, handle.bias_index).output[0] = name
        else:
            self._node(handle).output[j] = name

    def _local(self, scope: Scope, value: str) -> str:
        at: Scope | None = scope
        while at is not None:
            if value.startswith(at.prefix) and value[len(at.prefix) :] in at.defined:
                return value[len(at.prefix) :]
            at = at.parent
        raise AssertionError(f"{value} is not seen from its reader")

    # --- putting it together

    def _node(self, handle: Handle) -> onnx.NodeProto:
        return self._at(handle.scope, handle.index)

    def _at(self, scope: Scope, index: int) -> onnx.NodeProto:
        """A node that may be changed."""
        body = self._bodies[scope]
        if body.target is body.body:
            return body.body.node[index]
        node = body.changed.get(index)
        if node is None:
            node = body.changed[index] = self._scratch.node.add()
            node.CopyFrom(body.body.node[index])
        return node

    def _unique(self, wanted: str) -> str:
        if self._names is None:
            self._names = set()
            for scope in self._source.scopes:
                self._names |= scope.defined | {n.name for n in scope.body.node}
        name, n = wanted, 1
        while name in self._names:
            n += 1
            name = f"{wanted}_{n}"
        self._names.add(name)
        return name

    def _rebuild(self, body: _Body) -> None:
        kept: list[onnx.NodeProto] = list(body.fresh)
        for i, node in enumerate(body.body.node):
            if i not in body.dead:
                kept.append(body.changed.get(i, node))
            kept += body.after.get(i, [])
        del body.target.node[:]
        body.target.node.extend(kept)  # a removed message lives as long as somebody holds it
        if isinstance(body.target, onnx.GraphProto) and isinstance(body.body, onnx.GraphProto):
            self._rebuild_constants(body, body.body, body.target)

    def _rebuild_constants(self, body: _Body, old: onnx.GraphProto, graph: onnx.GraphProto) -> None:
        kept = [body.replaced.get(t.name, t) for t in old.initializer if t.name not in body.gone]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *body.added])
        self._filter(graph.input, lambda v: v.name not in body.gone)
        if body.added and self._proto.ir_version < 4 and not body.scope.path:
            for tensor in body.added:  # before IR 4 every initializer must be an input
                info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                graph.input.append(info)
        written = {o for n in graph.node for o in n.output}
        known = body.scope.defined
        if not (body.dead or body.after):
            return
        self._filter(graph.value_info, lambda v: v.name in written or v.name not in known)

    def _frozen_inputs(self) -> set[str]:
        """Initializers that IR >= 4 lists as inputs and that were treated as constants."""
        graph = self._proto.graph
        if self._proto.ir_version < 4:
            return set()
        return {v.name for v in graph.input} & self._source.scopes[0].initializers.keys()

    def _drop_inputs(self, names: set[str]) -> None:
        if names:
            self._filter(self._proto.graph.input, lambda v: v.name not in names)

    @staticmethod
    def _filter(field_: Any, keep: Callable[[onnx.ValueInfoProto], bool]) -> None:
        kept = [v for v in field_ if keep(v)]
        if len(kept) != len(field_):
            del field_[:]
            field_.extend(kept)


def _frame(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without the main graph's nodes and initializers."""
    made = onnx.ModelProto()
    for owner, copy, left_out in (
        (proto, made, ("graph",)),
        (proto.graph, made.graph, ("node", "initializer")),
    ):
        for described, value in owner.ListFields():
            if described.name in left_out:
                continue
            field_ = getattr(copy, described.name)
            if isinstance(value, (str, bytes, int)):
                setattr(copy, described.name, value)
            elif hasattr(value, "CopyFrom"):
                field_.CopyFrom(value)
            else:
                field_.extend(value)
    return made


def _handle(node: Node) -> Handle:
    handle = node.handle
    assert isinstance(handle, Handle)
    return handle


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
