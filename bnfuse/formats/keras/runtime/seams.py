"""How Keras is asked for what a layer puts out, and which layer of the result puts out the same.

A tensor inside a model is named by the way to it: the name and the call of each network around it and of
its layer, and which of the layer's outputs it is, as JSON: ``[["block", 1], ["conv", 0], 0]``. Names and
calls are the file's, and stay those of a layer that stays.

What a removed layer put out is what it read, which is put out by a layer before it. A layer that moves in
front of a joint leaves to the joint what it put out itself; what the joint put out before is nowhere.

Left out: what is inside one layer (behind a kernel and before its activation, between the directions of a
Bidirectional), what is inside a TimeDistributed (Keras calls it step by step, or not), and layers that the
file gives no name (Keras makes one up). Folds that end there are felt at the next value that is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from msgspec import Struct

from bnfuse.core.apply import Patch
from bnfuse.core.graph import Graph, Node
from bnfuse.core.rules.affine import Affine
from bnfuse.formats.keras.graph.call_nodes import handle_of
from bnfuse.formats.keras.graph.flow import OutputPath
from bnfuse.formats.keras.graph.network import Layer, LayerPath, Network, walk


class Seams(Struct, eq=False):
    """The tensors of one model that Keras can be asked for: core values, and the ways to them."""

    graph: Graph
    inside: Mapping[str, OutputPath]
    known: frozenset[LayerPath]

    def points(self, values: Iterable[str], patch: Patch) -> dict[str, tuple[str, str]]:
        """Of these values those that can be asked for, with the names here and in the result."""
        found = {}
        for value in values:
            here, there = self._name(value), self._name(_held(self.graph, value, patch))
            if here and there:
                found[value] = here, there
        return found

    def layers(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        """The layers of these nodes that have variables of floats, as JSON lists of names."""
        sites = [handle_of(node).site for node in nodes]
        holds = [site for site in sites if any(v.dtype.kind in "fV" for v in site.layer.variables)]
        return tuple(dict.fromkeys(json.dumps(site.path) for site in holds if site.path in self.known))

    def _name(self, value: str) -> str:
        tensor = self.inside.get(value)
        if tensor is None or value in self.graph.pinned:
            return ""
        path = tuple(name for name, _ in tensor.steps)
        return json.dumps([*tensor.steps, tensor.output]) if path in self.known else ""


def _held(graph: Graph, value: str, patch: Patch) -> str:
    """The value whose layer puts this one out in the result; "" if none does."""
    moved = {move.node: move.joint for move in patch.moved}
    writer, passed = graph.writer(value), set()
    while writer is not None and (writer in patch.removed or writer in moved):
        passed.add(moved.get(writer))
        rule = graph.rule(writer)
        assert isinstance(rule, Affine)
        value = writer.value(rule.in_port)
        writer = graph.writer(value)
    return "" if writer in set(moved.values()) - passed else value


def named_layers(network: Network) -> frozenset[LayerPath]:
    """Paths of the layers that Keras calls as the file does. Wrapped layers go by what wraps them."""
    known: set[LayerPath] = set()
    wrapped: set[int] = set()
    for path, layer in walk(network):
        if (not path or path in known) and (id(layer) in wrapped or _has_name(layer)):
            known.add((*path, layer.name))
            wrapped.update(map(id, layer.wrapped))
    return frozenset(known)


def _has_name(layer: Layer) -> bool:
    return layer.name in (layer.entry.get("name"), layer.config.get("name"))
