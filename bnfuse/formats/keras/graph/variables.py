"""Variables as the rest of bnfuse sees them: those in the file, and new ones."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from msgspec import Struct

from bnfuse.core.apply import OverflowingFold
from bnfuse.core.weights.scaled import ScaledTensor
from bnfuse.core.weights.tensor import Array, Based
from bnfuse.formats.keras.file.hdf5_tree import StoredDataset


class StoredVariable(Struct, eq=False):
    """One array of the file, read when asked for.

    Attributes:
        name: how Keras names it inside its layer ("kernel", "query/bias"); "" where nothing says.
        shape, dtype: as stored; bfloat16 is ml_dtypes' type.
        source: the dataset's path inside the HDF5 file.
        place: where it lies below its layer's group: "vars/0" in an archive, the entry of
            ``weight_names`` in HDF5.
        trainable: whether it was saved among the trainable ones (only the order of HDF5 depends on it).
        locked: why its layer must not be edited; "" if it may.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    source: str
    place: str
    stored: StoredDataset
    trainable: bool = True
    locked: str = ""

    @classmethod
    def of(cls, stored: StoredDataset, name: str, place: str, trainable: bool = True) -> StoredVariable:
        """A variable for a dataset."""
        return cls(name, stored.shape, stored.dtype, stored.path, place, stored, trainable)

    def read(self) -> np.ndarray:
        """The whole array.

        Raises:
            UnreadableModel: the stored bytes are damaged.
        """
        return self.stored.read()


class NewVariable(Struct, Based, eq=False):
    """A new array for a layer: a changed kernel, or a bias where there was none.

    One that is scaled is worked out when it is written: one at a time is in memory.

    Attributes:
        name: the variable's name in its layer, as of a ``StoredVariable``.
        base: the values, in the dtype to be stored.
        source: path of the dataset whose place it takes; "" for a variable that was not there.
        flushed: subnormals that were flushed, once it has been read.
    """

    name: str
    base: Array | ScaledTensor
    source: str = ""
    flushed: int = 0

    def read(self) -> np.ndarray:
        """The whole array.

        Raises:
            OverflowingFold: a new value does not fit its type.
        """
        if not isinstance(self.base, ScaledTensor):
            return self.base
        values = np.empty(prod(self.shape), self.dtype)
        self.flushed = 0
        try:
            for start, block, flushed in self.base.blocks():
                values[start : start + block.size] = block
                self.flushed += flushed
        except FloatingPointError as e:
            raise OverflowingFold(self.base.folded) from e
        return values.reshape(self.shape)
