"""How large the output channels of a weight are, and how far apart. Read block by block; none is kept."""

from __future__ import annotations

import numpy as np

from bnfuse.core.reparam import Vector
from bnfuse.core.weights.linear import LinearForm, Where, channel_order, part_at, row_blocks
from bnfuse.core.weights.tensor import Array, Tensor


def largest(weight: Tensor, form: LinearForm, factors: Vector | None = None) -> Vector:
    """max over i, k of |W[g,o,i,k]|·p[g,i], shape (G·O,), reading W block by block.

    Args:
        weight: W as stored.
        form: how to read it.
        factors: p, none of them negative, shape (G·I,); None for ones.
    """
    wide = None if factors is None else form.broadcast(factors, "i")
    found = _by_channel(form)
    for _, block, where in row_blocks(weight, form):
        sizes = np.abs(block)
        if wide is not None:
            sizes = sizes.astype(np.float64) * part_at(wide, where)
        _gather(np.maximum, found, sizes, where, form)
    return channel_order(found, form)


def extents(weight: Tensor, form: LinearForm) -> tuple[Vector, Vector]:
    """max over i, k of |W[g,o,i,k]|, and Σ over i, k of W², as (G·O,) each, reading W block by block."""
    most, squares = _by_channel(form), _by_channel(form)
    for _, block, where in row_blocks(weight, form):
        powers = block.astype(np.float64)
        np.square(powers, out=powers)
        _gather(np.maximum, most, powers, where, form)
        _gather(np.add, squares, powers, where, form)
    return channel_order(np.sqrt(most), form), channel_order(squares, form)


def _by_channel(form: LinearForm) -> Vector:
    """A zero for each output channel, broadcastable against the view."""
    return np.zeros(tuple(n if x in "go" else 1 for n, x in zip(form.dims, form.letters, strict=True)))


def _gather(reduce: np.ufunc, total: Vector, values: Array, where: Where, form: LinearForm) -> None:
    """Reduce a block onto the output channels that its elements belong to."""
    depth = len(where.rows)
    axes = tuple(1 + d for d, x in enumerate(form.letters[depth:]) if x in "ik")
    index = tuple(
        rows if x in "go" else np.zeros_like(rows) for x, rows in zip(form.letters, where.rows, strict=False)
    )
    if not any(x in "go" for x in form.letters[:depth]):  # all rows belong to the same channels
        axes, index = (0, *axes), tuple(rows[:1] for rows in index)
    reduce.at(total, index, reduce.reduce(values, axis=axes, keepdims=True).astype(np.float64))


def imbalance(ranges: Vector) -> float:
    """Largest over median of the ranges that are not zero; 1 where there are none."""
    some = nonzero(ranges)
    return float(some.max() / np.median(some)) if some.size else 1.0


def nonzero(values: Vector) -> Vector:
    """Those above zero."""
    return values[values > 0.0]
