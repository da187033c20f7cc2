"""What earlier folds did, and what one successful attempt would add to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.core.decisions import Split
from bnfuse.core.graph import Graph, Node, Port
from bnfuse.core.planning.bars import Bars
from bnfuse.core.planning.classes import Classes
from bnfuse.core.planning.dead_ends import DeadEnds
from bnfuse.core.planning.effort import Effort
from bnfuse.core.reparam import Pair
from bnfuse.core.rules.affine import affine_rule
from bnfuse.core.rules.base import Absorbed, Closed, Current, Pass, Rule
from bnfuse.core.rules.clamp import Clamp
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import Rewrite

if TYPE_CHECKING:
    from bnfuse.core.planning.constant_channel import ConstantChannel


class Propagation(Struct, frozen=True, eq=False):
    """A successful attempt: what each node absorbs, in the order they were reached.

    ``held`` names the values that are held in another way than before.
    """

    node: Node
    split: Split
    edits: tuple[tuple[Node, Absorbed], ...]
    touched: tuple[Node, ...]
    choices: tuple[tuple[str, int], ...]
    held: tuple[str, ...] = ()

    @property
    def into(self) -> tuple[str, ...]:
        """Names of the nodes that absorb."""
        return tuple(dict.fromkeys(node.name for node, edit in self.edits if not edit.passing))

    @property
    def through(self) -> tuple[str, ...]:
        """Names of the nodes that only pass it on."""
        into = set(self.into)
        return tuple(node.name for node in self.touched if node.name not in into)


class MoveTarget(Struct, frozen=True, eq=False):
    """Where a BatchNormalization could move: onto input ``port`` of ``joint``.

    Attributes:
        joint: the node that writes what it reads.
        port: the input that it would read instead.
        start, stop: which of its channels stay with it.
        flips: whether the branch is subtracted, so that the shift changes its sign.
        share: how much of its work is left.
    """

    joint: Node
    port: Port
    start: int
    stop: int
    flips: bool
    share: float


class Narrowing(Struct, frozen=True, eq=False):
    """A move that goes through: what the other branches absorb."""

    place: MoveTarget
    propagation: Propagation


class _SoFar(Struct, frozen=True, eq=False):
    """What the first edits of a linear op came to: all anew for every fold would cost their square."""

    count: int
    last: Absorbed | None  # of these edits
    rewrite: Rewrite
    shifts: bool  # whether one of them does


class State(Struct, eq=False):
    """What earlier folds did: removed nodes, edits per node, current numbers of affines and clamps."""

    graph: Graph
    removed: set[Node] = field(default_factory=set)
    numbers: dict[Node, Current] = field(default_factory=dict)
    edits: dict[Node, list[Absorbed]] = field(default_factory=dict)
    folded: dict[Node, list[str]] = field(default_factory=dict)  # whose folds each node absorbed
    waiting: set[Node] = field(default_factory=set)  # who takes nothing on, being to go itself
    narrowed: dict[Node, Narrowing] = field(default_factory=dict)
    arithmetic: list[Node] = field(default_factory=list)  # who stays in another form
    rules: dict[Node, Rule] = field(default_factory=dict)  # of nodes that are no longer what they were
    channels: list[ConstantChannel] = field(default_factory=list)  # that some layers are given
    accepted: list[Propagation] = field(default_factory=list)
    rescalings: int = 0  # how many of those fold nothing
    moves_bounds: bool = False  # whether activations may become clamps with other bounds
    dead_ends: DeadEnds = field(default_factory=DeadEnds)
    effort: Effort = field(default_factory=Effort)
    _absorbed: dict[Node, _SoFar] = field(default_factory=dict)  # by linear op
    _classes: dict[bool, Classes] = field(default_factory=dict)
    _bars: dict[bool, Bars] = field(default_factory=dict)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave no trace in what is known of who refuses: whom it names depends on who asked first."""
        kept = self._classes, self._bars, self.dead_ends
        steps = self.effort.steps
        self._classes, self._bars, self.dead_ends = {}, {}, DeadEnds()
        try:
            yield
        finally:
            self._classes, self._bars, self.dead_ends = kept
            self.effort.steps = steps

    @property
    def bars(self) -> Bars:
        """What is known of channels that cannot be held in another way, by what activations may become."""
        if self.moves_bounds not in self._bars:
            self._bars[self.moves_bounds] = Bars(self, self.moves_bounds)
        return self._bars[self.moves_bounds]

    @property
    def classes(self) -> Classes:
        """What can only be scaled together, by what activations may become."""
        if self.moves_bounds not in self._classes:
            self._classes[self.moves_bounds] = Classes(self.graph, self.removed, self.moves_bounds)
        return self._classes[self.moves_bounds]

    def rule(self, node: Node) -> Rule:
        """A removed node is an alias: everything passes."""
        changed = self.rules.get(node)
        if changed is not None:
            return changed
        rule = self.graph.rule(node)
        if self.moves_bounds or not self.graph.moves_bounds:
            return rule
        # An activation whose bounds were moved once costs no more when they move again.
        return rule if node in self.numbers else rule.plain

    def current(self, node: Node) -> Current:
        """A node's own pair as it is by now, and its axes."""
        return self.numbers.get(node) or self.graph.rule(node).numbers

    def rewrite(self, node: Node, new: Iterable[Absorbed] = ()) -> Rewrite:
        """All that a linear op absorbed, and perhaps more."""
        return self._linear(node).composed(new, self._so_far(node).rewrite)

    def shifts(self, node: Node) -> bool:
        """Whether a linear op absorbed any shift."""
        return self._so_far(node).shifts

    def _linear(self, node: Node) -> Linear:
        rule = self.graph.rule(node)
        assert isinstance(rule, Linear), f"{node.label} has no weight"
        return rule

    def _so_far(self, node: Node) -> _SoFar:
        rule, edits = self._linear(node), self.edits.get(node, [])
        known = self._absorbed.get(node)
        if known is None or edits[known.count - 1 : known.count] != [
            known.last
        ]:  # others came in their place
            known = _SoFar(0, None, rule.composed(()), False)
        new = edits[known.count :]
        if new:
            shifts = known.shifts or any(edit.pair[1].any() for edit in new)
            known = _SoFar(len(edits), edits[-1], rule.composed(new, known.rewrite), shifts)
            self._absorbed[node] = known
        return known

    def accept(self, propagation: Propagation) -> None:
        """Make a successful attempt part of the state."""
        for node in self.graph.calls(propagation.node):
            rule = affine_rule(self.graph, node)
            self.removed.add(node)
            if node in self.rules:
                self.arithmetic.remove(node)
            self.rules[node] = Pass(in_port=rule.in_port)
            x, y = node.value(rule.in_port), node.outputs[0]
            for known in self._classes.values():
                known.merge(x, y)
            for barred in self._bars.values():
                barred.merge(x, y)
        self._absorb(propagation)

    def accept_narrowing(self, found: Narrowing) -> None:
        """Make a move part of the state: nobody may ask anything of the moved node from now on."""
        self._absorb(found.propagation)
        self.narrowed[found.propagation.node] = found
        self.waiting.add(found.propagation.node)

    def accept_rescaling(self, propagation: Propagation) -> None:
        """Make scales that no fold asked for part of the state: nothing goes."""
        self.rescalings += 1
        self._take(propagation)

    def accept_channel(self, found: ConstantChannel) -> None:
        """Make a constant channel part of the state."""
        self.accept(found.propagation)
        self.channels.append(found)
        # What lies between them has another channel than the values of the graph.
        self.rules |= {node: Closed(self.rule(node), edit.port) for node, edit in found.propagation.edits}

    def spell(self, node: Node) -> None:
        """Let a node stay in another form: as a product and a sum, or what of them there is."""
        if node not in self.rules:
            self.arithmetic.append(node)
        a, c, axes = self.current(node)
        if a.size == 1:  # a number, and no vector
            self.numbers[node] = a, c, axes = a.reshape(()), c.reshape(()), ()
        rule = affine_rule(self.graph, node)
        scales, shifts = bool((a != 1.0).any()), bool(c.any())
        self.rules[node] = replace(rule, pair=(a, c), axes=axes, has_scale=scales, has_shift=shifts)

    def accept_part(self, propagation: Propagation, left: Pair) -> None:
        """Make it part of the state that a part of a spelled node goes, and leaves y = a·x + c."""
        self._absorb(propagation)
        *_, axes = self.current(propagation.node)
        self.numbers[propagation.node] = (*left, axes)
        self.spell(propagation.node)

    def accept_bias(self, propagation: Propagation) -> None:
        """Make it part of the state that others take on the bias of a linear op, which has none then."""
        blamed = self.folded[propagation.node]
        self._take(propagation)
        for node, _ in propagation.edits:
            self.folded[node].extend(blamed)
        self.edits[propagation.node] = [
            replace(edit, pair=(edit.pair[0], np.zeros_like(edit.pair[1])))
            for edit in self.edits[propagation.node]
        ]

    def _absorb(self, propagation: Propagation) -> None:
        self._take(propagation)
        for node, _ in propagation.edits:
            self.folded[node].append(propagation.node.name)

    def _take(self, propagation: Propagation) -> None:
        self.accepted.append(propagation)
        for node, edit in propagation.edits:
            self.effort.numbers += 2 * edit.pair[0].size
            rule = self.graph.rule(node)
            if rule.has_numbers:
                self.numbers[node] = (*edit.pair, edit.axes)
            if isinstance(rule, Clamp) and False in self._bars:
                self._bars[False].lift(node)
            self.edits.setdefault(node, []).append(edit)
            self.folded.setdefault(node, [])
