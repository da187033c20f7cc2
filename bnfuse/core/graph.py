"""The graph as core sees it: nodes that obey rules, values that link them.

A format builds it from a file. Values are strings, unique over all scopes (a subgraph's names are
qualified by the format). A value is *pinned* where the outside world reads or writes it. Which rule
a node obeys is asked for only where a demand meets it, and who reads what only where there is something to
remove, so that large graphs cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from msgspec import Struct, field

from bnfuse.core.reasons import Reason, Refusal, label

if TYPE_CHECKING:
    from bnfuse.core.reparam import Pair
    from bnfuse.core.rules.base import Rule

# A port is an input index i >= 0, or an output as ~j (so ~0 == -1 is the first output).
Port = int


class Node(Struct, eq=False, gc=False):
    """One operation. ``name`` is unique in the graph; ``inputs`` may hold "" for an absent one.

    Nothing that it holds leads back to it, so that the garbage collector need not look at a million of them.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_batchnorm: bool = False
    handle: object = None  # the format's own

    def value(self, port: Port) -> str:
        """The value at a port."""
        return self.inputs[port] if port >= 0 else self.outputs[~port]

    def ports(self) -> list[tuple[Port, str]]:
        """Every port that is there, with its value, inputs first."""
        inputs = [(i, v) for i, v in enumerate(self.inputs) if v]
        return inputs + [(~j, v) for j, v in enumerate(self.outputs) if v]

    @property
    def label(self) -> str:
        """How messages name it."""
        return label(self.op, self.name)


class Graph(Struct, eq=False):
    """Nodes in an order in which values are written before they are read.

    Attributes:
        nodes: all operations of all scopes.
        pinned: values that must stay as they are, and why.
        candidates: nodes to remove (BatchNormalizations and decomposed affines), in graph order.
        rule_of: makes the rule of a node; called at most once per node.
        tied: for each call of a layer that is called several times, all of them, itself included: they have
            one set of parameters, so all absorb the same or none does.
        movable: whether the format can move a candidate from behind a node in front of its input ``port``.
        moves_bounds: whether activations may become clamps with other bounds.
        no_batchnorms: whether BatchNormalizations that stay are to be written as arithmetic.
        arithmetic: as which operators the format can write y = a·x + c in a node's place, or why it cannot.
        constant_through: what a node that works channel by channel makes of one that is a number everywhere;
            None where that is not so, or not known.
        takes_channel: whether the format can write a linear op with one more channel, of its output (o) or
            its input (i).
        sized: values whose sizes the file tells where they cannot be changed.
        stored_bytes: size of the file, with what lies beside it.
    """

    nodes: list[Node]
    pinned: dict[str, Reason]
    candidates: list[Node]
    rule_of: Callable[[Node], Rule]
    tied: dict[Node, tuple[Node, ...]] = field(default_factory=dict)
    movable: Callable[[Graph, Node, Node, Port], bool] = lambda graph, node, joint, port: False
    moves_bounds: bool = False
    no_batchnorms: bool = False
    arithmetic: Callable[[Node, Pair], tuple[str, ...] | Refusal] = lambda node, pair: ()
    constant_through: Callable[[Node, float], float | None] = lambda node, value: None
    takes_channel: Callable[[Node, str], bool] = lambda node, letter: False
    sized: Collection[str] = ()
    stored_bytes: int = 0
    _rules: dict[Node, Rule] = field(default_factory=dict)
    _places: dict[Node, int] = field(default_factory=dict)
    # node, port, node, port … of each value; in pairs, which take twice the room, where they were asked for.
    _links: dict[str, list[Node | Port]] = field(default_factory=dict)
    _linked: bool = False
    _adjacent: dict[str, list[tuple[Node, Port]]] = field(default_factory=dict)

    def _link(self) -> None:
        self._linked, links = True, self._links
        for node in self.nodes:
            for j, value in enumerate(node.outputs):
                if value in links:  # read before it is written
                    links[value][:0] = (node, ~j)
                elif value:
                    links[value] = [node, ~j]
            for i, value in enumerate(node.inputs):
                if value in links:
                    links[value] += (node, i)
                elif value:
                    links[value] = [node, i]

    def rule(self, node: Node) -> Rule:
        """What the node asks of its other values when one of them is reparameterised."""
        rule = self._rules.get(node)
        if rule is None:
            made = self.rule_of(node)
            rule = self._rules[node] = made if self.moves_bounds else made.plain
        return rule

    def overrule(self, node: Node, rule: Rule) -> None:
        """Give a node another rule than the format does."""
        self._rules[node] = rule

    def place(self, node: Node) -> int:
        """Its position among all nodes: writers come before readers."""
        if not self._places:
            self._places.update((n, i) for i, n in enumerate(self.nodes))
        return self._places[node]

    def calls(self, node: Node) -> tuple[Node, ...]:
        """All calls of a node's layer; itself where there is one."""
        return self.tied.get(node) or (node,)

    def adjacent(self, value: str) -> list[tuple[Node, Port]]:
        """The writer of a value (if it has one) and all its readers, with the ports they use."""
        found = self._adjacent.get(value)
        if found is None:
            if not self._linked:
                self._link()
            links = self._links.pop(value, [])
            found = self._adjacent[value] = list(zip(links[::2], links[1::2], strict=True))  # type: ignore[arg-type]
        return found

    def writer(self, value: str) -> Node | None:
        """Who writes a value; None for inputs and constants."""
        return next((node for node, port in self.adjacent(value)[:1] if port < 0), None)

    def readers(self, value: str) -> Iterator[Node]:
        """Who reads a value, once per port."""
        return (node for node, port in self.adjacent(value) if port >= 0)

    def reader_count(self, value: str) -> int:
        """How many ports read a value."""
        adjacent = self.adjacent(value)
        return len(adjacent) - sum(port < 0 for _, port in adjacent[:1])


def unique_names(wanted: Iterable[str]) -> Iterator[str]:
    """Names made unique by a counter, the first of each kept as it is."""
    every = list(wanted)
    if len(set(every)) == len(every):
        yield from every
        return
    seen: dict[str, int] = {}
    taken: set[str] = set()
    for name in every:
        count = seen.get(name, 0)
        made = name if name not in taken else f"{name}#{count + 1}"
        while made in taken:
            count += 1
            made = f"{name}#{count + 1}"
        seen[name] = count + 1
        taken.add(made)
        yield made
