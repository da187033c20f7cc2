"""How far two stored arrays are apart, read in blocks: neither is ever whole in memory.

Equal bytes settle it; a difference is measured in float64. ``max_rel`` = max |a − b| / max |a|, with the
largest *finite* |a|, so that one infinity does not make every change look small.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from msgspec import Struct

from bnfuse.core.weights.tensor import Array, Tensor, size
from bnfuse.difference.result import Figures

# Bytes read and compared at once, and elements measured at once. Small arrays come from memory that was
# used before; for those above 128 KiB the allocator asks the system for new pages every time, which takes
# ten times as long as the arithmetic.
_BLOCK_BYTES = 1 << 17
_MEASURED = 1 << 13


def compare(a: Tensor, b: Tensor) -> Figures | None:
    """How far two arrays with the same number of elements are apart; None where no value differs.

    Raises:
        UnreadableModel: one of them cannot be read.
    """
    elements = size(a)
    step = max(1, _BLOCK_BYTES // max(a.dtype.itemsize, b.dtype.itemsize))
    blocks = range(0, elements, step)
    if a.dtype == b.dtype and all(_same_bytes(*_pair(a, b, at, at + step)) for at in blocks):
        return None
    measured = _Measured()
    for at in blocks:
        x, y = _pair(a, b, at, at + step)
        for part in range(0, len(x), _MEASURED):
            measured.add(x[part : part + _MEASURED], y[part : part + _MEASURED])
    return measured.figures(elements) if measured.changed else None


def _pair(a: Tensor, b: Tensor, start: int, stop: int) -> tuple[Array, Array]:
    stop = min(stop, size(a))
    return a.read(start, stop), b.read(start, stop)


def _same_bytes(a: Array, b: Array) -> bool:
    """Whether two flat blocks of one dtype hold the same bytes."""
    if a.dtype.hasobject:
        return bool((a == b).all())
    if a.nbytes < 1 << 16:
        return a.tobytes() == b.tobytes()
    x, y = a.view(np.uint8), b.view(np.uint8)
    words = len(x) & ~7
    return np.array_equal(x[:words].view(np.uint64), y[:words].view(np.uint64)) and np.array_equal(
        x[words:], y[words:]
    )


class _Measured(Struct):
    """Sums and maxima over the blocks seen so far."""

    changed: int = 0
    largest: float = 0.0  # finite |a|
    max_abs: float = 0.0
    squares: float = 0.0
    texts: bool = False

    def add(self, a: Array, b: Array) -> None:
        if a.dtype.hasobject or b.dtype.hasobject:
            self.texts = True
            self.changed += int(np.count_nonzero(a != b))
            return
        same = _same_values(a, b)
        x, y = _wide(a), _wide(b)
        sizes = np.abs(x)
        self.largest = max(self.largest, float(np.max(sizes, initial=0.0, where=np.isfinite(sizes))))
        if same.all():
            return
        self.changed += int(same.size - np.count_nonzero(same))
        with np.errstate(all="ignore"):
            apart = np.where(same, 0.0, np.abs(x - y))
            apart[np.isnan(apart)] = math.inf  # one of the two is not finite
            self.max_abs = max(self.max_abs, float(apart.max()))
            self.squares += float(np.dot(apart, apart))

    def figures(self, elements: int) -> Figures:
        if self.texts:
            return Figures(self.changed, elements, math.nan, math.nan, math.nan)
        relative = self.max_abs / self.largest if self.largest else math.inf
        return Figures(self.changed, elements, self.max_abs, relative, math.sqrt(self.squares / elements))


def _same_values(a: Array, b: Array) -> Any:
    """Element by element: equal, or both NaN. Integers of one type are compared as such, not rounded."""
    if a.dtype != b.dtype or a.dtype.kind not in "biu":
        a, b = _wide(a), _wide(b)
    return (a == b) | ((a != a) & (b != b))


def _wide(values: Array) -> Any:
    """In float64, or complex128."""
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
