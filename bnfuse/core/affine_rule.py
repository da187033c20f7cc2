"""The rule of ChannelAffines: BatchNormalizations, arithmetic with constants, a norm's own γ and β."""

from __future__ import annotations

import numpy as np

from bnfuse.core.affine import Pair, Reparam, Vector, from_backward, from_forward
from bnfuse.core.graph import Node, Port
from bnfuse.core.ops import Edit, Numbers, Reaction, Rule, zero_scale
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.record import record


@record
class Affine(Rule):
    """y = a·x + c per channel: a BatchNormalization, or a Mul, Add, Sub, Div by constants.

    Attributes:
        pair: (a, c) as stored, float64, shape (channels,) or () for one number.
        axes: the axes of x and y they vary along: one, or none for one number.
        has_scale, has_shift: which of the two the node can store; neither: it can only be removed.
        stores_along: the one axis along which it can store vectors; None where any will do.
        divides: whether it stores 1/a, so that a must not become zero.
        magnitude: typical size of x per channel (from a BN's statistics), if known.
        in_port: which input is x.
        reads: False where only the output is affine (a normalisation's own γ and β).
        broken: set where the node cannot be removed at all, and why.
    """

    pair: Pair
    axes: tuple[int, ...]
    has_scale: bool = True
    has_shift: bool = True
    stores_along: int | None = None
    divides: bool = False
    magnitude: Vector | None = None
    in_port: Port = 0
    reads: bool = True
    broken: Refusal | None = None

    def react(self, node: Node, port: Port, held: Reparam, numbers: Numbers) -> Reaction | Refusal:
        """Absorb what the node can store, pass on what it cannot."""
        if self.broken is not None:
            return self.broken
        stores = self.has_scale or self.has_shift
        if not stores or port not in (self.in_port, ~0) or (port >= 0 and not self.reads):
            return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))
        a, c, own = numbers.affine(node)
        axes = own or held.axes
        elsewhere = self.stores_along is not None and held.axes not in ((), (self.stores_along,))
        if elsewhere or held.axes not in ((), axes) or len(axes) > 1:
            return Refusal(Reason.AXIS, node.label, node.value(port))
        if held.axes and a.ndim and held.size != a.size:
            return Refusal(Reason.AXIS, node.label, node.value(port))
        if self.divides and held.zeros:
            return zero_scale(node, held)
        if port == self.in_port:
            return self._read(node, held, axes, a, c)
        return self._write(node, held, axes, a, c)

    def _read(
        self, node: Node, held: Reparam, axes: tuple[int, ...], a: Vector, c: Vector
    ) -> Reaction | Refusal:
        """x = p·h + q, so y = a·p·h + a·q + c."""
        if held.forward is None:
            return zero_scale(node, held)
        p, q = np.broadcast_arrays(*held.forward, np.zeros(a.shape))[:2]
        if self.has_scale and self.has_shift:
            return Reaction(edit=Edit(self.in_port, (a * p, a * q + c), axes))
        if self.has_scale:
            rest = from_forward(axes, np.ones_like(p), a * q)
            demands = ((~0, rest),) if q.any() else ()
            return Reaction(demands, Edit(self.in_port, (a * p, np.zeros_like(p)), axes))
        if (p == 0.0).any():
            return zero_scale(node, held)
        demands = () if (p == 1.0).all() else ((~0, from_forward(axes, p, np.zeros_like(p))),)
        return Reaction(demands, Edit(self.in_port, (np.broadcast_to(a, p.shape), (a * q + c) / p), axes))

    def _write(
        self, node: Node, held: Reparam, axes: tuple[int, ...], a: Vector, c: Vector
    ) -> Reaction | Refusal:
        """h = s·y + t, so h = s·a·x + s·c + t."""
        if held.backward is None:
            return zero_scale(node, held)
        s, t = np.broadcast_arrays(*held.backward, np.zeros(a.shape))[:2]
        if self.has_scale and self.has_shift:
            return Reaction(edit=Edit(~0, (s * a, s * c + t), axes))
        if self.has_scale:
            scale = s * a
            if not t.any():
                return Reaction(edit=Edit(~0, (scale, np.zeros_like(t)), axes))
            if (scale == 0.0).any():
                return zero_scale(node, held)
            rest = from_backward(axes, np.ones_like(t), t / scale)
            return Reaction(((self.in_port, rest),), Edit(~0, (scale, np.zeros_like(t)), axes))
        demands = () if (s == 1.0).all() else ((self.in_port, from_backward(axes, s, np.zeros_like(s))),)
        return Reaction(demands, Edit(~0, (np.broadcast_to(a, s.shape), s * c + t), axes))
