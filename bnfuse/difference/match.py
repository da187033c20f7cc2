"""Which node of one model is which of the other.

Names first, where they mean the same thing; then the names of what a node writes, then of what it reads.
What is left is matched by its place: from values that are known to correspond (the models' inputs, what
matched nodes read and write) the graph is followed to nodes with the same operator at the same place,
first those with the same settings and shapes of weights. Where one side has a node that the other lacks,
it is passed, so that what lies behind a removed node is found.

When it does not act: nodes that nothing distinguishes are taken in the file's order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping

from bnfuse.difference.graph import ContentGraph, Use
from bnfuse.formats.contents import NodeItem

# Of the readers of one value: beyond, looking behind each of them would cost too much.
_MOST_PASSED = 16
_Key = Callable[[NodeItem], Hashable | None]


class Matching:
    """Pairs of nodes by index, one to one: ``after[i]`` is the second model's node for ``i``."""

    def __init__(self, a: ContentGraph, b: ContentGraph, inputs: Iterable[tuple[str, str]]) -> None:
        self.a, self.b = a, b
        self.after: dict[int, int] = {}
        self.before: dict[int, int] = {}
        self._inputs = list(inputs)  # values of the models' inputs that correspond

    @property
    def complete(self) -> bool:
        """Whether one of the two has no node left to match."""
        return len(self.after) in (len(self.a.nodes), len(self.b.nodes))

    def by_names(self) -> None:
        """Nodes of one operator with the same name, else that write or read values of the same names."""
        self._by(lambda node: (node.scope, node.name, node.operator) if node.name else None)
        self._by(lambda node: (node.operator, node.outputs[0]) if any(node.outputs[:1]) else None)
        self._by(lambda node: (node.operator, node.inputs) if any(node.inputs) else None)

    def by_name_alone(self) -> None:
        """Nodes with the same name, whatever they do: an operator that was replaced."""
        self._by(lambda node: (node.scope, node.name) if node.name else None)

    def by_weights(self, pairs: Mapping[str, str]) -> None:
        """Nodes that read weights which correspond, each the only one to do so there."""
        for wa, wb in pairs.items():
            readers_a, readers_b = self.a.weight_readers.get(wa, ()), self.b.weight_readers.get(wb, ())
            if len(readers_a) == len(readers_b) == 1:
                (i, slot_a), (j, slot_b) = readers_a[0], readers_b[0]
                if slot_a == slot_b and self.a.nodes[i].operator == self.b.nodes[j].operator:
                    self._pair(i, j)

    def by_place(self) -> None:
        """Nodes that the graph leads to from values which correspond."""
        if not self.complete:
            _Places(self).follow(self._inputs)

    def _pair(self, i: int, j: int) -> bool:
        if i in self.after or j in self.before:
            return False
        self.after[i], self.before[j] = j, i
        return True

    def _by(self, key: _Key) -> None:
        """Pair nodes whose key nobody else of their model has."""
        if self.complete:
            return
        left, right = _unique(self.a.nodes, self.after, key), _unique(self.b.nodes, self.before, key)
        for value, i in left.items():
            j = right.get(value)
            if i is not None and j is not None:
                self._pair(i, j)


def _unique(nodes: list[NodeItem], matched: Mapping[int, int], key: _Key) -> dict[Hashable, int | None]:
    """Unmatched nodes by key; None where several have it."""
    found: dict[Hashable, int | None] = {}
    for index, node in enumerate(nodes):
        if index not in matched:
            value = key(node)
            if value is not None:
                found[value] = None if value in found else index
    return found


class _Places:
    """Follows both graphs at once, along pairs of values that correspond."""

    def __init__(self, matching: Matching) -> None:
        self._matching = matching
        self._a, self._b = matching.a, matching.b
        self._queue: deque[tuple[str, str]] = deque()
        self._later: deque[tuple[str, str]] = deque()  # correspond if a node is passed
        self._seen: set[tuple[str, str]] = set()
        self._most = 8 * (len(self._a.nodes) + len(self._b.nodes)) + 64

    def follow(self, inputs: Iterable[tuple[str, str]]) -> None:
        self._queue.extend(inputs)
        for i, j in list(self._matching.after.items()):
            self._reach(i, j)
        while (self._queue or self._later) and len(self._seen) < self._most and not self._matching.complete:
            va, vb = self._queue.popleft() if self._queue else self._later.popleft()
            if (va, vb) not in self._seen:
                self._seen.add((va, vb))
                self._meet_writers(va, vb)
                self._meet_readers(va, vb)

    def _reach(self, i: int, j: int) -> None:
        """What two matched nodes read and write corresponds."""
        one, other = self._a.nodes[i], self._b.nodes[j]
        self._queue.extend(pair for pair in zip(one.outputs, other.outputs, strict=False) if all(pair))
        for va, vb in zip(one.inputs, other.inputs, strict=False):
            if va and vb and va not in self._a.weights and vb not in self._b.weights:
                self._queue.append((va, vb))

    def _pair(self, i: int, j: int) -> None:
        if self._matching._pair(i, j):
            self._reach(i, j)

    def _meet_writers(self, va: str, vb: str) -> None:
        one, other = self._a.writers.get(va), self._b.writers.get(vb)
        if one is None or other is None or one[1] != other[1]:
            return
        if self._a.nodes[one[0]].operator == self._b.nodes[other[0]].operator:
            self._pair(one[0], other[0])

    def _meet_readers(self, va: str, vb: str) -> None:
        for likeness in (self._alike, self._same_operator):
            left, right = self._open(va, vb)
            if not left or not right:
                break
            groups = _grouped(self._a, left, likeness), _grouped(self._b, right, likeness)
            for key, uses in groups[0].items():
                others = groups[1].get(key, [])
                if len(uses) == len(others):
                    for (i, _), (j, _) in zip(uses, others, strict=True):
                        self._pair(i, j)
        self._pass(va, vb)

    def _open(self, va: str, vb: str) -> tuple[list[Use], list[Use]]:
        after, before = self._matching.after, self._matching.before
        left = [use for use in self._a.readers.get(va, ()) if use[0] not in after]
        right = [use for use in self._b.readers.get(vb, ()) if use[0] not in before]
        return left, right

    def _pass(self, va: str, vb: str) -> None:
        """What is still unmatched may be a node that the other model lacks: look behind it."""
        left, right = self._open(va, vb)
        behind_a = [_behind(self._a, index) for index, _ in left[:_MOST_PASSED]]
        behind_b = [_behind(self._b, index) for index, _ in right[:_MOST_PASSED]]
        both = [(x, y) for x in behind_a for y in behind_b] if len(left) == len(right) == 1 else []
        ways = [*both, *((x, vb) for x in behind_a), *((va, y) for y in behind_b)]
        self._later.extend((x, y) for x, y in ways if x and y)

    def _alike(self, graph: ContentGraph, use: Use) -> Hashable:
        node = graph.nodes[use[0]]
        shapes = tuple((slot, graph.weights[name].shape) for slot, name in node.weights)
        return node.operator, use[1], node.fingerprint, shapes

    def _same_operator(self, graph: ContentGraph, use: Use) -> Hashable:
        return graph.nodes[use[0]].operator, use[1]


def _behind(graph: ContentGraph, index: int) -> str:
    """What a node with one moving input and one output writes; "" for others."""
    node = graph.nodes[index]
    return next(filter(None, node.outputs)) if graph.only_input(node) is not None else ""


def _grouped(
    graph: ContentGraph, uses: list[Use], likeness: Callable[[ContentGraph, Use], Hashable]
) -> dict[Hashable, list[Use]]:
    groups: dict[Hashable, list[Use]] = {}
    for use in uses:
        groups.setdefault(likeness(graph, use), []).append(use)
    return groups
