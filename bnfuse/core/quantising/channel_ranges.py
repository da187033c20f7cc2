"""What 8 bits leave of each linear op's weight: with one step for all of it, and with one per channel.

A step of d rounds N weights of an output channel with noise of N·d²/12, or, where all of them become zero,
of as much as they are. With r the largest |weight| of a channel and R that of all, its signal to noise is

    10·log10(Σ_ik W² / min(N·d²/12, Σ_ik W²))      per tensor: d = R/127      per channel: d = r/127

A layer's figure is the mean over its channels, in dB: how large a channel is does not tell what it matters,
for whoever reads it may multiply it again. Channels that are zero throughout are left out. Weights are
read once, block by block, and none is kept.

Nothing is told of weights that are integers already, nor of those that are not finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
from msgspec import Struct

from bnfuse.core.graph import Graph, Node
from bnfuse.core.quantising.extents import extents, imbalance
from bnfuse.core.reparam import Vector
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.quantised import QuantisedTensor

MOST_POINTS = 33
_STEPS = 127.0  # of symmetric integers of 8 bits, on either side of zero


class ChannelRanges(Struct, frozen=True):
    """The largest |weight| of each output channel of a linear op, and what 8 bits would leave of it.

    Attributes:
        node: its name.
        op: its operator.
        channels: how many are not zero throughout.
        largest: the largest range.
        spread: over the median range.
        ratio: over the smallest.
        per_tensor_db, per_channel_db: signal to noise of the weight.
        points: ranges from the smallest to the largest, evenly picked, ``MOST_POINTS`` of them at most.
    """

    node: str
    op: str
    channels: int
    largest: float
    spread: float
    ratio: float
    per_tensor_db: float
    per_channel_db: float
    points: tuple[float, ...]

    @property
    def loss_db(self) -> float:
        """What one step for the whole weight costs."""
        return self.per_channel_db - self.per_tensor_db


def channel_ranges(graph: Graph) -> Iterator[ChannelRanges | None]:
    """Of each linear op, in graph order; None for one whose weight is left out, or zero."""
    for node in graph.nodes:
        rule = graph.rule(node)
        if isinstance(rule, Linear):
            yield None if isinstance(rule.weight, QuantisedTensor) else _figures(node, rule)


def _figures(node: Node, rule: Linear) -> ChannelRanges | None:
    ranges, squares = extents(rule.weight, rule.form)
    live = squares > 0.0
    if not live.any() or not np.isfinite(squares).all():
        return None
    ranges, squares = ranges[live], squares[live]
    elements = prod(rule.weight.shape) // rule.form.channels_out
    most = float(ranges.max())
    picked = np.linspace(0, ranges.size - 1, min(ranges.size, MOST_POINTS)).astype(np.intp)
    return ChannelRanges(
        node.name,
        node.op,
        channels=ranges.size,
        largest=most,
        spread=imbalance(ranges),
        ratio=most / float(ranges.min()),
        per_tensor_db=_snr_db(squares, elements, np.full_like(ranges, most / _STEPS)),
        per_channel_db=_snr_db(squares, elements, ranges / _STEPS),
        points=tuple(np.sort(ranges)[picked].tolist()),
    )


def _snr_db(squares: Vector, elements: int, step: Vector) -> float:
    noise = np.minimum(elements * np.square(step) / 12.0, squares)
    return float(np.mean(10.0 * np.log10(squares / noise)))
