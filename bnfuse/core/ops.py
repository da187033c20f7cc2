"""The vocabulary of rules: what each kind of op asks of its other values.

A format's op table maps every op of its files onto one of these:

    Affine   y = a·x + c per channel          absorbs (as far as it has a scale and a shift)
    Linear   y = W·x + b                      absorbs at the output; at the input a shift only
                                              where every output sums over every tap
    Pass     one input, one output            passes on what commutes with it
    Total    y = Σ ±xⱼ                        one scale for all, the shift routed to one of them
    Product  y = Π xⱼ^±1                      the scale routed to one of them, no shift
    Join     concatenation                    each branch its slice
    Source   a constant operand               absorbs anything
    Reader   Shape, Size                      accept anything, ask nothing
    Opaque   anything else                    refuses, and says why

Single-input kinds ``react`` to one port at a time. Joint kinds (Total, Product, Join) are settled
once all demands that arrive by other ways are known. Neither changes anything: they answer with
demands and edits, or with a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from enum import Enum
from typing import Any, ClassVar, Protocol

import numpy as np

from bnfuse.core.affine import Pair, Reparam, Vector, from_backward, from_forward
from bnfuse.core.axes import AxisMap, SameAxes
from bnfuse.core.graph import Node, Port
from bnfuse.core.linear import LinearForm, contract
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.record import record
from bnfuse.core.tensor import Tensor


@record
class Edit:
    """What a node absorbs at one port: (p, q) at an input, (s, t) at an output, or new (a, c).

    The vectors are per channel of the port's axis (for ``Source``: along ``axes`` of the value).
    """

    port: Port
    pair: Pair
    axes: tuple[int, ...] = ()


@record
class Reaction:
    """Demands on the node's other ports, and what the node itself absorbs."""

    demands: tuple[tuple[Port, Reparam], ...] = ()
    edit: Edit | None = None


# Scale, shift, and the axes they vary along (a single number becomes a vector by what it absorbs).
Current = tuple[Vector, Vector, tuple[int, ...]]


class Numbers(Protocol):
    """The current numbers of nodes, as earlier folds left them."""

    def affine(self, node: Node) -> Current:
        """(a, c, axes) of y = a·x + c: vectors along the one axis in ``axes``, or single numbers."""

    def earlier(self, node: Node) -> Sequence[Edit]:
        """What earlier folds made the node absorb, in order."""


class Rule:
    """Base of all kinds."""

    joint: ClassVar[bool] = False

    def react(self, node: Node, port: Port, held: Reparam, numbers: Numbers) -> Reaction | Refusal:
        """What a demand on one port leads to."""
        raise AssertionError(f"{type(self).__name__} is settled, not asked port by port")


@record
class Opaque(Rule):
    """Refuses everything."""

    reason: Reason = Reason.UNSUPPORTED_OP
    detail: str = ""

    def react(self, node: Node, port: Port, held: Reparam, numbers: Numbers) -> Reaction | Refusal:
        """No."""
        return Refusal(self.reason, node.label, node.value(port), self.detail)


@record
class Reader(Rule):
    """Reads the shape alone."""

    def react(self, node: Node, port: Port, held: Reparam, numbers: Numbers) -> Reaction | Refusal:
        """Yes, whatever it is."""
        if port < 0:
            return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))
        return Reaction()


@record
class Linear(Rule):
    """y = W·x + b in canonical form.

    Attributes:
        weight: W as stored; ``form`` says how to read it.
        bias: b as stored, or None where there is none (yet).
        in_axis, out_axis: channel axes of the first input and the first output.
        in_port: which input is x.
        shift_in: None where an input shift may be absorbed, else why not.
        bias_nodes: how many nodes the format must add to make a bias where there is none.
        writes: False where the output is not W·x + b itself but made of it (a recurrent cell).
        has_bias: False where the op can store none: then no shift comes in at its output, and one that
            comes in at its input goes on to its output.
        computes: the dtype the op computes in, where that is not the weight's.
        gain, bias_gain: the op computes gain·W·x + bias_gain·b (Gemm's α and β); a rewritten op
            has both at 1.
    """

    weight: Tensor
    form: LinearForm
    bias: Tensor | None
    in_axis: int
    out_axis: int
    in_port: Port = 0
    shift_in: Reason | None = None
    bias_nodes: int = 0
    writes: bool = True
    has_bias: bool = True
    computes: np.dtype[Any] | None = None
    gain: float = 1.0
    bias_gain: float = 1.0

    def react(self, node: Node, port: Port, held: Reparam, numbers: Numbers) -> Reaction | Refusal:
        """Absorb, at either side."""
        if port == self.in_port:
            return self._read(node, held, numbers)
        if port == ~0 and self.writes:
            return self._write(node, held)
        return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))

    def _read(self, node: Node, held: Reparam, numbers: Numbers) -> Reaction | Refusal:
        pair = held.forward
        if pair is None:
            return _zero_scale(node, held)
        shifts = bool(pair[1].any())
        if shifts and self.shift_in is not None:
            return Refusal(self.shift_in, node.label, node.value(self.in_port))
        vectors = per_channel(held, pair, self.in_axis, self.form.channels_in)
        if vectors is None:
            return Refusal(Reason.AXIS, node.label, node.value(self.in_port))
        if not shifts or self.has_bias:
            return Reaction(edit=Edit(self.in_port, vectors))
        p, q = vectors
        rest = -self._shift_out(q, numbers.earlier(node))
        kept = from_backward((self.out_axis,), np.ones_like(rest), rest)
        return Reaction(((~0, kept),), Edit(self.in_port, (p, np.zeros_like(q))))

    def _shift_out(self, q: Vector, before: Sequence[Edit]) -> Vector:
        """What a shift q of the input adds to the output, after the edits made before."""
        scale = np.full(self.form.channels_out, self.gain)
        for edit in before:
            if edit.port >= 0:
                q = q * edit.pair[0]
            else:
                scale = scale * edit.pair[0]
        shift: Vector = scale * contract(self.weight, self.form, q)
        return shift

    def _write(self, node: Node, held: Reparam) -> Reaction | Refusal:
        pair = held.backward
        if pair is None:
            return _zero_scale(node, held)
        if not self.has_bias and pair[1].any():
            return Refusal(Reason.SHIFT_REFUSED, node.label, node.value(~0))
        vectors = per_channel(held, pair, self.out_axis, self.form.channels_out)
        if vectors is None:
            return Refusal(Reason.AXIS, node.label, node.value(~0))
        return Reaction(edit=Edit(~0, vectors))


def per_channel(held: Reparam, pair: Pair, axis: int, channels: int) -> Pair | None:
    """Factors as vectors of shape (channels,), or None where they vary along another axis."""
    if held.axes not in ((), (axis,)):
        return None
    if held.axes and pair[0].shape[0] != channels:
        return None
    if pair[0].shape == pair[1].shape == (channels,):
        return pair
    return np.broadcast_to(pair[0], (channels,)), np.broadcast_to(pair[1], (channels,))


def _zero_scale(node: Node, held: Reparam) -> Refusal:
    pair = held.backward or held.forward
    zeros = 0 if pair is None else int(np.count_nonzero(pair[0] == 0.0))
    return Refusal(Reason.ZERO_SCALE, node.label, detail=f"{zeros} of {held.size} channels")


@record
class Affine(Rule):
    """y = a·x + c per channel: a BatchNormalization, or a Mul, Add, Sub, Div by constants.

    Attributes:
        pair: (a, c) as stored, float64, shape (channels,) or () for one number.
        axes: the axes of x and y they vary along: one, or none for one number.
        channels: how many, None for one number.
        has_scale, has_shift: which of the two the node can store; neither: it can only be removed.
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
        if held.axes not in ((), axes) or len(axes) > 1:
            return Refusal(Reason.AXIS, node.label, node.value(port))
        if held.axes and a.ndim and held.size != a.size:
            return Refusal(Reason.AXIS, node.label, node.value(port))
        if self.divides and held.zeros:
            return _zero_scale(node, held)
        if port == self.in_port:
            return self._read(node, held, axes, a, c)
        return self._write(node, held, axes, a, c)

    def _read(
        self, node: Node, held: Reparam, axes: tuple[int, ...], a: Vector, c: Vector
    ) -> Reaction | Refusal:
        """x = p·h + q, so y = a·p·h + a·q + c."""
        if held.forward is None:
            return _zero_scale(node, held)
        p, q = np.broadcast_arrays(*held.forward, np.zeros(a.shape))[:2]
        if self.has_scale and self.has_shift:
            return Reaction(edit=Edit(self.in_port, (a * p, a * q + c), axes))
        if self.has_scale:
            rest = from_forward(axes, np.ones_like(p), a * q)
            demands = ((~0, rest),) if q.any() else ()
            return Reaction(demands, Edit(self.in_port, (a * p, np.zeros_like(p)), axes))
        if (p == 0.0).any():
            return _zero_scale(node, held)
        demands = () if (p == 1.0).all() else ((~0, from_forward(axes, p, np.zeros_like(p))),)
        return Reaction(demands, Edit(self.in_port, (np.broadcast_to(a, p.shape), (a * q + c) / p), axes))

    def _write(
        self, node: Node, held: Reparam, axes: tuple[int, ...], a: Vector, c: Vector
    ) -> Reaction | Refusal:
        """h = s·y + t, so h = s·a·x + s·c + t."""
        if held.backward is None:
            return _zero_scale(node, held)
        s, t = np.broadcast_arrays(*held.backward, np.zeros(a.shape))[:2]
        if self.has_scale and self.has_shift:
            return Reaction(edit=Edit(~0, (s * a, s * c + t), axes))
        if self.has_scale:
            scale = s * a
            if not t.any():
                return Reaction(edit=Edit(~0, (scale, np.zeros_like(t)), axes))
            if (scale == 0.0).any():
                return _zero_scale(node, held)
            rest = from_backward(axes, np.ones_like(t), t / scale)
            return Reaction(((self.in_port, rest),), Edit(~0, (scale, np.zeros_like(t)), axes))
        demands = () if (s == 1.0).all() else ((self.in_port, from_backward(axes, s, np.zeros_like(s))),)
        return Reaction(demands, Edit(~0, (np.broadcast_to(a, s.shape), s * c + t), axes))


class Sign(Enum):
    """Which scales commute with an op."""

    ANY = "any"
    NONNEGATIVE = "non-negative"


@record
class Pass(Rule):
    """One tensor in, one out: what commutes with the op goes through it.

    Attributes:
        sign: which scales pass.
        shift: None where a shift passes too, else why it does not.
        mixes: whether the op mixes elements along an input axis (factors must not vary there).
        axes: how the axes of input and output correspond.
        mixed_out: output axes along which factors must not vary either.
    """

    sign: Sign = Sign.ANY
    shift: Reason | None = None
    mixes: Callable[[int], bool] | None = None
    axes: AxisMap = field(default_factory=SameAxes)
    mixed_out: Collection[int] = ()
    in_port: Port = 0

    def react(self, node: Node, port: Port, held: Reparam, numbers: Numbers) -> Reaction | Refusal:
        """Pass it on, if it commutes."""
        if port not in (self.in_port, ~0):
            return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))
        refusal = self._commutes(node, port, held)
        if refusal is not None:
            return refusal
        if port == self.in_port:
            moved, other = self.axes.forward(held), ~0
        else:
            moved, other = self.axes.backward(held), self.in_port
        if moved is None or (port < 0 and self._mixed(moved)):
            return Refusal(Reason.AXIS, node.label, node.value(port))
        return Reaction(((other, moved),))

    def _commutes(self, node: Node, port: Port, held: Reparam) -> Refusal | None:
        if self.shift is not None and held.shifts:
            return Refusal(self.shift, node.label, node.value(port))
        if self.sign is Sign.NONNEGATIVE and (negative := held.negative):
            detail = f"{negative} of {held.size} channels are negative"
            return Refusal(Reason.NEGATIVE_SCALE, node.label, node.value(port), detail)
        if self._mixed(held) if port >= 0 else any(a in self.mixed_out for a in held.axes):
            return Refusal(Reason.AXIS, node.label, node.value(port))
        return None

    def _mixed(self, held: Reparam) -> bool:
        return self.mixes is not None and any(self.mixes(a) for a in held.axes)


@record
class Source(Rule):
    """A constant operand of a Total or Join, or a table of rows: takes anything into its stored values.

    ``offset`` is how many axes the value has before those of the stored tensor; along the axes in
    ``chosen`` (of the value) elements are picked at run time, so factors must not vary there.
    """

    tensor: Tensor
    offset: int = 0
    chosen: Collection[int] = ()

    def react(self, node: Node, port: Port, held: Reparam, numbers: Numbers) -> Reaction | Refusal:
        """Absorb at the output."""
        if port != ~0:
            return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))
        if held.backward is None:
            return _zero_scale(node, held)
        axes = tuple(a - self.offset for a in held.axes)
        if any(a in self.chosen for a in held.axes) or any(a < 0 for a in axes):
            return Refusal(Reason.AXIS, node.label, node.value(~0))
        stored = self.tensor.shape
        if any(a >= len(stored) or stored[a] != n for a, n in zip(axes, held.shape, strict=True)):
            return Refusal(Reason.AXIS, node.label, node.value(~0))
        return Reaction(edit=Edit(~0, held.backward, axes))


Known = Mapping[Port, Reparam]
Demands = tuple[tuple[Port, Reparam], ...]


class Joint(Rule):
    """Several values at once: settled when nothing simpler is left to do (see ``joint.py``)."""

    joint: ClassVar[bool] = True

    def takers(self, node: Node, known: Known) -> tuple[Port, ...]:
        """The ports that could take what is left over, when the demands on ``known`` ports are fixed."""
        raise AssertionError(f"{type(self).__name__} has no takers")

    def settle(self, node: Node, known: Known, taker: Port) -> Demands | Refusal:
        """Demands for every port that is not known yet, identities included."""
        raise AssertionError(f"{type(self).__name__} cannot be settled")
