"""Values held as s·v + t, spelled out in plain arrays for the tests of the algebra."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from bnfuse.core.reparam import Reparam

Vector = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)


def mixed(rng: np.random.Generator, *shape: int) -> Vector:
    """Scales of both signs, none of them zero."""
    return np.exp(rng.standard_normal(shape)) * rng.choice((-1.0, 1.0), shape)


def spelled(held: Reparam, shape: tuple[int, ...]) -> tuple[Vector, Vector]:
    """(s, t) as arrays that broadcast against a value of this shape, without using ``along``."""
    assert held.backward is not None
    index = [shape[a] if a in held.axes else 1 for a in range(len(shape))]
    return held.backward[0].reshape(index), held.backward[1].reshape(index)


def hold(held: Reparam, v: Vector) -> Vector:
    s, t = spelled(held, v.shape)
    return s * v + t
