"""Rows of the op table: functions that choose elements, repeat them, or put them in another order.

Where it is not known how many there are, factors must not vary along that axis. A config holds the arguments
of the call by the names that ``functions`` gives them. What does not fit raises ``Malformed``, which
refuses the call.

Sources: keras/src/ops/numpy.py and the array operations of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from bnfuse.core.axes import AxisMap, Chain, Take, dropping
from bnfuse.core.rules.base import Pass, Rule
from bnfuse.formats.keras.graph.network import Shape
from bnfuse.formats.keras.rows.kind import LayerKind
from bnfuse.formats.keras.rows.placing_functions import OffBatch, integer, of_one
from bnfuse.formats.keras.rows.sizes import Config, Size, one
from bnfuse.formats.table import Malformed, counted

_MOST = 1 << 20  # elements along one axis that are followed one by one
_Picks = Mapping[int, Sequence[int] | None]  # which elements, by axis; None where that is not known


def _along(size: Size, chosen: Callable[[int], Sequence[int]]) -> Sequence[int] | None:
    return None if size is None or size > _MOST else chosen(size)


def _flipped(config: Config, shape: Shape) -> _Picks:
    given, rank = config["axis"], len(shape)
    axes = range(rank) if given is None else counted(given, rank)
    return {a: _along(shape[a], lambda n: range(n)[::-1]) for a in axes}


def _rolled(config: Config, shape: Shape) -> _Picks:
    axes, shift = counted(config["axis"], len(shape)), config["shift"]
    shifts = shift if isinstance(shift, list) else [shift] * len(axes)

    def moved(by: int) -> Callable[[int], Sequence[int]]:
        return lambda n: [(k - by) % n for k in range(n)]

    return {a: _along(shape[a], moved(integer(by))) for a, by in zip(axes, shifts, strict=True)}


def _repeated(config: Config, shape: Shape) -> _Picks:
    (axis,), given = counted(config["axis"], len(shape)), config["repeats"]
    several = [integer(n, 1) for n in (given if isinstance(given, list) else [given])]

    def often(size: int) -> Sequence[int]:
        times = several * size if len(several) == 1 else several
        return [k for k, n in zip(range(size), times, strict=True) for _ in range(n)]

    return {axis: _along(shape[axis], often)}


def _tiled(config: Config, shape: Shape) -> _Picks:
    given = config["repeats"]
    times = [integer(n, 1) for n in (given if isinstance(given, list) else [given])]
    if len(times) > len(shape):
        raise Malformed("new axes")
    again = dict(zip(range(len(shape) - len(times), len(shape)), times, strict=True))
    return {a: _along(shape[a], lambda n, k=k: list(range(n)) * k) for a, k in again.items() if k > 1}  # type: ignore[misc]


def _picking(picks: Callable[[Config, Shape], _Picks]) -> LayerKind:
    """A function that takes elements along axes."""

    def sizes(config: Config, shape: Shape) -> Shape:
        found = picks(config, shape)
        return tuple(_count(found[a]) if a in found else n for a, n in enumerate(shape))

    return LayerKind((), of_one(lambda c, s: _taking(s, picks(c, s))), one(sizes))


def _count(taken: Sequence[int] | None) -> Size:
    return None if taken is None else len(taken)


def _taking(shape: Shape, picks: _Picks, *after: AxisMap) -> Pass:
    """Elements are taken, then axes move."""
    known = {a: tuple(taken) for a, taken in picks.items() if taken is not None}
    if any(not 0 < len(taken) <= _MOST for taken in known.values()):
        raise Malformed("nothing, or too much, is taken")
    takes = [Take(a, taken, shape[a] or 0) for a, taken in known.items()]
    unknown = picks.keys() - known.keys()
    return Pass(mixes=unknown.__contains__, axes=OffBatch(Chain((*takes, *after))))


class _Index(Struct, frozen=True):
    """What an index asks for: elements along axes (None: some, which is not known), axes that go and come."""

    picks: dict[int, Sequence[int] | None]
    gone: list[int]
    new: list[int]


def _index(config: Config, shape: Shape) -> _Index:
    """An index in brackets: slices, whole numbers, ``None`` and one ``...``."""
    given = config["key"]
    items = list(given) if isinstance(given, list | tuple) else [given]
    where = [k for k, item in enumerate(items) if item is ...]
    named = sum(item is not None and item is not ... for item in items)
    at = where[0] if where else len(items)
    items[at : at + 1] = [slice(None)] * (len(shape) - named)
    found = _Index({}, [], [])
    axis = out = 0
    for item in items:
        if item is None:
            found.new.append(out)
            out += 1
            continue
        taken = _element(item, shape[axis]) if type(item) is int else _slice(item, shape[axis])
        if item != slice(None):
            found.picks[axis] = taken
        if type(item) is int:
            found.gone.append(axis)
        axis, out = axis + 1, out + (type(item) is not int)
    return found


def _element(item: int, size: Size) -> range | None:
    if size is None:
        return None
    if not -size <= item < size:
        raise Malformed(f"element {item} of {size}")
    return range(item % size, item % size + 1)


def _slice(item: Any, size: Size) -> range | None:
    parts = (item.start, item.stop, item.step) if isinstance(item, slice) else (True,)
    if any(part is not None and type(part) is not int for part in parts) or 0 in parts[2:]:
        raise Malformed("an index that is no slice of numbers")
    return None if size is None or size > _MOST else range(size)[item]


def _get_item(config: Config, shape: Shape) -> Rule:
    index = _index(config, shape)
    return _taking(shape, index.picks, dropping(len(shape), index.gone, index.new))


def _indexed(config: Config, shape: Shape) -> Shape:
    index = _index(config, shape)
    sizes: list[Size] = [
        _count(index.picks[a]) if a in index.picks else n for a, n in enumerate(shape) if a not in index.gone
    ]
    for place in index.new:
        sizes.insert(place, 1)
    return tuple(sizes)


def _taken(config: Config, shape: Shape) -> tuple[int, list[int], list[int]]:
    """The axis of a ``take``, which elements, and which axes go: that one, for a single element."""
    (axis,), given = counted(config["axis"], len(shape)), config["indices"]
    size, single = shape[axis], type(given) is int
    indices = [int(k) if isinstance(k, np.integer) else k for k in ([given] if single else given)]
    if size is None or size > _MOST or any(type(k) is not int or not -size <= k < size for k in indices):
        raise Malformed(f"elements {given} of {size}")
    return axis, [k % size for k in indices], [axis] if single else []


def _take(config: Config, shape: Shape) -> Rule:
    axis, indices, gone = _taken(config, shape)
    return _taking(shape, {axis: indices}, dropping(len(shape), gone))


def _take_sizes(config: Config, shape: Shape) -> Shape:
    axis, indices, gone = _taken(config, shape)
    return (*shape[:axis], *(() if gone else (len(indices),)), *shape[axis + 1 :])


FUNCTIONS = {
    "Flip": _picking(_flipped),
    "Roll": _picking(_rolled),
    "Repeat": _picking(_repeated),
    "Tile": _picking(_tiled),
    "GetItem": LayerKind((), of_one(_get_item), one(_indexed)),
    "Take": LayerKind((), of_one(_take), one(_take_sizes)),
}
