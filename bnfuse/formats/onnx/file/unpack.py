"""Tensors whose elements share a byte (INT4, UINT4, FLOAT4E2M1, INT2, UINT2), read from a file in blocks.

The first element is in the lowest bits of a byte, as the ONNX specification has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import Struct

from bnfuse.core.weights.tensor import Array
from bnfuse.formats.onnx.file.storage import Files, FileTensor
from bnfuse.formats.onnx.file.wire import FileSlice


class PackedTensor(Struct, frozen=True, eq=False):
    """A packed tensor whose bytes lie in a file; ``dtype`` is ml_dtypes', which takes a byte per element."""

    files: Files
    where: FileSlice
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bits: int

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop)."""
        per_byte = 8 // self.bits
        first, last = start // per_byte, -(-stop // per_byte)
        stored = FileTensor(self.files, self.where, (self.where.length,), np.dtype(np.uint8)).read(
            first, last
        )
        shifts = np.arange(per_byte, dtype=np.uint8) * self.bits
        codes = (stored[:, None] >> shifts) & np.uint8((1 << self.bits) - 1)
        skipped = start - first * per_byte
        wanted: Array = codes.reshape(-1)[skipped : skipped + stop - start].view(self.dtype)
        return wanted
