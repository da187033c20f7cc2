"""Where demands on what many nodes share were refused before.

A projection that an unrolled network slices step by step has hundreds of readers, with a candidate behind
each. Every candidate asks something of the projection, and to visit all readers shows the same one refuse,
time after time. So the ways that ended in a refusal are remembered, as nodes and ports alone, and the next
demand is led along them first: with its own numbers, through the rules and the state as they are by then.

Only ways without a choice count: through ops that pass on, nodes that are gone, and concatenations that do
not run along the channels. Whatever refuses there would have been met anyway, so nothing is refused that
could have gone; but it may be another node that refuses than the one that a visit to all readers meets first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam
from bnfuse.core.rules.base import Joint

if TYPE_CHECKING:
    from bnfuse.core.planning.propagate import Worklist

# What more ports than this share is a hub.
WIDE = 24

# Ways remembered per hub: those of the splits that ask for other things, and a spare.
_MOST = 4

Hub = str | Node  # a value that many nodes read, or a node that joins or splits many values


class Hop(Struct, frozen=True, eq=False):
    """A node that a demand comes into at one port and leaves by another."""

    node: Node
    into: Port
    out: Port


class DeadEnd(Struct, frozen=True, eq=False):
    """The way from a hub to the port of a node where it ended."""

    hops: tuple[Hop, ...]
    node: Node
    port: Port

    def leads_to(self, node: Node, port: Port) -> bool:
        """Whether it ends there."""
        return self.node is node and self.port == port


class DeadEnds(Struct, eq=False):
    """The ways remembered, by hub; those that refused last come first."""

    _of: dict[Hub, list[DeadEnd]] = field(default_factory=dict)

    def refusal(self, run: Worklist, hub: Hub, held: Reparam) -> Refusal | None:
        """Who refuses what is asked of a hub, at the end of one of its ways; None if that is not known."""
        known = self._of.get(hub, [])
        for at, way in enumerate(known):
            refusal = _end_of(run, way, held)
            if refusal is not None:
                known.insert(0, known.pop(at))
                return refusal
        return None

    def remember(self, run: Worklist, value: str, node: Node, port: Port, refusal: Refusal) -> None:
        """An attempt was refused where ``node`` met ``value``: note the way there from the nearest hub."""
        if refusal.reason in (Reason.CONFLICT, Reason.TOO_FAR):  # they depend on what else was asked
            return
        hops: list[Hop] = []
        hub: Hub = value
        while hub not in run.hubs:
            hop = run.came.get(value)
            if hop is None:
                return
            hops.append(hop)
            hub = value = hop.node.value(hop.into)
            if hop.node in run.hubs:
                hub = hop.node
        known = self._of.setdefault(hub, [])
        known[:] = [way for way in known if not way.leads_to(node, port)][: _MOST - 1]
        known.insert(0, DeadEnd(tuple(reversed(hops)), node, port))


def _end_of(run: Worklist, way: DeadEnd, held: Reparam) -> Refusal | None:
    """What a demand on the hub meets at the end of a way; None where it does not get there or is taken on."""
    run.state.effort.take(len(way.hops))
    for hop in way.hops:
        passed = _passed(run, hop, held)
        if passed is None or passed.is_identity:
            return None
        refusal = run.barred(hop.node.value(hop.out), passed)
        if refusal is not None:
            return refusal
        held = passed
    return _met(run, way.node, way.port, held)


def _passed(run: Worklist, hop: Hop, held: Reparam) -> Reparam | None:
    """What a hop asks for at its other port, where that follows from this demand alone."""
    rule = run.state.rule(hop.node)
    if hop.node in run.removed_calls:
        return None
    if isinstance(rule, Joint):
        return held if rule.hands_on(held) else None
    if (hop.node, hop.into) in run.asked:
        return None
    reaction = rule.react(hop.node, hop.into, held, run)
    if isinstance(reaction, Refusal) or reaction.edit is not None:
        return None
    return next((asked for port, asked in reaction.demands if port == hop.out), None)


def _met(run: Worklist, node: Node, port: Port, held: Reparam) -> Refusal | None:
    """Whether a node refuses, or what it passes the demand on to."""
    rule = run.state.rule(node)
    if rule.joint or node in run.removed_calls or (node, port) in run.asked or node in run.overlay:
        return None
    if node in run.state.waiting:
        return Refusal(Reason.WAITING, node.label)
    reaction = rule.react(node, port, held, run)
    if isinstance(reaction, Refusal):
        return reaction
    refused = (run.barred(node.value(p), asked) for p, asked in reaction.demands if not asked.is_identity)
    return next((refusal for refusal in refused if refusal is not None), None)
