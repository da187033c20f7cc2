"""A weight as one number for each pair of channels (output o, input i of group g), over all its taps k.

    largest[g,o,i] = max_k |W[g,o,i,k]|      sums = Σ_k W      squares = Σ_k W²

Scales of channels commute with the first two, and squared with the third, so that whoever looks for scales
reads the weight once. It is read block by block; the results are float64.
"""

from __future__ import annotations

from math import prod

import numpy as np
from msgspec import Struct

from bnfuse.core.reparam import Vector
from bnfuse.core.weights.linear import LinearForm, row_blocks
from bnfuse.core.weights.tensor import Tensor


class Pairs(Struct, frozen=True, eq=False):
    """Arrays of shape (G, O, I), and how many taps there are."""

    largest: Vector
    sums: Vector
    squares: Vector
    taps: int

    @property
    def kept(self) -> Pairs:
        """The same without ``sums``, in float32 if that is enough: for a whole model at once."""
        none = np.zeros((0, 0, 0))
        return Pairs(_single(self.largest), none, _single(self.squares), self.taps)

    def times(self, write: Vector | None, read: Vector | None) -> Pairs:
        """Those of s[g,o]·W·p[g,i]; s of shape (G·O,), p of shape (G·I,), None for ones."""
        groups, outs, ins = self.largest.shape
        factor = np.ones((1, 1, 1))
        if write is not None:
            factor = factor * write.reshape(groups, outs, 1)
        if read is not None:
            factor = factor * read.reshape(groups, 1, ins)
        return Pairs(
            self.largest * np.abs(factor), self.sums * factor, self.squares * factor * factor, self.taps
        )


def pair_count(form: LinearForm) -> int:
    """How many pairs of channels a weight has."""
    return prod(n for n, letter in zip(form.dims, form.letters, strict=True) if letter != "k")


def pairs(weight: Tensor, form: LinearForm) -> Pairs:
    """Read a weight once.

    Args:
        weight: W as stored.
        form: how to read it.
    """
    kept = tuple(1 if letter == "k" else n for n, letter in zip(form.dims, form.letters, strict=True))
    largest, sums, squares = (np.zeros(kept) for _ in range(3))
    for _, block, where in row_blocks(weight, form):
        depth = len(where.rows)
        taps = tuple(1 + d for d, letter in enumerate(form.letters[depth:]) if letter == "k")
        leading = zip(form.letters, where.rows, strict=False)
        index = tuple(np.zeros_like(rows) if letter == "k" else rows for letter, rows in leading)
        values = block.astype(np.float64)
        np.maximum.at(largest, index, np.abs(values).max(axis=taps, keepdims=True))
        np.add.at(sums, index, values.sum(axis=taps, keepdims=True))
        np.add.at(squares, index, np.square(values).sum(axis=taps, keepdims=True))
    order = [d for name in "goik" for d, letter in enumerate(form.letters) if letter == name]
    shape = (form.groups, form.channels_out // form.groups, form.channels_in // form.groups)
    largest, sums, squares = (a.transpose(order).reshape(shape) for a in (largest, sums, squares))
    return Pairs(largest, sums, squares, prod(form.dims) // max(1, pair_count(form)))


def _single(values: Vector) -> Vector:
    """In float32, where that can hold it."""
    holds = float(values.max(initial=0.0)) < float(np.finfo(np.float32).max)
    return values.astype(np.float32) if holds else values
