"""The edited model out of pending changes, without a second copy of the first.

The main graph is not built as a message: its nodes, constants and shapes are a list of what the
input holds and what is new, and go into the file one by one. Bodies and functions, which lie inside
messages, are rebuilt in place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import onnx
from msgspec import Struct, field

from bnfuse.core.weights.scaled import ScaledTensor
from bnfuse.formats.onnx.edit.pending import Constant, NewConstant, Pending, message
from bnfuse.formats.onnx.file.nodes import ChangedNodes
from bnfuse.formats.onnx.file.outside import WITH_BODIES
from bnfuse.formats.onnx.file.protobuf import tag, varint
from bnfuse.formats.onnx.graph.scope import bodies
from bnfuse.results.rounding import RoundedBias

_CHUNK_BYTES = 1 << 20
_GRAPH, _NODE, _INITIALIZER, _VALUE_INFO = tag(7, 2), tag(1, 2), tag(5, 2), tag(13, 2)


class EditedNodes(Struct, eq=False):
    """The main graph's nodes as they will be: gone through again and again, they need not all be there."""

    nodes: Iterable[onnx.NodeProto]
    _own: dict[int, onnx.NodeProto] = field(default_factory=dict)

    def __iter__(self) -> Iterator[onnx.NodeProto]:
        if not self._own:
            return iter(self.nodes)
        return (self._own.get(at, node) for at, node in enumerate(self.nodes))

    def own(self, at: int, node: onnx.NodeProto) -> onnx.NodeProto:
        """A copy of the node at a position, in its place from now on."""
        copy = self._own[at] = onnx.NodeProto()
        copy.CopyFrom(node)
        return copy


class EditedModel(Struct, eq=False):
    """A model whose main graph is in parts.

    Attributes:
        frame: all but the main graph's nodes, initializers and value_info.
        payloads: what its tensors point to, by number.
        flushed: subnormals flushed so far.
        rounded: biases that were rounded to whole steps.
        name_of: what stands for a value of the main graph now, where two have become one tensor.
        made: new nodes of the main graph, by the position of the node that they follow.
    """

    frame: onnx.ModelProto
    nodes: EditedNodes
    constants: list[Constant]
    value_info: list[onnx.ValueInfoProto]
    payloads: dict[int, ScaledTensor] = field(default_factory=dict)
    flushed: int = 0
    rounded: tuple[RoundedBias, ...] = ()
    name_of: Callable[[str], str] = str
    made: Mapping[int, list[onnx.NodeProto]] = field(default_factory=dict)

    def operators(self) -> Counter[str]:
        """How many nodes of every type there are, over all scopes."""
        count: Counter[str] = Counter()
        pending: list[Any] = [self.nodes, *(function.node for function in self.frame.functions)]
        while pending:
            nodes = pending.pop()
            kinds = Counter(node.op_type for node in nodes)
            count += kinds
            if not WITH_BODIES.isdisjoint(kinds):
                holders = (node for node in nodes if node.op_type in WITH_BODIES)
                pending += [graph.node for node in holders for _, _, graph in bodies(node)]
        return count

    def outside(self) -> Iterator[onnx.TensorProto]:
        """Every tensor whose bytes are not in the model, in the order of writing; may be changed."""
        for at, node in enumerate(self.nodes):
            if node.op_type in _HOLDS_TENSORS and any(True for _ in _outside_node(node)):
                yield from _outside_node(self.nodes.own(at, node))
        for at, constant in enumerate(self.constants):
            if isinstance(constant, onnx.TensorProto) and _is_outside(constant):
                mine = self.constants[at] = onnx.TensorProto()
                mine.CopyFrom(constant)
                yield mine
        for function in self.frame.functions:
            for node in function.node:
                yield from _outside_node(node)

    def chunks(self) -> Iterator[bytes]:
        """The serialized ModelProto piece by piece; tensors that are outside still point to payloads."""
        rest = onnx.ModelProto()
        _copy_fields(self.frame, rest, {"graph"})
        frame = self.frame.graph.SerializeToString(deterministic=True)
        length = len(frame) + sum(1 + max(1, -(-n.bit_length() // 7)) + n for n in self._sizes())
        out = bytearray(rest.SerializeToString(deterministic=True) + _GRAPH + varint(length) + frame)
        for head, body in self._fields():
            out += head
            out += varint(len(body))
            out += body
            if len(out) > _CHUNK_BYTES:
                yield bytes(out)
                out.clear()
        yield bytes(out)

    def serialized(self) -> bytes:
        """All of ``chunks``."""
        return b"".join(self.chunks())

    def _sizes(self) -> Iterator[int]:
        yield from (node.ByteSize() for node in self.nodes)
        yield from (len(c.stored) if isinstance(c, NewConstant) else c.ByteSize() for c in self.constants)
        yield from (info.ByteSize() for info in self.value_info)

    # ONNX has no map fields, whose order alone would not be deterministic.
    def _fields(self) -> Iterator[tuple[bytes, bytes]]:
        for node in self.nodes:
            yield _NODE, node.SerializeToString()
        for constant in self.constants:
            stored = constant.stored if isinstance(constant, NewConstant) else constant.SerializeToString()
            yield _INITIALIZER, stored
        for info in self.value_info:
            yield _VALUE_INFO, info.SerializeToString(deterministic=True)


_HOLDS_TENSORS = {"Constant", *WITH_BODIES}


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def _outside_node(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    if node.op_type == "Constant":
        yield from (a.t for a in node.attribute if _is_outside(a.t))
    elif node.op_type in _HOLDS_TENSORS:
        for _, _, inner in bodies(node):
            for each in inner.node:
                yield from _outside_node(each)
            yield from filter(_is_outside, inner.initializer)


def assemble(proto: onnx.ModelProto, pending: list[Pending], constants: Collection[str]) -> EditedModel:
    """The edited model.

    Args:
        proto: what the pending changes belong to; bodies and functions in it are changed.
        pending: changes by scope, the main graph's first, outer scopes before inner ones.
        constants: names of the main graph's initializers that are constants.
    """
    for inner in reversed(pending[1:]):  # inner ones first
        _rebuild(inner)
    main = pending[0]
    frame = onnx.ModelProto()
    _copy_fields(proto, frame, {"graph"})
    _copy_fields(proto.graph, frame.graph, {"node", "initializer", "value_info"})
    nodes = main if isinstance(main.scope.nodes, ChangedNodes) else list(main)
    edited = EditedModel(frame, EditedNodes(nodes), list(main.constants()), [])
    edited.value_info = _still_written(main, edited.nodes, proto.graph.value_info)
    _settle_inputs(frame, main, constants)
    if frame.ir_version < 4:
        _list_captured(frame, edited)
    _filter(frame.graph.sparse_initializer, lambda t: not main.is_gone(t.values.name))
    return edited


def _rebuild(pending: Pending) -> None:
    """Make the changes to a body or function where it lies."""
    body = pending.body
    kept, constants = list(pending), list(pending.constants())
    del body.node[:]
    body.node.extend(kept)  # a removed message lives as long as somebody holds it
    if isinstance(body, onnx.GraphProto):
        del body.initializer[:]
        body.initializer.extend(map(message, constants))
        _filter(body.input, lambda v: not pending.is_gone(v.name))
        _filter(body.sparse_initializer, lambda t: not pending.is_gone(t.values.name))
        left = _still_written(pending, kept, body.value_info)
        _filter(body.value_info, lambda v, left={v.name for v in left}: v.name in left)  # type: ignore[misc]


def _still_written(
    pending: Pending, nodes: Iterable[onnx.NodeProto], infos: Any
) -> list[onnx.ValueInfoProto]:
    """The shapes of values that still exist."""
    if not infos or not (pending.dead or pending.after or pending.replaced):
        return list(infos)
    written = {o for node in nodes for o in node.output}
    if isinstance(pending.body, onnx.GraphProto):  # an input may have its type here alone
        written |= {v.name for v in pending.body.input if not pending.is_gone(v.name)}
    known = pending.scope.defines
    kept = [v for v in infos if v.name in written or not known(v.name)]
    return [v for v in kept if v.name not in pending.reshaped]


def _settle_inputs(frame: onnx.ModelProto, main: Pending, constants: Collection[str]) -> None:
    """Constants that leave or are treated as such leave the inputs; before IR 4 new ones join them."""
    frozen = frame.ir_version >= 4
    _filter(frame.graph.input, lambda v: not main.is_gone(v.name) and not (frozen and v.name in constants))
    if frame.ir_version < 4:
        replaced = {name: _declared(new) for name, new in main.replaced.items()}
        for info in frame.graph.input:
            if info.name in replaced:  # one number may have become one per channel
                info.type.CopyFrom(replaced[info.name].type)
        frame.graph.input.extend(map(_declared, main.added))


def _list_captured(frame: onnx.ModelProto, edited: EditedModel) -> None:
    """Before IR 4, constants that only bodies read must be among the inputs: runtimes miss them otherwise."""
    seen = {v.name for v in frame.graph.input}.union(*(node.input for node in edited.nodes))
    frame.graph.input.extend(_declared(c) for c in edited.constants if message(c).name not in seen)


def _declared(constant: Constant) -> onnx.ValueInfoProto:
    tensor = message(constant)
    return onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))


def _filter(field_: Any, keep: Callable[[Any], bool]) -> None:
    kept = [v for v in field_ if keep(v)]
    if len(kept) != len(field_):
        del field_[:]
        field_.extend(kept)


def _copy_fields(source: Any, target: Any, left_out: set[str]) -> None:
    """Copy a message without some of its fields."""
    for described, value in source.ListFields():
        if described.name in left_out:
            continue
        field_ = getattr(target, described.name)
        if isinstance(value, bytes) and described.type == described.TYPE_STRING:
            # A description that is no text: protobuf hands it out, and takes it only in this form.
            target.MergeFromString(tag(described.number, 2) + varint(len(value)) + value)
        elif isinstance(value, (str, bytes, int)):
            setattr(target, described.name, value)
        elif hasattr(value, "CopyFrom"):
            field_.CopyFrom(value)
        else:
            field_.extend(value)
