"""On what inputs models were run: a proof holds for these sizes, and a latency is one of these sizes."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Axis(str, Enum):
    """Where the size of an axis comes from."""

    DECLARED = "declared"  # the model fixes it
    GIVEN = "given"  # the user did, or the user's data
    BATCH = "batch"  # the number of samples, which was chosen
    GUESSED = "guessed"


class RanInput(Struct, frozen=True):
    """One input as it was run: ``axes`` says of each size of ``shape`` where it comes from.

    ``more`` counts other shapes that it had too, in the user's data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    more: int = 0

    @property
    def batched(self) -> bool:
        """Whether the first axis is a batch whose size was chosen."""
        return Axis.BATCH in self.axes[:1]

    @property
    def guessed(self) -> tuple[int, ...]:
        """Numbers of the axes whose size was guessed."""
        return tuple(at for at, axis in enumerate(self.axes) if axis is Axis.GUESSED)
