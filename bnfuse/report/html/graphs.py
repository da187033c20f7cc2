"""The graphs around the decisions as compact JSON, which the page's script draws when a row is opened.

One list of names and one of operators serve all graphs, and a node is five numbers, so five hundred graphs
take some hundred kilobytes. The JSON stands in a data block (no script to a browser) without any ``<``,
``>`` or ``&``: nothing in it can end the block.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain

from bnfuse.report import text
from bnfuse.report.html.layout import layout
from bnfuse.results import DrawnNode, Neighbourhood

# What a node's last number says: one role, and flags.
_ROLES = {"": 0, "self": 1, "into": 2, "through": 3, "refuses": 4}
_REMOVED = 8
_KINDS = {"node": 0, "input": 16, "output": 32}


def data_block(neighbourhoods: Sequence[Neighbourhood | None]) -> str:
    """The block, or "" where there is nothing to draw."""
    if not any(neighbourhoods):
        return ""
    names: dict[str, int] = {}
    ops: dict[str, int] = {}
    drawn = [None if one is None else _graph(one, names, ops) for one in neighbourhoods]
    whole = {"names": list(names), "ops": list(ops), "graphs": drawn}
    document = _harmless(json.dumps(whole, separators=(",", ":")))
    return f'<script type="application/json" id="graphs">{document}</script>'


def _harmless(document: str) -> str:
    for sign in "<>&":
        document = document.replace(sign, f"\\u{ord(sign):04x}")
    return document


def _graph(one: Neighbourhood, names: dict[str, int], ops: dict[str, int]) -> list[object]:
    """[width, height, left out, [name, op, x, y, role] …, [writer, reader, x, y, …] …]."""
    placed = layout(len(one.nodes), one.edges)
    nodes = [
        [_index(node.name, names), _index(node.op, ops), x, y, _code(node)]
        for node, (x, y) in zip(one.nodes, placed.nodes, strict=True)
    ]
    edges = [
        [a, b, *chain.from_iterable(bends)] for (a, b), bends in zip(one.edges, placed.bends, strict=True)
    ]
    return [placed.width, placed.height, one.left_out, nodes, edges]


def _code(node: DrawnNode) -> int:
    return _ROLES[node.role] + (_REMOVED if node.removed else 0) + _KINDS[node.kind]


def _index(word: str, known: dict[str, int]) -> int:
    return known.setdefault(text.plain(text.shortened(word)), len(known))
