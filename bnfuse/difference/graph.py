"""One model's nodes and weights, with who writes and who reads each value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

from bnfuse.difference.result import NodeName, WeightName
from bnfuse.formats.contents import Contents, NodeItem, Slot

Use = tuple[int, int]  # a node by its index, and an input or output of it


class ContentGraph:
    """Look-ups over one ``Contents``; each is made when first asked for."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.nodes = contents.nodes
        self.weights = contents.weights

    @cached_property
    def writers(self) -> Mapping[str, Use]:
        """Who writes a value: (node, output). Of several, the first."""
        found: dict[str, Use] = {}
        for index, node in enumerate(self.nodes):
            for output, value in enumerate(node.outputs):
                if value:
                    found.setdefault(value, (index, output))
        return found

    @cached_property
    def readers(self) -> Mapping[str, list[Use]]:
        """Who reads a value that is no weight: (node, input)."""
        found: dict[str, list[Use]] = {}
        for index, node in enumerate(self.nodes):
            for at, value in enumerate(node.inputs):
                if value and value not in self.weights:
                    found.setdefault(value, []).append((index, at))
        return found

    @cached_property
    def weight_readers(self) -> Mapping[str, list[tuple[int, Slot]]]:
        """Which nodes read or hold a weight: (node, slot)."""
        found: dict[str, list[tuple[int, Slot]]] = {}
        for index, node in enumerate(self.nodes):
            for slot, weight in node.weights:
                found.setdefault(weight, []).append((index, slot))
        return found

    @cached_property
    def constants(self) -> Collection[str]:
        """Values that nodes compute from weights alone (ConstantOfShape, Unsqueeze of a bias)."""
        found: set[str] = set()
        for node in self.nodes:
            given = [value for value in node.inputs if value]
            if given and all(value in self.weights or value in found for value in given):
                found.update(node.outputs)
        return found

    def only_input(self, node: NodeItem) -> str | None:
        """The value that a node computes from besides constants, if it is one value and one result."""
        moving = {value for value in node.inputs if value and value not in self.weights}
        if len(moving) > 1:
            moving.difference_update(self.constants)
        return moving.pop() if len(moving) == 1 and len([v for v in node.outputs if v]) == 1 else None

    def node_name(self, index: int) -> NodeName:
        """How a report names a node."""
        node = self.nodes[index]
        return NodeName(node.label, node.operator)

    def weight_name(self, name: str) -> WeightName:
        """A weight, with the node that reads it; a Constant node holds it, but others read it."""
        item = self.weights[name]
        uses = self.weight_readers.get(name, [])
        use = next((use for use in uses if self.nodes[use[0]].operator != "Constant"), None)
        if use is None:
            return WeightName(name, item.shape, item.dtype, item.size_bytes)
        slot = use[1] if isinstance(use[1], str) else f"input {use[1]}"
        return WeightName(name, item.shape, item.dtype, item.size_bytes, self.node_name(use[0]), slot)
