"""Values to make inputs of: random ones of many magnitudes, and whole numbers that a model can look up.

Integers are often indices, masks or lengths, and not every model takes 0: ids may be shifted before they are
looked up, a length may have to be at least 1. What the file says of them counts first (``inputs.hinted``);
else ranges are tried one after the other (``value_trials``) until the model runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from bnfuse.errors import UsageError
from bnfuse.inputs.hinted import FileHints
from bnfuse.inputs.shape_guesses import Shape
from bnfuse.inputs.user_arrays import numpy_dtype

if TYPE_CHECKING:
    from bnfuse.formats.base import TensorSpec

_WORDS = ("", "a", "bnfuse", "0", "7", "the cat sat")
_UNITS_OF_SPREAD = (  # (what it is called, how it is drawn)
    ("normal(0, 1)", lambda rng, shape: rng.standard_normal(shape)),
    ("uniform(0, 255)", lambda rng, shape: rng.uniform(0.0, 255.0, shape)),
    ("uniform(0, 1)", lambda rng, shape: rng.uniform(0.0, 1.0, shape)),
    ("normal(0, 0.1)", lambda rng, shape: 0.1 * rng.standard_normal(shape)),
    ("normal(0, 10)", lambda rng, shape: 10.0 * rng.standard_normal(shape)),
    ("zeros", lambda rng, shape: np.zeros(shape)),
)
# Upper bounds for integers, mostly small: they are often indices, masks or lengths.
_INTEGER_BOUNDS = (2, 10, 2, 100, 5, 1)
# A number is drawn from the whole of a range, every so many sets, where its end is known.
_WHOLE_RANGES = 3


class Range(Struct, frozen=True):
    """Whole numbers from ``least`` on, below ``beyond``; None where the end is not known."""

    least: int
    beyond: int | None = None

    def fits(self, dtype: str) -> bool:
        """Whether a type has its first numbers."""
        if not dtype.startswith(("int", "uint")):
            return True
        limits = np.iinfo(numpy_dtype(dtype))
        return bool(limits.min <= self.least and self.least + max(_INTEGER_BOUNDS) <= limits.max)

    def draw(self, rng: np.random.Generator, shape: Shape, index: int) -> np.ndarray:
        """Numbers of the lower end, in some sets of the whole range."""
        high = self.least + _INTEGER_BOUNDS[index % len(_INTEGER_BOUNDS)]
        if self.beyond is not None:
            high = self.beyond if index % _WHOLE_RANGES == 1 else min(high, self.beyond)
        return np.asarray(rng.integers(self.least, high, shape))


# What is tried where a model does not run on 0 and 1: lengths and labels begin at 1, some ids far above.
_TRIALS = (
    *(Range(1), Range(1, 2), Range(0, 1), Range(2), Range(4), Range(10), Range(100), Range(1000)),
    *(Range(-1, 0), Range(-10, -8)),
)
_FIRST_TRIALS = 3


def value_trials(specs: Sequence[TensorSpec], hints: FileHints) -> Iterator[dict[str, Range]]:
    """Ranges of whole numbers to try, by input; an input without one is drawn as usual."""
    numbers = [spec for spec in specs if _is_integer(spec) or spec.dtype.startswith(("float", "bfloat"))]
    told = _told(numbers, hints) if any(map(_may_index, numbers)) else {}
    yield told
    others = [spec for spec in numbers if spec.name not in told]
    integers = [spec for spec in others if _is_integer(spec)]
    if integers:
        yield from (told | _within(integers, trial) for trial in _TRIALS)
    if len(integers) > 1:
        yield from (told | _within([spec], trial) for trial in _TRIALS[:_FIRST_TRIALS] for spec in integers)
    whole = [spec for spec in others if _may_index(spec)]
    if len(whole) > len(integers):  # floats that hold whole numbers
        yield from (told | _within(whole, trial) for trial in (Range(0), *_TRIALS[:_FIRST_TRIALS]))
    if told:
        yield {}


def _within(specs: Sequence[TensorSpec], trial: Range) -> dict[str, Range]:
    """The same range for all inputs whose type has such numbers: a wrapped one would be enormous."""
    return {spec.name: trial for spec in specs if trial.fits(spec.dtype)}


def _told(specs: Sequence[TensorSpec], hints: FileHints) -> dict[str, Range]:
    """The ranges that the file tells."""
    found = ((spec.name, hints.values(spec)) for spec in specs)
    return {name: Range(*values) for name, values in found if values is not None}


def _is_integer(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(("int", "uint"))


def _may_index(spec: TensorSpec) -> bool:
    """Whether it may look something up: Keras declares ids as floats, but nobody looks up a picture."""
    return _is_integer(spec) or spec.shape is None or len(spec.shape) <= 2


def draw(
    rng: np.random.Generator, dtype: str, shape: Shape, index: int, within: Range | None = None
) -> np.ndarray:
    """Random values of a dtype; ``index`` picks the magnitude; whole numbers of a range where that is given.

    Raises:
        UsageError: inputs of this dtype cannot be made up.
    """
    if dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape), dtype=bool)
    if dtype == "string":
        words = np.array(_WORDS, dtype=object)
        return np.asarray(words[rng.integers(0, len(_WORDS), shape)], dtype=object)
    if within is not None:
        return within.draw(rng, shape, index).astype(numpy_dtype(dtype))
    if dtype.startswith(("int", "uint")):
        bytes_of_image = dtype == "uint8" and index % 2 == 0
        high = 256 if bytes_of_image else _INTEGER_BOUNDS[index % len(_INTEGER_BOUNDS)]
        return np.asarray(rng.integers(0, high, shape)).astype(dtype)
    if dtype.startswith(("float", "bfloat")):
        values = _UNITS_OF_SPREAD[index % len(_UNITS_OF_SPREAD)][1](rng, shape)
        return np.asarray(values).astype(numpy_dtype(dtype))
    numpy_dtype(dtype)  # says so where no file can hold such inputs either
    raise UsageError(f"inputs of type {dtype} cannot be made up: give them with --inputs")
