"""Weights of a MatMulNBits: integers of a few bits in blocks along K, packed into bytes.

    W[n, k] = (q[n, k] − zero[n, k // block])·scale[n, k // block]

q lies in B as (N, blocks, bytes of a block), the first element in the lowest bits; the last block is filled
up. Zero points are packed in the same way, each row of them filled up to whole bytes, or are fractions in the
type of the scales; without any they are the middle, 2^(bits−1). Scales may be negative, or zero: the operator
multiplies by them. Source: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulNBits.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.core.weights.tensor import Array, Tensor, size, whole
from bnfuse.formats.onnx.graph.constants import is_float

PACKED_BITS = (2, 4, 8)


class BlockedIntegers(Struct, frozen=True, eq=False):
    """q of the module's formula, shape (N, K); ``packed`` are the bytes of B, ``row_bytes`` to a row."""

    packed: Tensor
    shape: tuple[int, int]
    bits: int
    row_bytes: int

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Of the integers, one to a byte."""
        return np.dtype(np.uint8)

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop) in C order."""
        rows, columns = np.divmod(np.arange(start, stop), self.shape[1])
        places = rows * self.row_bytes + columns * self.bits // 8
        if not places.size:
            return np.zeros(0, np.uint8)
        first = int(places[0])
        stored = self.packed.read(first, int(places[-1]) + 1)
        return unpacked(stored[places - first], columns, self.bits)


def unpacked(stored: Array, at: Array, bits: int) -> Array:
    """The elements number ``at`` of their rows, from the byte that each lies in."""
    shifts = (at * bits % 8).astype(np.uint8)
    found: Array = (stored >> shifts) & np.uint8((1 << bits) - 1)
    return found


def blocked_weight(
    packed: Tensor, scale: Tensor, zero: Tensor | None, shape: tuple[int, int], bits: int, block: int
) -> QuantisedTensor | None:
    """The weight, shape (N, K); None where these tensors do not make one.

    Args:
        packed: input B.
        scale: input scales.
        zero: input zero_points, if there is one.
        shape: (N, K).
        bits: of an element.
        block: elements of a block.
    """
    n, k = shape
    if bits not in PACKED_BITS or block < 16 or block & (block - 1) or min(shape) < 1:
        return None
    blocks = -(-k // block)
    row_bytes = blocks * block * bits // 8
    if (
        packed.dtype != np.uint8
        or packed.shape != (n, blocks, block * bits // 8)
        or size(scale) != n * blocks
    ):
        return None
    points = _zero_points(zero, scale, (n, blocks), bits) if is_float(scale) else None
    if points is None:
        return None
    stored = BlockedIntegers(packed, shape, bits, row_bytes)
    place = {1: np.arange(k) // block}
    scales = whole(scale).reshape(n, blocks)
    return QuantisedTensor(
        stored, scales, points, 0, (1 << bits) - 1, several=False, signed=True, blocks=place
    )


def _zero_points(zero: Tensor | None, scale: Tensor, shape: tuple[int, int], bits: int) -> Array | None:
    """Shape (N, blocks); None where they do not fit."""
    n, blocks = shape
    if zero is None:
        return np.full(shape, 1 << (bits - 1), np.int32)
    if zero.dtype == scale.dtype:
        return whole(zero).reshape(shape) if size(zero) == n * blocks else None
    row_bytes = -(-blocks * bits // 8)
    if zero.dtype != np.uint8 or size(zero) != n * row_bytes:
        return None
    at = np.arange(blocks)
    stored = whole(zero).reshape(n, row_bytes)[:, at * bits // 8]
    return unpacked(stored, at, bits).astype(np.int32)
