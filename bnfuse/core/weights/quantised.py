"""Weights stored as integers with scales: w = (q − zero)·scale, the scale per tensor, channel or block.

A factor per channel goes into them without touching what was rounded: |a| into the scales, the sign into the
integers, which are mirrored at their zero point (q' = 2·zero − q), and a zero makes them the zero point.
Where the format takes scales of any sign, all of it goes there, and the integers stay. A shift goes into a
bias, which is no part of the weight. Not every factor fits: one along an axis where several channels share a
scale does not, nor does a sign where a mirrored integer leaves its type (−128 of 8 bits).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from msgspec import Struct, field

from bnfuse.core.reparam import Vector
from bnfuse.core.weights.linear import LinearForm
from bnfuse.core.weights.tensor import Array, Tensor, whole

_MOST_MIRRORED = 1 << 28  # integers, which are in memory then


class Requantised(Struct, frozen=True, eq=False):
    """What becomes of a quantised weight; what is None stays as it is.

    Attributes:
        scale: new scales, float64, with one size for each axis of the weight: that of the axis (or of its
            blocks), or 1.
        stored: new integers, in the weight's shape and type.
    """

    scale: Vector
    stored: Array | None


class QuantisedTensor(Struct, frozen=True, eq=False):
    """A weight stored as integers; read as the floats that it stands for.

    Attributes:
        stored: q.
        scale, zero: with one size for each axis of q, as in ``Requantised``. A zero may be a fraction where
            scales are signed.
        lowest, highest: what the type of q can hold.
        several: whether the format can store a scale for each channel where there is one number.
        signed: whether a scale may be negative, or zero.
        zero_scales: whether a factor of zero goes into the scales, there being no integer for it.
        blocks: by axis, which scale each place along it has, shape (size of the axis,), where blocks are
            not of one size.
    """

    stored: Tensor
    scale: Array
    zero: Array
    lowest: int
    highest: int
    several: bool = True
    signed: bool = False
    zero_scales: bool = False
    blocks: Mapping[int, Array] = field(default_factory=dict)
    _mirrored: dict[int, Array] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.stored.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that it stands for: that of its scales."""
        return self.scale.dtype

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop) in C order, as the runtime works them out."""
        at = np.unravel_index(np.arange(start, stop), self.shape)
        places = tuple(self._block_of(axis)[index] for axis, index in enumerate(at))
        q = self.stored.read(start, stop).astype(np.int32) - self.zero[places]
        made: Array = q.astype(self.dtype) * self.scale[places]
        return made

    def refuses(self, form: LinearForm, factors: Iterable[Vector]) -> str:
        """Why it does not take these factors together, "" where it does.

        Args:
            form: how the weight is read.
            factors: float64, each broadcastable against the form's view.
        """
        laid = self._laid(form, factors)
        if self._scales(laid if self.signed else np.abs(laid)) is None:
            return "several channels share a scale"
        if self.signed:
            return ""
        negative = laid < 0.0
        if negative.any() and prod(self.shape) > _MOST_MIRRORED:
            return "it is too large to be mirrored"
        if negative.any() and (bad := self._leaving(negative)) is not None:
            axis, channel = bad
            return f"in channel {channel} of axis {axis} an integer would leave its type"
        return ""

    def rescaled(self, form: LinearForm, factors: Sequence[Vector]) -> Requantised:
        """It with factors that it takes, each broadcastable against the form's view."""
        scale, laid = self.new_scale(form, factors), self._laid(form, factors)
        if self.signed or (laid > 0.0).all():
            return Requantised(scale, None)
        stored = whole(self.stored)
        zero = self._at_every(self.zero).astype(np.int32)
        mirrored = np.where(laid < 0.0, 2 * zero - stored.astype(np.int32), stored.astype(np.int32))
        gone = (laid == 0.0) & (not self.zero_scales)
        return Requantised(scale, np.where(gone, zero, mirrored).astype(stored.dtype))

    def new_scale(self, form: LinearForm, factors: Sequence[Vector]) -> Vector:
        """Its scales alone, as in ``Requantised``; where a factor is zero, they stay if an integer can be."""
        laid = self._laid(form, factors)
        kept = (laid == 0.0) & (not self.zero_scales)
        scale = self._scales(laid if self.signed else np.where(kept, 1.0, np.abs(laid)))
        assert scale is not None, "such factors are refused when the plan is made"
        return scale

    def _laid(self, form: LinearForm, factors: Iterable[Vector]) -> Vector:
        """The product of the factors along the stored axes: of size 1 along those where it does not vary."""
        total = np.ones((1,) * len(form.dims))
        for factor in factors:
            total = total * factor
        view = _views(form.dims, self.shape)
        varies = [any(total.shape[k] > 1 for k in part) for part in view]
        wide = [form.dims[k] if varies[axis] else 1 for axis, part in enumerate(view) for k in part]
        total = np.broadcast_to(total, wide).reshape(
            [prod(form.dims[k] for k in part) if varies[axis] else 1 for axis, part in enumerate(view)]
        )
        for axis in range(total.ndim):
            first = total.take([0], axis=axis)
            if (total == first).all():
                total = first
        return total

    def _scales(self, factors: Vector) -> Vector | None:
        """scale·factors; None where the format cannot store what varies so."""
        scale = self.scale.astype(np.float64)
        varies = [axis for axis, size in enumerate(factors.shape) if size > 1]
        if not varies:
            return _times(scale, factors)
        has = [axis for axis, size in enumerate(self.scale.shape) if size > 1]
        if len(has) > 1:  # in blocks along one axis, and for each place along the others
            return self._in_blocks(scale, factors)
        if len(varies) > 1 or has not in ([], varies) or (not has and not self.several):
            return None
        if has and self.scale.shape[has[0]] != self.shape[has[0]]:
            return self._in_blocks(scale, factors)
        return _times(scale, factors)

    def _in_blocks(self, scale: Vector, factors: Vector) -> Vector | None:
        """The same where a scale stands for a block of places along some axis."""
        for axis, size in enumerate(factors.shape):
            blocks = scale.shape[axis]
            if size > 1:
                along = np.moveaxis(factors, axis, 0)
                place = self._block_of(axis)
                first = np.ones((blocks, *along.shape[1:]))
                first[place] = along  # the last of each block
                if not np.array_equal(first[place], along):
                    return None
                factors = np.moveaxis(first, 0, axis)
        return _times(scale, factors)

    def _leaving(self, negative: Array) -> tuple[int, int] | None:
        """(axis, channel) of an integer that mirrored would leave its type."""
        axis = next((k for k, size in enumerate(negative.shape) if size > 1), 0)
        if axis not in self._mirrored:
            mirrored = 2 * self._at_every(self.zero).astype(np.int32) - whole(self.stored).astype(np.int32)
            outside = (mirrored < self.lowest) | (mirrored > self.highest)
            others = tuple(k for k in range(outside.ndim) if k != axis)
            self._mirrored[axis] = np.asarray(outside.any(axis=others))
        flags = negative.any(axis=tuple(k for k in range(negative.ndim) if k != axis))
        bad = np.flatnonzero(self._mirrored[axis] & flags)
        return (axis, int(bad[0])) if bad.size else None

    def _at_every(self, values: Array) -> Array:
        """One for each element, from one for each block."""
        for axis in range(values.ndim):
            values = values.take(self._block_of(axis), axis=axis)
        return values

    def _block_of(self, axis: int) -> Array:
        """Which scale each place along an axis has."""
        given = self.blocks.get(axis)
        size = self.shape[axis]
        return np.arange(size) // (size // self.scale.shape[axis]) if given is None else given


def _times(scale: Vector, factors: Vector) -> Vector:
    made: Vector = scale * factors
    return made


def _views(dims: Sequence[int], shape: Sequence[int]) -> list[range]:
    """Which axes of a form's view each stored axis is: one, or a group's number and a channel."""
    found: list[range] = []
    position = 0
    for at, stored in enumerate(shape):
        start = position
        size = 1
        while position < len(dims) and (size < stored or position == start):
            size *= dims[position]
            position += 1
        found.append(range(start, len(dims) if at == len(shape) - 1 else position))
    return found
