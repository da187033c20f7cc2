"""The graph around each decision, small enough to draw: for reports that show it.

Around a fold: the node, those whose weights took it on, those it passed, and the direct neighbours of all
of them. Around a node that stays: the way to each node (or input or output of the model) that refused, and
the direct neighbours. Nodes that other folds removed stand where they stood, marked as removed, because
what is drawn is the original; the result is the same picture without them.

A fold may touch a whole residual stream, so what lies nearest is taken and the rest is counted. Constants
are no part of the picture. After ``MOST_DRAWN`` decisions nothing more is drawn: nobody looks at so many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from itertools import islice

from msgspec import Struct, field

from bnfuse.core.decisions import Decision, Fold, Keep, Narrowed, Plan, Settled
from bnfuse.core.graph import Graph, Node
from bnfuse.core.reasons import Reason
from bnfuse.results import DrawnNode, Neighbourhood

MOST_DRAWN = 1000
# Nodes of one picture: those that belong to the decision, and all together with their neighbours.
MOST_MARKED = 14
MOST_NODES = 24

# How far a node that refused is looked for, in nodes visited.
_FARTHEST = 250
# Readers of one value that are looked at, and neighbours that one node brings along.
_MOST_READERS = 64
_MOST_BESIDE = 4
_ENDS = {Reason.GRAPH_INPUT: "input", Reason.GRAPH_OUTPUT: "output"}


def surroundings(graph: Graph, plan: Plan, removed: Collection[Node]) -> tuple[Neighbourhood | None, ...]:
    """One picture per decision of the plan, in its order; None after the first ``MOST_DRAWN``.

    Args:
        graph: the model as it was read.
        plan: the decisions on it.
        removed: the nodes that the plan takes out.
    """
    scene = _Scene(graph, frozenset(removed))
    drawn = [scene.around(decision) for decision in plan.decisions[:MOST_DRAWN]]
    return (*drawn, *(None for _ in plan.decisions[MOST_DRAWN:]))


class _Scene(Struct):
    """One graph, and what looking things up in it takes."""

    graph: Graph
    removed: frozenset[Node]
    by_name: dict[str, Node] = field(default_factory=dict)
    by_label: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_name = {node.name: node for node in self.graph.nodes}

    def around(self, decision: Decision) -> Neighbourhood | None:
        """The picture of one decision; None where its node is not in the graph."""
        node = self.by_name.get(decision.node)
        if node is None:
            return None
        ends: dict[str, str] = {}
        match decision:
            case Fold():
                roles = self._touched(node, decision)
                picked, missed = self._nearest(node, roles, self.removed | roles.keys(), MOST_MARKED)
            case Keep():
                roles, ends = self._refusers(node, decision)
                sought = roles.keys() | self._beside_ends(ends)
                picked, missed = self._nearest(node, sought, None, MOST_MARKED)
        roles[node] = "self"
        beside, more = self._beside(node, picked)
        return self._picture({**picked, **beside}, roles, ends, missed + more)

    def _touched(self, node: Node, fold: Fold) -> dict[Node, str]:
        named = [(name, "through") for name in fold.through] + [(name, "into") for name in fold.into]
        return {self.by_name[name]: role for name, role in named if name in self.by_name}

    def _refusers(self, node: Node, kept: Keep) -> tuple[dict[Node, str], dict[str, str]]:
        """Nodes that refused, and values of the model's own inputs and outputs that did."""
        if not self.by_label:
            self.by_label = {n.label: n for n in self.graph.nodes}
        nodes = self._took_part(kept)
        ends: dict[str, str] = {}
        for refusal in kept.refusals:
            who = self.by_label.get(refusal.node)
            if who is not None and who is not node:
                nodes.setdefault(who, "refuses")
            elif refusal.value in self.graph.pinned:
                ends[refusal.value] = "refuses"
        return nodes, ends

    def _took_part(self, kept: Keep) -> dict[Node, str]:
        """Of a node that goes in part: those whose weights took that part on, and those it passed."""
        parts: list[Settled | Narrowed] = [*kept.settled, *([kept.narrowed] if kept.narrowed else [])]
        passed = [name for part in parts for name in part.through]
        passed += [kept.narrowed.joint] if kept.narrowed else []
        named = [(name, "through") for name in passed]
        named += [(name, "into") for part in parts for name in part.into]
        return {self.by_name[name]: role for name, role in named if name in self.by_name}

    def _beside_ends(self, ends: Mapping[str, str]) -> set[Node]:
        return {node for value in ends for node, _ in islice(self.graph.adjacent(value), _MOST_READERS)}

    def _nearest(
        self, start: Node, sought: Collection[Node], on: Collection[Node] | None, most: int
    ) -> tuple[dict[Node, None], int]:
        """The nearest of ``sought`` and the nodes on the way to them (all in ``on``, if given).

        Returns:
            What was picked, at most about ``most``, and how many of ``sought`` were not.
        """
        picked: dict[Node, None] = {start: None}
        came_from: dict[Node, Node] = {}
        seen, queue = {start}, deque([start])
        left = len([node for node in sought if node is not start])
        while queue and left and len(seen) < _FARTHEST and len(picked) < most:
            here = queue.popleft()
            for node in self._linked(here):
                if node in seen or (on is not None and node not in on):
                    continue
                seen.add(node)
                came_from[node] = here
                queue.append(node)
                if node not in sought:
                    continue
                way = _way(node, came_from)
                if len(picked) + len([n for n in way if n not in picked]) > most:
                    continue
                picked.update(dict.fromkeys(way))
                left -= 1
        return picked, left

    def _beside(self, node: Node, picked: Mapping[Node, None]) -> tuple[dict[Node, None], int]:
        """Direct neighbours of what was picked, those of the node itself first; and how many are left out."""
        found: dict[Node, None] = {}
        left_out = 0
        for one in (node, *picked):
            new = [n for n in self._linked(one) if n not in picked and n not in found]
            new = list(dict.fromkeys(new))
            space = min(_MOST_BESIDE, MOST_NODES - len(picked) - len(found))
            found.update(dict.fromkeys(new[: max(0, space)]))
            left_out += len(new) - max(0, min(space, len(new)))
        return found, left_out

    def _linked(self, node: Node) -> Iterator[Node]:
        """Who writes what it reads, constants left out, then who reads what it writes."""
        for value in node.inputs:
            writer = self.graph.writer(value) if value else None
            if writer is not None and any(writer.inputs):
                yield writer
        for value in node.outputs:
            yield from islice(self.graph.readers(value), _MOST_READERS)

    def _picture(
        self, picked: Mapping[Node, None], roles: Mapping[Node, str], ends: Mapping[str, str], left_out: int
    ) -> Neighbourhood:
        nodes = sorted(picked, key=self.graph.place)
        inputs = self._ends(nodes, "input")
        outputs = self._ends(nodes, "output")
        place = {node: i for i, node in enumerate(nodes, len(inputs))}
        first = {value: i for i, value in enumerate(inputs)}
        last = {value: i for i, value in enumerate(outputs, len(inputs) + len(nodes))}
        edges: dict[tuple[int, int], None] = {}
        for node in nodes:
            for value in node.inputs:
                writer = self.graph.writer(value)
                source = first.get(value) if writer is None else place.get(writer)
                if source is not None:
                    edges[source, place[node]] = None
            for value in node.outputs:
                if value in last:
                    edges[place[node], last[value]] = None
        drawn = [DrawnNode(n.name, n.op, "node", roles.get(n, ""), n in self.removed) for n in nodes]
        before = [DrawnNode(value, "input", "input", ends.get(value, "")) for value in inputs]
        after = [DrawnNode(value, "output", "output", ends.get(value, "")) for value in outputs]
        return Neighbourhood((*before, *drawn, *after), tuple(edges), left_out)

    def _ends(self, nodes: Collection[Node], kind: str) -> list[str]:
        """Values of the model itself that these nodes read (``input``) or write (``output``)."""
        values = (v for node in nodes for v in (node.inputs if kind == "input" else node.outputs))
        pinned = self.graph.pinned
        return list(dict.fromkeys(v for v in values if v in pinned and _ENDS.get(pinned[v]) == kind))


def _way(node: Node, came_from: Mapping[Node, Node]) -> list[Node]:
    """From the start to a node."""
    way = [node]
    while (before := came_from.get(way[-1])) is not None:
        way.append(before)
    return way[::-1]
