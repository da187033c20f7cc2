"""What rounding to 8 bits would add to a model's outputs, as a function of how its channels are scaled.

A quantiser with one step for a whole tensor rounds a weight with R/127, R = max |W|, and an activation with
A/255, A = its range. Rounding of a step d adds noise of d²/12. With E[x²] of a layer's input channels and
the sensitivities G of its output channels (what noise of 1 there adds at the outputs, relative to them),

    weight of a layer       R²/(12·127²) · K · Σ_g Σ_i E[x²_gi] · Σ_o G_go          K taps
    its input               A²/(12·255²) · Σ_gi C_gi           C_gi = Σ_o G_go Σ_k W²   (``sensitivities``)

If channels are held as s·x, E[x²] grows by s² and C shrinks by it: all products stay but R and A. Σ over all
layers is convex in log s (products of sums and maxima of exponentials are), so that there is one best
answer, and it does not depend on the scales that a model came with.

The maxima are p-norms, p = ``NORM``, whose minimum is that of the maxima within 1 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from bnfuse.core.graph import Node
from bnfuse.core.reparam import Vector

NORM = 32.0
_WEIGHT, _ACTIVATION = 1.0 / (12.0 * 127.0**2), 1.0 / (12.0 * 255.0**2)

Places = NDArray[np.intp]


def padded(scale: Vector) -> Vector:
    """Scales as layers look them up: −1 is the last."""
    return np.append(scale, 1.0)


class NoiseLayer(Struct, frozen=True, eq=False):
    """A linear op among those whose scales are looked for.

    ``rows`` and ``columns`` name, for each channel of its output and input, the scale that it is held with,
    −1 for one that stays: scales are told with a 1 behind the last (``padded``).

    Attributes:
        node: the op.
        largest: max_k |W|, shape (G, O, I).
        taps: K.
        squares: E[x²], shape (G·I,).
        reach: how far x reaches from 0, shape (G·I,).
        rows, columns: shape (G·O,) and (G·I,).
        gains: G, shape (G·O,).
        input_gains: C, shape (G·I,).
    """

    node: Node
    largest: Vector
    taps: int
    squares: Vector
    reach: Vector
    rows: Places
    columns: Places
    gains: Vector
    input_gains: Vector

    def scaled(self, scale: Vector) -> tuple[Vector, Vector]:
        """The scales of its output channels and of its input channels, shape (G, O) and (G, I)."""
        groups, outs, ins = self.largest.shape
        return scale[self.rows].reshape(groups, outs), scale[self.columns].reshape(groups, ins)

    def ranges(self, scale: Vector) -> Vector:
        """Largest |weight| of each output channel, shape (G·O,)."""
        out, into = self.scaled(scale)
        ranges: Vector = (self.largest * out[:, :, None] / into[:, None, :]).max(axis=2, initial=0.0).ravel()
        return ranges

    def noise(self, scale: Vector) -> float:
        """What its roundings add, with true maxima."""
        _, into = self.scaled(scale)
        most, end = (
            float(self.ranges(scale).max(initial=0.0)),
            float((self.reach * into.ravel()).max(initial=0.0)),
        )
        squares, gains, input_gains = self.powers(scale)
        weight = most * most * self.taps * float((squares.sum(axis=1) * gains.sum(axis=1)).sum())
        return _WEIGHT * weight + _ACTIVATION * end * end * float(input_gains.sum())

    def powers(self, scale: Vector) -> tuple[Vector, Vector, Vector]:
        """E[x²], G and C where channels are held so, shape (G, I), (G, O), (G, I)."""
        out, into = self.scaled(scale)
        squares = self.squares.reshape(into.shape) * into**2
        return squares, self.gains.reshape(out.shape) / out**2, self.input_gains.reshape(into.shape) / into**2

    def begun(self, scale: Vector) -> _Smooth:
        """The same where what is held so counts as the beginning, with norms for maxima."""
        out, into = self.scaled(scale)
        squares, gains, input_gains = (each.ravel() for each in self.powers(scale))
        powers = self.largest.astype(np.float64)
        powers *= out[:, :, None]
        powers /= into[:, None, :]
        top = float(powers.max(initial=0.0)) or 1.0
        powers /= top
        np.power(powers, NORM, out=powers)
        reach = self.reach * into.ravel()
        changed = replace(
            self, largest=powers, squares=squares, reach=reach, gains=gains, input_gains=input_gains
        )
        return _Smooth(changed, top)


class _Smooth(Struct, frozen=True, eq=False):
    """A layer whose ``largest`` are (largest / top)^NORM."""

    layer: NoiseLayer
    top: float

    def pulls(self, scale: Vector, up: Vector, down: Vector) -> None:
        """Add what asks for each scale to be larger, and smaller: ∂noise/∂(log s) = 2·(down − up)."""
        layer, powers = self.layer, self.layer.largest
        out, into = layer.scaled(scale)
        squares, gains, input_gains = layer.powers(scale)
        out_p, into_p = out**NORM, into**-NORM
        rows = (powers @ into_p[:, :, None])[:, :, 0] * out_p
        columns = (out_p[:, None, :] @ powers)[:, 0, :] * into_p
        total = float(columns.sum()) or 1.0
        most = self.top * total ** (1.0 / NORM)
        rough = _WEIGHT * layer.taps * most * most
        by_group = squares.sum(axis=1), gains.sum(axis=1)
        weight = rough * float((by_group[0] * by_group[1]).sum())
        ends = layer.reach.reshape(into.shape) * into
        end = float(ends.max(initial=0.0)) or 1.0
        shares = (ends / end) ** NORM
        spread = float(shares.sum()) or 1.0
        end *= spread ** (1.0 / NORM)
        span = _ACTIVATION * end * end
        activation = span * float(input_gains.sum())
        _gather(down, layer.rows, weight * rows / total)
        _gather(up, layer.rows, rough * by_group[0][:, None] * gains)
        _gather(up, layer.columns, weight * columns / total + span * input_gains)
        _gather(down, layer.columns, rough * by_group[1][:, None] * squares + activation * shares / spread)


def _gather(total: Vector, places: Places, values: Vector) -> None:
    some = places >= 0
    np.add.at(total, places[some], values.ravel()[some])


def total_noise(layers: Sequence[NoiseLayer], scale: Vector) -> float:
    """Σ over all layers, relative to the outputs."""
    scales = padded(scale)
    return sum(layer.noise(scales) for layer in layers)


# Steps in log s, from the first to the last; twice as many change the noise by 0.1 %.
_STEPS, _FIRST, _LAST = 50, 0.3, 0.01


def quietest(layers: Sequence[NoiseLayer], start: Vector) -> Vector:
    """The scales of least noise: each goes where it is pulled to, by ever smaller steps.

    Args:
        layers: what the scales do.
        start: scales to begin with; where they follow those that a model came with, the answer does, too.
    """
    scales = padded(start)
    begun = [layer.begun(scales) for layer in layers]
    log_scale = np.zeros_like(start)
    for step in range(_STEPS):
        up, down = np.zeros_like(start), np.zeros_like(start)
        scale = padded(np.exp(log_scale))
        for layer in begun:
            layer.pulls(scale, up, down)
        both = up + down
        length = _FIRST * (_LAST / _FIRST) ** (step / _STEPS)
        log_scale += length * np.where(both > 0.0, (up - down) / np.where(both > 0.0, both, 1.0), 0.0)
    quietest_scale: Vector = start * np.exp(log_scale)
    return quietest_scale
