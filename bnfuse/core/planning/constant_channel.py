"""A shift before zero padding, by a channel that is the same everywhere.

In activation → y = a·x + c → zero-padded convolution the shift can go nowhere: what is padded is 0, and not
c, and the activation lets nothing through. But Σ W·(a·x + c) = Σ (W·a)·x + (Σ W·c/k)·k, so where one channel
of x is k everywhere, the convolution takes the shift from that channel, which is padded with 0 as all are:
exactly, at the borders too. The writer of the activation is given such a channel: weights of zero, and a bias
b₀ that comes out of all between as k > 0.

          W₁, b₁                    W₁, b₁ and one channel of 0, b₀
             │                              │
         activation                     activation
             │                              │ x, k
        y = a·x + c            ⇒            │
             │ y                            │
      W₂ with padding              W₂·a, and Σ W₂·c/k, with padding

A channel that a = 0 has cut off already is used instead of a new one: nobody else reads it.

It acts where nobody but the BatchNormalization sees the widened values, where all between works channel by
channel (``Graph.constant_through``), where all who read y are linear ops without groups, as is the writer,
their channels along the same axis, and where the format can write them so (``Graph.takes_channel``,
``Graph.sized``). It is a way for models of which no BatchNormalization may be left: one channel more costs
less than a product and a sum, and more than nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, prod

import numpy as np
from msgspec import Struct

from bnfuse.core.axes import SameAxes
from bnfuse.core.decisions import Split
from bnfuse.core.graph import Node, Port
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.reparam import Vector
from bnfuse.core.rules.affine import Affine, Candidate
from bnfuse.core.rules.base import Absorbed, Pass
from bnfuse.core.rules.joint import ConcatSplit
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import LinearForm
from bnfuse.core.weights.quantised import QuantisedTensor

# What the new channel is before the activation: far from the ends of all of them.
START = 1.0
# Of k: far from it the kernel Σ W·c/k would lose digits, or overflow.
_LEAST, _MOST = 1e-2, 1e2
# Weights with another channel are made anew in memory.
_MOST_ELEMENTS = 1 << 26
_MOST_PARTS = 256  # of a Concat
_MOST_BETWEEN = 32


class ConstantChannel(Struct, frozen=True, eq=False):
    """What is to be done for one BatchNormalization.

    Attributes:
        writer: whose output gets the channel, at ``written``.
        readers: who take the shift from it; they read it at ``read``.
        axis: of the channels, everywhere.
        value: k.
        added: whether it is one more, and not one that a = 0 has cut off.
        shift: c, shape (channels,), float64.
        propagation: the fold as one of all, with what the readers absorb, W·a.
    """

    writer: Node
    readers: tuple[Node, ...]
    written: int
    read: int
    axis: int
    value: float
    added: bool
    shift: Vector
    propagation: Propagation


class _Step(Struct, frozen=True):
    """A value on the way back, what was passed so far, and where its channels begin in the first of that."""

    value: str
    between: tuple[Node, ...]
    values: tuple[str, ...]
    offset: int


class _Way(Struct, frozen=True):
    """From a writer to the BatchNormalization: the nodes between, last first, and where its part begins."""

    writer: Node
    between: tuple[Node, ...]
    values: tuple[str, ...]
    offset: int


def constant_channel(state: State, wanted: Candidate) -> ConstantChannel | None:
    """How its shift can go by a constant channel; None where it cannot."""
    a, _, axes = state.current(wanted.node)
    if len(axes) != 1 or a.ndim != 1:
        return None
    readers, names = _readers(state, wanted.y, a.size, axes[0])
    if not readers:
        return None
    for way in _ways(state, wanted.x, axes[0]):
        value = _constant(state, way)
        if value is not None:
            return _made(state, wanted, way, readers, names, value)
    return None


def _made(
    state: State,
    wanted: Candidate,
    way: _Way,
    readers: tuple[Node, ...],
    names: tuple[str, ...],
    value: float,
) -> ConstantChannel:
    a, c, (axis,) = state.current(wanted.node)
    rule = _linear(state, way.writer)
    channels = rule.form.channels_out
    dead = np.flatnonzero(a[way.offset : way.offset + channels] == 0.0)
    written = int(dead[0]) if dead.size else channels
    taken = a, np.zeros_like(a)
    kept = np.ones(channels), np.zeros(channels)
    edits = [(reader, Absorbed(_linear(state, reader).in_port, taken)) for reader in readers]
    edits.append((way.writer, Absorbed(~0, kept, passing=True)))
    touched = (*way.between, way.writer, *readers)
    held = (*names, *way.values)
    propagation = Propagation(wanted.node, Split.CONSTANT, tuple(edits), touched, (), held)
    return ConstantChannel(
        way.writer, readers, written, way.offset + written, axis, value, not dead.size, c.copy(), propagation
    )


def _readers(state: State, y: str, channels: int, axis: int) -> tuple[tuple[Node, ...], tuple[str, ...]]:
    """Who read y, if all are linear ops that can take a channel more, else nobody; and what y is called.

    A node that has gone hands on what it reads.
    """
    found: dict[Node, None] = {}
    names = [y]
    for name in names:
        if _stays(state, name):
            return (), ()
        for node, port in state.graph.adjacent(name):
            if port >= 0 and node in state.removed:
                names.append(node.outputs[0])
            elif port >= 0 and (node in found or not _reads(state, node, port, channels, axis)):
                return (), ()
            elif port >= 0:
                found[node] = None
    return tuple(found), tuple(names)


def _stays(state: State, value: str) -> bool:
    """Whether a value keeps its shape: the outside world knows it, or the file tells it elsewhere."""
    return value in state.graph.pinned or value in state.graph.sized


def _reads(state: State, node: Node, port: Port, channels: int, axis: int) -> bool:
    """Whether a node is a linear op that reads so many channels at a port, and can take one more."""
    rule = state.graph.rule(node)
    fits = isinstance(rule, Linear) and (port, axis) == (rule.in_port, rule.in_axis)
    return fits and _linear(state, node).form.channels_in == channels and _takes_channel(state, node, "i")


def _ways(state: State, value: str, axis: int) -> Iterator[_Way]:
    """Back from a value to the linear ops that could be given a channel, through what nobody else sees.

    Every value on the way has one reader, so no op is found for two BatchNormalizations.
    """
    pending = [_Step(value, (), (), 0)]
    while pending:
        step = pending.pop()
        writer = state.graph.writer(step.value)
        read = _stays(state, step.value) or state.graph.reader_count(step.value) != 1
        if writer is None or read:
            continue
        values, rule = (*step.values, step.value), state.graph.rule(writer)
        if isinstance(rule, Linear):
            if rule.writes and rule.out_axis == axis and _takes_channel(state, writer, "o"):
                yield _Way(writer, step.between, values, step.offset)
        elif len(step.between) < _MOST_BETWEEN:
            before = _read_by(state, writer, axis)
            between = (*step.between, writer)
            pending += [_Step(name, between, values, step.offset + at) for name, at in reversed(before)]


def _read_by(state: State, node: Node, axis: int) -> list[tuple[str, int]]:
    """What stands before a node between, and where the channels of that begin in its output."""
    rule = state.graph.rule(node)
    if isinstance(rule, ConcatSplit) and rule.whole == ~0 and rule.axis == axis:
        sizes = [n for n in rule.sizes if n is not None]
        starts = np.cumsum([0, *sizes]).tolist() if len(sizes) == len(rule.parts) <= _MOST_PARTS else []
        return [(node.value(port), start) for port, start in zip(rule.parts, starts, strict=False)]
    if node in state.numbers and node not in state.removed:  # it is another function by now
        return []
    if isinstance(rule, Pass) and (not isinstance(rule.axes, SameAxes) or (rule.mixes and rule.mixes(axis))):
        return []
    port = rule.in_port if node in state.removed and isinstance(rule, Affine) else 0
    alone = len(node.outputs) == 1 and len(node.inputs) > port and node.inputs[port]
    return [(node.inputs[port], 0)] if alone else []


def _constant(state: State, way: _Way) -> float | None:
    """k: what comes out of all between; None where it is no constant there, or of no use."""
    value = START
    for node in reversed(way.between):
        if node in state.removed or isinstance(state.graph.rule(node), ConcatSplit):
            continue
        made = state.graph.constant_through(node, value)
        if made is None or not isfinite(made) or not _LEAST <= made <= _MOST:
            return None
        value = made
    return value


def _takes_channel(state: State, node: Node, letter: str) -> bool:
    """Whether the format can write it with another weight, one channel larger, which is made in memory."""
    rule = _linear(state, node)
    plain = not isinstance(rule.weight, QuantisedTensor) and rule.gain == 1.0
    small = prod(rule.weight.shape) <= _MOST_ELEMENTS and stored_axis(rule.form, letter) is not None
    waits = node in state.graph.tied or node in state.removed
    return plain and small and not waits and state.graph.takes_channel(node, letter)


def stored_axis(form: LinearForm, letter: str) -> int | None:
    """The axis of the stored weight along which o or i lies alone, without groups; None where none is."""
    if form.letters.count(letter) != 1 or form.groups != 1:
        return None
    at = form.letters.index(letter)
    return at - form.letters[:at].count("g")


def _linear(state: State, node: Node) -> Linear:
    rule = state.graph.rule(node)
    assert isinstance(rule, Linear)
    return rule
