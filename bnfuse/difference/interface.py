"""Which inputs and outputs of one model are which of the other, and what differs in what they declare.

By name; what is left on both sides, if it is as many, by position: those were renamed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bnfuse.difference.result import InterfaceChange
from bnfuse.formats.base import TensorSpec

Specs = Sequence[TensorSpec]


def pairs(before: Specs, after: Specs) -> list[tuple[int, int]]:
    """Positions that correspond, one to one."""
    places = {spec.name: j for j, spec in enumerate(after)}
    found = {i: places.pop(spec.name) for i, spec in enumerate(before) if spec.name in places}
    left = [i for i in range(len(before)) if i not in found]
    right = sorted(set(range(len(after))) - set(found.values()))
    if len(left) == len(right):
        found.update(zip(left, right, strict=True))
    return sorted(found.items())


def changes(
    kind: str, before: Specs, after: Specs, *, loose: bool, same_source: Callable[[int, int], bool]
) -> list[InterfaceChange]:
    """What differs, in the order of ``before``, new ones last.

    Args:
        kind: "input" or "output".
        before: what the one model declares.
        after: what the other does.
        loose: free axes match any size, and an unknown dtype any.
        same_source: whether both compute the same there (outputs).
    """
    matched = pairs(before, after)
    order = [j for _, j in matched]
    found = []
    for rank, (i, j) in enumerate(matched):
        what = _differences(before[i], after[j], loose=loose)
        if order[rank] != sorted(order)[rank]:
            what.append("moved")
        if not same_source(i, j):
            what.append("source")
        if what:
            found.append(InterfaceChange(kind, tuple(what), before[i], after[j]))
    gone, kept = {i for i, _ in matched}, set(order)
    found += [InterfaceChange(kind, ("removed",), s, None) for i, s in enumerate(before) if i not in gone]
    found += [InterfaceChange(kind, ("added",), None, s) for j, s in enumerate(after) if j not in kept]
    return found


def _differences(a: TensorSpec, b: TensorSpec, *, loose: bool) -> list[str]:
    what = ["renamed"] if a.name != b.name else []
    # "" is not known: a Keras file tells the dtype of an output only sometimes.
    if a.dtype != b.dtype and not (loose and not (a.dtype and b.dtype)):
        what.append("dtype")
    if a.shape != b.shape and not (loose and _fits(a, b)):
        what.append("shape")
    return what


def _fits(a: TensorSpec, b: TensorSpec) -> bool:
    """Whether one shape can be the other, free axes and unknown ranks taken as anything."""
    if a.shape is None or b.shape is None:
        return True
    return len(a.shape) == len(b.shape) and all(
        m == n or not (isinstance(m, int) and isinstance(n, int))
        for m, n in zip(a.shape, b.shape, strict=True)
    )
