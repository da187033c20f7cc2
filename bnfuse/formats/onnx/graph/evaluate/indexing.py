"""Operators that put or take elements by lists of indices, worked out on constants: bit for bit.

Where two updates meet in one element the order would decide, which no standard gives: not worked out. Nor are
reductions of updates. Source: the ONNX operator specification.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from bnfuse.core.weights.tensor import Array
from bnfuse.formats.onnx.graph.evaluate.call import KnownCall, Unknown, bounded
from bnfuse.formats.table import counted


def gather_elements(call: KnownCall) -> Array:
    """y[i, j, …] = x[index[i, j, …], j, …] along one axis."""
    x, at = call.array(), call.array(1)
    axis = counted(call.attr("axis", 0), x.ndim)[0]
    place = _along(x, at, axis)
    taken: Array = x[place]
    return taken


def scatter_elements(call: KnownCall) -> Array:
    """The reverse: y[index[i, j, …], j, …] = update[i, j, …]."""
    x, at, updates = call.arrays()
    _replaces(call, x, updates)
    axis = counted(call.attr("axis", 0), x.ndim)[0]
    if updates.shape != at.shape:
        raise Unknown("updates that do not fit")
    return _put(x, _along(x, at, axis), updates)


def _along(x: Array, at: Array, axis: int) -> tuple[Array, ...]:
    """Places of x, one for each index along an axis."""
    fits = at.ndim == x.ndim and all(
        a == axis or m <= n for a, (m, n) in enumerate(zip(at.shape, x.shape, strict=True))
    )
    if not fits:
        raise Unknown(f"indices of shape {at.shape} for {x.shape}")
    places: list[Array] = list(np.indices(at.shape, sparse=True))
    places[axis] = _counted(at, x.shape[axis])
    return tuple(np.broadcast_arrays(*places))


def gather_nd(call: KnownCall) -> Array:
    """Slices x[index] for each list of indices, which are the last axis."""
    x, at = call.array(), call.array(1)
    if call.attr("batch_dims", 0):
        raise Unknown("batches")
    place = _lists(x, at)
    bounded((*at.shape[:-1], *x.shape[len(place) :]))
    taken: Array = x[place]
    return taken


def scatter_nd(call: KnownCall) -> Array:
    """The reverse: y[index] = update for each list of indices."""
    x, at, updates = call.arrays()
    _replaces(call, x, updates)
    place = _lists(x, at)
    if updates.shape != (*at.shape[:-1], *x.shape[len(place) :]):
        raise Unknown("updates that do not fit")
    return _put(x, place, updates)


def _lists(x: Array, at: Array) -> tuple[Array, ...]:
    if not at.ndim or not x.ndim or not 1 <= at.shape[-1] <= x.ndim:
        raise Unknown(f"indices of shape {at.shape} for {x.shape}")
    return tuple(_counted(at[..., k], x.shape[k]) for k in range(at.shape[-1]))


def _counted(at: Array, n: int) -> Array:
    """Indices counted from zero."""
    if at.dtype.kind != "i" or not ((at >= -n) & (at < n)).all():
        raise Unknown(f"indices beyond {n} elements")
    return np.where(at < 0, at + n, at)


def _replaces(call: KnownCall, x: Array, updates: Array) -> None:
    if call.attr("reduction", b"none") != b"none" or updates.dtype != x.dtype:
        raise Unknown("updates that are no replacements")


def _put(x: Array, place: tuple[Array, ...], updates: Array) -> Array:
    sizes = x.shape[: len(place)]
    flat = np.ravel_multi_index(place, sizes) if prod(sizes) else np.zeros(0, np.int64)
    if np.unique(flat).size != np.size(flat):
        raise Unknown("two updates of one element")
    result: Any = x.copy()
    result[place] = updates
    return np.asarray(result)


def triangle(call: KnownCall) -> Array:
    """Of each matrix what is on one side of a diagonal (Trilu)."""
    x, k = call.array(), 0
    given = call.optional(1)
    if given is not None:
        k = int(call.array(1).reshape(-1)[0])
    if x.ndim < 2 or abs(k) > max(x.shape[-2:]):
        raise Unknown(f"a diagonal {k} of {x.shape}")
    side: Array = np.triu(x, k) if call.attr("upper", 1) else np.tril(x, k)
    return side
