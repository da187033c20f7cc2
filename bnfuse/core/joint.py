"""Rules of ops with several data inputs: sums, products, concatenations and splits.

    Total     y = Σ σⱼxⱼ      all are held with one scale s; the shifts obey t_y = Σ σⱼtⱼ
    Product   y = Π xⱼ^eⱼ     no shifts; the scales obey s_y = Π sⱼ^eⱼ
    Alike     y = one of xⱼ    all are held alike
    Join      whole = parts side by side along one axis; every part holds its slice

Each is settled with the demands that reached it by other ways; what those leave open goes to one
``taker`` (the planner tries each), all other open ports are held without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnfuse.core.affine import IDENTITY, Pair, Reparam, Vector, from_backward, same
from bnfuse.core.axes import Shape
from bnfuse.core.graph import Node, Port
from bnfuse.core.ops import Demands, Joint, Known, Sign
from bnfuse.core.reasons import Reason, Refusal


@dataclass(frozen=True, slots=True)
class Operand:
    """How one operand's axes lie in the output's under broadcasting (right-aligned).

    ``offset`` is the output's rank minus the operand's; ``stretched`` are the output axes along
    which the operand is repeated.
    """

    offset: int
    stretched: frozenset[int]

    def to_output(self, held: Reparam) -> Reparam:
        """Operand axes to output axes."""
        if not self.offset:
            return held
        return held.map(lambda v: v, [a + self.offset for a in held.axes])

    def from_output(self, held: Reparam) -> Reparam | None:
        """Output axes to operand axes; None where the factors vary along a repeated axis."""
        if any(a in self.stretched for a in held.axes):
            held = held.compact()
        if any(a in self.stretched for a in held.axes):
            return None
        return held.map(lambda v: v, [a - self.offset for a in held.axes]) if self.offset else held


def operands(shapes: list[Shape | None], output: Shape | None) -> tuple[Operand, ...] | None:
    """Broadcasting of every operand against the output; None where ranks are unknown.

    A dimension that could be 1 or more (a symbol that differs from the output's) counts as repeated.
    """
    if output is None or any(s is None for s in shapes):
        return None
    known = [s for s in shapes if s is not None]
    if all(s == output for s in known):
        return tuple(Operand(0, frozenset()) for _ in known)
    made = []
    for shape in known:
        offset = len(output) - len(shape)
        if offset < 0:
            return None
        stretched = set(range(offset))
        for axis, dim in enumerate(shape):
            if dim != output[axis + offset] and not (isinstance(dim, int) and dim > 1):
                stretched.add(axis + offset)
        made.append(Operand(offset, frozenset(stretched)))
    return tuple(made)


@dataclass(frozen=True, slots=True, eq=False)
class Total(Joint):
    """Add, Sub, Sum, Neg, Average: y = Σ σⱼxⱼ with constant σⱼ ≠ 0."""

    signs: tuple[float, ...]
    operands: tuple[Operand, ...]

    def takers(self, node: Node, known: Known) -> tuple[Port, ...]:
        """Inputs first (a branch may end in an op that absorbs), then the output."""
        return tuple(p for p in (*range(len(self.signs)), ~0) if p not in known)

    def settle(self, node: Node, known: Known, taker: Port) -> Demands | Refusal:
        """One scale for all; the taker's shift makes t_y = Σ σⱼtⱼ true."""
        lifted = {p: self._lift(p, held) for p, held in known.items()}
        scale = next((h for h in lifted.values() if h.axes), next(iter(lifted.values()))).scale_only
        for port, held in lifted.items():
            if not same(held.scale_only, scale):
                return Refusal(Reason.CONFLICT, node.label, node.value(port))
        rest = _missing_shift(lifted, self.signs)
        if rest is None or scale.backward is None:
            return Refusal(Reason.ZERO_SCALE, node.label, node.value(taker))
        open_ports = [p for p in (*range(len(self.signs)), ~0) if p not in known]
        if not open_ports:
            return () if not rest[1].any() else Refusal(Reason.CONFLICT, node.label, node.value(~0))
        demands = []
        together = [p for p in open_ports if node.value(p) == node.value(taker)]
        weight = -1.0 if taker == ~0 else sum(self.signs[p] for p in together)
        if weight == 0.0 and rest[1].any():
            return Refusal(Reason.CONFLICT, node.label, node.value(taker))
        for port in open_ports:
            # t_y = Σ σⱼtⱼ: the output takes the sum itself, an input what the sum lacks, times its sign.
            sign = 1.0 / weight if port in together and weight else 0.0
            asked = self._lower(port, _with_shift(scale, rest, sign))
            if asked is None:
                return Refusal(Reason.BROADCAST, node.label, node.value(port))
            demands.append((port, asked))
        return tuple(demands)

    def _lift(self, port: Port, held: Reparam) -> Reparam:
        return held if port < 0 else self.operands[port].to_output(held)

    def _lower(self, port: Port, held: Reparam) -> Reparam | None:
        return held if port < 0 else self.operands[port].from_output(held)


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
    s = scale.backward[0]
    if scale.axes == axes:
        s, t = np.broadcast_arrays(s, t)
        return from_backward(axes, s, sign * t)
    if not scale.axes:
        return from_backward(axes, np.broadcast_to(s, t.shape), sign * t)
    if not axes:
        return from_backward(scale.axes, s, np.broadcast_to(sign * t, s.shape))
    every = tuple(sorted({*scale.axes, *axes}))
    s = s[tuple(slice(None) if a in scale.axes else None for a in every)]
    t = t[tuple(slice(None) if a in axes else None for a in every)]
    s, t = np.broadcast_arrays(s, t)
    return from_backward(every, s, sign * t)


@dataclass(frozen=True, slots=True, eq=False)
class Product(Joint):
    """Mul, Div of two run-time tensors (gates): y = Π xⱼ^eⱼ."""

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
            owed = rest if self.exponents[taker] < 0 else _inverse(rest)
            asked = self.operands[taker].from_output(owed)
        if asked is None:
            return Refusal(Reason.BROADCAST, node.label, node.value(taker))
        return tuple((p, asked if p == taker else IDENTITY) for p in open_ports)

    def _held_so_far(self, known: Known) -> Reparam:
        """Π sⱼ^eⱼ over the known inputs, divided by s_y where that is known, along output axes."""
        total = IDENTITY
        for port, held in known.items():
            lifted = held if port < 0 else self.operands[port].to_output(held)
            divides = port == ~0 or self.exponents[port] < 0
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
        return left * right, np.zeros_like(left * right)

    return Reparam(axes, times(a.backward, b.backward), times(a.forward, b.forward))


@dataclass(frozen=True, slots=True, eq=False)
class Join(Joint):
    """Concat (``whole`` is the output) and Split (``whole`` is the input) along ``axis``.

    ``sizes`` are the parts' lengths along it, None where unknown.
    """

    whole: Port
    parts: tuple[Port, ...]
    axis: int
    sizes: tuple[int | None, ...]

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
        pieces = [
            known.get(port, IDENTITY).along((self.axis,), (n,))
            for port, n in zip(self.parts, sizes, strict=True)
        ]

        def side_by_side(pairs: list[Pair | None]) -> Pair | None:
            whole = [p for p in pairs if p is not None]
            if len(whole) != len(pairs):
                return None
            return np.concatenate([p[0] for p in whole]), np.concatenate([p[1] for p in whole])

        backward = side_by_side([p.backward for p in pieces])
        forward = side_by_side([p.forward for p in pieces])
        rest = tuple((p, IDENTITY) for p in self.parts if p not in known)
        return ((self.whole, Reparam((self.axis,), backward, forward)), *rest)


@dataclass(frozen=True, slots=True, eq=False)
class Alike(Joint):
    """Max, Min, Where: y is one of the inputs in ``ports``, element by element.

    All of them and the output are held alike; where the choice depends on their order (Max, Min),
    with positive scales only. Operands of other shapes than the output's are not followed.
    """

    ports: tuple[Port, ...]
    sign: Sign

    def takers(self, node: Node, known: Known) -> tuple[Port, ...]:
        """There is nothing to choose."""
        return (~0,)

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
