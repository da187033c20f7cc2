"""What a file tells of the inputs of its model beyond what it declares: sizes, values, and chance.

A model that leaves an axis free seldom takes every size of it: a Gemm behind a Flatten wants one size, a
U-Net multiples of 32, a table of embeddings indices below its number of rows. A format reads this from the
file as data (``Format.hints``), for those who must make inputs up. Hints are advice: whether a model runs on
what they lead to is for its runtime to say.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

Axes = tuple[int | str | None, ...]

_IMAGE = (224, 256, 64, 32, 16, 128, 512, 1)
_VOLUME = (32, 64, 16, 8, 128, 1)
_SEQUENCE = (64, 32, 16, 128, 224, 256, 512, 1)
# An axis of a model's own choice is looked at up to this size.
LARGEST = 1 << 16


# What files lead to that make no sense. A hint that cannot be had stops nothing: inputs are guessed without.
NO_HINTS = (TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError)


class Values(Struct, frozen=True):
    """The whole numbers that an input may hold: ``least`` to ``beyond`` - 1."""

    least: int
    beyond: int


class Line(Struct, frozen=True):
    """``factor·x + shift`` with a shift between ``low`` and ``high``, x the input ``source``."""

    source: str
    factor: float = 1.0
    low: float = 0.0
    high: float = 0.0

    def moved(self, numbers: tuple[float, ...], sign: float = 1.0) -> Line:
        """With constants added."""
        ends = sorted((sign * min(numbers), sign * max(numbers)))
        return replace(self, low=self.low + ends[0], high=self.high + ends[1])

    def times(self, factor: float) -> Line:
        """Multiplied by a constant."""
        low, high = sorted((factor * self.low, factor * self.high))
        return Line(self.source, factor * self.factor, low, high)

    def look_up(self, rows: int, found: dict[str, Values]) -> None:
        """It is an index into so many rows: a bound of the input beside those ``found`` already."""
        if not self.factor:
            return
        ends = sorted((-self.low / self.factor, (rows - 1 - self.high) / self.factor))
        least, beyond = -int(-ends[0] // 1), int(ends[1] // 1) + 1
        if least < beyond and rows - 1 - self.high >= -self.low:
            known = found.get(self.source, Values(least, beyond))
            both = Values(max(known.least, least), min(known.beyond, beyond))
            found[self.source] = both if both.least < both.beyond else known


class Hints(Struct, frozen=True):
    """What one file tells.

    Attributes:
        sizes: by input, whole shapes that the file speaks for, the likeliest first; None for an axis
            about which it says nothing, the batch among them.
        values: by input, the numbers that the model can look up.
        random: nodes that draw other numbers at every run, as messages name them.
    """

    sizes: Mapping[str, tuple[tuple[int | None, ...], ...]] = field(default_factory=dict)
    values: Mapping[str, Values] = field(default_factory=dict)
    random: tuple[str, ...] = ()


def free_axes(shape: Sequence[int | str | None]) -> tuple[int, ...]:
    """Axes whose size is open; the first one is the batch and not among them."""
    return tuple(axis for axis, dim in enumerate(shape) if axis and not is_size(dim))


def is_size(dim: int | str | None) -> bool:
    """Whether a declared axis is fixed; exporters write -1 and 0 for one that is not."""
    return isinstance(dim, int) and dim > 0


def usual_sizes(shape: Sequence[int | str | None]) -> tuple[int, ...]:
    """Sizes to try for free axes about which nothing is known, the likeliest first.

    Two free axes of a batch of images are height and width, three are a volume; else it is a length.
    """
    count = len(free_axes(shape))
    if len(shape) >= 4:
        return _IMAGE if count < 3 or len(shape) == 4 else _VOLUME
    return _SEQUENCE


def by_likelihood(sizes: Iterable[int], usual: Sequence[int], most: int, *, told: bool) -> list[int]:
    """Of sizes that a file leaves possible the likeliest: usual ones, then those near the first of these.

    ``told``: the file names them, by a result that several sizes lead to; of those the roundest is meant
    (of 609 to 640, which all become 20 at a stride of 32, 640).
    """
    order = {size: at for at, size in enumerate(usual) if size > 1}

    def unlikeliness(size: int) -> tuple[float, ...]:
        roundness = -float((size & -size).bit_length()) if told else 0.0
        return order.get(size, len(usual)), roundness, abs(math.log(size / usual[0]))

    return heapq.nsmallest(most, map(int, sizes), key=unlikeliness)
