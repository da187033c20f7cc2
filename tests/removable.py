"""Which BatchNormalizations of a small network can go together: an exact answer, by linear algebra.

A network of values with C channels each is removed of a set R of BatchNormalizations if every channel of
every value v can be held as s·v + t, s ≠ 0, such that

    removed BN y = a·x + c   one tensor for both:      s_x = a·s_y,  t_x = s_y·c + t_y
    Relu                     s_y = s_x > 0,            t_x = t_y = 0
    one that may move, Clip  s_y = s_x, either sign,   t_y = t_x
    Add, Sub                 one s for all three,      t_y = t_1 ± t_2
    Identity, Concat         s and t of the same channels are the same
    Conv                     nothing; where it pads with zeros t_x = 0
    kept BN                  nothing
    anything else, inputs and outputs: s = 1, t = 0

The scales are known up to one factor per class of channels that scale together, so signs and fixed values
are checked class by class; given the scales, the shifts solve a linear system or do not. Nothing is
shared with bnfuse: no demand spreads, no split is tried, no order is chosen. All γ ≠ 0 here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations

import numpy as np
from msgspec import Struct

Channel = tuple[str, int]


class Op(Struct, frozen=True):
    """One node. ``a`` and ``c`` are a BatchNormalization's; ``padded`` a Conv's."""

    kind: str  # BatchNormalization, Relu, Clip, Add, Sub, Identity, Concat, Conv, Sigmoid
    inputs: tuple[str, ...]
    output: str
    a: tuple[float, ...] = ()
    c: tuple[float, ...] = ()
    padded: bool = False


class Network(Struct, frozen=True):
    """Nodes in order, how many channels each value has, and which values must stay as they are.

    ``moves``: clamps may have other bounds.
    """

    ops: tuple[Op, ...]
    channels: dict[str, int]
    fixed: frozenset[str]
    moves: bool = False

    @property
    def batchnorms(self) -> tuple[Op, ...]:
        return tuple(op for op in self.ops if op.kind == "BatchNormalization")


def most_removable(net: Network) -> int:
    """The size of the largest set that can go."""
    names = [op.output for op in net.batchnorms]
    sets = (set(r) for n in range(len(names), -1, -1) for r in combinations(names, n))
    return next(len(r) for r in sets if removable(net, r))


def removable(net: Network, removed: Collection[str]) -> bool:
    """Whether the BatchNormalizations with these outputs can go together."""
    scales = _scales(net, removed)
    return scales is not None and _shifts_exist(net, removed, scales)


def _scales(net: Network, removed: Collection[str]) -> dict[Channel, float] | None:
    """s of every channel, each class times one factor; None where signs or fixed values disagree."""
    links: dict[Channel, list[tuple[Channel, float]]] = {
        (v, i): [] for v, n in net.channels.items() for i in range(n)
    }
    for u, v, ratio in _linked(net, removed):
        links[u].append((v, 1.0 / ratio))  # s_u = ratio·s_v
        links[v].append((u, ratio))
    ones, positive = _wanted(net)
    found: dict[Channel, float] = {}
    for start in links:
        if start in found:
            continue
        part = {start: 1.0}
        pending = [start]
        while pending:
            u = pending.pop()
            for v, factor in links[u]:
                if v not in part:
                    part[v] = part[u] * factor
                    pending.append(v)
                elif not _equal(part[v], part[u] * factor):
                    return None
        anchored = [part[u] for u in part if u in ones]
        signed = [part[u] for u in part if u in positive]
        unit = (anchored or [np.sign(s) for s in signed] or [1.0])[0]
        if any(not _equal(s, unit) for s in anchored) or any(s / unit <= 0 for s in signed):
            return None
        found |= {u: s / unit for u, s in part.items()}
    return found


def _equal(one: float, other: float) -> bool:
    """Up to rounding. (numpy's comparison of arrays takes a hundred times as long for two numbers.)"""
    return bool(abs(one - other) <= 1e-8 + 1e-9 * abs(other))


def _linked(net: Network, removed: Collection[str]) -> Iterator[tuple[Channel, Channel, float]]:
    """(u, v, ratio) wherever s_u = ratio·s_v."""
    for op in net.ops:
        y = op.output
        if op.kind == "BatchNormalization" and y in removed:
            yield from (((op.inputs[0], i), (y, i), a) for i, a in enumerate(op.a))
        elif op.kind in ("Relu", "Clip", "Add", "Sub", "Identity"):
            yield from (((x, i), (y, i), 1.0) for x in op.inputs for i in range(net.channels[y]))
        elif op.kind == "Concat":
            yield from ((x, (y, i), 1.0) for i, x in enumerate(_joined(net, op)))


def _joined(net: Network, op: Op) -> list[Channel]:
    return [(x, i) for x in op.inputs for i in range(net.channels[x])]


def _wanted(net: Network) -> tuple[set[Channel], set[Channel]]:
    """Channels with s = 1, and those with s > 0."""
    fixed, positive = set(net.fixed), set()
    for op in net.ops:
        if op.kind == "Sigmoid":
            fixed |= {*op.inputs, op.output}
        elif op.kind == "Relu" and not net.moves:
            positive |= {*op.inputs, op.output}
    return (
        {(v, i) for v in fixed for i in range(net.channels[v])},
        {(v, i) for v in positive for i in range(net.channels[v])},
    )


def _shifts_exist(net: Network, removed: Collection[str], scales: dict[Channel, float]) -> bool:
    """Whether the equations of the shifts, given the scales, have a solution."""
    at = {u: k for k, u in enumerate(scales)}
    rows: list[dict[Channel, float]] = []
    right: list[float] = []

    def equation(terms: dict[Channel, float], value: float = 0.0) -> None:
        rows.append(terms)
        right.append(value)

    for v in _unshifted(net):
        for i in range(net.channels[v]):
            equation({(v, i): 1.0})
    for op in net.ops:
        y = op.output
        for i in range(net.channels[y]):
            if op.kind == "BatchNormalization" and y in removed:
                equation({(op.inputs[0], i): 1.0, (y, i): -1.0}, scales[y, i] * op.c[i])
            elif op.kind in ("Add", "Sub"):
                terms = {(y, i): -1.0}
                for x, sign in zip(op.inputs, (1.0, 1.0 if op.kind == "Add" else -1.0), strict=True):
                    terms[x, i] = terms.get((x, i), 0.0) + sign
                equation(terms)
            elif op.kind == "Identity" or (net.moves and op.kind in ("Relu", "Clip")):
                equation({(op.inputs[0], i): 1.0, (y, i): -1.0})
            elif op.kind == "Concat":
                equation({_joined(net, op)[i]: 1.0, (y, i): -1.0})
    matrix = np.zeros((len(rows), len(at)))
    for k, terms in enumerate(rows):
        for u, factor in terms.items():
            matrix[k, at[u]] += factor
    wanted = np.array(right)
    solution = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    return bool(np.abs(matrix @ solution - wanted).max(initial=0.0) < 1e-8)


def _unshifted(net: Network) -> set[str]:
    """Values with t = 0."""
    found = set(net.fixed)
    for op in net.ops:
        if op.kind == "Sigmoid" or (op.kind == "Relu" and not net.moves):
            found |= {*op.inputs, op.output}
        elif op.kind == "Conv" and op.padded:
            found.add(op.inputs[0])
    return found
