"""Compares what two models declare: names, order, dtypes and shapes of their inputs and outputs.

Decided before any value is compared: a renamed output or a lost free axis breaks a caller even
where all numbers agree.
"""

from __future__ import annotations

from collections.abc import Sequence

from bnfuse.formats.base import TensorSpec

Axes = tuple[int | str | None, ...]


def interface_difference(
    want: Sequence[TensorSpec], got: Sequence[TensorSpec], kind: str, *, free_may_differ: bool
) -> str:
    """A sentence for the first difference in names, order, dtypes or declared shapes, else "".

    ``free_may_differ``: a free axis may meet a fixed one, because runtimes infer the shapes of
    outputs, and may infer more about one model than about the other.
    """
    lost, new = _first_missing(want, got), _first_missing(got, want)
    if lost or new:
        return f"the original's {kind} '{lost}' is missing" if lost else f"the {kind} '{new}' is new"
    if [s.name for s in want] != [s.name for s in got]:
        return f"the {kind}s are the same as the original's, but in another order"
    for a, b in zip(want, got, strict=True):
        if a.dtype != b.dtype:
            return f"{kind} '{a.name}' is {b.dtype}, where the original has {a.dtype}"
        if not _same_shape(a.shape, b.shape, free_may_differ):
            had, has = shape_text(a.shape), shape_text(b.shape)
            return f"{kind} '{a.name}' is declared as {has}, where the original has {had}"
    return ""


def _first_missing(names: Sequence[TensorSpec], among: Sequence[TensorSpec]) -> str:
    known = {spec.name for spec in among}
    return next((spec.name for spec in names if spec.name not in known), "")


def _same_shape(a: Axes | None, b: Axes | None, free_may_differ: bool) -> bool:
    if a is None or b is None:
        return free_may_differ or a == b
    if len(a) != len(b):
        return False
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
    return not pairs or (
        free_may_differ and not any(isinstance(x, int) and isinstance(y, int) for x, y in pairs)
    )


def shape_text(shape: Axes | None, unknown: str = "any shape") -> str:
    """``[?, 3, 224]``."""
    return unknown if shape is None else "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
