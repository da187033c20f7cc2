"""Rules of operators that do not see all of a scale: the sign, the size, or that there is a shift.

    Even      f(−x) = f(x), f(s·x) = s·f(x) for s ≥ 0    f(s·x) = |s|·f(x): the sign ends here
    Unseen    f(s·x + t) = f(x) for s > 0                scale and shift end here

Only from the input on: what comes in at the output must pass as it does everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam
from bnfuse.core.rules.base import Pass, Reaction, Rule, StateView, zero_scale


class Even(Rule, frozen=True, eq=False):
    """Magnitudes and norms: no ``Pass``, whose input and output are scaled alike (``core.planning.classes``).

    Attributes:
        size: what passes without its sign.
    """

    size: Pass

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """Without the sign, where that comes in at the input."""
        if port == self.size.in_port and not held.shifts:
            held = held.map(np.abs, held.axes)
        return self.size.react(node, port, held, numbers)


class Unseen(Rule, frozen=True, eq=False):
    """Order, direction, sign.

    Attributes:
        mixes: whether elements along an input axis must share a scale and shift for it not to be seen.
        shift: None where a shift is not seen either, else why it is refused.
    """

    mixes: Callable[[int], bool]
    shift: Reason | None = None

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """Nothing is asked of anybody."""
        if port != 0:
            return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))
        if self.shift is not None and held.shifts:
            return Refusal(self.shift, node.label, node.value(port))
        if negative := held.negative:
            detail = f"{negative} of {held.size} channels are negative"
            return Refusal(Reason.NEGATIVE_SCALE, node.label, node.value(port), detail)
        if held.zeros:
            return zero_scale(node, held)
        if any(self.mixes(a) for a in held.axes):
            return Refusal(Reason.AXIS, node.label, node.value(port))
        return Reaction()
