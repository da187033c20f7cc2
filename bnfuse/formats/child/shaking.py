"""Weights moved by one unit in their last place: how the rounding of a model shows (``Probe.shaken``)."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_shaken(dtype: np.dtype[Any]) -> bool:
    """Whether it is float16, bfloat16 or wider: what is narrower is quantised."""
    return dtype.kind in "fV" and dtype.itemsize > 1


def stepped(array: np.ndarray, kind: np.dtype[Any], rng: np.random.Generator) -> np.ndarray:
    """Each element moved to a neighbour among the numbers of type ``kind``, up or down at random.

    Zeros stay (a pruned weight is none by chance), and so does what has no finite neighbour.

    Args:
        array: floats, any shape.
        kind: the type that is computed in: the array's own, or a narrower one.
        rng: decides where to.
    """
    with np.errstate(over="ignore", under="ignore"):
        near = array.astype(kind)
        ends = rng.choice((-np.inf, np.inf), array.shape).astype(kind)
        moved = np.nextafter(near, ends)
    stays = (near == 0) | ~np.isfinite(near.astype(np.float64)) | ~np.isfinite(moved.astype(np.float64))
    return np.where(stays, array, moved.astype(array.dtype))
