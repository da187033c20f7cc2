"""Scopes of an ONNX model: the main graph, the bodies of If/Loop/Scan, the model's functions.

A body sees the names of the graphs around it; a function sees only its own. Names become values of
core's flat graph by a prefix that says where they were defined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx

ONNX_DOMAINS = ("", "ai.onnx")


@dataclass(eq=False)
class Scope:
    """One graph or function body.

    Attributes:
        body: the GraphProto or FunctionProto.
        path: how to find it from the model: ("functions", i) or (node, attribute, graph) triples.
        parent: the scope around it, None for the main graph and for functions.
        opset: version of the ai.onnx operators.
        initializers: tensors by name that are constants.
        overridable: initializers that a caller may override.
        defined: all names this scope defines, initializers included.
        constants: outputs of nodes that compute from constants alone, with their node.
    """

    body: onnx.GraphProto | onnx.FunctionProto
    prefix: str
    path: tuple[int | str, ...]
    parent: Scope | None
    opset: int
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    overridable: set[str] = field(default_factory=set)
    defined: set[str] = field(default_factory=set)
    constants: dict[str, onnx.NodeProto] = field(default_factory=dict)

    @property
    def is_function(self) -> bool:
        """Functions have no initializers: their constants are nodes."""
        return isinstance(self.body, onnx.FunctionProto)

    def owner(self, name: str) -> Scope | None:
        """The scope that defines a name seen from here."""
        scope: Scope | None = self
        while scope is not None and name not in scope.defined:
            scope = scope.parent
        return scope

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


def locate(model: onnx.ModelProto, path: tuple[int | str, ...]) -> onnx.GraphProto | onnx.FunctionProto:
    """The graph or function at a scope's path in (a copy of) the model."""
    found: onnx.GraphProto | onnx.FunctionProto = model.graph
    rest = path
    if rest and rest[0] == "functions":
        index = rest[1]
        assert isinstance(index, int)
        found, rest = model.functions[index], rest[2:]
    for k in range(0, len(rest), 3):
        node, attribute, graph = rest[k : k + 3]
        assert isinstance(node, int) and isinstance(attribute, int) and isinstance(graph, int)
        holder = found.node[node].attribute[attribute]
        found = holder.g if holder.type == onnx.AttributeProto.GRAPH else holder.graphs[graph]
    return found
