"""The rule of clamps, y = min(max(x, low), high) with bounds per channel: ReLU, ReLU6, Clip.

A clamp is closed under every reparameterisation: hold x as s·x + t, and y is held as s·y + t by the clamp
with the bounds s·low + t and s·high + t, exchanged where s is negative. So a ReLU that lets a shift through
becomes max(x, t), a vector: as many nodes as before. Attempts that leave activations what they are see the
``plain`` rule instead, and come first.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Pair, Reparam, Vector, from_forward
from bnfuse.core.rules.base import Absorbed, Current, Reaction, Rule, StateView, zero_scale


class Clamp(Rule, frozen=True, eq=False):
    """One tensor in, one out, element by element.

    Attributes:
        low, high: the bounds as stored, −∞ and ∞ where there is none.
        unmoved: what the op is while its bounds stay where they are.
        dtype: the type of its values, in which bounds are stored.
        single: whether two numbers, the same for all channels, make one node (Clip).
        spreads: whether bounds may vary along axes, for which whoever writes them must know the rank.
        fused: whether it is part of another node's work while its bounds stay where they are.
    """

    has_numbers: ClassVar[bool] = True

    low: float
    high: float
    unmoved: Rule
    dtype: np.dtype[Any]
    single: bool = False
    spreads: bool = True
    fused: bool = False

    @property
    def numbers(self) -> Current:
        """(low, high) as stored."""
        return np.array(self.low), np.array(self.high), ()

    @property
    def plain(self) -> Rule:
        """What it is while its bounds stay where they are."""
        return self.unmoved

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """Pass it on, with the bounds moved along."""
        if port not in (0, ~0):
            return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))
        low, high, own = numbers.current(node)
        if self.is_own(low, high):
            # Whatever passes without a change does so here, too: a plan is replayed with one kind of rule.
            reaction = self.unmoved.react(node, port, held, numbers)
            if isinstance(reaction, Reaction):
                return reaction
        axes = own or held.axes
        if held.axes not in ((), axes) or (axes and not self.spreads):
            return Refusal(Reason.AXIS, node.label, node.value(port))
        if held.axes and low.ndim and held.shape != low.shape:
            return Refusal(Reason.AXIS, node.label, node.value(port))
        if held.backward is None and port < 0:
            return zero_scale(node, held)
        bounds, passed = _moved(low, high, held, axes)
        demands = ((~0 if port >= 0 else 0, passed),)
        return Reaction(demands, Absorbed(port, bounds, axes, passing=True))

    def nodes(self, low: Vector, high: Vector) -> int:
        """How many nodes a clamp with these bounds takes."""
        return int(not self.fused) if self.is_own(low, high) else len(self.operators(low, high))

    def operators(self, low: Vector, high: Vector) -> list[str]:
        """What a clamp with other bounds is made of: "Max", "Min", one behind the other, or "Clip"."""
        sides = [name for name, binds in (("Max", low > -np.inf), ("Min", high < np.inf)) if binds.any()]
        if len(sides) == 2 and self.single and low.size == high.size == 1:
            return ["Clip"]
        return sides or ["Max"]

    def is_own(self, low: Vector, high: Vector) -> bool:
        """Whether these are the bounds that it has anyway."""
        return bool((low == self.low).all() and (high == self.high).all())


def _moved(low: Vector, high: Vector, held: Reparam, axes: tuple[int, ...]) -> tuple[Pair, Reparam]:
    """The bounds where x is held so, and how y is.

    A channel held as 0·x + t is t on either side, whatever is left of it between the bounds. One that is
    read as 0·h + q is a constant of the model, and so is what the clamp makes of it.
    """
    if held.backward is not None:
        s, t = held.backward
        s, t, low, high = np.broadcast_arrays(s, t, low, high)
        with np.errstate(invalid="ignore"):  # 0·∞
            first, second = s * low + t, s * high + t
        bounds = np.where(s < 0.0, second, first), np.where(s < 0.0, first, second)
        constant = s == 0.0
        return (
            np.where(constant, np.where(np.isfinite(low), t, -np.inf), bounds[0]),
            np.where(constant, np.where(np.isfinite(high), t, np.inf), bounds[1]),
        ), held
    assert held.forward is not None
    p, q, low, high = np.broadcast_arrays(*held.forward, low, high)
    constant = p == 0.0
    scale = np.where(constant, 1.0, p)
    first, second = (low - q) / scale, (high - q) / scale
    bounds = np.where(p < 0.0, second, first), np.where(p < 0.0, first, second)
    kept = np.where(constant, low, bounds[0]), np.where(constant, high, bounds[1])
    return kept, from_forward(axes, p, np.where(constant, np.clip(q, low, high), q))
