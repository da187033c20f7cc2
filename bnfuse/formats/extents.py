"""Sizes of axes, followed through a model for all sizes of its free axes at once.

An extent is the size of an axis: a number, an array with one entry for every size that the free axes may
have (a grid: one dimension per free axis, sizes 1, 2, 3, … along each), or None where it is not known. The
arithmetic of shapes, ⌊(n + p − k) / s⌋ + 1 and the like, is numpy's on all of them. Where two extents must
be equal, or one must be at least 1, the sizes at which they are not fall away (``must``); where the file
declares what an extent is, the sizes at which that holds gain a vote (``told``).

When it does not act: a demand that no size meets is left out, because then this is wrong about the model,
or the model beyond the grid; and extents that depend on so many axes that the grid is too large are unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from bnfuse.formats.hints import LARGEST, by_likelihood

Grid = NDArray[np.int64]
Extent = int | Grid | None
Shape = tuple[Extent, ...]

# Largest size of an axis, where there is one free axis, and where there are two.
_SIZES = {1: LARGEST, 2: 1280}
_MOST_ENTRIES = 1 << 21
_MOST_FOUND = 3


class Sizes(Struct, eq=False):
    """Which sizes the free axes may have; ``count`` of them, 1 or 2."""

    count: int
    _allowed: dict[tuple[int, ...], NDArray[np.bool_]] = field(default_factory=dict)
    _votes: dict[tuple[int, ...], Grid] = field(default_factory=dict)

    @property
    def largest(self) -> int:
        """The largest size that is looked at."""
        return _SIZES[self.count]

    def axis(self, number: int) -> Grid:
        """All sizes of one free axis."""
        shape = [1] * self.count
        shape[number] = self.largest
        return np.arange(1, self.largest + 1, dtype=np.int64).reshape(shape)

    def must(self, holds: NDArray[np.bool_] | bool | None) -> None:
        """A condition that the model needs."""
        if not isinstance(holds, np.ndarray) or holds.all():
            return
        known = self._allowed.get(holds.shape)
        both = holds if known is None else known & holds
        if both.any():
            self._allowed[holds.shape] = both

    def equal(self, a: Extent, b: Extent) -> None:
        """Two extents that the model needs to be the same."""
        if a is not None and b is not None:
            self.must(np.equal(a, b))

    def told(self, extent: Extent, size: int) -> None:
        """What the file says an extent is."""
        if not isinstance(extent, np.ndarray):
            return
        holds = (extent == size).astype(np.int64)
        known = self._votes.get(holds.shape)
        self._votes[holds.shape] = holds if known is None else known + holds

    def found(self, usual: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Sizes of the free axes, the likeliest first; none where the file says nothing about them."""
        allowed = np.ones((1,) * self.count, dtype=bool)
        for one in self._allowed.values():
            allowed = allowed & one
        votes: Grid = np.zeros((1,) * self.count, np.int64)
        for counted in self._votes.values():
            votes = votes + counted
        if not allowed.any() or (allowed.all() and not votes.any()):
            return []
        allowed, votes = np.broadcast_arrays(allowed, votes)
        most = int(votes[allowed].max())
        best = np.broadcast_to(allowed & (votes == most), (self.largest,) * self.count)
        return _likeliest(best, usual, told=most > 0)

    def only(self) -> int | None:
        """The one size that a single free axis can have, if there is just one."""
        allowed = next(iter(self._allowed.values()), None)
        if allowed is None or allowed.sum() != 1:
            return None
        return int(np.flatnonzero(allowed)[0]) + 1


def _likeliest(best: NDArray[np.bool_], usual: tuple[int, ...], *, told: bool) -> list[tuple[int, ...]]:
    """Equal sizes along both axes first; else the pair nearest to a square, of those told the roundest."""
    same = best if best.ndim == 1 else np.diagonal(best)
    most = 1 if told else _MOST_FOUND
    if same.any():
        sizes = by_likelihood(np.flatnonzero(same) + 1, usual, most, told=told)
        return [(size,) * best.ndim for size in sizes]
    rows, columns = (found + 1 for found in np.nonzero(best))
    roundness = -np.log2((rows & -rows) * (columns & -columns)) * told
    order = np.lexsort((rows, np.abs(np.log(rows / columns)), roundness))
    return [(int(rows[at]), int(columns[at])) for at in order[:most]]


def product(extents: Sequence[Extent]) -> Extent:
    """Number of elements; unknown where one is, or where the grid would be too large."""
    total: Extent = 1
    for extent in extents:
        if extent is None or total is None:
            return None
        if np.prod(np.broadcast_shapes(np.shape(total), np.shape(extent))) > _MOST_ENTRIES:
            return None
        total = total * extent
    return total


def windows(size: Extent, window: int, stride: int, pads: int, *, up: bool = False) -> Extent:
    """How many windows of this width fit along an axis with so much padding in all."""
    if size is None:
        return None
    room = size + pads - window
    return (-(-room // stride) if up else room // stride) + 1


def scaled(size: Extent, factor: float) -> Extent:
    """An axis resized by a factor."""
    if size is None:
        return None
    made = np.floor(np.asarray(size) * factor).astype(np.int64)
    return made if made.ndim else int(made)
