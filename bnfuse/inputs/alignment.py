"""How the inputs and outputs of a model correspond to those of its twin in another format.

An export may rename inputs and outputs, move channels from the last axis to the first behind the batch,
and take another width of integer or float. Decides, for models of two formats only:

1. **names**: the same names (a trailing ``:0`` aside), else by position, which is said;
2. **types**: of one kind (floats, integers, booleans, text); another width is converted, which is said;
3. **layout**: axes as they are, or channels moved, whichever agrees in more fixed sizes; as they are where
   both agree alike. Where both models fix an axis they must fix the same.

Two models of one format get none of this: there ``bnfuse.inputs.interface`` wants the very same interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from bnfuse.formats.base import TensorSpec
from bnfuse.inputs.interface import Axes, shape_text
from bnfuse.inputs.user_arrays import Feeds, numpy_dtype
from bnfuse.inputs.user_inputs import names_of


class Unalignable(Exception):
    """The two models' interfaces do not correspond; the message is a sentence."""


class Pair(Struct, frozen=True):
    """One tensor of both models.

    ``order`` lists, per axis of the second model's tensor, the axis of the first's that it is; () where
    they are in the same order.
    """

    first: TensorSpec
    second: TensorSpec
    order: tuple[int, ...] = ()

    def forth(self, array: np.ndarray) -> np.ndarray:
        """A value of the first model's tensor as the second model takes it."""
        moved = array.transpose(self.order) if self.order and array.ndim == len(self.order) else array
        return _as(moved, self.second.dtype)

    def back(self, array: np.ndarray) -> np.ndarray:
        """A value of the second model's tensor as the first model would give it."""
        if self.order and array.ndim == len(self.order):
            array = array.transpose(np.argsort(self.order))
        return _as(array, self.first.dtype)

    def narrowed(self) -> TensorSpec:
        """The first model's tensor with the sizes that the second fixes."""
        own, other = self.first.shape, self.second.shape
        if own is None or other is None:
            return self.first
        back = np.argsort(self.order).tolist() if self.order else range(len(own))
        shape = tuple(a if isinstance(a, int) else _or(other[b], a) for a, b in zip(own, back, strict=True))
        return TensorSpec(self.first.name, self.first.dtype, shape)


class Alignment(Struct, frozen=True):
    """All inputs and outputs of both models, and what was done to bring them together, as sentences."""

    inputs: tuple[Pair, ...]
    outputs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def feeds(self, feeds: Mapping[str, np.ndarray]) -> Feeds:
        """Inputs for the first model as inputs for the second."""
        return {pair.second.name: pair.forth(feeds[pair.first.name]) for pair in self.inputs}

    def produced(self, outputs: Mapping[str, np.ndarray]) -> Feeds:
        """Outputs of the second model as those of the first."""
        return {pair.first.name: pair.back(outputs[pair.second.name]) for pair in self.outputs}

    def narrowed(self) -> tuple[TensorSpec, ...]:
        """The first model's inputs with the sizes that the second fixes."""
        return tuple(pair.narrowed() for pair in self.inputs)


def align(
    first: tuple[Sequence[TensorSpec], Sequence[TensorSpec]],
    second: tuple[Sequence[TensorSpec], Sequence[TensorSpec]],
) -> Alignment:
    """Bring the (inputs, outputs) of two models together.

    Raises:
        Unalignable: another number of them, another kind of type, or sizes that contradict each other.
    """
    notes: list[str] = []
    inputs = _pairs(first[0], second[0], "input", notes)
    outputs = _pairs(first[1], second[1], "output", notes)
    return Alignment(inputs, outputs, tuple(notes))


def _pairs(
    first: Sequence[TensorSpec], second: Sequence[TensorSpec], kind: str, notes: list[str]
) -> tuple[Pair, ...]:
    if len(first) != len(second):
        raise Unalignable(
            f"the models have {len(first)} and {len(second)} {kind}s: "
            f"{names_of(first)}, and {names_of(second)}"
        )
    named = {_bare(spec.name): spec for spec in second}
    if len(named) == len(second) and all(_bare(spec.name) in named for spec in first):
        found = [(spec, named[_bare(spec.name)]) for spec in first]
    else:
        found = list(zip(first, second, strict=True))
        told = ", ".join(f"'{a.name}' is '{b.name}'" for a, b in found)
        notes.append(f"{kind}s are matched by position, because their names differ: {told}")
    return tuple(_pair(a, b, kind, notes) for a, b in found)


def _pair(a: TensorSpec, b: TensorSpec, kind: str, notes: list[str]) -> Pair:
    if _kind(a.dtype) != _kind(b.dtype):
        raise Unalignable(f"{kind} '{a.name}' is {a.dtype}, but '{b.name}' of the second model is {b.dtype}")
    if a.dtype != b.dtype:
        notes.append(f"{kind} '{a.name}' is {a.dtype}, in the second model {b.dtype}: it is converted")
    order = _order(a.shape, b.shape)
    if order is None:
        own, other = (shape_text(spec.shape, "any") for spec in (a, b))
        raise Unalignable(
            f"{kind} '{a.name}' has the shape {own}, but '{b.name}' of the second model {other}"
        )
    if order:
        where = "first" if order[1] == len(order) - 1 else "last"
        notes.append(f"{kind} '{a.name}' has its channels {where} in the second model: its axes are moved")
    return Pair(a, b, order)


def _bare(name: str) -> str:
    return name.removesuffix(":0")


def _kind(dtype: str) -> str:
    """Types of one kind may be converted into each other."""
    if dtype.startswith(("float", "bfloat")):
        return "float"
    return "integer" if dtype.startswith(("int", "uint")) else dtype


def _order(a: Axes | None, b: Axes | None) -> tuple[int, ...] | None:
    """() for the same order of axes, the permutation where channels move, None where sizes contradict."""
    if a is None or b is None:
        return ()
    if len(a) != len(b):
        return None
    rank = len(a)
    orders = [tuple(range(rank))]
    if rank >= 3:
        orders += [(0, rank - 1, *range(1, rank - 1)), (0, *range(2, rank), 1)]
    scores = [_agreeing([a[axis] for axis in order], b) for order in orders]
    best = max(range(len(orders)), key=lambda at: (scores[at], -at))
    if scores[best] < 0:
        return None
    return () if best == 0 else orders[best]


def _agreeing(a: Sequence[int | str | None], b: Axes) -> int:
    """How many axes both fix at the same size; −1 where they fix one differently."""
    fixed = [(x, y) for x, y in zip(a, b, strict=True) if isinstance(x, int) and isinstance(y, int)]
    return -1 if any(x != y for x, y in fixed) else len(fixed)


def _as(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "string" or array.dtype == object:
        return array
    return array.astype(numpy_dtype(dtype), copy=False)


def _or(size: int | str | None, own: int | str | None) -> int | str | None:
    return size if isinstance(size, int) else own
