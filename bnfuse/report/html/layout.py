"""Where the nodes of a small graph stand: layers from top to bottom, few crossings, straight lines.

The classic way (Sugiyama, Tagawa and Toda, 1981): each node goes one layer below the lowest of its writers,
a node that nothing in the picture writes one above its first reader; an edge that spans layers
bends where it passes one; within a layer, what is linked stands together (barycentre sweeps). All of it
is deterministic. Made for the few dozen nodes of a ``Neighbourhood``, not for whole models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

# Sizes in the drawing's own units (CSS pixels at full size).
NODE_WIDTH = 164
NODE_HEIGHT = 38
LAYER = 64
_GAP = 18
_BEND = 22
_MARGIN = 8
_SWEEPS = 4

Point = tuple[int, int]


class Layout(Struct, frozen=True):
    """Centres of the nodes, bends of the edges (in the order they were given), and the size of it all."""

    nodes: tuple[Point, ...]
    bends: tuple[tuple[Point, ...], ...]
    width: int
    height: int


def layout(count: int, edges: Sequence[tuple[int, int]]) -> Layout:
    """Place ``count`` nodes, writers before readers: ``edges`` are (writer, reader) with writer < reader."""
    forward = [(a, b) for a, b in edges if a < b]
    layers = _layers(count, forward)
    items, links, chains = _with_bends(layers, edges)
    rows = _rows(items)
    above, below = _neighbours(len(items), links)
    for _ in range(_SWEEPS):
        _reorder(rows, above)
        _reorder(rows[::-1], below)
    _reorder(rows, above)
    xs = _columns(rows, count, above, below)
    ys = [_MARGIN + NODE_HEIGHT // 2 + layer * LAYER for layer in items]
    least = min((xs[i] - _width(i, count) / 2 for i in range(len(items))), default=0.0)
    most = max((xs[i] + _width(i, count) / 2 for i in range(len(items))), default=0.0)
    places = [(round(x - least) + _MARGIN, y) for x, y in zip(xs, ys, strict=True)]
    return Layout(
        tuple(places[:count]),
        tuple(tuple(places[i] for i in chain) for chain in chains),
        round(most - least) + 2 * _MARGIN,
        max(ys, default=0) + NODE_HEIGHT // 2 + _MARGIN,
    )


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The layer of each node, 0 at the top."""
    layer = [0] * count
    first_reader: dict[int, int] = {}
    written = {b for _, b in edges}
    for a, b in sorted(edges, key=lambda edge: edge[1]):
        layer[b] = max(layer[b], layer[a] + 1)
    for a, b in edges:
        if a not in written:
            first_reader[a] = min(first_reader.get(a, layer[b]), layer[b])
    for a, reader in first_reader.items():
        layer[a] = reader - 1
    return layer


def _with_bends(
    layers: Sequence[int], edges: Sequence[tuple[int, int]]
) -> tuple[list[int], list[tuple[int, int]], list[list[int]]]:
    """Layers of nodes and bends, links between items of adjacent layers, and the bends of each edge."""
    items, links, chains = list(layers), [], []
    for a, b in edges:
        chain = list(range(len(items), len(items) + max(0, layers[b] - layers[a] - 1)))
        items += range(layers[a] + 1, layers[a] + 1 + len(chain))
        way = [a, *chain, b]
        links += list(pairwise(way))
        chains.append(chain)
    return items, links, chains


def _rows(items: Sequence[int]) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(max(items, default=-1) + 1)]
    for item, layer in enumerate(items):
        rows[layer].append(item)
    return rows


def _neighbours(count: int, links: Sequence[tuple[int, int]]) -> tuple[list[list[int]], list[list[int]]]:
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for a, b in links:
        above[b].append(a)
        below[a].append(b)
    return above, below


def _reorder(rows: Sequence[list[int]], linked: Sequence[Sequence[int]]) -> None:
    """Sort each row by the mean place of what its items are linked to in the row before; others stay."""
    for before, row in pairwise(rows):
        place = {item: i for i, item in enumerate(before)}
        own = {item: i * len(before) / max(1, len(row)) for i, item in enumerate(row)}
        row.sort(key=lambda item: _mean([place[x] for x in linked[item] if x in place], own[item]))


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _width(item: int, count: int) -> int:
    return NODE_WIDTH if item < count else _BEND


def _columns(
    rows: Sequence[Sequence[int]], count: int, above: Sequence[Sequence[int]], below: Sequence[Sequence[int]]
) -> list[float]:
    """The x of each item: near the mean of its neighbours, in its row's order, without overlaps."""
    xs: dict[int, float] = {}
    for row in rows:
        _settle(row, dict.fromkeys(row, 0.0), xs, count)
    for _ in range(_SWEEPS):
        for row in rows:
            _settle(row, _wishes(row, above, xs), xs, count)
        for row in reversed(rows):
            _settle(row, _wishes(row, below, xs), xs, count)
    for row in rows:
        both = {item: _mean([xs[x] for x in (*above[item], *below[item])], xs[item]) for item in row}
        _settle(row, both, xs, count)
    return [xs[item] for item in sorted(xs)]


def _wishes(row: Sequence[int], linked: Sequence[Sequence[int]], xs: Mapping[int, float]) -> dict[int, float]:
    return {item: _mean([xs[x] for x in linked[item]], xs[item]) for item in row}


def _settle(row: Sequence[int], wished: Mapping[int, float], xs: dict[int, float], count: int) -> None:
    """As near to the wishes as the widths allow: the mean of pushing rightwards and pushing leftwards."""
    apart = [(_width(a, count) + _width(b, count)) / 2 + _GAP for a, b in pairwise(row)]
    right = [wished[item] for item in row]
    left = list(right)
    for i in range(1, len(row)):
        right[i] = max(right[i], right[i - 1] + apart[i - 1])
    for i in range(len(row) - 2, -1, -1):
        left[i] = min(left[i], left[i + 1] - apart[i])
    for item, a, b in zip(row, left, right, strict=True):
        xs[item] = (a + b) / 2
