"""A stored array as a ``Tensor``, read in slabs where it lies in one piece.

HDF5 reads boxes, not ranges of elements: a range is covered by boxes of whole rows along the first axis whose
rows are small. Arrays that are stored in chunks, or compressed, are read whole, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import h5py
import numpy as np
from msgspec import Struct

from bnfuse.core.weights.tensor import Array, Based
from bnfuse.formats.keras.file.hdf5_tree import StoredDataset

_BLOCK_BYTES = 1 << 22


class StoredTensor(Struct, Based, eq=False):
    """A dataset as a ``Tensor``."""

    base: StoredDataset
    _whole: Array | None = None

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop).

        Raises:
            UnreadableModel: the stored bytes are damaged.
        """
        if self._whole is None and self.base.nbytes > _BLOCK_BYTES:
            tree = self.base.tree
            with tree.reading(self.base.path):
                dataset = h5py.h5d.open(tree.file.id, self.base.path.encode())
                if dataset.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS:
                    return self._slabs(dataset, start, stop)
        if self._whole is None:
            self._whole = self.base.read().reshape(-1)
        return self._whole[start:stop]

    def _slabs(self, dataset: Any, start: int, stop: int) -> Array:
        raw = np.empty(stop - start, self.base.raw)
        done = 0
        for at, count, first, length in _slabs(self.shape, self.dtype.itemsize, start, stop):
            space = dataset.get_space()
            space.select_hyperslab(at, count)
            slab = np.empty(prod(count), self.base.raw)
            dataset.read(h5py.h5s.create_simple(count), space, slab)
            raw[done : done + length] = slab[first : first + length]
            done += length
        return raw.view(self.dtype) if self.base.raw != self.dtype else raw


def _slabs(
    shape: tuple[int, ...], itemsize: int, start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int, int]]:
    """Boxes that together hold the elements [start, stop) in C order, each of some 4 MiB at most.

    Yields (offset of the box, its sizes, first element wanted in it, how many): whole rows along the
    first axis whose rows are small enough, and one index along each axis before it.
    """
    axis, row = 0, prod(shape[1:])
    while row * itemsize > _BLOCK_BYTES and axis < len(shape) - 1:
        axis += 1
        row //= shape[axis]
    rows, position = shape[axis], start
    while position < stop:
        outer, at = divmod(position // row, rows)
        last = min(
            rows, at + max(1, _BLOCK_BYTES // (row * itemsize)), -(-(stop - outer * rows * row) // row)
        )
        lead = tuple(int(i) for i in np.unravel_index(outer, shape[:axis])) if axis else ()
        first = position - (outer * rows + at) * row
        length = min(stop, (outer * rows + last) * row) - position
        yield (
            (*lead, at, *[0] * (len(shape) - axis - 1)),
            (*[1] * axis, last - at, *shape[axis + 1 :]),
            first,
            length,
        )
        position += length
