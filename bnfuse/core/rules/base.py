"""The vocabulary of rules: what each kind of op asks of its other values.

A format's op table maps every op of its files onto one of these:

    Affine       y = a·x + c per channel        absorbs (as far as it has a scale and a shift)
    Clamp        y = min(max(x, low), high)     passes everything on, its bounds moved along
    Linear       y = W·x + b                    absorbs at the output; at the input a shift only
                                                where every output sums over every tap
    Pass         one input, one output          passes on what commutes with it
    WeightedSum  y = Σ σⱼxⱼ                     one scale for all, the shift routed to one of them
    Product      y = Π xⱼ^±1                    the scale routed to one of them, no shift
    Select       y = one of xⱼ, by element      all are held alike
    ConcatSplit  concatenation                  each branch its slice
    Source       a constant operand             absorbs anything
    ShapeOnly    Shape, Size                    accept anything, ask nothing
    Opaque       anything else                  refuses, and says why

Single-input kinds ``react`` to one port at a time. Joint kinds (WeightedSum, Product, Select, ConcatSplit)
are settled once all demands that arrive by other ways are known. Neither changes anything: they answer
with demands and what they absorb, or with a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import ClassVar, Protocol

import numpy as np
from msgspec import Struct, field

from bnfuse.core.axes import AxisMap, SameAxes
from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Pair, Reparam, Vector
from bnfuse.core.weights.tensor import Tensor


class Absorbed(Struct, frozen=True, eq=False):
    """What a node absorbs at one port: (p, q) at an input, (s, t) at an output, or new (a, c).

    The vectors are per channel of the port's axis (for ``Source``: along ``axes`` of the stored tensor).
    ``passing`` where it only is what the node must become to pass a demand on.
    """

    port: Port
    pair: Pair
    axes: tuple[int, ...] = ()
    passing: bool = False


class Reaction(Struct, frozen=True, eq=False):
    """Demands on the node's other ports, and what the node itself absorbs."""

    demands: tuple[tuple[Port, Reparam], ...] = ()
    edit: Absorbed | None = None


# Scale, shift, and the axes they vary along (a single number becomes a vector by what it absorbs).
Current = tuple[Vector, Vector, tuple[int, ...]]


class StateView(Protocol):
    """The current numbers of nodes, as earlier folds left them."""

    def current(self, node: Node) -> Current:
        """(a, c, axes) of y = a·x + c, or (low, high, axes) of a clamp: along ``axes``, or single numbers."""

    def earlier(self, node: Node) -> Sequence[Absorbed]:
        """What earlier folds made the node absorb, in order."""


class Rule(Struct, frozen=True, eq=False):
    """Base of all kinds.

    Attributes:
        joint: whether it is settled as a whole (``Joint``) rather than asked port by port.
        has_numbers: whether it has a pair of its own, which what it absorbs replaces (``StateView.current``).
    """

    joint: ClassVar[bool] = False
    has_numbers: ClassVar[bool] = False

    @property
    def numbers(self) -> Current:
        """The pair it has of its own, and the axes that it varies along."""
        raise AssertionError(f"{type(self).__name__} has no numbers of its own")

    @property
    def plain(self) -> Rule:
        """The rule of the same op to attempts that leave every activation what it is."""
        return self

    def biasless(self) -> Rule:
        """The same op as if it could store no bias: a shift goes on to its output."""
        return self

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """What a demand on one port leads to."""
        raise AssertionError(f"{type(self).__name__} is settled, not asked port by port")


class Opaque(Rule, frozen=True, eq=False):
    """Refuses everything."""

    reason: Reason = Reason.UNSUPPORTED_OP
    detail: str = ""

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """No."""
        return Refusal(self.reason, node.label, node.value(port), self.detail)


class Closed(Rule, frozen=True, eq=False):
    """Another rule, of a node that takes nothing on at one port any more."""

    rest: Rule
    port: Port

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """No there; elsewhere what the rule says."""
        if port == self.port:
            return Refusal(Reason.WAITING, node.label, node.value(port))
        return self.rest.react(node, port, held, numbers)


class ShapeOnly(Rule, frozen=True, eq=False):
    """Reads the shape alone."""

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """Yes, whatever it is."""
        if port < 0:
            return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))
        return Reaction()


def zero_scale(node: Node, held: Reparam) -> Refusal:
    """What cannot be undone because a scale is zero."""
    pair = held.backward or held.forward
    assert pair is not None
    zeros = int(np.count_nonzero(pair[0] == 0.0))
    return Refusal(Reason.ZERO_SCALE, node.label, detail=f"{zeros} of {held.size} channels")


class Sign(Enum):
    """Which scales commute with an op."""

    ANY = "any"
    NONNEGATIVE = "non-negative"
    POSITIVE = "positive"  # the op also tells where it found an element: a zero would make all alike


class Pass(Rule, frozen=True, eq=False):
    """One tensor in, one out: what commutes with the op goes through it.

    Attributes:
        sign: which scales pass.
        shift: None where a shift passes too, else why it does not.
        mixes: whether the op mixes elements along an input axis (factors must not vary there).
        axes: how the axes of input and output correspond.
        mixed_out: output axes along which factors must not vary either.
        halves: whether it rounds to a half precision what was wider (see ``worth``).
    """

    sign: Sign = Sign.ANY
    shift: Reason | None = None
    mixes: Callable[[int], bool] | None = None
    axes: AxisMap = field(default_factory=SameAxes)
    mixed_out: Collection[int] = ()
    in_port: Port = 0
    halves: bool = False

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
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
        if self.sign is not Sign.ANY and (negative := held.negative):
            detail = f"{negative} of {held.size} channels are negative"
            return Refusal(Reason.NEGATIVE_SCALE, node.label, node.value(port), detail)
        if self.sign is Sign.POSITIVE and held.zeros:
            return zero_scale(node, held)
        if self._mixed(held) if port >= 0 else any(a in self.mixed_out for a in held.axes):
            return Refusal(Reason.AXIS, node.label, node.value(port))
        return None

    def _mixed(self, held: Reparam) -> bool:
        return self.mixes is not None and any(self.mixes(a) for a in held.axes)


class Source(Rule, frozen=True, eq=False):
    """A constant operand of a sum or concatenation, or a table of rows: takes anything into its values.

    ``offset`` is how many axes the value has before those of the stored tensor; along the axes in
    ``chosen`` (of the value) elements are picked at run time, so factors must not vary there.
    """

    tensor: Tensor
    offset: int = 0
    chosen: Collection[int] = ()

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """Absorb at the output."""
        if port != ~0:
            return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))
        if held.backward is None:
            return zero_scale(node, held)
        axes = tuple(a - self.offset for a in held.axes)
        if any(a in self.chosen for a in held.axes) or any(a < 0 for a in axes):
            return Refusal(Reason.AXIS, node.label, node.value(~0))
        stored = self.tensor.shape
        if any(a >= len(stored) or stored[a] != n for a, n in zip(axes, held.shape, strict=True)):
            return Refusal(Reason.AXIS, node.label, node.value(~0))
        return Reaction(edit=Absorbed(~0, held.backward, axes))


Known = Mapping[Port, Reparam]
Demands = tuple[tuple[Port, Reparam], ...]


class Joint(Rule, frozen=True):
    """Several values at once: settled when nothing simpler is left to do (see ``joint.py``).

    Attributes:
        shares: whether what is left over may also go to all open inputs alike (``share``).
        routes_scale: whether it is a scale, not a shift, that the taker takes.
    """

    joint: ClassVar[bool] = True
    shares: ClassVar[bool] = False
    routes_scale: ClassVar[bool] = False

    def takers(self, node: Node, known: Known) -> tuple[Port, ...]:
        """The ports that could take what is left over, when the demands on ``known`` ports are fixed."""
        return (~0,)  # nothing to choose

    def settle(self, node: Node, known: Known, taker: Port) -> Demands | Refusal:
        """Demands for every port that is not known yet, identities included."""
        raise AssertionError(f"{type(self).__name__} cannot be settled")

    def share(self, node: Node, known: Known) -> Demands | Refusal:
        """The same, where all open inputs take what is left over."""
        raise AssertionError(f"{type(self).__name__} has nothing to share")

    def waits_for(self, node: Node) -> str:
        """The value that it had better be told of before it is settled; "" for none."""
        return ""

    def hands_on(self, held: Reparam) -> int:
        """To how many ports it hands a demand on as it is, whatever else is asked; 0 where that depends."""
        return 0
