"""What a write tells of numbers that it rounded because it was asked to."""

from __future__ import annotations

from msgspec import Struct


class RoundedBias(Struct, frozen=True):
    """A bias that was rounded to whole steps.

    Attributes:
        node: whose it is.
        error: by how much at most, of all channels.
        bound: half of its largest step.
    """

    node: str
    error: float
    bound: float
