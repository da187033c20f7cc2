"""How two tensors differ, channel by channel, and what rounding explains of it.

A wrong fold is wrong for whole channels: a shift that is lost moves a channel's mean, a wrong ε its slope.
Rounding moves single elements, up as often as down, so over the N elements of a channel it cancels. With
reference r, other o and e = o − r, per channel (maxima and moments over its N elements)::

    largest = max |e|
    mean    = |mean e|
    slope   = |cov(e, r)| / std(r)             what a scale that is off makes of a channel that varies so much
    noise   = std of e − mean − slope·(r − mean r)/std(r)

Allowed, with the unit roundoff u and the channel's reach A = max |r| (at least 1/1000 of the tensor's)::

    largest <= 16·u·A                  + 6·own + 6·original
    mean    <= 64·u·A + 6·noise/√N     + 6·own + 6·original
    slope   <= 64·u·A + 6·noise/√N     + 6·own + 6·original
    in half precision:
    mean    <=    u·A + 6·noise/√N     + 3·own +   original
    slope   <=  u·A/2 + 6·noise/√N     + 3·own +   original/4

The first terms are roundings of the result itself, few where they could hide a defect; the second is that of
N independent ones. ``own`` and ``original`` are the same figure for runs of the two models whose weights were
moved by one unit in their last place (root mean square over the runs; at least that over the channels, each
relative to its reach; in a tensor of zeros alone, as they are). Where the weights of a layer are one number
repeated (ConstantOfShape), K of whose products make a sum, all of them round the same way: then K·u·A is
allowed, the bound of a sum (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2). New
weights are rounded by at most half a unit, and what the original loses inside mostly cancels over a channel;
not so where β and −μ·a nearly cancel, and only half precision has so few digits that it must be counted
tightly. They are measured only where the other terms do not suffice, ``original`` where ``own`` does not.
Means and slopes of fewer than ``LEAST`` elements tell nothing, and are left out.

Which axis counts channels is not known here: axis 1 and the last one are both looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import Enum

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Vector = NDArray[np.float64]

LEAST = 8
_SIGMAS = 6.0
_HALF = 2.0**-11  # float16's unit roundoff, the finer of the half precisions
_REACH_SHARE = 1e-3
_BLOCK_ELEMENTS = 1 << 22


class Figure(Enum):
    """What is looked at, and what it may be off by: roundings (few in half precision), and controls."""

    LARGEST = ("differs", 16.0, 16.0, 6.0, 6.0)
    MEAN = ("is shifted", 64.0, 1.0, 3.0, 1.0)
    SLOPE = ("is scaled", 64.0, 0.5, 3.0, 0.25)

    def __init__(self, verb: str, roundings: float, few: float, own: float, original: float) -> None:
        self.verb, self.roundings, self.few, self.own, self.original = verb, roundings, few, own, original


class Channels(Struct, frozen=True, eq=False):
    """The figures of every channel along one axis, in the tensor's own units, shape (channels,) each."""

    axis: int
    elements: int
    reach: Vector
    noise: Vector
    figures: dict[Figure, Vector]


class Excess(Struct, frozen=True):
    """The figure that is furthest beyond (or nearest to) what is allowed.

    ``share`` is the figure over what is allowed, at most 1 where rounding explains it.
    """

    share: float
    figure: Figure
    axis: int
    channel: int
    size: float
    allowed: float


def channels(reference: np.ndarray, other: np.ndarray) -> tuple[Channels, ...]:
    """The difference of two tensors of one shape, by each axis that may count channels.

    Elements that are not finite in the reference are left out; one that is not finite in the other alone
    differs by infinity.

    Args:
        reference: floats, any shape.
        other: floats of the same shape.
    """
    rank = reference.ndim
    axes = sorted({1, rank - 1}) if rank > 1 else [-1]
    return tuple(_along(reference, other, axis) for axis in axes)


def _along(reference: np.ndarray, other: np.ndarray, axis: int) -> Channels:
    rows = [_moments(r, o) for r, o in _blocks(reference, other, axis)]
    count, reach, largest, mean, slope, noise = (np.concatenate(each) for each in zip(*rows, strict=True))
    reach = np.maximum(reach, _REACH_SHARE * reach.max(initial=0.0))
    figures = {Figure.LARGEST: largest, Figure.MEAN: np.abs(mean), Figure.SLOPE: np.abs(slope)}
    return Channels(axis, int(count.min()) if count.size else 0, reach, noise, figures)


def _blocks(r: np.ndarray, o: np.ndarray, axis: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(before, channels, behind) blocks of both as they lie, bounded in size."""
    if axis < 0:
        count, shape = 1, (1, 1, -1)
    else:
        before, count, behind = (
            math.prod(part) for part in (r.shape[:axis], r.shape[axis : axis + 1], r.shape[axis + 1 :])
        )
        shape = (before, count, behind)
    first, second = r.reshape(shape), o.reshape(shape)
    step = max(1, _BLOCK_ELEMENTS * count // max(1, r.size))
    for start in range(0, count, step):
        cut = slice(start, start + step)
        yield first[:, cut].astype(np.float64), second[:, cut].astype(np.float64)


def _moments(r: Vector, o: Vector) -> tuple[Vector, ...]:
    """(N, reach, largest, mean, slope, noise) of each channel of a block."""
    keep = np.isfinite(r)
    lost: NDArray[np.bool_] = np.zeros(r.shape[1], np.bool_)
    if not (whole := bool(keep.all())) or not np.isfinite(o).all():
        gone = keep & ~np.isfinite(o)
        lost = np.any(gone, axis=(0, 2))
        r, o = np.where(keep, r, 0.0), np.where(keep & ~gone, o, 0.0)
    n = keep.sum(axis=(0, 2)).astype(np.float64)
    least = np.maximum(n, 1.0)
    e = o - r
    mean, middle = _total(e) / least, _total(r) / least
    reach = np.maximum(r.max(axis=(0, 2), initial=0.0), -r.min(axis=(0, 2), initial=0.0))
    largest = np.maximum(e.max(axis=(0, 2), initial=0.0), -e.min(axis=(0, 2), initial=0.0))
    r -= middle[:, None]
    e -= mean[:, None]
    if not whole:
        r[~keep] = 0.0
        e[~keep] = 0.0
    varies = np.sqrt(_dot(r, r) / least)
    steady = np.maximum(varies, np.finfo(np.float64).tiny)
    slope = _dot(e, r) / least / steady
    noise = np.sqrt(np.maximum(_dot(e, e) / least - np.square(slope), 0.0))
    return n, reach, np.where(lost, np.inf, largest), mean, slope, noise


def _total(x: Vector) -> Vector:
    """Sums, by channel."""
    total: Vector = np.einsum("bcn->c", x) if x.shape[2] > 1 else x[:, :, 0].sum(axis=0)
    return total


def _dot(x: Vector, y: Vector) -> Vector:
    """Sums of products, by channel."""
    product: Vector
    if x.shape[2] > 1:
        product = np.einsum("bcn,bcn->c", x, y)
    else:  # einsum is slow over an axis of length 1
        product = np.einsum("bc,bc->c", x[:, :, 0], y[:, :, 0])
    return product


def excess(
    found: Channels,
    roundoff: float,
    own: Sequence[Channels] = (),
    original: Sequence[Channels] = (),
    *,
    terms: int = 0,
) -> Excess | None:
    """The figure that is worst beside what is allowed; None for a tensor without elements.

    Args:
        found: how the other model differs, along one axis.
        roundoff: unit roundoff of the arithmetic.
        own: how the other model's values move, along the same axis, when its weights are shaken.
        original: the same of the reference.
        terms: of sums over weights that are one number repeated, whose roundings do not cancel.
    """
    worst: Excess | None = None
    for figure, sizes in found.figures.items():
        if not sizes.size or (figure is not Figure.LARGEST and found.elements < LEAST):
            continue
        allowed = _rounding(found, figure, roundoff, terms)
        half = roundoff >= _HALF
        allowed = allowed + (figure.own if half else _SIGMAS) * _moved(own, figure, found)
        allowed = allowed + (figure.original if half else _SIGMAS) * _moved(original, figure, found)
        share = np.divide(sizes, allowed, out=np.where(sizes > 0.0, np.inf, 0.0), where=allowed > 0.0)
        at = int(share.argmax())
        if worst is None or share[at] > worst.share:
            worst = Excess(float(share[at]), figure, found.axis, at, float(sizes[at]), float(allowed[at]))
    return worst


def _rounding(found: Channels, figure: Figure, roundoff: float, terms: int) -> Vector:
    """What roundings of the result explain, and N independent ones where a mean is looked at."""
    count = max(figure.few if roundoff >= _HALF else figure.roundings, terms)
    allowed: Vector = count * roundoff * found.reach
    if figure is not Figure.LARGEST:
        allowed = allowed + _SIGMAS * _settled(found.noise, found) / np.sqrt(max(1, found.elements))
    return allowed


def _moved(runs: Sequence[Channels], figure: Figure, found: Channels) -> Vector:
    """Root mean square of a figure over shaken runs; zeros where there are none."""
    if not runs:
        return np.zeros(found.reach.shape)
    squares = np.mean([np.square(run.figures[figure]) for run in runs], axis=0)
    return _settled(np.asarray(np.sqrt(squares)), found)


def _settled(sizes: Vector, found: Channels) -> Vector:
    """Figures that chance may leave too small in one channel: at least the channels' root mean square.

    Relative to their reach; where the reference is zero throughout there is none, and channels count alike.
    """
    reach = found.reach if found.reach.any() else np.ones_like(found.reach)
    common = float(np.sqrt(np.square(sizes / reach).mean()))
    settled: Vector = np.maximum(sizes, common * reach)
    return settled
