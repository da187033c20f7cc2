"""Affine nodes in a row that stay: one node could do what they do.

Exporters write a BatchNormalization as Mul and Add (and sometimes Sub and Div). Where such a chain cannot
be folded away, it may still become one node; whether that is faster is the runtime's business, so it
happens only when asked for. Does not touch real BatchNormalizations, single nodes, or chains that do not
run along axis 1 of their input.
"""

from __future__ import annotations

import numpy as np

from bnfuse.core.apply import Merged, Patch
from bnfuse.core.graph import Graph, Node
from bnfuse.core.rules.affine import Affine, affine_rule, candidate
from bnfuse.core.rules.base import Current

_AXIS = 1  # where a BatchNormalization has its channels


def merge_affines(graph: Graph, patch: Patch) -> tuple[Merged, ...]:
    """Every chain of two or more affine nodes that stay, as one map."""
    busy = {*patch.removed, *(moved.node for moved in patch.moved)}
    stays = {n for n in graph.candidates if n not in busy and _mergeable(graph, n)}
    found = []
    for node in graph.candidates:
        if node not in stays or _before(graph, node, stays) is not None:
            continue
        chain = [node]
        while (following := _after(graph, chain[-1], stays)) is not None:
            chain.append(following)
        merged = _merged(graph, patch, chain) if len(chain) > 1 else None
        if merged is not None:
            found.append(merged)
    return tuple(found)


def _mergeable(graph: Graph, node: Node) -> bool:
    rule = graph.rule(node)
    return not node.is_batchnorm and isinstance(rule, Affine) and rule.broken is None


def _only_reader(graph: Graph, value: str) -> Node | None:
    """Who alone reads a value that nobody outside knows."""
    readers = list(graph.readers(value))
    return readers[0] if len(readers) == 1 and value not in graph.pinned else None


def _before(graph: Graph, node: Node, stays: set[Node]) -> Node | None:
    value = candidate(graph, node).x
    writer = graph.writer(value)
    return writer if writer in stays and _only_reader(graph, value) is node else None


def _after(graph: Graph, node: Node, stays: set[Node]) -> Node | None:
    reader = _only_reader(graph, node.outputs[0])
    return reader if reader in stays else None


def _current(graph: Graph, patch: Patch, node: Node) -> Current:
    new = patch.affines.get(node)
    if new is not None:
        return new.a, new.c, new.axes
    rule = affine_rule(graph, node)
    return *rule.pair, rule.axes


def _merged(graph: Graph, patch: Patch, chain: list[Node]) -> Merged | None:
    a, c = np.ones(()), np.zeros(())
    for node in chain:
        scale, shift, axes = _current(graph, patch, node)
        if axes not in ((), (_AXIS,)):
            return None
        a, c = scale * a, scale * c + shift
    a, c = np.broadcast_arrays(a, c)
    finite = bool(np.isfinite(a).all()) and bool(np.isfinite(c).all())
    return Merged(tuple(chain), a, c) if a.ndim == 1 and finite else None
