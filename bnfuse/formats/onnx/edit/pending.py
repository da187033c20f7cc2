"""Pending changes to the constants and nodes of one model: what is replaced, made, and goes.

A constant that others use too is copied before it is changed; one that nobody uses any more leaves.
New names never collide. Nodes are changed where they lie, so a parsed file can be edited once; new
constants are kept as arrays, and serialized when they are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from msgspec import Struct, field

from bnfuse.core.weights.tensor import Array
from bnfuse.formats.onnx.file.element_types import onnx_type
from bnfuse.formats.onnx.graph.scope import Scope
from bnfuse.formats.onnx.rows.view import NodeHandle

if TYPE_CHECKING:
    from bnfuse.formats.onnx.graph.inlined import InlinedCall

_PACKED = ("int2", "uint2", "int4", "uint4")  # several in a byte
_GONE = -1  # in place of the number of readers


class NewConstant(Struct, eq=False):
    """A small constant that is to come: a message object of each would cost a multiple."""

    name: str
    values: Array
    doc: str = ""
    _stored: bytes = b""

    @property
    def stored(self) -> bytes:
        """As a TensorProto in a file."""
        if not self._stored:
            self._stored = _serialized(self.name, self.values, self.doc)
        return self._stored


# One that is small and new; any other is a message, which points to a payload where it is large and new.
Constant = NewConstant | onnx.TensorProto


class Pending(Struct, eq=False):
    """Changes to one scope that are still to be made."""

    scope: Scope
    uses: dict[str, int]  # of all scopes
    dead: set[int] = field(default_factory=set)  # node positions
    after: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)  # new nodes by position
    added: list[Constant] = field(default_factory=list)
    fresh: list[onnx.NodeProto] = field(default_factory=list)  # new Constant nodes (functions)
    replaced: dict[str, Constant] = field(default_factory=dict)
    reshaped: frozenset[str] = frozenset()  # values whose shapes are not those that the file says

    @property
    def body(self) -> onnx.GraphProto | onnx.FunctionProto:
        """What is being changed."""
        return self.scope.body

    def is_gone(self, name: str) -> bool:
        """Whether a constant has lost its last reader."""
        return self.uses.get(self.scope.prefix + name) == _GONE

    def __iter__(self) -> Iterator[onnx.NodeProto]:
        """The nodes as they will be, in order; in place of a function's that did not change, its call."""
        yield from self.fresh
        if not self.scope.inlined and not self.after:
            dead = self.dead
            yield from (node for at, node in enumerate(self.scope.nodes) if at not in dead)
            return
        stop = 0
        for i, node in enumerate(self.scope.nodes):
            call = self._intact(i) if i >= stop and i in self.scope.inlined else None
            if call is not None:
                yield call.node
                stop = call.stop
            if i < stop:
                continue
            if i not in self.dead:
                yield node
            yield from self.after.get(i, ())

    def _intact(self, start: int) -> InlinedCall | None:
        """The outermost call that begins here and whose nodes are what they were."""
        for call in self.scope.inlined[start]:
            places = range(start, call.stop)
            touched = not self.dead.isdisjoint(places) or not self.after.keys().isdisjoint(places)
            if not touched and call.stands(self.scope.nodes[start : call.stop]):
                return call
        return None

    def constants(self) -> Iterable[Constant]:
        """The initializers as they will be: the old ones in their places, then the new ones."""
        if isinstance(self.body, onnx.GraphProto):
            for tensor in self.body.initializer:
                name = tensor.name
                if not self.is_gone(name):
                    yield self.replaced.get(name, tensor)
        yield from self.added


class Pool:
    """All scopes' pending changes, over the readers of every constant."""

    def __init__(self, pending: dict[Scope, Pending], uses: dict[str, int], ir_version: int) -> None:
        self._pending = pending
        self._uses = uses
        self._lists_constants = ir_version < 4  # among the inputs, which an If's bodies do not have
        self._made: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._labelled = False
        self._positions: dict[Scope, dict[str, int]] = {}

    def of(self, scope: Scope) -> Pending:
        """The changes to a scope."""
        return self._pending[scope]

    def unique(self, wanted: str) -> str:
        """A name that no value of the model has."""
        n = self._numbers.get(wanted, 0)  # that it had last: thousands of nodes may share one weight
        while True:
            n += 1
            name = wanted if n == 1 else f"{wanted}_{n}"
            if name not in self._made and not any(scope.defines(name) for scope in self._pending):
                break
        self._numbers[wanted] = n
        self._made.add(name)
        return name

    def unique_label(self, wanted: str) -> str:
        """A name for a new node."""
        if not self._labelled:
            self._labelled = True
            self._made.update(n.name for scope in self._pending for n in scope.nodes)
        return self.unique(wanted)

    def replace(self, handle: NodeHandle, at: int, values: Array) -> None:
        """Make input ``at`` of a node these values: in place if nobody else uses the old ones."""
        owner, name, doc = self._place(handle, at)
        self._put(handle, at, owner, name, NewConstant(name, values, doc))

    def replace_large(self, handle: NodeHandle, at: int, tensor: onnx.TensorProto) -> None:
        """The same for a tensor that points to a payload."""
        owner, tensor.name, doc = self._place(handle, at)
        if isinstance(doc, str):
            tensor.doc_string = doc
        self._put(handle, at, owner, tensor.name, tensor)

    def append_input(self, handle: NodeHandle, at: int, values: Array, wanted: str) -> None:
        """Give a node an input it did not have."""
        proto = handle.proto
        while len(proto.input) <= at:
            proto.input.append("")
        proto.input[at] = self.new(handle.scope, wanted, values)

    def new(self, scope: Scope, wanted: str, values: Array) -> str:
        """A new small constant; its name."""
        name = self.unique(wanted)
        self._store(scope, name, NewConstant(name, values))
        return name

    def shared(self, scope: Scope, name: str) -> str:
        """A constant that has one reader more from now on; its name."""
        owner = scope.owner(name)
        assert owner is not None
        self._uses[owner.prefix + name] += 1
        return name

    def before(self, handle: NodeHandle, made: onnx.NodeProto) -> None:
        """A new node right in front of another."""
        pending = self._pending[handle.scope]
        place = pending.after.setdefault(handle.index - 1, []) if handle.index else pending.fresh
        place.append(made)

    def _place(self, handle: NodeHandle, at: int) -> tuple[Scope | None, str, str]:
        """Whose initializer input ``at`` is, if only this node uses it; the name and text to store."""
        old = handle.proto.input[at]
        owner = handle.scope.owner(old)
        if owner is not None and old in owner.initializers and self._uses[owner.prefix + old] == 1:
            stored = owner.initializer(old)
            assert stored is not None
            return owner, old, stored.doc_string
        return None, self.unique(f"{old}_folded"), ""

    def _put(self, handle: NodeHandle, at: int, owner: Scope | None, name: str, tensor: Constant) -> None:
        if handle.index in self._pending[handle.scope].dead:  # nobody reads what it computed
            return
        if owner is not None:
            self._pending[owner].replaced[name] = tensor
            return
        old = handle.proto.input[at]
        self._store(handle.scope, name, tensor)
        handle.proto.input[at] = name
        self.release(handle.scope, old)

    def _store(self, scope: Scope, name: str, tensor: Constant) -> None:
        """An initializer; in a function, which has none, and in an old file's bodies a Constant node."""
        pending = self._pending[scope]
        if scope.is_function or (self._lists_constants and scope.parent is not None):
            pending.fresh.append(onnx.helper.make_node("Constant", [], [name], value=message(tensor)))
        else:
            pending.added.append(tensor)

    def drop(self, handle: NodeHandle) -> None:
        """Remove a node; its own constants lose a reader."""
        scope = handle.scope
        pending = self._pending[scope]
        pending.dead.add(handle.index)
        for name in handle.proto.input[:]:
            if name in scope.initializers and self._uses[scope.prefix + name] == 1:
                self._uses[scope.prefix + name] = _GONE
            elif name and scope.is_constant(name):
                self.release(scope, name)

    def release(self, scope: Scope, name: str) -> None:
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
            if current in owner.initializers:
                self._uses[key] = _GONE
            elif current in owner.constants:
                node = owner.constants[current]
                if any(self._uses.get(owner.prefix + o, 0) > 0 for o in node.output):
                    continue
                at_node = self._position(owner, current)
                if at_node is None:  # a sparse initializer
                    self._uses[key] = _GONE
                else:
                    self._pending[owner].dead.add(at_node)
                pending += [(owner, i) for i in node.input if i]

    def _position(self, scope: Scope, output: str) -> int | None:
        if scope not in self._positions:
            self._positions[scope] = {o: i for i, n in enumerate(scope.nodes) for o in n.output}
        return self._positions[scope].get(output)


@cache
def _stored_as(dtype: np.dtype[Any]) -> tuple[int, bool]:
    """A type's number in a file, and whether several elements share a byte there."""
    return onnx_type(dtype), dtype.name in _PACKED


def _serialized(name: str, values: Array, doc: str) -> bytes:
    kind, packs = _stored_as(values.dtype)
    if packs:
        packed = onnx.numpy_helper.from_array(values, name)
        return bytes(packed.SerializeToString(deterministic=True))
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=values.shape)
    if doc and isinstance(doc, str):  # protobuf hands out bytes where it is no text, and takes none
        tensor.doc_string = doc
    tensor.raw_data = np.ascontiguousarray(values).tobytes()
    return tensor.SerializeToString(deterministic=True)


def message(constant: Constant) -> onnx.TensorProto:
    """A constant as a message."""
    if isinstance(constant, NewConstant):
        return onnx.TensorProto.FromString(constant.stored)
    return constant
