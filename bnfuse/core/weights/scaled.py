"""New values of stored tensors as streams: computed block by block in float64, rounded once.

A weight that a fold touches may be larger than memory; it is never there as a whole. What is untouched
is no business of this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bnfuse.core.reparam import Vector
from bnfuse.core.weights.linear import LinearForm, part_at, row_blocks
from bnfuse.core.weights.tensor import Array, Based, Tensor

# Weights this small need no blocks: the bookkeeping would cost more than the arithmetic.
_SMALL_ELEMENTS = 1 << 12
_LOOK_ELEMENTS = 1 << 18


class ScaledTensor(Struct, Based, frozen=True, eq=False):
    """New values of a stored tensor as a stream: W' of the module's formula, or s·v + t of a constant.

    Attributes:
        base: the original.
        form: its canonical view.
        factors: what it is multiplied by: arrays broadcastable against the view.
        folded: whose folding made it, for messages.
        shift: what is added then, broadcastable likewise; None for nothing.
    """

    base: Tensor
    form: LinearForm
    factors: tuple[Vector, ...]
    folded: tuple[str, ...] = ()
    shift: Vector | None = None

    def fits(self) -> bool:
        """Whether ``blocks`` would come to its end: reads the original, and mostly makes nothing of it."""
        most = prod(float(np.abs(factor).max(initial=0.0)) for factor in self.factors)
        moved = 0.0 if self.shift is None else float(np.abs(self.shift).max(initial=0.0))
        limit = largest(self.dtype)
        count = prod(self.shape)
        for start in range(0, count, _LOOK_ELEMENTS):
            found = self.base.read(start, min(count, start + _LOOK_ELEMENTS))
            if not max(float(found.max()), -float(found.min())) * most + moved < limit:  # NaN, too
                return self._came_through()
        return True

    def _came_through(self) -> bool:
        try:
            for _ in self.blocks():
                pass
        except FloatingPointError:
            return False
        return True

    def blocks(self) -> Iterator[tuple[int, Array, int]]:
        """(first flat element, flat block in the stored dtype, subnormals flushed), in order.

        Raises:
            FloatingPointError: a value does not fit the dtype or is not finite.
        """
        if is_small(self):
            (values,), flushed = scale_together([self])
            yield 0, values.ravel(), flushed
            return
        for start, block, where in row_blocks(self.base, self.form):
            if not self.factors:
                yield start, block.ravel(), 0
                continue
            with np.errstate(over="ignore", invalid="ignore"):  # told by ``round_once``
                product = block * part_at(self.factors[0], where)  # float64, as the factors are
                for factor in self.factors[1:]:
                    product *= part_at(factor, where)
                if self.shift is not None:
                    product += part_at(self.shift, where)
            rounded, flushed = round_once(product, self.dtype)
            yield start, rounded.ravel(), flushed


def is_small(tensor: ScaledTensor) -> bool:
    """Whether the bookkeeping costs more than the arithmetic."""
    return bool(tensor.factors) and prod(tensor.form.dims) <= _SMALL_ELEMENTS


def scale_together(tensors: Sequence[ScaledTensor]) -> tuple[list[Array], int]:
    """Small tensors of one shape, dtype and kind of factors and shift at once.

    Returns:
        Their new values, in the stored shape and dtype, and how many subnormals were flushed.

    Raises:
        FloatingPointError: a value of one of them does not fit the dtype or is not finite.
    """
    first = tensors[0]
    count = prod(first.form.dims)
    values = np.stack([t.base.read(0, count) for t in tensors]).astype(np.float64)
    values = values.reshape((len(tensors), *first.form.dims))
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(len(first.factors)):
            values *= np.stack([t.factors[k] for t in tensors])
        if first.shift is not None:
            values += np.stack([t.shift for t in tensors if t.shift is not None])
    rounded, flushed = round_once(values, first.dtype)
    return list(rounded.reshape((len(tensors), *first.shape))), flushed


def round_once(values: NDArray[np.float64], dtype: np.dtype[Any]) -> tuple[Array, int]:
    """float64 results in the stored dtype, subnormals flushed to zero and counted.

    Not in float16, whose subnormals (below 6.1e-5) are everyday weights that cost nothing.

    Raises:
        FloatingPointError: a value overflows the dtype or is not finite.
    """
    limit = _limits(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = values.astype(dtype)
        magnitude = np.abs(rounded)
        # A comparison, not isfinite: one pass that is false for inf and NaN alike, in every float type.
        fits = bool((magnitude <= limit[0]).all())
    if not fits:
        raise FloatingPointError(f"a value does not fit {dtype}")
    small = magnitude < limit[1]
    if not small.any():
        return rounded, 0
    flushed = int(np.count_nonzero(rounded[small]))
    rounded[small] = 0
    return rounded, flushed


def largest(dtype: np.dtype[Any]) -> float:
    """The largest finite number of a float dtype."""
    return float(_limits(dtype)[0])


_LIMITS: dict[np.dtype[Any], tuple[Any, Any]] = {}


def _limits(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """(largest finite, smallest normal) of a float dtype, in that dtype."""
    if dtype not in _LIMITS:
        if dtype.kind == "f":
            info: Any = np.finfo(dtype)
        else:
            import ml_dtypes

            finfo: Any = ml_dtypes.finfo  # untyped there
            info = finfo(dtype)
        tiny = 0 if dtype == np.float16 else info.smallest_normal
        _LIMITS[dtype] = (dtype.type(info.max), dtype.type(tiny))
    return _LIMITS[dtype]
