"""Rules of ops with several data inputs, beside ``weighted_sum``: products, choices, concatenations, splits.

    Product      y = Π xⱼ^eⱼ     no shifts; the scales obey s_y = Π sⱼ^eⱼ
    Select       y = one of xⱼ   all are held alike
    ConcatSplit  whole = parts side by side along one axis; every part holds its slice

Each is settled with the demands that reached it by other ways; what those leave open goes to one
``taker`` (the planner tries each), all other open ports are held without it.
"""

from __future__ import annotations

from itertools import accumulate
from typing import ClassVar

import numpy as np

from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import IDENTITY, Pair, Reparam, same
from bnfuse.core.rules.base import Demands, Joint, Known, Sign
from bnfuse.core.rules.operands import Operand


class Product(Joint, frozen=True, eq=False):
    """Mul, Div of two run-time tensors (gates): y = Π xⱼ^eⱼ, each exponent 1 or −1."""

    routes_scale: ClassVar[bool] = True

    exponents: tuple[int, ...]
    operands: tuple[Operand, ...]

    def takers(self, node: Node, known: Known) -> tuple[Port, ...]:
        """The widest operand first: a gate is usually behind a nonlinearity."""
        inputs = sorted(range(len(self.exponents)), key=lambda p: len(self.operands[p].stretched))
        return tuple(p for p in (*inputs, ~0) if p not in known)

    def settle(self, node: Node, known: Known, taker: Port) -> Demands | Refusal:
        """The taker's scale makes s_y = Π sⱼ^eⱼ true."""
        for port, held in known.items():
            if held.shifts:
                return Refusal(Reason.SHIFT_REFUSED, node.label, node.value(port))
        rest = self._held_so_far(known)
        if rest.backward is None and rest.forward is None:
            return Refusal(Reason.ZERO_SCALE, node.label, node.value(taker))
        open_ports = [p for p in (*range(len(self.exponents)), ~0) if p not in known]
        if not open_ports:
            return () if rest.is_identity else Refusal(Reason.CONFLICT, node.label, node.value(~0))
        if taker == ~0:
            asked: Reparam | None = rest
        else:
            owed = rest if self.exponents[taker] == -1 else _inverse(rest)
            asked = self.operands[taker].from_output(owed)
        if asked is None:
            return Refusal(Reason.BROADCAST, node.label, node.value(taker))
        return tuple((p, asked if p == taker else IDENTITY) for p in open_ports)

    def _held_so_far(self, known: Known) -> Reparam:
        """Π sⱼ^eⱼ over the known inputs, divided by s_y where that is known, along output axes."""
        total = IDENTITY
        for port, held in known.items():
            lifted = held if port < 0 else self.operands[port].to_output(held)
            divides = port == ~0 or self.exponents[port] == -1
            total = _times(total, _inverse(lifted) if divides else lifted)
        return total


def _inverse(held: Reparam) -> Reparam:
    """1/s for s: the two directions change places (there is no shift)."""
    return Reparam(held.axes, held.forward, held.backward)


def _times(a: Reparam, b: Reparam) -> Reparam:
    """Both scales at once; a direction that either lacks is lacking in the product."""
    if a is IDENTITY:
        return b
    axes = tuple(sorted({*a.axes, *b.axes}))

    def times(x: Pair | None, y: Pair | None) -> Pair | None:
        if x is None or y is None:
            return None
        left = x[0][tuple(slice(None) if k in a.axes else None for k in axes)]
        right = y[0][tuple(slice(None) if k in b.axes else None for k in axes)]
        scale = left * right
        return scale, np.zeros_like(scale)

    return Reparam(axes, times(a.backward, b.backward), times(a.forward, b.forward))


class ConcatSplit(Joint, frozen=True, eq=False):
    """Concat (``whole`` is the output) and Split (``whole`` is the input) along ``axis``.

    ``sizes`` are the parts' lengths along it, None where unknown.
    """

    whole: Port
    parts: tuple[Port, ...]
    axis: int
    sizes: tuple[int | None, ...]

    def waits_for(self, node: Node) -> str:
        """The whole: not told of it, all parts that nobody asked for stay as they are."""
        return node.value(self.whole)

    def hands_on(self, held: Reparam) -> int:
        """What does not vary along the joining axis goes to every part."""
        return 0 if self.axis in held.axes else len(self.parts)

    def takers(self, node: Node, known: Known) -> tuple[Port, ...]:
        """There is nothing to choose."""
        return (self.whole,)

    def settle(self, node: Node, known: Known, taker: Port) -> Demands | Refusal:
        """Along other axes all ports hold the same; along the joining axis each its slice."""
        if all(self.axis not in h.axes for h in known.values()):
            first = next(iter(known.values()))
            if self.whole in known or first.axes:
                return self._all_alike(node, known, first)
        if any(h.axes not in ((), (self.axis,)) for h in known.values()):
            return Refusal(Reason.AXIS, node.label, node.value(self.whole))
        if any(n is None for n in self.sizes):
            return Refusal(Reason.SHAPE_UNKNOWN, node.label, node.value(self.whole))
        sizes = [n for n in self.sizes if n is not None]
        channels = {self.whole: sum(sizes), **dict(zip(self.parts, sizes, strict=True))}
        if any(held.axes and held.size != channels[port] for port, held in known.items()):
            return Refusal(Reason.AXIS, node.label, node.value(self.whole))  # the file contradicts itself
        if self.whole in known:
            return self._slices(node, known, sizes)
        return self._assembled(known, sizes)

    def _all_alike(self, node: Node, known: Known, first: Reparam) -> Demands | Refusal:
        for port, held in known.items():
            if not same(held, first):
                return Refusal(Reason.CONFLICT, node.label, node.value(port))
        return tuple((p, first) for p in (self.whole, *self.parts) if p not in known)

    def _slices(self, node: Node, known: Known, sizes: list[int]) -> Demands | Refusal:
        held = known[self.whole].along((self.axis,), (sum(sizes),))
        demands = []
        start = 0
        for port, n in zip(self.parts, sizes, strict=True):
            cut = slice(start, start + n)
            part = held.map(lambda v, cut=cut: v[cut], (self.axis,))  # type: ignore[misc]
            start += n
            if port not in known:
                demands.append((port, IDENTITY if part.is_identity else part))
            elif not same(known[port], part):
                return Refusal(Reason.CONFLICT, node.label, node.value(port))
        return tuple(demands)

    def _assembled(self, known: Known, sizes: list[int]) -> Demands:
        """Mostly one of many parts is known, and all others stay as they are."""
        ends = list(accumulate(sizes))
        pieces = [
            (slice(end - n, end), known[port].along((self.axis,), (n,)))
            for port, n, end in zip(self.parts, sizes, ends, strict=True)
            if port in known
        ]

        def side_by_side(pairs: list[tuple[slice, Pair | None]]) -> Pair | None:
            scale, shift = np.ones(ends[-1]), np.zeros(ends[-1])
            for place, pair in pairs:
                if pair is None:
                    return None
                scale[place], shift[place] = pair
            return scale, shift

        backward = side_by_side([(place, piece.backward) for place, piece in pieces])
        forward = side_by_side([(place, piece.forward) for place, piece in pieces])
        rest = tuple((p, IDENTITY) for p in self.parts if p not in known)
        return ((self.whole, Reparam((self.axis,), backward, forward)), *rest)


class Select(Joint, frozen=True, eq=False):
    """Max, Min, Where: y is one of the inputs in ``ports``, element by element.

    All of them and the output are held alike; where the choice depends on their order (Max, Min),
    with positive scales only. Operands of other shapes than the output's are not followed.
    """

    ports: tuple[Port, ...]
    sign: Sign

    def settle(self, node: Node, known: Known, taker: Port) -> Demands | Refusal:
        """What one is held as, all are."""
        first = next(iter(known.values()))
        for port, held in known.items():
            if port not in (*self.ports, ~0):
                return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))
            if not same(held, first):
                return Refusal(Reason.CONFLICT, node.label, node.value(port))
        if self.sign is Sign.NONNEGATIVE and (negative := first.negative):
            detail = f"{negative} of {first.size} channels are negative"
            return Refusal(Reason.NEGATIVE_SCALE, node.label, node.value(next(iter(known))), detail)
        return tuple((p, first) for p in (*self.ports, ~0) if p not in known)
