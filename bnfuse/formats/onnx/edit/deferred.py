"""New small constants, worked out many at a time.

Fifteen thousand weights of a few hundred numbers each cost little arithmetic and many calls. Those of one
shape are scaled and rounded together; only where that overflows is each looked at, to say whose
fold it was. Nothing here decides anything: it is ``apply_patch`` in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from msgspec import Struct, field

from bnfuse.core.reparam import Vector
from bnfuse.core.weights.scaled import ScaledTensor, round_once, scale_together
from bnfuse.core.weights.tensor import Array

_GROUP = 256

Put = Callable[[Array], None]


class Deferred(Struct, eq=False):
    """What is still to be worked out, by what can be taken together."""

    flushed: int = 0
    overflowing: set[str] = field(default_factory=set)  # whose folds made a value that does not fit its type
    _weights: dict[Hashable, list[tuple[ScaledTensor, Put]]] = field(default_factory=dict)
    _vectors: dict[tuple[int, np.dtype[Any]], list[tuple[Vector, tuple[str, ...], Put]]] = field(
        default_factory=dict
    )

    def weight(self, tensor: ScaledTensor, put: Put) -> None:
        """A small weight; ``put`` is called with its new values."""
        shapes = tuple(f.shape for f in tensor.factors)
        shift = None if tensor.shift is None else tensor.shift.shape
        key = (id(tensor.form), tensor.shape, tensor.dtype, shapes, shift)
        waiting = self._weights.setdefault(key, [])
        waiting.append((tensor, put))
        if len(waiting) == _GROUP:
            self._scale(self._weights.pop(key))

    def vector(self, values: Vector, dtype: np.dtype[Any], folded: tuple[str, ...], put: Put) -> None:
        """A vector to be rounded; ``folded`` is to blame if it does not fit."""
        key = (values.size, dtype)
        waiting = self._vectors.setdefault(key, [])
        waiting.append((values, folded, put))
        if len(waiting) == _GROUP:
            self._round(self._vectors.pop(key), dtype)

    def finish(self) -> None:
        """Work out the rest."""
        for group in self._weights.values():
            self._scale(group)
        for (_, dtype), rest in self._vectors.items():
            self._round(rest, dtype)
        self._weights.clear()
        self._vectors.clear()

    def _scale(self, group: list[tuple[ScaledTensor, Put]]) -> None:
        try:
            arrays, flushed = scale_together([tensor for tensor, _ in group])
        except FloatingPointError:
            if len(group) == 1:
                self.overflowing.update(group[0][0].folded)
                return
            for each in group:
                self._scale([each])
            return
        self.flushed += flushed
        for array, (_, put) in zip(arrays, group, strict=True):
            put(array)

    def _round(self, group: list[tuple[Vector, tuple[str, ...], Put]], dtype: np.dtype[Any]) -> None:
        try:
            rounded, flushed = round_once(np.stack([values for values, _, _ in group]), dtype)
        except FloatingPointError:
            if len(group) == 1:
                self.overflowing.update(group[0][1])
                return
            for each in group:
                self._round([each], dtype)
            return
        self.flushed += flushed
        for array, (_, _, put) in zip(rounded, group, strict=True):
            put(array)
