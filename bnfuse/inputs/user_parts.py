"""Arrays of the user that belong together, and the sets that they are cut into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from bnfuse.inputs.shape_guesses import Shape
from bnfuse.inputs.user_arrays import Feeds, StoredArray, numpy_dtype

if TYPE_CHECKING:
    from bnfuse.formats.base import TensorSpec


class Given(Struct, frozen=True, eq=False):
    """One stored array as one input of the model. ``single``: a sample without the first axis."""

    spec: TensorSpec
    stored: StoredArray
    single: bool = False

    @property
    def shape(self) -> Shape:
        """As the model gets it."""
        return (1, *self.stored.shape) if self.single else self.stored.shape

    def read(self, rows: slice | None) -> np.ndarray:
        """These rows (None: all), in the type that the model takes."""
        array = self.stored.read(None if self.single else rows)
        return _converted(self.spec, array[None] if self.single else array)


class SampleFile(Struct, frozen=True, eq=False):
    """What one file gives (a folder of arrays by input name counts as one).

    ``rows`` is the number of samples, ``cut`` names the inputs whose first axis counts them (none: the
    part is used as it is), and ``exactly`` is how many of them the model takes at a time, 0 for any.
    """

    arrays: tuple[Given, ...]
    rows: int
    cut: frozenset[str]
    exactly: int

    @property
    def kind(self) -> object:
        """Parts of one kind may be joined in a set; a part with inputs of its own goes alone."""
        if len(self.cut) < len(self.arrays):
            return self
        return self.exactly, tuple(given.shape[1:] for given in self.arrays)

    def sample_bytes(self) -> int:
        """Size of one sample."""
        cut = (g for g in self.arrays if g.spec.name in self.cut)
        return sum(g.stored.dtype.itemsize * int(np.prod(g.shape[1:], dtype=object)) for g in cut)

    def read(self, start: int, stop: int) -> Feeds:
        """Samples [start, stop) of what is cut, and the rest whole."""
        return {
            g.spec.name: g.read(slice(start, stop) if g.spec.name in self.cut else None) for g in self.arrays
        }


class Cut(Struct, frozen=True, eq=False):
    """Samples ``start`` to ``stop`` of one part."""

    part: SampleFile
    start: int
    stop: int


def _converted(spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    """The array as the model wants it; only what numpy's files cannot hold is converted."""
    if spec.dtype == "string":
        return array.astype(str).astype(object)
    return np.ascontiguousarray(array.astype(numpy_dtype(spec.dtype), copy=False))
