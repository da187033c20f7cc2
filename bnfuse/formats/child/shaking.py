"""Weights moved by one unit in their last place: how the rounding of a model shows (``Probe.shaken``)."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_shaken(dtype: np.dtype[Any]) -> bool:
    """Whether it is float16, bfloat16 or wider: what is narrower is quantised."""
    return dtype.kind in "fV" and dtype.itemsize > 1


def stepped(array: np.ndarray, kind: np.dtype[Any], rng: np.random.Generator) -> np.ndarray:
    """Each element moved to a neighbour among the numbers of type ``kind``, up or down at random.

    Equal numbers move the same way, as they are rounded the same way: where all weights of a layer are one
    number, nothing of it averages out. Zeros stay (a pruned weight is none by chance), and so does what has
    no finite neighbour.

    Args:
        array: floats, any shape.
        kind: the type that is computed in: the array's own, or a narrower one.
        rng: decides where to.
    """
    with np.errstate(over="ignore", under="ignore"):
        near = array.astype(kind)
        ends = np.where(_coin(near, rng), np.inf, -np.inf).astype(kind)
        moved = np.nextafter(near, ends)
    stays = (near == 0) | ~np.isfinite(near.astype(np.float64)) | ~np.isfinite(moved.astype(np.float64))
    return np.where(stays, array, moved.astype(array.dtype))


def _coin(numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random bit for each number that occurs: of a product with an odd number (multiplicative hashing).

    Knuth, The Art of Computer Programming, volume 3, section 6.4.
    """
    odd, start = (np.uint64(n) for n in rng.integers(1 << 62, size=2) | np.array((1, 0)))
    bits = np.ascontiguousarray(numbers).view(f"u{numbers.dtype.itemsize}").astype(np.uint64)
    mixed = (bits ^ start) * odd
    mixed ^= mixed >> np.uint64(29)
    found: np.ndarray = (mixed * odd) >> np.uint64(63) != 0
    return found
