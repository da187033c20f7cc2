"""The ways to remove y = a·x + c: how x and y are held as one tensor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bnfuse.core.decisions import Split
from bnfuse.core.reparam import IDENTITY, Reparam, Vector, from_backward, from_forward


def holdings(split: Split, axes: tuple[int, ...], a: Vector, c: Vector) -> tuple[Reparam, Reparam]:
    """How x and y = a·x + c are held when one tensor stands for both.

    Channels with a = 0 have a constant y: where a split would divide by a, they go up whole.

    Args:
        split: which share x takes on.
        axes: the axes of x (and y) that a and c vary along.
        a: scale per channel.
        c: shift per channel.
    """
    if a.size == 1:  # one channel: the same everywhere, so no axis stands in the way
        axes, a, c = (), a.reshape(()), c.reshape(())
    match split:
        case Split.UP:
            return from_backward(axes, a, c), IDENTITY
        case Split.DOWN:
            return IDENTITY, from_forward(axes, a, c)
        case Split.SCALE_UP:
            return from_backward(axes, a, np.zeros_like(a)), from_forward(axes, np.ones_like(a), c)
        case Split.SHIFT_UP:
            live = a != 0.0
            size = np.where(live, np.abs(a), 1.0)
            x_held = from_backward(axes, np.sign(a), c / size)
            return x_held, from_forward(axes, size, np.zeros_like(a))
        case Split.SHIFT_UP_SIGNED:
            live = a != 0.0
            size = np.where(live, a, 1.0)
            x_held = from_backward(axes, live.astype(np.float64), c / size)
            return x_held, from_forward(axes, size, np.zeros_like(a))
        case Split.CONSTANT:
            raise AssertionError("its values are held with other channels (constant_channel)")


def splits(a: Vector, c: Vector) -> Iterator[Split]:
    """The splits that differ for these numbers, in the order to try them."""
    yield Split.UP
    yield Split.DOWN
    if (a == 1.0).all():
        return
    shifts = bool(c.any())
    if shifts or bool((a <= 0.0).any()):
        yield Split.SHIFT_UP
    if shifts and bool((a < 0.0).any()):
        yield Split.SHIFT_UP_SIGNED
    if shifts:
        yield Split.SCALE_UP
