"""Operators that sum up: reductions and matrix products of constants.

Sums are taken in float64 and rounded once: what onnxruntime computes, less its rounding on the way.
Integers are exact, and wrap around. Not worked out is what does not fit its own type on the way, such as the
squares of a norm that would: there a runtime gets infinity, or zero.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from msgspec import Struct

from bnfuse.core.weights.tensor import Array
from bnfuse.formats.onnx.graph.evaluate.call import (
    KnownCall,
    Unknown,
    allowance,
    bounded,
    broadcast,
)
from bnfuse.formats.table import counted, curried

# Of one matrix product: a second or so of arithmetic.
_MOST_PRODUCTS = 1 << 33
# A matrix product makes so many (as a power of two) in the time that one takes in a loop.
_PRODUCTS_AN_ELEMENT = 6

Over = Callable[[Array, tuple[int, ...]], Any]


class Reduction(Struct, frozen=True):
    """A function over axes, and what is summed up on the way to its result, by the sizes of x."""

    over: Over
    terms: Over | None = None

    def check(self, x: Array, axes: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Refuse what a type does not hold on the way."""
        if self.terms is not None:
            _check_partial(self.terms(x, axes), dtype)


@curried
def reduction(call: KnownCall, /, how: Reduction) -> Array:
    """f over some axes, or all of them; they stay as axes of size 1 unless ``keepdims`` is 0."""
    x = call.array()
    axes = call.ints(1, "axes")
    if not axes:
        if call.attr("noop_with_empty_axes", 0):
            raise Unknown("no axes")
        axes = list(range(x.ndim))
    gone = tuple(counted(axes, x.ndim))
    if not x.size:
        raise Unknown("nothing to reduce")
    if x.dtype.kind == "f":
        how.check(np.abs(x.astype(np.float64)), gone, x.dtype)
    reduced: Array = np.asarray(how.over(x if x.dtype.kind == "i" else x.astype(np.float64), gone))
    kept = [1 if a in gone else n for a, n in enumerate(x.shape)]
    shape = kept if call.attr("keepdims", 1) else [n for a, n in enumerate(x.shape) if a not in gone]
    return reduced.reshape(shape).astype(x.dtype)


def _absolute(x: Array, axes: tuple[int, ...]) -> Any:
    return np.abs(x).sum(axes)


def _squares(x: Array, axes: tuple[int, ...]) -> Any:
    return np.square(x).sum(axes)


def _growth(x: Array, axes: tuple[int, ...]) -> Any:
    """How far a product of such sizes may go up, and come down again."""
    return np.maximum(x, 1.0).prod(axes) / np.minimum(x, 1.0, where=x > 0, out=np.ones_like(x)).prod(axes)


TOTAL = Reduction(lambda x, axes: x.sum(axes, dtype=x.dtype), _absolute)
PRODUCT = Reduction(lambda x, axes: x.prod(axes, dtype=x.dtype), _growth)
MEAN = Reduction(lambda x, axes: x.mean(axes), _absolute)
LARGEST = Reduction(lambda x, axes: x.max(axes))
SMALLEST = Reduction(lambda x, axes: x.min(axes))
L1 = Reduction(_absolute, _absolute)
L2 = Reduction(lambda x, axes: np.sqrt(_squares(x, axes)), _squares)
SQUARES = Reduction(_squares, _squares)


def _check_partial(sums: Any, dtype: np.dtype[Any]) -> None:
    """Refuse numbers that a type does not hold.

    Raises:
        Unknown: a finite one is too large for it, or too small to be told from zero.
    """
    sizes = np.abs(np.asarray(sums, np.float64))
    sizes, limits = sizes[np.isfinite(sizes) & (sizes > 0)], np.finfo(dtype)
    if sizes.size and not float(limits.tiny) <= sizes.min() <= sizes.max() <= float(limits.max):
        raise Unknown("numbers that do not fit their type on the way")


def matmul(call: KnownCall) -> Array:
    """x · y of the last two axes, broadcast over the others."""
    x, y = call.arrays()
    return _product(x, y).astype(x.dtype)


def gemm(call: KnownCall) -> Array:
    """α·A'·B' + β·C."""
    a, b = call.array(0), call.array(1)
    if a.ndim != 2 or b.ndim != 2:
        raise Unknown("no matrices")
    a, b = a.T if call.attr("transA", 0) else a, b.T if call.attr("transB", 0) else b
    result = call.attr("alpha", 1.0) * _product(a, b)
    if call.optional(2) is not None:
        c = call.array(2)
        if c.dtype != a.dtype or broadcast(result.shape, c.shape) != result.shape:
            raise Unknown("a bias that does not fit")
        result = result + call.attr("beta", 1.0) * c.astype(np.float64)
    return np.asarray(result).astype(a.dtype)


def _product(x: Array, y: Array) -> Array:
    """In float64."""
    if x.dtype != y.dtype or not x.ndim or not y.ndim or x.shape[-1] != y.shape[0 if y.ndim == 1 else -2]:
        raise Unknown("matrices that do not fit")
    rows, columns = x.shape[-2:-1], y.shape[-1:] if y.ndim > 1 else ()
    shape = bounded((*broadcast(x.shape[:-2], y.shape[:-2]), *rows, *columns))
    if prod(shape) * x.shape[-1] > _MOST_PRODUCTS:
        raise Unknown("too many products")
    allowance.get().take(prod(shape) * x.shape[-1] >> _PRODUCTS_AN_ELEMENT)
    result: Array = np.asarray(np.matmul(x.astype(np.float64), y.astype(np.float64)))
    _check_partial(_largest_sum(x, y, times=x.shape[-1]), x.dtype)
    return result


def _largest_sum(*factors: Array, times: int) -> float:
    """The most that the sum of so many products can be."""
    return times * prod(float(np.abs(f.astype(np.float64)).max(initial=0.0)) for f in factors)


def unit(call: KnownCall) -> Array:
    """x over its L1 or L2 norm along one axis (LpNormalization); zeros stay zeros."""
    x = call.array().astype(np.float64)
    axis = (counted(call.attr("axis", -1), x.ndim)[0],)
    how = {1: L1, 2: L2}[call.attr("p", 2)]
    how.check(x, axis, call.tensor().dtype)
    length = np.expand_dims(how.over(x, axis), axis)
    return np.where(length == 0, 0, x / np.where(length == 0, 1, length)).astype(call.tensor().dtype)


def average(call: KnownCall) -> Array:
    """The mean of any number of inputs, element by element."""
    arrays = call.arrays()
    if len({a.dtype for a in arrays}) != 1 or (call.version < 8 and len({a.shape for a in arrays}) != 1):
        raise Unknown("operands that do not fit")
    broadcast(*(a.shape for a in arrays))
    total_: Array = np.asarray(sum(a.astype(np.float64) for a in arrays))
    _check_partial(sum(np.abs(a.astype(np.float64)) for a in arrays), call.tensor().dtype)
    return (total_ / len(arrays)).astype(call.tensor().dtype)


def running(call: KnownCall) -> Array:
    """Sums up to each element along one axis (CumSum)."""
    x, at = call.array(), call.array(1)
    if at.size != 1 or at.dtype.kind != "i":
        raise Unknown("no axis")
    axis = counted(int(at.reshape(-1)[0]), x.ndim)[0]
    wide_ = x if x.dtype.kind == "i" else x.astype(np.float64)
    wide_ = np.flip(wide_, axis) if call.attr("reverse", 0) else wide_
    if x.dtype.kind == "f":
        _check_partial(_largest_sum(wide_, times=x.shape[axis]), x.dtype)
    sums: Array = np.cumsum(wide_, axis, dtype=wide_.dtype)
    sums = sums - wide_ if call.attr("exclusive", 0) else sums
    return (np.flip(sums, axis) if call.attr("reverse", 0) else sums).astype(x.dtype)


def einsum(call: KnownCall) -> Array:
    """Sums of products by an equation that names all axes, each once in an operand and in the result."""
    arrays = call.arrays()
    left, arrow, out = call.attr("equation", b"").decode("utf-8", "replace").replace(" ", "").partition("->")
    terms = left.split(",")
    named = [
        len(set(t)) == len(t) == a.ndim and (t.isalpha() or not t)
        for t, a in zip(terms, arrays, strict=False)
    ]
    sizes: dict[str, int] = {}
    same = all(
        sizes.setdefault(letter, n) == n
        for term, a in zip(terms, arrays, strict=False)
        for letter, n in zip(term, a.shape, strict=False)
    )
    plain = (
        arrow and len(terms) == len(arrays) and all(named) and same and len({a.dtype for a in arrays}) == 1
    )
    if not plain or len(set(out)) != len(out) or not set(out) <= sizes.keys() or not left.isascii():
        raise Unknown("its equation")
    bounded([sizes[letter] for letter in out])
    if prod(sizes.values()) > _MOST_PRODUCTS >> _PRODUCTS_AN_ELEMENT:
        raise Unknown("too many products")
    allowance.get().take(prod(sizes.values()))
    wide_ = [a if a.dtype.kind == "i" else a.astype(np.float64) for a in arrays]
    if arrays[0].dtype.kind == "f":
        _check_partial(_largest_sum(*arrays, times=prod(sizes.values())), arrays[0].dtype)
    result: Array = np.asarray(np.einsum(f"{left}->{out}", *wide_))
    return result.astype(arrays[0].dtype)
