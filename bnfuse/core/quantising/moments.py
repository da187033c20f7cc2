"""How large values typically are, channel by channel, told from the file alone: mean and variance.

A BatchNormalization knows them of what it reads: its running statistics. Where none looks, they follow from
the weights, as if all that is summed up were independent: with inputs of mean m and square E[x²] per channel,

    variance of y[o] = v = Σ_i E[x²_i]·Σ_k W²
    mean of y[o] = (b_o + D) · v/(v + DOUBT²·D²)        D = Σ_i m_i·Σ_k W

The bias of a folded BatchNormalization has taken away what the weights make of the mean of x, whatever that
was. The estimate of that, D, is a sum over taps which all agree, and its error remains: believed as it is,
many channels of trained networks seem to be dead, or constant. So a mean is believed where D is small,
as that of a channel which is constant is. What a model reads, or what comes out of an operator that nothing
is known of, counts as mean 0 and variance 1; its mean may be as large, which adds to D² as if it were.

Behind a ReLU a value is taken for a rectified Gaussian, behind a Relu6 for one that is cut off above, too.
All of it follows a scale exactly: hold a channel as s·x, and its mean is s·m, its variance s²·v.
"""

from __future__ import annotations

from math import erf, pi, sqrt

import numpy as np
from msgspec import Struct

from bnfuse.core.graph import Node
from bnfuse.core.planning.state import State
from bnfuse.core.quantising.pairs import Pairs
from bnfuse.core.reasons import Reason
from bnfuse.core.reparam import Pair, Vector
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Pass
from bnfuse.core.rules.clamp import Clamp
from bnfuse.core.rules.joint import ConcatSplit, Select
from bnfuse.core.rules.weighted_sum import WeightedSum

_FAR = 1e30  # so many deviations from 0 is a value that does not vary
# By how much of itself what the weights make of a mean may be wrong. 1 to 4 are alike, 0 costs up to 2 dB.
_DOUBT = 2.0
_MOST_BACK = 256  # values that are looked back over: many layers may read one long row
_DEVIATIONS = 3.0  # a range is taken to reach that many deviations from the mean


class Moments(Struct, frozen=True, eq=False):
    """Mean and variance of the channels of a value, shape (channels,)."""

    mean: Vector
    variance: Vector

    @property
    def square(self) -> Vector:
        """E[x²]."""
        total: Vector = np.square(self.mean) + self.variance
        return total

    @property
    def reach(self) -> Vector:
        """From 0 to where the values end."""
        end: Vector = np.abs(self.mean) + _DEVIATIONS * np.sqrt(self.variance)
        return end

    def clamped(self, top: Vector) -> tuple[Moments, Vector]:
        """Those of min(max(x, 0), top) for a Gaussian x, and its reach; ``top`` may be ∞."""
        mean, square = self._rectified()
        over, _ = Moments(self.mean - np.where(np.isfinite(top), top, 0.0), self.variance)._rectified()
        mean = np.maximum(np.where(np.isfinite(top), mean - over, mean), 0.0)
        square = np.minimum(square, np.where(mean > 0.0, top, 0.0) * mean, where=np.isfinite(top), out=square)
        end = np.clip(self.mean + _DEVIATIONS * np.sqrt(self.variance), 0.0, top)
        return Moments(mean, np.maximum(square - np.square(mean), 0.0)), end

    def _rectified(self) -> tuple[Vector, Vector]:
        """E[max(x, 0)] and E[max(x, 0)²]."""
        deviation = np.sqrt(self.variance)
        ratio = np.where(deviation > 0.0, self.mean, _FAR * np.sign(self.mean))
        ratio /= np.where(deviation > 0.0, deviation, 1.0)
        below = np.array([0.5 * (1.0 + erf(z / sqrt(2.0))) for z in ratio])
        density = np.exp(-0.5 * np.square(ratio)) / sqrt(2.0 * pi)
        mean = np.maximum(self.mean * below + deviation * density, 0.0)
        square = np.maximum(self.square * below + self.mean * deviation * density, 0.0)
        return mean, square


def of_output(weight: Pairs, bias: Vector, read: Moments) -> Moments:
    """Those of y = W·x + b; ``bias`` of shape (G·O,), ``read`` those of x, shape (G·I,)."""
    groups, _, ins = weight.sums.shape
    square = read.square.reshape(groups, ins)
    passed_on = np.einsum("goi,gi->go", weight.sums, read.mean.reshape(groups, ins)).ravel()
    unknown = np.where(read.mean.reshape(groups, ins) == 0.0, square, 0.0)
    doubtful = np.einsum("goi,gi->go", np.square(weight.sums), unknown).ravel() + np.square(passed_on)
    variance = np.einsum("goi,gi->go", weight.squares, square).ravel()
    total = variance + _DOUBT * _DOUBT * doubtful
    believed = np.where(doubtful > 0.0, variance / np.where(total > 0.0, total, 1.0), 1.0)
    return Moments((bias + passed_on) * believed, variance)


def known(state: State, writer: Node, axis: int, write: Pair | None) -> Moments | None:
    """What a BatchNormalization along ``axis`` knows of a node's output, held as ``write`` says by now."""
    for reader in state.graph.readers(writer.outputs[0]):
        rule = state.graph.rule(reader)
        if isinstance(rule, Affine) and rule.axes == (axis,) and rule.typical is not None:
            s, t = (np.ones(()), np.zeros(())) if write is None else write
            mean, deviation = s * rule.typical.mean + t, s * rule.typical.deviation
            return Moments(mean, np.square(deviation))
    return None


def ceiling(state: State, value: str, axis: int, channels: int) -> Vector | None:
    """Where a value that comes out of ReLUs ends, shape (channels,) along ``axis``: ∞, or a Relu6's bound.

    None where it may be negative. What leaves signs as they are is looked past; behind a sum or a Concat all
    that is told is that nothing is negative.
    """
    node, passed = state.graph.writer(value), 0
    while (
        passed < _MOST_BACK
        and node is not None
        and isinstance(rule := state.graph.rule(node), Pass)
        and not _is_relu(rule)
    ):
        node, passed = state.graph.writer(node.inputs[rule.in_port]), passed + 1
    if node is not None and isinstance(state.graph.rule(node), Clamp):
        low, high, axes = state.current(node)
        if (low == 0.0).all():
            along = axes == (axis,) and high.size == channels
            return np.broadcast_to(high if along else high.max(), (channels,))
    return np.full(channels, np.inf) if _nonnegative(state, value) else None


def _nonnegative(state: State, value: str) -> bool:
    pending, seen = [value], {value}
    while pending:
        node = state.graph.writer(pending.pop())
        rule = None if node is None else state.graph.rule(node)
        if node is None or isinstance(rule, Affine) or len(seen) > _MOST_BACK:
            return False
        if (isinstance(rule, Clamp) and (state.current(node)[0] == 0.0).all()) or _is_relu(rule):
            continue
        if isinstance(rule, Pass):
            before = [node.inputs[rule.in_port]]
        elif isinstance(rule, ConcatSplit | Select) or (
            isinstance(rule, WeightedSum) and all(sign > 0.0 for sign in rule.signs)
        ):
            before = [v for v in node.inputs if v]
        else:
            return False
        pending += [v for v in before if v not in seen]
        seen.update(before)
    return True


def _is_relu(rule: object) -> bool:
    return isinstance(rule, Pass) and rule.shift is Reason.SHIFT_THROUGH_ACTIVATION
