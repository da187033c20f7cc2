"""Inputs of models that look numbers up in tables: the largest that every one of them takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from bnfuse.inputs.samples import Samples
from bnfuse.inputs.shape_guesses import (
    Shape,
)
from bnfuse.inputs.user_arrays import Feeds
from bnfuse.inputs.values import Range

if TYPE_CHECKING:
    from bnfuse.formats.base import TensorSpec

_LEAST_TABLE, _LARGEST_TABLE = 4, 1 << 18


def with_tables(samples: Samples, accepts: Callable[[Feeds], bool]) -> Samples:
    """The same samples, with the ranges of integers that look things up in tables.

    Where the file does not tell them: found out by trying ever larger indices in one input, the others as in
    the first made-up set, until the model stops. ``accepts`` also says no where an output changes its shape:
    then the integer is a length, and a large one would ask for all the memory there is.
    """
    ranges = dict(samples.ranges)
    base = samples.feeds(samples.own_sets)
    for spec in samples.specs:
        shape = samples.shapes[spec.name]
        within = ranges.get(spec.name, Range(0))
        if spec.dtype not in ("int32", "int64", "uint32", "uint64") or len(shape) < 2 or 0 in shape:
            continue
        if within.beyond is not None:
            continue

        def takes(
            size: int, spec: TensorSpec = spec, shape: Shape = shape, least: int = within.least
        ) -> bool:
            return accepts({**base, spec.name: np.full(shape, least + size - 1, spec.dtype)})

        if (size := _table_size(takes)) is not None:
            ranges[spec.name] = Range(within.least, within.least + size)
    return replace(samples, ranges=ranges)


def _table_size(takes: Callable[[int], bool]) -> int | None:
    """The largest size taken, within 2 %; None where even the least is not, or the largest is."""
    low = _LEAST_TABLE
    if not takes(low):
        return None
    while takes(2 * low):
        low *= 2
        if low >= _LARGEST_TABLE:
            return None  # a value like any other, not an index
    high = 2 * low
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle) else (low, middle)
    return low
