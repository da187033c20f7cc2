"""The rule of ChannelAffines: BatchNormalizations, arithmetic with constants, a norm's own γ and β."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from msgspec import Struct

from bnfuse.core.graph import Graph, Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Pair, Reparam, Vector, dustless, from_backward, from_forward, settled_scale
from bnfuse.core.rules.base import Absorbed, Current, Reaction, Rule, StateView, zero_scale
from bnfuse.core.weights.scaled import largest

_WIDEST = np.dtype(np.float64)


class Typical(NamedTuple):
    """What a BatchNormalization's statistics say of the values of x, per channel, shape (channels,)."""

    mean: Vector
    deviation: Vector

    @property
    def size(self) -> Vector:
        """How large x typically is."""
        size: Vector = np.abs(self.mean) + self.deviation
        return size


class Affine(Rule, frozen=True, eq=False):
    """y = a·x + c per channel: a BatchNormalization, or a Mul, Add, Sub, Div by constants.

    Attributes:
        pair: (a, c) as stored, float64, shape (channels,) or () for one number.
        axes: the axes of x and y they vary along: one, or none for one number.
        has_scale, has_shift: which of the two the node can store; neither: it can only be removed.
            What it cannot store stays as it is in ``pair`` and goes on to the node's other side.
        stores_along: the one axis along which it can store vectors; None where any will do.
        divides: whether it stores 1/a, so that a must not become zero.
        typical: what x is like (from a BN's statistics), if known.
        computes: the type that y is rounded to, if known: what a proof goes by where the node goes.
        stored: the type that the node's constants have, if known.
        in_port: which input is x.
        reads: False where only the output is affine (a normalisation's own γ and β): nothing is asked of
            the input then, so what the node cannot store it refuses.
        broken: set where the node cannot be removed at all, and why.
    """

    has_numbers: ClassVar[bool] = True

    pair: Pair
    axes: tuple[int, ...]
    has_scale: bool = True
    has_shift: bool = True
    stores_along: int | None = None
    divides: bool = False
    typical: Typical | None = None
    in_port: Port = 0
    reads: bool = True
    broken: Refusal | None = None
    computes: np.dtype[Any] | None = None
    stored: np.dtype[Any] | None = None

    def fits(self, a: Vector, c: Vector) -> bool:
        """Whether constants of the node's type hold y = a·x + c, as far as its rule can tell.

        A BatchNormalization keeps its statistics: it holds a·√(σ² + ε) and c + μ·a.

        Args:
            a: the scale, float64, shape (channels,) or () for one number.
            c: the shift, of the same shape.
        """
        most = largest(_WIDEST if self.stored is None else self.stored)
        held = [a, c]
        if self.typical is not None:
            held += [a * self.typical.deviation, c + a * self.typical.mean]
        if self.divides:
            held.append(1.0 / a)
        return all(bool((np.abs(values) <= most).all()) for values in held)  # NaN does not, either

    @property
    def numbers(self) -> Current:
        """(a, c) as stored."""
        return (*self.pair, self.axes)

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """Absorb what the node can store, pass on what it cannot."""
        if self.broken is not None:
            return self.broken
        stores = self.has_scale or self.has_shift
        if not stores or port not in (self.in_port, ~0) or (port >= 0 and not self.reads):
            return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))
        a, c, own = numbers.current(node)
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
        """x = p·h + q, so y = (a·p)·h + (a·q + c): what is not stored is how y is held from now on."""
        seen = _seen(held, a)
        if seen is None:
            return zero_scale(node, held)
        ap, aq = seen
        c = np.broadcast_to(c, ap.shape)
        if self.has_scale and self.has_shift:
            return Reaction(edit=Absorbed(self.in_port, (settled_scale(ap), dustless(aq, c)), axes))
        if self.has_scale:  # y = (a·p·h + c) + a·q
            demands = ((~0, from_forward(axes, np.ones_like(ap), aq)),) if aq.any() else ()
            return Reaction(demands, Absorbed(self.in_port, (settled_scale(ap), c), axes))
        if held.zeros:
            return zero_scale(node, held)
        assert held.forward is not None
        p = np.broadcast_to(held.forward[0], ap.shape)  # y = p·(a·h + (a·q + c)/p)
        demands = () if (p == 1.0).all() else ((~0, from_forward(axes, p, np.zeros_like(p))),)
        return Reaction(
            demands, Absorbed(self.in_port, (np.broadcast_to(a, p.shape), dustless(aq, c) / p), axes)
        )

    def _write(
        self, node: Node, held: Reparam, axes: tuple[int, ...], a: Vector, c: Vector
    ) -> Reaction | Refusal:
        """h = s·y + t = (s·a)·x + (s·c + t): what is not stored is how x is held, where that may change."""
        if held.backward is None:
            return zero_scale(node, held)
        s, t = np.broadcast_arrays(*held.backward, a)[:2]
        scale, shift = settled_scale(s * a), dustless(s * c, t)
        if self.has_scale and self.has_shift:
            return Reaction(edit=Absorbed(~0, (scale, shift), axes))
        if self.has_scale:  # h = s·a·(x + (s·c + t − c)/(s·a)) + c
            left = dustless(shift, -c)
            edit = Absorbed(~0, (scale, np.broadcast_to(c, scale.shape)), axes)
            if not left.any():
                return Reaction(edit=edit)
            if not self.reads:
                return Refusal(Reason.SHIFT_REFUSED, node.label, node.value(~0))
            if (scale == 0.0).any():
                return zero_scale(node, held)
            return Reaction(((self.in_port, from_backward(axes, np.ones_like(s), left / scale)),), edit)
        edit = Absorbed(~0, (np.broadcast_to(a, s.shape), shift), axes)  # h = a·(s·x) + (s·c + t)
        if (s == 1.0).all():
            return Reaction(edit=edit)
        if not self.reads:
            return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(~0), "it has no scale of its own")
        return Reaction(((self.in_port, from_backward(axes, s, np.zeros_like(s))),), edit)


class Candidate(Struct, frozen=True, eq=False):
    """A node y = a·x + c that could go, with its rule."""

    node: Node
    rule: Affine

    @property
    def x(self) -> str:
        """The value that it reads."""
        return self.node.value(self.rule.in_port)

    @property
    def y(self) -> str:
        """The value that it writes."""
        return self.node.outputs[0]


def affine_rule(graph: Graph, node: Node) -> Affine:
    """The rule of a node that is y = a·x + c.

    Raises:
        AssertionError: its rule is another one.
    """
    rule = graph.rule(node)
    assert isinstance(rule, Affine), f"{node.label} is no y = a·x + c"
    return rule


def candidate(graph: Graph, node: Node) -> Candidate:
    """The same as a candidate, which carries its rule."""
    return Candidate(node, affine_rule(graph, node))


def _seen(held: Reparam, a: Vector) -> Pair | None:
    """(a·p, a·q) of a·x = a·p·h + a·q, where x is held as h = s·x + t.

    A channel with s = 0 holds nothing of x, only t. Where a is zero there, too, nothing is needed:
    0·x = 1·h − t. None where it is.
    """
    if held.forward is not None:
        p, q = np.broadcast_arrays(*held.forward, a)[:2]
        return a * p, a * q
    assert held.backward is not None
    s, t, a = np.broadcast_arrays(*held.backward, a)
    lost = s == 0.0
    if bool(a[lost].any()):
        return None
    p = 1.0 / np.where(lost, np.inf, s)
    return np.where(lost, 1.0, a * p), np.where(lost, -t, a * (-t * p))
