"""Nodes: what came, went and changed."""

from __future__ import annotations

import json
from collections.abc import Iterable

from bnfuse.difference.result import Difference, NodeName
from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.content.difference.words import Row, arrow, equal, number, renames, section, short


def nodes_section(found: Difference, *, single: bool) -> doc.Section:
    """How many are the same, and what came and went, a line per operator; ``single``: and a row per node."""
    lines = [("same", equal(found.nodes_same, "node"))] if found.comparable else []
    for verb, every in (("removed", found.nodes_removed), ("added", found.nodes_added)):
        lines += [(verb, line) for line in _grouped(every)]
    lines += renames(found.nodes_renamed)
    rows: list[Row] = []
    if single:
        for verb, every in (("removed", found.nodes_removed), ("added", found.nodes_added)):
            rows += [(node.name, node.operator, verb) for node in every]
        rows += [(before, "", f"now called {after}") for before, after in found.nodes_renamed]
    return section("nodes", "Nodes", ("node", "operator", ""), rows, lines=lines, texts=3)


def _grouped(nodes: Iterable[NodeName]) -> list[str]:
    """``53 BatchNormalization (a, b, c and 50 more)``, a line per operator."""
    groups: dict[str, list[str]] = {}
    for node in nodes:
        groups.setdefault(node.operator, []).append(node.name)
    return [f"{number(len(names))} {op} ({text.names(names)})" for op, names in groups.items()]


def changed_nodes_section(found: Difference, most: int) -> doc.Section:
    """A row per setting and input; of more than ``most`` nodes, one for all that changed alike."""
    rows: list[Row] = []
    for change in found.nodes_changed:
        name = arrow(change.before.name, change.after.name)
        operator = arrow(change.before.operator, change.after.operator)
        every = (*change.settings, *change.inputs)
        rows += [(name, operator, one.label, _value(one.before), _value(one.after)) for one in every]
        if not every:
            rows.append((name, operator, "operator", change.before.operator, change.after.operator))
    if len(found.nodes_changed) > most:
        rows = _alike(rows)
    head = ("node", "operator", "what", "before", "after")
    return section("changes", "Nodes that changed", head, rows, texts=5)


def _alike(rows: Iterable[Row]) -> list[Row]:
    """Nodes to which the same happened as one row."""
    groups: dict[Row, list[str]] = {}
    for name, *change in rows:
        groups.setdefault(tuple(change), []).append(name)
    return [(text.names(names, 1), *change) for change, names in groups.items()]


def _value(value: object) -> str:
    """A setting in short; a text as it is, nothing where there is none."""
    if value is None:
        return ""
    return short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
