"""Weights with a constant channel (``constant_channel``), in float64, to be rounded once.

Of a reader, with W the weights as they are read by then and s its new output scale:

    W'[o, read, …] = s[o]·Σ_c W[o, c, …]·shift[c]/k,    all other channels as what it absorbed makes them

and of a writer W'[written, …] = 0, b'[written] = START. One that is both is a reader first. A channel that is
there already is overwritten, another one is put in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from bnfuse.core.apply import NewLinear
from bnfuse.core.graph import Node
from bnfuse.core.planning.constant_channel import START, ConstantChannel, stored_axis
from bnfuse.core.reparam import Vector
from bnfuse.core.rules.base import Absorbed
from bnfuse.core.weights.tensor import as_float64


class WidenedLinear(Struct, frozen=True, eq=False):
    """New parameters of a linear op that writes or reads a constant channel; a bias of None stays.

    ``weight`` is in the stored layout, one channel larger along the axes along which it was given one.
    """

    new: NewLinear
    weight: Vector
    bias: Vector | None


def widened(
    linears: Mapping[Node, NewLinear],
    edits: Mapping[Node, Sequence[Absorbed]],
    channels: Sequence[ConstantChannel],
) -> dict[Node, WidenedLinear]:
    """All linear ops that write or read one, each once."""
    read = {reader: channel for channel in channels for reader in channel.readers}
    written = {channel.writer: channel for channel in channels}
    found = {}
    for node in dict.fromkeys((*read, *written)):
        new = linears[node]
        weight, bias = _weight(new), new.bias() if new.makes_bias else None
        if node in read:
            kernel = _kernel(new, node, edits[node], read[node])
            weight = _with(weight, kernel, _axis(new, "i"), read[node].read, added=read[node].added)
        if node in written:
            channel = written[node]
            axis = _axis(new, "o")
            zeros = np.zeros([1 if k == axis else n for k, n in enumerate(weight.shape)])
            weight = _with(weight, zeros, axis, channel.written, added=channel.added)
            bias = _with(new.bias(), np.array([START]), 0, channel.written, added=channel.added)
        found[node] = WidenedLinear(new, weight, bias)
    return found


def _weight(new: NewLinear) -> Vector:
    """W' of what it absorbed."""
    form, weight = new.rule.form, as_float64(new.rule.weight)
    if new.weight is not None:
        laid = weight.reshape(form.dims)
        for factor in new.weight.factors:
            laid = laid * factor
        weight = laid.reshape(weight.shape)
    return weight


def _kernel(new: NewLinear, node: Node, edits: Sequence[Absorbed], channel: ConstantChannel) -> Vector:
    """Σ_c W·shift/k, with one element along the inputs."""
    form, rule = new.rule.form, new.rule
    taken = next(edit for reader, edit in channel.propagation.edits if reader is node)
    before = np.ones(form.channels_in)  # what earlier folds read x as, besides
    for edit in edits:
        if edit.port >= 0 and edit is not taken:
            before = before * edit.pair[0]
    laid = as_float64(rule.weight).reshape(form.dims)
    laid = laid * form.broadcast(before * channel.shift / channel.value, "i")
    if new.rewrite.write is not None:
        laid = laid * form.broadcast(new.rewrite.write[0], "o")
    return np.asarray(laid.reshape(rule.weight.shape).sum(axis=_axis(new, "i"), keepdims=True))


def _with(values: Vector, part: Vector, axis: int, at: int, *, added: bool) -> Vector:
    """Values with one more channel at a place, or that one replaced."""
    before, behind = np.split(values, [at], axis=axis)
    rest = behind if added else behind.take(np.arange(1, behind.shape[axis]), axis=axis)
    return np.concatenate([before, part, rest], axis=axis)


def _axis(new: NewLinear, letter: str) -> int:
    axis = stored_axis(new.rule.form, letter)
    assert axis is not None, "constant_channel asks for that"
    return axis
