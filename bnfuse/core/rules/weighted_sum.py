"""The rule of sums: y = Σ σⱼxⱼ. All are held with one scale s; the shifts obey t_y = Σ σⱼtⱼ.

What the known shifts leave open goes to one ``taker`` (the planner tries each), or to all open inputs
alike, which is the way where all of them begin in one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import IDENTITY, Reparam, Vector, from_backward, same
from bnfuse.core.rules.base import Demands, Joint, Known
from bnfuse.core.rules.operands import Operand


class WeightedSum(Joint, frozen=True, eq=False):
    """Add, Sub, Sum, Neg, Average: y = Σ σⱼxⱼ with constant σⱼ ≠ 0."""

    shares: ClassVar[bool] = True

    signs: tuple[float, ...]
    operands: tuple[Operand, ...]

    def takers(self, node: Node, known: Known) -> tuple[Port, ...]:
        """Inputs first (a branch may end in an op that absorbs), then the output."""
        return tuple(p for p in (*range(len(self.signs)), ~0) if p not in known)

    def settle(self, node: Node, known: Known, taker: Port) -> Demands | Refusal:
        """One scale for all; the taker's shift makes t_y = Σ σⱼtⱼ true."""
        return self._settle(node, known, taker)

    def share(self, node: Node, known: Known) -> Demands | Refusal:
        """One scale for all; the shift of all open inputs alike makes t_y = Σ σⱼtⱼ true."""
        return self._settle(node, known, None)

    def _settle(self, node: Node, known: Known, taker: Port | None) -> Demands | Refusal:
        if len(set(node.inputs)) == 1 and (~0 in known) != (0 in known):
            return self._multiple(node, *next(iter(known.items())))
        lifted = {p: self._lift(p, held) for p, held in known.items()}
        scale = next(iter(lifted.values())).scale_only
        for port, held in lifted.items():
            if not same(held.scale_only, scale):
                return Refusal(Reason.CONFLICT, node.label, node.value(port))
        rest = _missing_shift(lifted, self.signs)
        if rest is None:
            return Refusal(Reason.ZERO_SCALE, node.label, node.value(~0 if taker is None else taker))
        open_ports = [p for p in (*range(len(self.signs)), ~0) if p not in known]
        if not open_ports:
            return () if not rest[1].any() else Refusal(Reason.CONFLICT, node.label, node.value(~0))
        together = _together(node, open_ports, taker)
        weight = -1.0 if taker == ~0 else sum(self.signs[p] for p in together)
        if weight == 0.0 and rest[1].any():
            return Refusal(Reason.CONFLICT, node.label, node.value(~0 if taker is None else taker))
        untouched = scale.is_identity
        demands = []
        for port in open_ports:
            if untouched and port not in together:  # most, where there are many
                demands.append((port, IDENTITY))
                continue
            # t_y = Σ σⱼtⱼ: the output takes the sum itself, an input what the sum lacks, times its sign.
            sign = 1.0 / weight if port in together and weight else 0.0
            held = _with_shift(scale, rest, sign)
            asked = held if port < 0 else self.operands[port].from_output(held)
            if asked is None:
                return Refusal(Reason.BROADCAST, node.label, node.value(port))
            demands.append((port, asked))
        return tuple(demands)

    def _multiple(self, node: Node, port: Port, held: Reparam) -> Demands | Refusal:
        """y = w·x with w = Σ σⱼ (Neg, a value added to itself): the scale passes, zeros too; t_y = w·t_x."""
        weight = sum(self.signs)
        if weight == 0.0 and held.shifts:
            return Refusal(Reason.CONFLICT, node.label, node.value(port))
        if port >= 0:
            return ((~0, self._lift(port, held).shift_times(weight)),)
        lies, *_ = self.operands  # as all of them do
        asked = lies.from_output(held.shift_times(1.0 / weight) if weight else held)
        if asked is None:
            return Refusal(Reason.BROADCAST, node.label, node.value(~0))
        return tuple((p, asked) for p in range(len(self.signs)))

    def _lift(self, port: Port, held: Reparam) -> Reparam:
        return held if port < 0 else self.operands[port].to_output(held)


def _together(node: Node, open_ports: Sequence[Port], taker: Port | None) -> set[Port]:
    """The ports that what is left over goes to: one that reads the taker's value is among them, too."""
    if taker is None:
        return {port for port in open_ports if port >= 0}
    value = node.value(taker)
    return {port for port in open_ports if node.value(port) == value}


def _missing_shift(lifted: Known, signs: tuple[float, ...]) -> tuple[tuple[int, ...], Vector] | None:
    """t_y − Σ σⱼtⱼ over the known ports, as (axes, array); None where a known shift has no inverse."""
    shifted = {p: h for p, h in lifted.items() if h.backward is None or h.backward[1].any()}
    if not shifted:
        return (), np.zeros(())
    axes = max((h.axes for h in shifted.values()), key=len)
    total: Vector = np.zeros((1,) * len(axes))
    largest: Vector = np.zeros(())
    for port, held in shifted.items():
        if held.backward is None or not set(held.axes) <= set(axes):
            return None
        index = tuple(slice(None) if a in held.axes else None for a in axes)
        part = held.backward[1][index]
        total = total + part if port == ~0 else total - signs[port] * part
        largest = np.maximum(largest, np.abs(part))
    # What cancels exactly on paper may leave float64 dust: it is not a shift.
    return axes, np.where(np.abs(total) <= 1e-13 * largest, 0.0, total)


def _with_shift(scale: Reparam, rest: tuple[tuple[int, ...], Vector], sign: float) -> Reparam:
    """The common scale together with ±the missing shift."""
    axes, t = rest
    if sign == 0 or not t.any():
        return scale
    assert scale.backward is not None
    every = tuple(sorted({*scale.axes, *axes}))
    s = scale.backward[0][tuple(slice(None) if a in scale.axes else None for a in every)]
    t = t[tuple(slice(None) if a in axes else None for a in every)]
    s, t = np.broadcast_arrays(s, t)
    return from_backward(every, s, sign * t)
