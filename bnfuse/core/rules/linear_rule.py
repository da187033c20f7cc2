"""The rule of linear ops: y = W·x + b in canonical form (see ``linear``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Pair, Reparam, Vector, compose_reads, compose_writes, from_backward
from bnfuse.core.rules.base import Absorbed, Reaction, Rule, StateView, zero_scale
from bnfuse.core.weights.linear import LinearForm, Rewrite, contract
from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.core.weights.tensor import Tensor


class Linear(Rule, frozen=True, eq=False):
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

    def biasless(self) -> Rule:
        """A shift that comes in at the input goes on to the output."""
        return replace(self, has_bias=False)

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """Absorb, at either side."""
        if port == self.in_port:
            return self._read(node, held, numbers)
        if port == ~0 and self.writes:
            return self._write(node, held, numbers)
        return Refusal(Reason.UNSUPPORTED_OP, node.label, node.value(port))

    def composed(self, edits: Iterable[Absorbed], onto: Rewrite | None = None) -> Rewrite:
        """All that it absorbed, in order: its own gain first, or what earlier edits came to (``onto``).

        Read vectors have shape (G·I,), written ones (G·O,), as in ``Rewrite``.
        """
        read, write = (None, self._own_gain) if onto is None else (onto.read, onto.write)
        for edit in edits:
            if edit.port >= 0:
                read = edit.pair if read is None else compose_reads(read, edit.pair)
            else:
                write = edit.pair if write is None else compose_writes(write, edit.pair)
        return Rewrite(read, write)

    @property
    def _own_gain(self) -> Pair | None:
        if self.gain == 1.0:
            return None
        channels = self.form.channels_out
        return np.full(channels, self.gain), np.zeros(channels)

    def _read(self, node: Node, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        pair = held.forward
        if pair is None:
            return zero_scale(node, held)
        shifts = bool(pair[1].any())
        if shifts and self.shift_in is not None:
            return Refusal(self.shift_in, node.label, node.value(self.in_port))
        vectors = per_channel(held, pair, self.in_axis, self.form.channels_in)
        if vectors is None:
            return Refusal(Reason.AXIS, node.label, node.value(self.in_port))
        if isinstance(self.weight, QuantisedTensor) and (
            why := self._quantised(self.weight, "i", vectors[0], numbers.earlier(node))
        ):
            return Refusal(Reason.QUANTISED_WEIGHT, node.label, node.value(self.in_port), why)
        if not shifts or self.has_bias:
            return Reaction(edit=Absorbed(self.in_port, vectors))
        p, q = vectors
        rest = -self._shift_out(q, numbers.earlier(node))
        kept = from_backward((self.out_axis,), np.ones_like(rest), rest)
        return Reaction(((~0, kept),), Absorbed(self.in_port, (p, np.zeros_like(q))))

    def _shift_out(self, q: Vector, before: Sequence[Absorbed]) -> Vector:
        """What a shift q of the input adds to the output, after the edits made before."""
        scale = np.full(self.form.channels_out, self.gain)
        for edit in before:
            if edit.port >= 0:
                q = q * edit.pair[0]
            else:
                scale = scale * edit.pair[0]
        shift: Vector = scale * contract(self.weight, self.form, q)
        return shift

    def _write(self, node: Node, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        pair = held.backward
        if pair is None:
            return zero_scale(node, held)
        if not self.has_bias and pair[1].any():
            return Refusal(Reason.SHIFT_REFUSED, node.label, node.value(~0))
        vectors = per_channel(held, pair, self.out_axis, self.form.channels_out)
        if vectors is None:
            return Refusal(Reason.AXIS, node.label, node.value(~0))
        if isinstance(self.weight, QuantisedTensor) and (
            why := self._quantised(self.weight, "o", vectors[0], numbers.earlier(node))
        ):
            return Refusal(Reason.QUANTISED_WEIGHT, node.label, node.value(~0), why)
        return Reaction(edit=Absorbed(~0, vectors))

    def _quantised(
        self, weight: QuantisedTensor, letter: str, factors: Vector, before: Sequence[Absorbed]
    ) -> str:
        """Why a weight that is stored as integers does not take these factors on top; "" where it does."""
        every = [("i" if edit.port >= 0 else "o", edit.pair[0]) for edit in before]
        laid = [self.form.broadcast(each, at) for at, each in (*every, (letter, factors))]
        return weight.refuses(self.form, laid)


def per_channel(held: Reparam, pair: Pair, axis: int, channels: int) -> Pair | None:
    """Factors as vectors of shape (channels,), or None where they vary along another axis."""
    if held.axes not in ((), (axis,)):
        return None
    if held.axes:
        return pair if held.size == channels else None
    return np.broadcast_to(pair[0], (channels,)), np.broadcast_to(pair[1], (channels,))
