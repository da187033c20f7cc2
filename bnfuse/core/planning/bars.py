"""Channels that no attempt can hold in another way, because of who stands somewhere behind them.

In a dense block every layer reads all that was made before it. Whatever is asked of one of those values is
asked of all of them, and ends at the same nodes each time. So values that hold the same channels make up a
region, and of each channel of a region it is noted who refuses it:

    every change   the outside world, ops that refuse everything, what no node writes
    a shift        activations, products, linear ops that take none
    everything     for now: affine nodes that are to go themselves

Channels are handed on as they are by concatenations and splits, by ops of one input that keep the axes, and
by nodes that are gone. Nothing else links values here: that costs time, but never a fold. A region is found
when first asked for, and grows as nodes go. A clamp that was moved refuses no shift any more: what it refused
counts no longer, and whoever else refuses a shift of those channels is met, not known.

It does not tell of demands along several axes, along none, or with a channel that cannot be written so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from bnfuse.core.axes import SameAxes
from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, Pass, Rule
from bnfuse.core.rules.clamp import Clamp
from bnfuse.core.rules.joint import ConcatSplit, Product
from bnfuse.core.rules.linear_rule import Linear

if TYPE_CHECKING:
    from bnfuse.core.planning.state import State

Channels = NDArray[np.int64]  # places in the arrays of a region, shape (channels of a value,)


class Region(Struct, eq=False):
    """Values that share channels, all along one axis.

    Attributes:
        axis: the axis of each value that its channels lie along.
        count: how many channels there are.
        every, shift: who refuses every change, or a shift, as 1 + a place in ``Bars.why``; 0 for nobody.
        takers: affine nodes, and the channels that they read or write.
    """

    axis: int
    count: int = 0
    every: Channels = field(default_factory=lambda: np.zeros(0, np.int64))
    shift: Channels = field(default_factory=lambda: np.zeros(0, np.int64))
    takers: list[tuple[Node, Channels]] = field(default_factory=list)
    _joined: tuple[int, Channels, Channels] | None = None

    def takers_of(self, asked: NDArray[np.bool_]) -> Iterator[Node]:
        """Affine nodes of any channel that is asked for, shape (channels of the region,), in order."""
        if self._joined is None or self._joined[0] < len(self.takers):
            sizes = [channels.size for _, channels in self.takers]
            owners = np.repeat(np.arange(len(sizes)), sizes)
            self._joined = len(sizes), owners, np.concatenate([channels for _, channels in self.takers])
        _, owners, channels = self._joined
        return (self.takers[at][0] for at in np.unique(owners[asked[channels]]).tolist())


class Found(NamedTuple):
    """A value's region, and its channels there."""

    region: Region
    channels: Channels


class Bars(Struct, eq=False):
    """The regions of one graph, as far as they were asked for."""

    state: State
    moves_bounds: bool  # whether activations may become clamps with other bounds
    why: list[Refusal] = field(default_factory=list)
    _of: dict[str, Found] = field(default_factory=dict)
    _lifted: set[str] = field(default_factory=set)  # labels of clamps that refuse no shift any more

    def lift(self, clamp: Node) -> None:
        """Its bounds have moved, so what shifts comes through."""
        self._lifted.add(clamp.label)

    def refusal(self, value: str, held: Reparam, going: Collection[Node]) -> Refusal | None:
        """Why a value cannot be held so; nodes that are ``going`` ask nothing."""
        if held.backward is None or len(held.axes) != 1:
            return None
        found = self._of.get(value)
        if found is None:
            found = self._spread(Region(*held.axes), value, np.arange(held.size))
        region, channels = found
        if held.axes != (region.axis,) or channels.size != held.size:
            return None
        s, t = held.backward
        shifted = channels[t != 0.0]
        changed = channels[(t != 0.0) | (s != 1.0)]
        known = region.every[changed]
        if known.any():
            return self.why[int(known[known != 0][0]) - 1]
        known = region.shift[shifted]
        for place in dict.fromkeys(known[known != 0].tolist()):
            refusal = self.why[int(place) - 1]
            if refusal.node not in self._lifted:
                return refusal
        return self._awaited(region, changed, going)

    def _awaited(self, region: Region, changed: Channels, going: Collection[Node]) -> Refusal | None:
        waiting = self.state.waiting
        if not waiting or not region.takers:
            return None
        self.state.effort.take(numbers=region.every.size)
        asked = np.zeros(region.every.size, np.bool_)
        asked[changed] = True
        for node in region.takers_of(asked):
            if node in waiting and node not in going:
                return Refusal(Reason.WAITING, node.label)
        return None

    def merge(self, x: str, y: str) -> None:
        """Two values became one (where either was asked for before)."""
        match self._of.get(x), self._of.get(y):
            case Found() as one, None:
                self._spread(one.region, y, one.channels)
            case None, Found() as other:
                self._spread(other.region, x, other.channels)
            case Found() as one, Found() as other if one.channels.size == other.channels.size:
                for here, there in ((one, other), (other, one)):
                    _bar(here.region.every, here.channels, there.region.every[there.channels])
                    _bar(here.region.shift, here.channels, there.region.shift[there.channels])

    def _spread(self, region: Region, start: str, channels: Channels) -> Found:
        """Add a value to a region, and all that it shares channels with."""
        region.count = max(region.count, int(channels.max(initial=-1)) + 1)
        found = self._of[start] = Found(region, channels)
        pending = [start]
        barred: list[tuple[Channels, Refusal, bool]] = []
        while pending:
            value = pending.pop()
            channels = self._of[value].channels
            adjacent = self.state.graph.adjacent(value)
            if value in self.state.graph.pinned:
                barred.append((channels, Refusal(self.state.graph.pinned[value], value=value), True))
            elif not adjacent or adjacent[0][1] >= 0:  # no node writes it
                barred.append((channels, Refusal(Reason.UNREACHABLE, value=value), True))
            for node, port in adjacent:
                rule = self._rule(node)
                if isinstance(rule, Affine):
                    region.takers.append((node, channels))
                barred += [(channels, *refused) for refused in _refused(node, port, rule)]
                for other, its in self._across(node, port, rule, self._of[value]):
                    if other and other not in self._of:
                        self._of[other] = Found(region, its)
                        pending.append(other)
        region.every, region.shift = (_longer(known, region.count) for known in (region.every, region.shift))
        for channels, refusal, changes in barred:
            self.why.append(refusal)
            _bar(region.every if changes else region.shift, channels, len(self.why))
        return found

    def _rule(self, node: Node) -> Rule:
        """As ``State.rule``, whatever activations may become just now."""
        rule = self.state.rules.get(node) or self.state.graph.rule(node)
        return rule if self.moves_bounds else rule.plain  # one that has moved is ``lift``ed

    def _across(self, node: Node, port: Port, rule: Rule, of: Found) -> Iterator[tuple[str, Channels]]:
        """The values beyond a node that have channels of this one, and which."""
        if isinstance(rule, Clamp) or (isinstance(rule, Pass) and _keeps_channels(rule)):
            read = rule.in_port if isinstance(rule, Pass) else 0
            if port in (read, ~0):
                yield node.value(~0 if port >= 0 else read), of.channels
        elif isinstance(rule, ConcatSplit) and rule.axis != of.region.axis:
            yield from ((node.value(p), of.channels) for p in (rule.whole, *rule.parts))
        elif isinstance(rule, ConcatSplit) and (ends := _ends(rule)):
            if port != rule.whole:
                yield from self._whole(node, rule, ends, of.region)
            elif ends[-1] == of.channels.size:
                cuts = np.split(of.channels, ends[:-1])
                yield from zip((node.value(p) for p in rule.parts), cuts, strict=True)

    def _whole(
        self, node: Node, rule: ConcatSplit, ends: list[int], region: Region
    ) -> Iterator[tuple[str, Channels]]:
        """What parts are joined to; those that nobody asked for have channels of their own."""
        whole = node.value(rule.whole)
        if whole in self._of:
            return
        cuts = np.split(np.arange(region.count, region.count + ends[-1]), ends[:-1])
        region.count += ends[-1]
        known = [self._of.get(node.value(port)) for port in rule.parts]
        yield whole, np.concatenate([
            cut if of is None else of.channels
            for of, cut in zip(known, cuts, strict=True)
        ])  # fmt: skip


def _refused(node: Node, port: Port, rule: Rule) -> Iterator[tuple[Refusal, bool]]:
    """What a node refuses at a port whatever else is asked: every change (True), or a shift."""
    value = node.value(port)
    match rule:
        case Opaque():
            yield Refusal(rule.reason, node.label, value, rule.detail), True
        case Affine():
            if rule.broken is not None:
                yield rule.broken, True
        case Pass():
            if rule.shift is not None:
                yield Refusal(rule.shift, node.label, value), False
        case Product():
            yield Refusal(Reason.SHIFT_REFUSED, node.label, value), False
        case Linear():
            if port == rule.in_port and rule.shift_in is not None:
                yield Refusal(rule.shift_in, node.label, value), False


def _keeps_channels(rule: Pass) -> bool:
    """Whether what one side is held as, the other one is."""
    return isinstance(rule.axes, SameAxes) and not rule.mixed_out


def _ends(rule: ConcatSplit) -> list[int]:
    """Where its parts end in the whole; nothing where that is not known."""
    sizes = [n for n in rule.sizes if n is not None]
    return list(accumulate(sizes)) if len(sizes) == len(rule.parts) else []


def _longer(known: Channels, count: int) -> Channels:
    return np.concatenate([known, np.zeros(count - known.size, np.int64)])


def _bar(barred: Channels, channels: Channels, why: Channels | int) -> None:
    """Note who refuses channels of which that is not known."""
    barred[channels] = np.where(barred[channels] == 0, why, barred[channels])
