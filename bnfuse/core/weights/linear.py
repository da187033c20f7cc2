"""The one canonical linear form, and the two short functions that absorb.

Every linear op is ``y[g,o] = Σ_{i,k} W[g,o,i,k]·x[g,i] + b[g,o]``. How an op stores W is said by a
layout string in the manner of einops: one word per stored axis, each word naming the canonical
axes it is made of, ``k*`` standing for all axes that are left:

    ONNX Conv ``go i k*`` · ConvTranspose ``gi o k*`` · Gemm ``o i`` or ``i o`` · MatMul ``i o``
    Keras Conv ``k* i go`` · Depthwise ``k* g o`` · Conv2DTranspose ``k* o i`` · Dense ``i o``

Holding the output as s·y + t and reading the input as x = p·h + q gives

    W'[g,o,i,k] = s[g,o]·W[g,o,i,k]·p[g,i]
    b'[g,o]     = s[g,o]·(b[g,o] + Σ_{i,k} W[g,o,i,k]·q[g,i]) + t[g,o]

computed from the original arrays in float64 and rounded once to the stored dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from math import prod

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bnfuse.core.reparam import Pair, Vector
from bnfuse.core.weights.tensor import Array, Tensor

# 1 MiB of float32: larger blocks fall out of the cache, smaller ones pay for the calls.
BLOCK_ELEMENTS = 1 << 18


class LinearForm(Struct, frozen=True, dict=True):
    """A stored weight seen in canonical axes.

    Attributes:
        dims: sizes of the canonical view, one per letter of the layout (``k`` repeated).
        letters: the canonical axis (g, o, i or k) of each view dimension.
    """

    dims: tuple[int, ...]
    letters: str

    @cached_property
    def groups(self) -> int:
        """G."""
        return self._size("g")

    @cached_property
    def channels_out(self) -> int:
        """G·O: channels of the output, group by group."""
        return self.groups * self._size("o")

    @cached_property
    def channels_in(self) -> int:
        """G·I: channels of the input, group by group."""
        return self.groups * self._size("i")

    def _size(self, letter: str) -> int:
        return prod(d for d, name in zip(self.dims, self.letters, strict=True) if name == letter)

    def broadcast(self, vector: Vector, letter: str) -> Vector:
        """A per-channel vector (G·O for ``o``, G·I for ``i``) broadcastable against the view."""
        grouped, swaps, stretched = self._places[letter]
        parts = vector.reshape(grouped)
        return (parts.swapaxes(0, 1) if swaps else parts).reshape(stretched)

    @cached_property
    def _places(self) -> dict[str, tuple[tuple[int, ...], bool, tuple[int, ...]]]:
        """For o and i: a vector's shape by group, whether the channel axis comes first, the view's shape."""
        return {letter: self._place("g" + letter) for letter in "oi"}

    def _place(self, order: str) -> tuple[tuple[int, ...], bool, tuple[int, ...]]:
        present = [(n, x) for n, x in zip(self.dims, self.letters, strict=True) if x in order]
        grouped = tuple(n for name in order for n, x in present if x == name)
        swaps = [x for _, x in present] != sorted(x for _, x in present)  # g before i, o
        stretched = tuple(n if x in order else 1 for n, x in zip(self.dims, self.letters, strict=True))
        return grouped, swaps, stretched


@lru_cache(maxsize=1024)
def linear_form(shape: tuple[int, ...], layout: str, groups: int = 1) -> LinearForm:
    """Read a layout string for a stored shape.

    Raises:
        ValueError: the shape does not fit the layout or the number of groups.
    """
    words = layout.split()
    rest = len(shape) - len(words) + 1  # axes that k* stands for
    if rest < 0 or (rest != 1 and "k*" not in words):
        raise ValueError(f"a weight of shape {shape} does not fit '{layout}'")
    dims: list[int] = []
    letters = ""
    position = 0
    for word in words:
        if word == "k*":
            dims += shape[position : position + rest]
            letters += "k" * rest
            position += rest
            continue
        stored = shape[position]
        position += 1
        if len(word) == 2:
            if groups < 1 or stored % groups:
                raise ValueError(f"{stored} channels do not divide into {groups} groups")
            dims += [groups, stored // groups]
        else:
            dims.append(stored)
        letters += word
    return LinearForm(tuple(dims), letters)


class Rewrite(Struct, frozen=True, eq=False):
    """What a linear op is asked to take on: read (p, q) and write (s, t), None where nothing changes.

    Vectors have G·I (p, q) and G·O (s, t) entries.
    """

    read: Pair | None = None
    write: Pair | None = None


def factors(form: LinearForm, rewrite: Rewrite) -> list[Vector]:
    """What W is multiplied by: arrays broadcastable against the canonical view."""
    found = []
    if rewrite.write is not None and not (rewrite.write[0] == 1.0).all():
        found.append(form.broadcast(rewrite.write[0], "o"))
    if rewrite.read is not None and not (rewrite.read[0] == 1.0).all():
        found.append(form.broadcast(rewrite.read[0], "i"))
    return found


def new_bias(weight: Tensor, form: LinearForm, bias: Vector | None, rewrite: Rewrite) -> Vector:
    """b' of the module's formula, shape (G·O,), float64; ``bias`` None counts as zeros."""
    total = np.zeros(form.channels_out) if bias is None else bias.astype(np.float64)
    if rewrite.read is not None and rewrite.read[1].any():
        total = total + contract(weight, form, rewrite.read[1])
    if rewrite.write is not None:
        total = rewrite.write[0] * total + rewrite.write[1]
    return total


def contract(weight: Tensor, form: LinearForm, q: Vector) -> Vector:
    """Σ_{i,k} W[g,o,i,k]·q[g,i] for q of shape (G·I,), as (G·O,), reading W block by block."""
    factor = form.broadcast(q, "i")
    out_shape = tuple(n if x in "go" else 1 for n, x in zip(form.dims, form.letters, strict=True))
    total = np.zeros(out_shape)
    for _, block, where in row_blocks(weight, form):
        product = block.astype(np.float64) * part_at(factor, where)
        _accumulate(total, product, where, form)
    return channel_order(total, form)


def _accumulate(total: Vector, product: Vector, where: Where, form: LinearForm) -> None:
    """Add a block's products onto the output channels they belong to."""
    depth = len(where.rows)
    axes = tuple(1 + d for d, x in enumerate(form.letters[depth:]) if x in "ik")
    summed = product.sum(axis=axes, keepdims=True)
    index = tuple(
        rows if form.letters[d] in "go" else np.zeros_like(rows) for d, rows in enumerate(where.rows)
    )
    np.add.at(total, index, summed)


def channel_order(total: Vector, form: LinearForm) -> Vector:
    """(…g…o…) with ones elsewhere, flattened group by group."""
    order = [d for name in "go" for d, x in enumerate(form.letters) if x == name]
    rest = [d for d in range(len(form.letters)) if d not in order]
    flat: Vector = total.transpose(order + rest).ravel()
    return flat


class Where(Struct, frozen=True, eq=False):
    """Which rows of the view's leading axes a block covers: one index array per leading axis."""

    rows: tuple[NDArray[np.intp], ...]


def row_blocks(weight: Tensor, form: LinearForm) -> Iterator[tuple[int, Array, Where]]:
    """Blocks of whole inner rows: (first flat element, array (rows, *inner dims), where it lies)."""
    depth = next(
        (d for d in range(1, len(form.dims)) if prod(form.dims[d:]) <= BLOCK_ELEMENTS), len(form.dims)
    )
    inner = form.dims[depth:]
    inner_size = prod(inner)
    total_rows = prod(form.dims[:depth])
    step = max(1, BLOCK_ELEMENTS // max(1, inner_size))
    for row in range(0, total_rows, step):
        stop = min(row + step, total_rows)
        flat = weight.read(row * inner_size, stop * inner_size)
        rows = np.unravel_index(np.arange(row, stop), form.dims[:depth])
        yield row * inner_size, flat.reshape((stop - row, *inner)), Where(rows)


def part_at(factor: Vector, where: Where) -> Vector:
    """The part of a broadcastable factor that belongs to a block."""
    index = tuple(rows if factor.shape[d] > 1 else np.zeros_like(rows) for d, rows in enumerate(where.rows))
    part: Vector = factor[index]
    return part
