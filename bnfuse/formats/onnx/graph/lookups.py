"""What whole numbers an ONNX model can look up: indices of tables, and what is added to them on the way.

Follows each input through nodes that keep its values or scale and shift them by constants. Where a Gather
reads a table of n rows, ``0 ≤ factor·x + shift < n`` bounds the input; several tables bound it together.
``shift`` is an interval, because an offset may differ from column to column. A model for which no number is
right gets no bound, nor does one that computes its indices in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import onnx

from bnfuse.formats.extents import Shape
from bnfuse.formats.hints import Line, Values

# fmt: off
_KEEPING = frozenset({
    "Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand", "Tile",
    "Split", "Dropout", "Floor", "Round",
    "Gather",  # columns of the input itself
})
# fmt: on
# Operator: (input with indices, input with the table) of each look-up.
_TABLES = {
    "Gather": ((1, 0),),
    "GatherElements": ((1, 0),),
    "EmbedLayerNormalization": ((0, 2), (1, 4)),
}

ConstantLookup = Callable[[str], "tuple[float, ...] | None"]


def looked_up(
    inputs: Iterable[str],
    nodes: Iterable[onnx.NodeProto],
    shapes: Mapping[str, Shape | None],
    numbers: ConstantLookup,
) -> dict[str, Values]:
    """By input, the numbers that every table it indexes has."""
    lines = {name: Line(name) for name in inputs}
    found: dict[str, Values] = {}
    for node in nodes:
        for line, rows in _lookups(node, lines, shapes, numbers):
            line.look_up(rows, found)
        line_out = _followed(node, lines, numbers)
        if line_out is not None:
            lines.update(dict.fromkeys(filter(None, node.output), line_out))
    return found


def _lookups(
    node: onnx.NodeProto,
    lines: Mapping[str, Line],
    shapes: Mapping[str, Shape | None],
    numbers: ConstantLookup,
) -> list[tuple[Line, int]]:
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


def _followed(node: onnx.NodeProto, lines: Mapping[str, Line], numbers: ConstantLookup) -> Line | None:
    """What a node makes of an input's values, where that is a line again."""
    names = list(node.input)
    if not names:
        return None
    first = lines.get(names[0])
    if node.op_type in _KEEPING:
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
