"""Weights without holding them: what core asks of a stored tensor.

A ``Tensor`` knows its shape and dtype and can be read piece by piece, so that a 6 GB model is
scaled through a buffer of one mebibyte.
"""

from __future__ import annotations

from math import prod
from typing import Any, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Array = NDArray[Any]


class Tensor(Protocol):
    """A constant of the model, somewhere: in memory, in a file, or made of one repeated value."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes as stored."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type (bfloat16 as ``ml_dtypes.bfloat16``)."""

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop) in C order, one-dimensional. May reuse a buffer: copy to keep."""


class Based:
    """What has the shape and the element type of its ``base``."""

    __slots__ = ()
    base: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        shape: tuple[int, ...] = self.base.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        dtype: np.dtype[Any] = self.base.dtype
        return dtype


class ArrayTensor(Struct, Based, frozen=True, eq=False):
    """A constant that is small enough to be in memory."""

    base: Array

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop) in C order."""
        return self.base.ravel()[start:stop]


class FilledTensor(Struct, frozen=True, eq=False):
    """One value repeated (ONNX ConstantOfShape), however large."""

    shape: tuple[int, ...]
    fill: Array  # zero-dimensional

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.fill.dtype

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop)."""
        return np.full(stop - start, self.fill)


def size(tensor: Tensor) -> int:
    """Number of elements."""
    return prod(tensor.shape)


def whole(tensor: Tensor) -> Array:
    """All of a tensor in its shape (for small ones: biases, statistics)."""
    array: Array = tensor.read(0, size(tensor)).reshape(tensor.shape).copy()
    return array


def as_float64(tensor: Tensor) -> NDArray[np.float64]:
    """All of a small tensor in float64."""
    with np.errstate(invalid="ignore"):  # a NaN that signals is one that does not, from here on
        flat: NDArray[np.float64] = tensor.read(0, size(tensor)).astype(np.float64)
    return flat.reshape(tensor.shape)
