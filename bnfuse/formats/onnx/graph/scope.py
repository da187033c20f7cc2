"""Scopes of an ONNX model: the main graph, the bodies of If/Loop/Scan, the model's functions.

A body sees the names of the graphs around it; a function sees only its own. Names become values of
core's flat graph by a prefix that says where they were defined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import onnx
from msgspec import Struct, field

if TYPE_CHECKING:
    from bnfuse.formats.onnx.graph.inlined import InlinedCalls

ONNX_DOMAINS = ("", "ai.onnx")


def text_of(value: str | bytes) -> str:
    """A string of the file; protobuf hands out bytes where it is not UTF-8."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


def opset_of(holder: onnx.ModelProto | onnx.FunctionProto) -> int:
    """The version of the ai.onnx operators that a model, or a function, is written in."""
    return next((entry.version for entry in holder.opset_import if entry.domain in ONNX_DOMAINS), 1)


class Scope(Struct, eq=False):
    """One graph or function body.

    Attributes:
        body: the GraphProto or FunctionProto.
        nodes: those of the body; in a body that is edited they are elsewhere later.
        path: how to find it from the model: ("functions", i) or (node, attribute, graph) triples.
        parent: the scope around it, None for the main graph and for functions.
        opset: version of the ai.onnx operators.
        initializers: positions in the body, by name, of tensors that are constants. (A message object
            each would cost more than all the rest of a large graph.)
        overridable: initializers that a caller may override.
        defined: the core value of each name this scope defines besides ``initializers``.
        constants: outputs of nodes that compute from constants alone, with their node.
        inlined: calls of functions that its nodes stand for.
    """

    body: onnx.GraphProto | onnx.FunctionProto
    prefix: str
    path: tuple[int | str, ...]
    parent: Scope | None
    opset: int
    nodes: Sequence[onnx.NodeProto] = ()
    initializers: dict[str, int] = field(default_factory=dict)
    overridable: set[str] = field(default_factory=set)
    defined: dict[str, str] = field(default_factory=dict)
    constants: dict[str, onnx.NodeProto] = field(default_factory=dict)
    inlined: InlinedCalls = field(default_factory=dict)
    _writers: dict[str, onnx.NodeProto] = field(default_factory=dict)  # made when the first is asked for

    def define(self, names: Iterable[str]) -> None:
        """Names that are this scope's own."""
        for name in names:
            self.defined[name] = self.prefix + name

    @property
    def is_function(self) -> bool:
        """Functions have no initializers: their constants are nodes."""
        return isinstance(self.body, onnx.FunctionProto)

    def initializer(self, name: str) -> onnx.TensorProto | None:
        """The constant tensor of this scope that has this name."""
        at = self.initializers.get(name)
        if at is None:
            return None
        assert isinstance(self.body, onnx.GraphProto)
        return self.body.initializer[at]

    def owner(self, name: str) -> Scope | None:
        """The scope that defines a name seen from here."""
        scope: Scope | None = self
        while scope is not None and name not in scope.defined and name not in scope.initializers:
            scope = scope.parent
        return scope

    def defines(self, name: str) -> bool:
        """Whether the name is one of this scope's own."""
        return name in self.defined or name in self.initializers

    def writer(self, name: str) -> onnx.NodeProto | None:
        """The node of this scope that writes a value."""
        if not self._writers:
            self._writers = {output: node for node in self.nodes for output in node.output}
        return self._writers.get(name)

    def key(self, name: str) -> str:
        """The core value a name stands for here."""
        owner = self.owner(name)
        return (owner or self).prefix + name

    def is_constant(self, name: str) -> bool:
        """Whether a name is known before the model runs."""
        owner = self.owner(name)
        return owner is not None and (name in owner.initializers or name in owner.constants)


def bodies(node: onnx.NodeProto) -> Iterator[tuple[int, int, onnx.GraphProto]]:
    """(attribute index, graph index, graph) for every graph a node carries."""
    for i, attribute in enumerate(node.attribute):
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield i, 0, attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            for j, graph in enumerate(attribute.graphs):
                yield i, j, graph
