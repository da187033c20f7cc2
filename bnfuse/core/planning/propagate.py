"""One attempt to remove one affine node: a demand spreads over the graph until all is absorbed.

To remove y = a·x + c is to hold one tensor where the model held x and y. A ``Split`` says how x is
held and, since it is the same tensor, how y is. From there a worklist visits every node beside a
value that is held differently; each node absorbs, passes the demand on, or refuses. The attempt
succeeds when nothing is left to visit and no value was asked for two different things.

Which way a shift takes at a sum is a choice, fixed in advance or the first one; a linear op without a bias
makes one, unless it is told to pass the shift on to its output. ``search`` goes through the choices. This
module changes nothing: success is a ``Propagation`` that the caller may accept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from bnfuse.core.decisions import Split
from bnfuse.core.graph import Node, Port
from bnfuse.core.planning.dead_ends import WIDE, Hop, Hub
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import IDENTITY, Reparam, same
from bnfuse.core.rules.affine import Candidate
from bnfuse.core.rules.base import Absorbed, Current, Joint, Rule

# Attempts that touch no more nodes than this do without ``classes`` and ``bars``.
NEAR = 24


class Worklist:
    """One run of the worklist with some choices fixed in advance.

    There are tens of thousands of them, few of which meet a hub: what only those need waits until one is met.
    """

    leads = True  # whether what was refused at hubs before is tried first
    routes_scales = False  # whether one of the choices was where a scale goes
    wide: tuple[str, ...] = ()  # hubs wait until all that is nearer was visited
    hubs: frozenset[Hub] = frozenset()  # what many nodes share, as far as it was met
    came: dict[str, Hop]  # once there are hubs: how a value was come to

    def __init__(
        self,
        state: State,
        wanted: Candidate | None,
        fixed: Mapping[str, int],
        limit: int | None,
        *,
        shares: bool = False,
    ) -> None:
        self.state = state
        self.graph = state.graph
        self.wanted = wanted
        self.removed_calls = {} if wanted is None else dict.fromkeys(self.graph.calls(wanted.node))
        self.fixed = fixed
        self.over = limit is not None and state.effort.is_over  # so that nothing is asked that many share
        self.limit = NEAR if limit is not None and self.over else limit
        self.shares = shares
        self.deep = self.limit is None or self.limit > NEAR
        self.held: dict[str, Reparam] = {}
        self.changed: list[str] = []  # what of it is held in another way than before
        self.queue: deque[str] = deque()
        self.deferred: deque[Node] = deque()
        self.settled: set[Node] = set()
        self.asked: set[tuple[Node, Port]] = set()
        self.touched: dict[Node, None] = {}
        self.edits: list[tuple[Node, Absorbed]] = []
        self.overlay: dict[Node, Current] = {}
        self.choices: list[tuple[str, int, int]] = []  # (node, taken, how many there were)
        self.told: set[tuple[Node, Port]] = set()  # first calls of layers, where all take it on
        self.biasless: dict[Node, bool] = {}  # the same, where one call's choice is to go without a bias

    @property
    def first_choice(self) -> str:
        """The label of the first node that left a choice; "" where none did."""
        first = next((name for name, _, count in self.choices if count > 1), "")
        return next((node.label for node in self.settled if node.name == first), "")

    @property
    def taken(self) -> tuple[tuple[str, int], ...]:
        """Which choice was made at each node that left one, in the order they were met."""
        return tuple([(name, chosen) for name, chosen, _ in self.choices])

    def found(self, split: Split, node: Node | None = None) -> Propagation:
        """What the attempt came to, once everything was absorbed; ``node`` is told where none was to go."""
        edits, touched = tuple(self.edits), tuple(self.touched)
        about = node if self.wanted is None else self.wanted.node
        assert about is not None, "an attempt is about a node"
        return Propagation(about, split, edits, touched, self.taken, tuple(self.changed))

    def current(self, node: Node) -> Current:
        """Numbers as earlier folds, and this attempt, left them."""
        return self.overlay.get(node) or self.state.current(node)

    def earlier(self, node: Node) -> Sequence[Absorbed]:
        """What earlier folds made a node absorb."""
        return self.state.edits.get(node, ())

    def run(self, x_held: Reparam, y_held: Reparam) -> Refusal | None:
        """Spread both demands (at every call of the layer that goes); None when everything was absorbed."""
        assert self.wanted is not None, "a node is to go"
        if self.over and len(self.removed_calls) > WIDE:
            return Refusal(Reason.TOO_LARGE, self.wanted.node.label)
        in_port = self.wanted.rule.in_port
        return self.propagate(
            demand
            for node in self.removed_calls
            for demand in ((node.value(in_port), x_held), (node.outputs[0], y_held))
        )

    def propagate(self, demands: Iterable[tuple[str, Reparam]]) -> Refusal | None:
        """Spread what values are to be held as; None when everything was absorbed."""
        for value, held in demands:
            refusal = self._demand(value, held)
            if refusal is not None:
                return refusal
        while True:
            if self.queue:
                refusal = self._visit(self.queue.popleft())
            elif self.wide:
                hub, *rest = self.wide
                self.wide = tuple(rest)
                refusal = self._reach_hub(hub, self.held[hub]) or self._visit(hub)
            elif self.deferred:
                refusal = self._settle(self._next_joint())
            else:
                return None
            if refusal is not None:
                return refusal

    def _next_joint(self) -> Node:
        """A concatenation waits: of the parts it is not told about it says that they stay as they are."""
        self.state.effort.take(values=len(self.deferred))
        for node in self.deferred:
            awaited = self._joint(node).waits_for(node)
            if not awaited or awaited in self.held:
                self.deferred.remove(node)
                return node
        first = min(self.deferred, key=self.graph.place)
        self.deferred.remove(first)
        return first

    def _joint(self, node: Node) -> Joint:
        rule = self.state.rule(node)
        assert isinstance(rule, Joint)
        return rule

    def _demand(self, value: str, held: Reparam) -> Refusal | None:
        before = self.held.get(value)
        if before is not None:
            return None if same(before, held) else Refusal(Reason.CONFLICT, value=value)
        self.held[value] = held
        if held is IDENTITY or held.is_identity:
            return None
        self.changed.append(value)
        self.state.effort.take(1, numbers=held.size)
        if self.deep or value in self.graph.pinned:
            refusal = self.barred(value, held)
            if refusal is not None:
                return refusal
        if len(self.graph.adjacent(value)) > WIDE:
            if self.over:
                return Refusal(Reason.TOO_LARGE, next(self.graph.readers(value)).label, value)
            self.wide += (value,)
        else:
            self.queue.append(value)
        return None

    def barred(self, value: str, held: Reparam) -> Refusal | None:
        """Why a value cannot be held so, whoever writes or reads it; None if nothing is known against it."""
        pinned = self.graph.pinned.get(value)
        if pinned is not None:
            return Refusal(pinned, value=value)
        return self._known(value, held) if self.deep else None

    def _known(self, value: str, held: Reparam) -> Refusal | None:
        """What classes and channels are known to refuse."""
        refusal = self.state.classes.refusal(value, held)
        return refusal or self.state.bars.refusal(value, held, self.removed_calls)

    def _visit(self, value: str) -> Refusal | None:
        held = self.held[value]
        adjacent = self.graph.adjacent(value)
        if not adjacent or adjacent[0][1] >= 0:  # a constant, or what else is no node's output
            return Refusal(Reason.UNREACHABLE, next((n.label for n in self.graph.readers(value)), ""), value)
        for node, port in adjacent:
            if node in self.removed_calls or (node, port) in self.asked:
                continue
            rule = self.state.rule(node)
            if isinstance(rule, Joint):
                refusal = self._defer(node, rule, value)
            else:
                self.touched[node] = None
                refusal = self._react(node, port, rule, held)
            if refusal is not None:
                if self.hubs:
                    self.state.dead_ends.remember(self, value, node, port, refusal)
                return refusal
            if self.limit is not None and len(self.touched) > self.limit:
                reason = Reason.TOO_LARGE if self.over else Reason.TOO_FAR
                return Refusal(reason, "" if self.wanted is None else self.wanted.node.label)
        return None

    def _reach_hub(self, hub: Hub, held: Reparam) -> Refusal | None:
        """Many nodes share it: what was refused there before is tried first."""
        refusal = self.state.dead_ends.refusal(self, hub, held) if self.leads else None
        if not self.hubs:
            self.came = {}
        self.hubs |= {hub}
        return refusal

    def _defer(self, node: Node, rule: Joint, value: str) -> Refusal | None:
        """A joint is settled once all that is nearer is known.

        To settle one of many values takes that many steps, for each of the candidates in front of it: so what
        is known beforehand is asked first, however near it is.
        """
        if node in self.touched:
            return None
        self.deferred.append(node)
        self.touched[node] = None
        held = self.held[value]
        wide = len(node.inputs) + len(node.outputs) > WIDE
        if wide and self.over:
            return Refusal(Reason.TOO_LARGE, node.label, value)
        if rule.hands_on(held) > WIDE:
            return self._reach_hub(node, held)
        return self._known(value, held) if wide and not self.deep else None

    def _react(self, node: Node, port: Port, rule: Rule, held: Reparam) -> Refusal | None:
        if node in self.state.waiting:
            return Refusal(Reason.WAITING, node.label)
        if self.fixed.get(node.name):
            rule = rule.biasless()
            self.choices.append((node.name, 1, 1))
        elif self.fixed and node in self.graph.tied and self._is_biasless(self.graph.tied[node]):
            rule = rule.biasless()  # they have one bias
        reaction = rule.react(node, port, held, self)
        if isinstance(reaction, Refusal):
            return reaction
        if reaction.edit is not None:
            self.edits.append((node, reaction.edit))
            if rule.has_numbers:
                self.overlay[node] = (*reaction.edit.pair, reaction.edit.axes)
            refusal = self._tell_calls(node, port, held)
            if refusal is not None:
                return refusal
        return self._ask(node, port, reaction.demands)

    def _is_biasless(self, calls: tuple[Node, ...]) -> bool:
        if calls[0] not in self.biasless:
            self.biasless[calls[0]] = any(self.fixed.get(call.name) for call in calls)
        return self.biasless[calls[0]]

    def _tell_calls(self, node: Node, port: Port, held: Reparam) -> Refusal | None:
        """Ask the same of the other calls, the first time that one of them takes it on."""
        calls = self.graph.tied.get(node)
        if calls is None or (calls[0], port) in self.told:
            return None
        if self.over and len(calls) > WIDE:
            return Refusal(Reason.TOO_LARGE, node.label, node.value(port))
        self.told.add((calls[0], port))
        for call in calls:
            refusal = self._demand(call.value(port), held)
            if refusal is not None:
                return refusal
        return None

    def _ask(self, node: Node, into: Port, demands: tuple[tuple[Port, Reparam], ...]) -> Refusal | None:
        for port, held in demands:
            self.asked.add((node, port))
            value = node.value(port)
            if self.hubs and value not in self.held:
                self.came[value] = Hop(node, into, port)
            if not value and port < 0:  # an output that is left out
                continue
            if not value and not held.is_identity:
                return Refusal(Reason.UNREACHABLE, node.label)
            refusal = self._demand(value, held)
            if refusal is not None:
                return refusal
        return None

    def _settle(self, node: Node) -> Refusal | None:
        rule = self._joint(node)
        self.state.effort.take(values=len(node.inputs) + len(node.outputs))
        self.settled.add(node)
        known = {port: self.held[value] for port, value in node.ports() if value in self.held}
        takers = rule.takers(node, known) or (~0,)
        shared = len(takers)  # the choice beyond them all: every open input of a sum takes the same
        chosen = self.fixed.get(node.name, shared if self.shares and rule.shares else 0)
        self.choices.append((node.name, chosen, len(takers)))
        self.routes_scales |= rule.routes_scale and len(takers) > 1
        demands = rule.share(node, known) if chosen == shared else rule.settle(node, known, takers[chosen])
        if isinstance(demands, Refusal):
            return demands
        return self._ask(node, next(iter(known)), demands)
