"""How operands of several shapes lie in the result of an elementwise op (broadcasting)."""

from __future__ import annotations

from msgspec import Struct

from bnfuse.core.axes import Shape
from bnfuse.core.reparam import Reparam


class Operand(Struct, frozen=True):
    """How one operand's axes lie in the output's under broadcasting (right-aligned).

    ``offset`` is the output's rank minus the operand's; ``stretched`` are the output axes along
    which the operand is repeated.
    """

    offset: int
    stretched: frozenset[int]

    def to_output(self, held: Reparam) -> Reparam:
        """Operand axes to output axes."""
        if not self.offset:
            return held
        return held.map(lambda v: v, [a + self.offset for a in held.axes])

    def from_output(self, held: Reparam) -> Reparam | None:
        """Output axes to operand axes; None where the factors vary along a repeated axis."""
        if any(a in self.stretched for a in held.axes):
            held = held.compact()
        if any(a in self.stretched for a in held.axes):
            return None
        return held.map(lambda v: v, [a - self.offset for a in held.axes]) if self.offset else held


def operands(shapes: list[Shape | None], output: Shape | None) -> tuple[Operand, ...] | None:
    """Broadcasting of every operand against the output; None where ranks are unknown.

    A dimension that could be 1 or more (a symbol that differs from the output's) counts as repeated.
    """
    if output is None or any(s is None for s in shapes):
        return None
    known = [s for s in shapes if s is not None]
    if all(s == output for s in known):
        return tuple(Operand(0, frozenset()) for _ in known)
    made = []
    for shape in known:
        offset = len(output) - len(shape)
        if offset < 0:
            return None
        stretched = set(range(offset))
        for axis, dim in enumerate(shape):
            if dim != output[axis + offset] and not (isinstance(dim, int) and dim > 1):
                stretched.add(axis + offset)
        made.append(Operand(offset, frozenset(stretched)))
    return tuple(made)
