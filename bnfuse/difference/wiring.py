"""What nodes and outputs read, compared: a link that leads elsewhere is a change, a new name is none.

Two values correspond where matched nodes write them, or where they are the same input of both models.
A removed or added node that computes one value from one other is looked through: that its readers now
read what it read is what removing it means, and no change of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest

from bnfuse.difference.graph import ContentGraph
from bnfuse.difference.match import Matching
from bnfuse.difference.result import Changed
from bnfuse.difference.weights import Pairs

# Where a value comes from: ("node", index in the first model, output), ("input", name),
# or what only one model has.
Origin = tuple[str, object, object]


class Origins:
    """Where the values of one model come from, told in terms of the first model."""

    def __init__(
        self, graph: ContentGraph, counterpart: Mapping[int, int], *, first: bool, inputs: Mapping[str, str]
    ) -> None:
        self._graph, self._counterpart, self._first, self._inputs = graph, counterpart, first, inputs
        self._known: dict[str, Origin] = {}

    def of(self, value: str) -> Origin:
        """The origin of a value, removed and added nodes looked through."""
        passed: dict[str, None] = {}
        while value not in self._known:
            passed[value] = None
            behind = self._step(value)
            if isinstance(behind, tuple):
                self._known[value] = behind
            elif behind in passed:  # a cycle, in a damaged file
                self._known[value] = ("cycle", value, self._first)
            else:
                value = behind
        origin = self._known[value]
        for each in passed:
            self._known[each] = origin
        return origin

    def _step(self, value: str) -> Origin | str:
        """The origin itself, or the value behind a node to be looked through."""
        writer = self._graph.writers.get(value)
        if writer is None:
            return "input", self._inputs.get(value, value), 0
        index, output = writer
        other = self._counterpart.get(index)
        if other is not None:
            return "node", index if self._first else other, output
        behind = self._graph.only_input(self._graph.nodes[index])
        return ("own", index, self._first) if behind is None else behind


class Wiring:
    """Compares what matched nodes read."""

    def __init__(self, nodes: Matching, weights: Pairs, inputs: list[tuple[str, str]]) -> None:
        self._nodes, self._weights = nodes, weights
        self._extra = weights.settled()
        self._a = Origins(nodes.a, nodes.after, first=True, inputs={})
        self._b = Origins(nodes.b, nodes.before, first=False, inputs={vb: va for va, vb in inputs})

    def same(self, va: str, vb: str) -> bool:
        """Whether two values correspond."""
        return self._a.of(va) == self._b.of(vb)

    def changes(self, i: int, j: int) -> Iterator[Changed]:
        """The inputs of a matched node that read something else, and outputs that only one side has."""
        one, other = self._nodes.a.nodes[i], self._nodes.b.nodes[j]
        for at, (va, vb) in enumerate(zip_longest(one.inputs, other.inputs, fillvalue="")):
            if (va or vb) and not self._same_input(va, vb):
                yield Changed(f"input {at}", va or None, vb or None)
        for at, (va, vb) in enumerate(zip_longest(one.outputs, other.outputs, fillvalue="")):
            if bool(va) != bool(vb):
                yield Changed(f"output {at}", va or None, vb or None)

    def _same_input(self, va: str, vb: str) -> bool:
        held_a, held_b = va in self._nodes.a.weights, vb in self._nodes.b.weights
        if held_a and held_b:
            return self._weights.after.get(va) == vb or (va, vb) in self._extra
        if not va or not vb:
            # A weight that came or went is listed among the weights; one that both have no longer is read.
            return (held_a and va not in self._weights.after) or (held_b and vb not in self._weights.before)
        return not held_a and not held_b and self.same(va, vb)
