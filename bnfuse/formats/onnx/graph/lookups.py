"""What whole numbers an ONNX model can look up: indices of tables, and what is added to them on the way.

Follows each input through nodes that keep its values or scale and shift them by constants. Where a Gather
reads a table of n rows, ``0 ≤ factor·x + shift < n`` bounds the input; several tables bound it together.
``shift`` is an interval, because an offset may differ from column to column. A model for which no number is
right gets no bound, nor does one that computes its indices in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import onnx
from msgspec import Struct
from msgspec.structs import replace

from bnfuse.formats.extents import Shape
from bnfuse.formats.hints import Values

# fmt: off
_KEEPING = frozenset({
    "Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand", "Tile",
    "Split", "Dropout", "Floor", "Round",
})
# fmt: on
# Operator: (input with indices, input with the table) of each look-up.
_TABLES = {
    "Gather": ((1, 0),),
    "GatherElements": ((1, 0),),
    "EmbedLayerNormalization": ((0, 2), (1, 4)),
}

ConstantLookup = Callable[[str], "tuple[float, ...] | None"]


class _Line(Struct, frozen=True):
    """``factor·x + shift`` with a shift between ``low`` and ``high``, x the input ``source``."""

    source: str
    factor: float = 1.0
    low: float = 0.0
    high: float = 0.0

    def moved(self, numbers: tuple[float, ...], sign: float = 1.0) -> _Line:
        """With constants added."""
        ends = sorted((sign * min(numbers), sign * max(numbers)))
        return replace(self, low=self.low + ends[0], high=self.high + ends[1])

    def times(self, factor: float) -> _Line:
        """Multiplied by a constant."""
        low, high = sorted((factor * self.low, factor * self.high))
        return _Line(self.source, factor * self.factor, low, high)

    def within(self, rows: int) -> Values | None:
        """The inputs for which it is an index into so many rows."""
        if not self.factor:
            return None
        ends = sorted((-self.low / self.factor, (rows - 1 - self.high) / self.factor))
        least, most = -int(-ends[0] // 1), int(ends[1] // 1)
        return Values(least, most + 1) if least <= most and rows - 1 - self.high >= -self.low else None


def looked_up(
    inputs: Iterable[str],
    nodes: Iterable[onnx.NodeProto],
    shapes: Mapping[str, Shape | None],
    numbers: ConstantLookup,
) -> dict[str, Values]:
    """By input, the numbers that every table it indexes has."""
    lines = {name: _Line(name) for name in inputs}
    found: dict[str, Values] = {}
    for node in nodes:
        for line, rows in _lookups(node, lines, shapes, numbers):
            bound = line.within(rows)
            known = found.get(line.source, bound)
            if bound is not None and known is not None:
                both = Values(max(known.least, bound.least), min(known.beyond, bound.beyond))
                found[line.source] = both if both.least < both.beyond else known
        line_out = _followed(node, lines, numbers)
        if line_out is not None:
            lines.update(dict.fromkeys(filter(None, node.output), line_out))
    return found


def _lookups(
    node: onnx.NodeProto,
    lines: Mapping[str, _Line],
    shapes: Mapping[str, Shape | None],
    numbers: ConstantLookup,
) -> list[tuple[_Line, int]]:
    """Which input is an index here, and into how many rows."""
    names = node.input
    if node.op_type == "OneHot" and names[0] in lines and (depth := numbers(names[1])):
        return [(lines[names[0]], int(depth[0]))]
    found = []
    for index, table in _TABLES.get(node.op_type, ()):
        if index >= len(names) or table >= len(names) or names[index] not in lines:
            continue
        shape = shapes.get(names[table])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        rows = shape[axis] if shape and -len(shape) <= axis < len(shape) else None
        if isinstance(rows, int):
            found.append((lines[names[index]], rows))
    return found


def _followed(node: onnx.NodeProto, lines: Mapping[str, _Line], numbers: ConstantLookup) -> _Line | None:
    """What a node makes of an input's values, where that is a line again."""
    names = list(node.input)
    if not names:
        return None
    first = lines.get(names[0])
    if node.op_type in _KEEPING:
        return first
    if node.op_type == "Gather":  # columns of the input itself
        return first
    if node.op_type == "Neg" and first is not None:
        return first.times(-1.0)
    if node.op_type not in ("Add", "Sub", "Mul") or len(names) != 2:
        return None
    at = 0 if first is not None else 1
    line, others = lines.get(names[at]), numbers(names[1 - at])
    if line is None or not others:
        return None
    if node.op_type == "Mul":
        return line.times(others[0]) if len(set(others)) == 1 else None
    if node.op_type == "Sub" and at == 1:
        return line.times(-1.0).moved(others)
    return line.moved(others, -1.0 if node.op_type == "Sub" else 1.0)
