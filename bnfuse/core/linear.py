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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfuse.core.affine import Pair, Vector
from bnfuse.core.record import record
from bnfuse.core.tensor import Array, Tensor

# 1 MiB of float32: larger blocks fall out of the cache, smaller ones pay for the calls.
BLOCK_ELEMENTS = 1 << 18
# Weights this small need no blocks: the bookkeeping would cost more than the arithmetic.
_SMALL_ELEMENTS = 1 << 12


@dataclass(frozen=True)
class LinearForm:
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

    def spread(self, vector: Vector, letter: str) -> Vector:
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
        swaps = [x for _, x in present] != sorted((x for _, x in present), key=order.index)
        stretched = tuple(n if x in order else 1 for n, x in zip(self.dims, self.letters, strict=True))
        return grouped, swaps, stretched


@lru_cache(maxsize=1024)
def linear_form(shape: tuple[int, ...], layout: str, groups: int = 1) -> LinearForm:
    """Read a layout string for a stored shape.

    Raises:
        ValueError: the shape does not fit the layout or the number of groups.
    """
    words = layout.split()
    rest = len(shape) - len(words) + 1 if "k*" in words else 0
    dims: list[int] = []
    letters = ""
    position = 0
    for word in words:
        if word == "k*":
            dims += shape[position : position + rest]
            letters += "k" * rest
            position += rest
            continue
        if position >= len(shape):
            raise ValueError(f"a weight of shape {shape} does not fit '{layout}'")
        stored = shape[position]
        position += 1
        if len(word) == 2:
            if groups < 1 or stored % groups:
                raise ValueError(f"{stored} channels do not divide into {groups} groups")
            dims += [groups, stored // groups]
        else:
            dims.append(stored)
        letters += word
    if position != len(shape) or rest < 0:
        raise ValueError(f"a weight of shape {shape} does not fit '{layout}'")
    return LinearForm(tuple(dims), letters)


@record
class Rewrite:
    """What a linear op is asked to take on: read (p, q) and write (s, t), None where nothing changes.

    Vectors have G·I (p, q) and G·O (s, t) entries.
    """

    read: Pair | None = None
    write: Pair | None = None


def factors(form: LinearForm, rewrite: Rewrite) -> list[Vector]:
    """What W is multiplied by: arrays broadcastable against the canonical view."""
    found = []
    if rewrite.write is not None and not (rewrite.write[0] == 1.0).all():
        found.append(form.spread(rewrite.write[0], "o"))
    if rewrite.read is not None and not (rewrite.read[0] == 1.0).all():
        found.append(form.spread(rewrite.read[0], "i"))
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
    factor = form.spread(q, "i")
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
    flat: Vector = total.transpose(order + rest).reshape(-1)
    return flat


@record
class Where:
    """Which rows of the view's leading axes a block covers: one index array per leading axis."""

    rows: tuple[NDArray[np.intp], ...]


def row_blocks(weight: Tensor, form: LinearForm) -> Iterator[tuple[int, Array, Where]]:
    """Blocks of whole inner rows: (first flat element, array (rows, *inner dims), where it lies)."""
    depth = next(
        (d for d in range(1, len(form.dims) + 1) if prod(form.dims[d:]) <= BLOCK_ELEMENTS), len(form.dims)
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


@dataclass(frozen=True, eq=False)
class ScaledTensor:
    """New values of a stored tensor as a stream: W' of the module's formula, or s·v + t of a constant.

    Attributes:
        base: the original.
        form: its canonical view.
        factors: what it is multiplied by: arrays broadcastable against the view.
        folded: whose folding made it, for messages.
        shift: what is added then, broadcastable likewise; None for nothing.
    """

    base: Tensor
    form: LinearForm
    factors: tuple[Vector, ...]
    folded: tuple[str, ...] = ()
    shift: Vector | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored (unchanged)."""
        return self.base.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type as stored (unchanged)."""
        return self.base.dtype

    def blocks(self) -> Iterator[tuple[int, Array, int]]:
        """(first flat element, flat block in the stored dtype, subnormals flushed), in order.

        Raises:
            FloatingPointError: a value does not fit the dtype or is not finite.
        """
        if is_small(self):
            (values,), flushed = scale_together([self])
            yield 0, values.reshape(-1), flushed
            return
        for start, block, where in row_blocks(self.base, self.form):
            if not self.factors:
                yield start, block.reshape(-1), 0
                continue
            product = np.multiply(block, part_at(self.factors[0], where), dtype=np.float64)
            for factor in self.factors[1:]:
                product *= part_at(factor, where)
            if self.shift is not None:
                product += part_at(self.shift, where)
            rounded, flushed = round_once(product, self.dtype)
            yield start, rounded.reshape(-1), flushed


def is_small(tensor: ScaledTensor) -> bool:
    """Whether the bookkeeping costs more than the arithmetic."""
    return bool(tensor.factors) and prod(tensor.form.dims) <= _SMALL_ELEMENTS


def scale_together(tensors: Sequence[ScaledTensor]) -> tuple[list[Array], int]:
    """Small tensors of one shape, dtype and kind of factors and shift at once.

    Returns:
        Their new values, in the stored shape and dtype, and how many subnormals were flushed.

    Raises:
        FloatingPointError: a value of one of them does not fit the dtype or is not finite.
    """
    first = tensors[0]
    count = prod(first.form.dims)
    values = np.stack([t.base.read(0, count) for t in tensors]).astype(np.float64)
    values = values.reshape((len(tensors), *first.form.dims))
    for k in range(len(first.factors)):
        values *= np.stack([t.factors[k] for t in tensors])
    if first.shift is not None:
        values += np.stack([t.shift for t in tensors if t.shift is not None])
    rounded, flushed = round_once(values, first.dtype)
    return list(rounded.reshape((len(tensors), *first.shape))), flushed


def round_once(values: NDArray[np.float64], dtype: np.dtype[Any]) -> tuple[Array, int]:
    """float64 results in the stored dtype, subnormals flushed to zero and counted.

    Not in float16, whose subnormals (below 6.1e-5) are everyday weights that cost nothing.

    Raises:
        FloatingPointError: a value overflows the dtype or is not finite.
    """
    limit = _limits(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = values.astype(dtype)
        magnitude = np.abs(rounded)
        # A comparison, not isfinite: one pass that is false for inf and NaN alike, in every float type.
        fits = bool((magnitude <= limit[0]).all())
    if not fits:
        raise FloatingPointError(f"a value does not fit {dtype}")
    small = magnitude < limit[1]
    if not small.any():
        return rounded, 0
    flushed = int(np.count_nonzero(rounded[small]))
    rounded[small] = 0
    return rounded, flushed


_LIMITS: dict[np.dtype[Any], tuple[Any, Any]] = {}


def _limits(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """(largest finite, smallest normal) of a float dtype, in that dtype."""
    if dtype not in _LIMITS:
        if dtype.kind == "f":
            info: Any = np.finfo(dtype)
        else:
            import ml_dtypes

            finfo: Any = ml_dtypes.finfo  # untyped there
            info = finfo(dtype)
        tiny = 0 if dtype == np.float16 else info.smallest_normal
        _LIMITS[dtype] = (dtype.type(info.max), dtype.type(tiny))
    return _LIMITS[dtype]
