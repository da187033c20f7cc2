"""What was guessed for a file, so that verify and every setting of a bench run the same sizes.

Remembered while the process lives, by the file as it is now and by what the user wanted: the sizes of all
axes, of which the batch is not kept to, and the ranges of values.
"""

from __future__ import annotations

from collections.abc import Mapping

from bnfuse.inputs.shape_guesses import NamedShapes
from bnfuse.inputs.values import Range

_MOST = 16
_SETTLED: dict[object, tuple[NamedShapes, Mapping[str, Range]]] = {}


def settle(key: object, shapes: NamedShapes, ranges: Mapping[str, Range]) -> None:
    """Remember what ran; nothing is where ``key`` is None."""
    if key is None:
        return
    if len(_SETTLED) >= _MOST:
        _SETTLED.clear()
    _SETTLED[key] = shapes, ranges


def settled_for(key: object) -> tuple[NamedShapes, Mapping[str, Range]] | None:
    """What ran before."""
    return _SETTLED.get(key)
