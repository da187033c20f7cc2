"""How the channels of an input find their place in the output of a rearranging op, and back.

Each map takes a ``Reparam`` of one side to the other side, or answers None where the factors
would no longer be per-channel along whole axes (which the rule reports as a refusal).
Axes are counted from zero; ranks are known here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate
from math import prod
from typing import Protocol

import numpy as np
from msgspec import Struct

from bnfuse.core.reparam import Reparam, Vector, same

Dim = int | str | None
Shape = tuple[Dim, ...]

# A factor spelled out over spatial axes can be large; beyond this nobody gains from it.
_MAX_ELEMENTS = 1 << 24


class AxisMap(Protocol):
    """Both directions of one rearrangement."""

    def forward(self, held: Reparam) -> Reparam | None:
        """From the input's axes to the output's."""

    def backward(self, held: Reparam) -> Reparam | None:
        """From the output's axes to the input's."""


class SameAxes(Struct, frozen=True):
    """Elementwise: the axes stay where they are."""

    def forward(self, held: Reparam) -> Reparam | None:
        """Unchanged."""
        return held

    backward = forward


class Chain(Struct, frozen=True):
    """Several rearrangements one after the other; none at all is the identity."""

    steps: tuple[AxisMap, ...]

    def forward(self, held: Reparam) -> Reparam | None:
        """First to last."""
        moved: Reparam | None = held
        for step in self.steps:
            moved = None if moved is None else step.forward(moved)
        return moved

    def backward(self, held: Reparam) -> Reparam | None:
        """Last to first."""
        moved: Reparam | None = held
        for step in reversed(self.steps):
            moved = None if moved is None else step.backward(moved)
        return moved


class Reversed(Struct, frozen=True):
    """The same rearrangement from its output to its input."""

    axes: AxisMap

    def forward(self, held: Reparam) -> Reparam | None:
        """Its output axes to its input axes."""
        return self.axes.backward(held)

    def backward(self, held: Reparam) -> Reparam | None:
        """Its input axes to its output axes."""
        return self.axes.forward(held)


class Relabel(Struct, frozen=True):
    """Axes of size 1 come or go: input axis i is output axis ``target[i]``, or gone (None)."""

    target: tuple[int | None, ...]
    out_rank: int

    def forward(self, held: Reparam) -> Reparam | None:
        """Input axes to output axes."""
        return _relabel(_without(held, {a for a, b in enumerate(self.target) if b is None}), self._where)

    def backward(self, held: Reparam) -> Reparam | None:
        """Output axes to input axes."""
        back = {b: a for a, b in self._where.items()}
        return _relabel(_without(held, set(range(self.out_rank)) - set(back)), back)

    @property
    def _where(self) -> dict[int, int]:
        return {a: b for a, b in enumerate(self.target) if b is not None}


def dropping(rank: int, gone: Collection[int], new: Collection[int] = ()) -> Relabel:
    """Axes go; others of size 1 come, at these places of the output."""
    out = rank - len(gone) + len(new)
    places = iter(a for a in range(out) if a not in new)
    return Relabel(tuple(None if a in gone else next(places) for a in range(rank)), out)


def _without(held: Reparam, gone: set[int]) -> Reparam:
    return held.compact() if gone & set(held.axes) else held


class Permute(Struct, frozen=True):
    """Transpose: output axis j is input axis ``perm[j]``."""

    perm: tuple[int, ...]

    def forward(self, held: Reparam) -> Reparam | None:
        """Input axes to output axes."""
        return _relabel(held, {a: j for j, a in enumerate(self.perm)})

    def backward(self, held: Reparam) -> Reparam | None:
        """Output axes to input axes."""
        return _relabel(held, dict(enumerate(self.perm)))


def _relabel(held: Reparam, where: dict[int, int]) -> Reparam | None:
    if any(a not in where for a in held.axes):
        return None
    moved = [where[a] for a in held.axes]
    order = tuple(int(i) for i in np.argsort(moved))
    return held.map(lambda v: v.transpose(order), sorted(moved))


class Take(Struct, frozen=True):
    """Slice, Gather with constant indices, or Tile along one axis of ``size`` elements.

    Backward, elements that nobody took are left as they are, and copies of one element must agree.
    """

    axis: int
    indices: tuple[int, ...]
    size: int

    def forward(self, held: Reparam) -> Reparam | None:
        """Each output element has the factor of the input element it was taken from."""
        if self.axis not in held.axes:
            return held
        at = held.axes.index(self.axis)
        if held.shape[at] != self.size:
            return None  # the file contradicts itself
        return held.map(lambda v: v.take(self.indices, axis=at), held.axes)

    def backward(self, held: Reparam) -> Reparam | None:
        """Spread the factors over the elements that were taken; the rest stays as it is."""
        taken = {index: at for at, index in enumerate(self.indices)}
        if self.axis not in held.axes:
            if len(taken) == self.size or held.axes:
                return held
            held = held.along((self.axis,), (len(self.indices),))
        at = held.axes.index(self.axis)
        if held.shape[at] != len(self.indices):
            return None
        if len(taken) != len(self.indices):
            alike = [taken[index] for index in self.indices]
            if not same(held.map(lambda v: v.take(alike, axis=at), held.axes), held):
                return None
        chosen = (slice(None),) * at + (list(self.indices),)

        def place(v: Vector, neutral: float) -> Vector:
            full = np.full((*v.shape[:at], self.size, *v.shape[at + 1 :]), neutral)
            full[chosen] = v
            return full

        back = None if held.backward is None else (place(held.backward[0], 1.0), place(held.backward[1], 0.0))
        fore = None if held.forward is None else (place(held.forward[0], 1.0), place(held.forward[1], 0.0))
        return Reparam(held.axes, back, fore)


class Regroup(Struct, frozen=True):
    """Reshape in its widest sense: consecutive input axes become consecutive output axes.

    ``groups`` pairs runs of input axes with runs of output axes that hold the same elements;
    see ``regroup`` for how they are found.
    """

    in_shape: Shape
    out_shape: Shape
    groups: tuple[tuple[range, range], ...]

    def forward(self, held: Reparam) -> Reparam | None:
        """Input axes to output axes."""
        return _reshape(held, self.in_shape, self.out_shape, self.groups)

    def backward(self, held: Reparam) -> Reparam | None:
        """Output axes to input axes."""
        return _reshape(held, self.out_shape, self.in_shape, [(b, a) for a, b in self.groups])


def _reshape(
    held: Reparam, source: Shape, target: Shape, groups: Sequence[tuple[range, range]]
) -> Reparam | None:
    touched = [(a, b) for a, b in groups if any(x in a for x in held.axes)]
    if len({x for a, _ in touched for x in a} & set(held.axes)) != len(held.axes):
        return None
    if all(len(a) == len(b) == 1 for a, b in touched):
        return held.map(lambda v: v, [b[0] for _, b in touched])
    before: list[int] = [x for a, _ in touched for x in a]
    after: list[int] = [x for _, b in touched for x in b]
    single = {a[0]: b[0] for a, b in touched if len(a) == len(b) == 1}
    known = {axis: n for axis, n in zip(held.axes, held.shape, strict=True) if axis in single}
    known_after = {single[axis]: n for axis, n in known.items()}
    sizes_before = [known.get(x, source[x]) for x in before]
    sizes_after = [known_after.get(x, target[x]) for x in after]
    if not all(isinstance(n, int) for n in (*sizes_before, *sizes_after)):
        return None
    dims_before = [n for n in sizes_before if isinstance(n, int)]
    dims_after = [n for n in sizes_after if isinstance(n, int)]
    if prod(dims_before) != prod(dims_after) or prod(dims_before) > _MAX_ELEMENTS:
        return None
    sizes = dict(zip(before, dims_before, strict=True))
    if any(sizes[axis] != n for axis, n in zip(held.axes, held.shape, strict=True)):
        return None  # the file contradicts itself
    spelled = held.along(before, dims_before)
    return spelled.map(lambda v: v.reshape(dims_after), after).compact()


def regroup(in_shape: Shape, out_shape: Shape) -> Regroup:
    """Find which runs of axes of two shapes hold the same elements.

    Aligned from the left, then from the right; equal sizes (or equal symbols) pair up, known sizes
    are multiplied until both sides agree, and what cannot be told apart stays one group.

    Args:
        in_shape: sizes, symbols or None per axis of the input.
        out_shape: the same of the output.
    """
    in_shape, out_shape = _solve_unknown(in_shape, out_shape)
    left, i, j = _align(in_shape, out_shape)
    right, k, m = _align(in_shape[i:][::-1], out_shape[j:][::-1])
    n_in, n_out = len(in_shape), len(out_shape)
    groups = list(left)
    if i < n_in or j < n_out:  # what the left cannot pair whole, the right cannot either
        groups.append((range(i, n_in - k), range(j, n_out - m)))
    for a, b in reversed(right):
        groups.append((range(n_in - a.stop, n_in - a.start), range(n_out - b.stop, n_out - b.start)))
    return Regroup(in_shape, out_shape, tuple(groups))


def _align(a: Shape, b: Shape) -> tuple[list[tuple[range, range]], int, int]:
    """Pair runs from the left as long as the sizes tell how; answers the runs and where it stopped."""
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j] and a[i] is not None:
            groups.append((range(i, i + 1), range(j, j + 1)))
            i, j = i + 1, j + 1
            continue
        sizes_a, sizes_b = _products(a[i:]), _products(b[j:])
        meet = next(((x, sizes_b.index(n)) for x, n in enumerate(sizes_a) if n in sizes_b), None)
        if meet is None:
            break
        groups.append((range(i, i + meet[0] + 1), range(j, j + meet[1] + 1)))
        i, j = i + meet[0] + 1, j + meet[1] + 1
    return groups, i, j


def _products(dims: Shape) -> list[int]:
    """Running products of the leading known sizes."""
    known: list[int] = []
    for d in dims:
        if not isinstance(d, int):
            break
        known.append(d)
    return list(accumulate(known, lambda x, y: x * y))


def _solve_unknown(a: Shape, b: Shape) -> tuple[Shape, Shape]:
    """Where one size is unknown on one side and all else is known, it follows from the product."""
    free_a = [i for i, d in enumerate(a) if not isinstance(d, int)]
    free_b = [i for i, d in enumerate(b) if not isinstance(d, int)]
    # A symbol on both sides (a dynamic batch) cancels out.
    for i in list(free_a):
        match = next((j for j in free_b if a[i] is not None and b[j] == a[i]), None)
        if match is not None:
            free_a.remove(i)
            free_b.remove(match)
    if len(free_a) + len(free_b) != 1:
        return a, b
    total_a = prod(d for d in a if isinstance(d, int))
    total_b = prod(d for d in b if isinstance(d, int))
    if free_a and total_a and total_b % total_a == 0:
        return (*a[: free_a[0]], total_b // total_a, *a[free_a[0] + 1 :]), b
    if free_b and total_b and total_a % total_b == 0:
        return a, (*b[: free_b[0]], total_a // total_b, *b[free_b[0] + 1 :])
    return a, b
