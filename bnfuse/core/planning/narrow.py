"""A BatchNormalization over a concatenation or a sum that can go only in part: it moves onto the one branch
that does not take it, the other branches absorb their share.

    BN(concat(u, v)) = concat(BN'(u), v')        v' = a·v + c by the nodes that write v
    BN(u + v)        = BN''(u) + v''             v'' = a·v; u is broadcast, so that it is smaller

The graph keeps its nodes, so this is done only for a clear gain, by counting what the BatchNormalization
still has to compute: at most ``MOST`` of what it did. Where two branches refuse, it stays whole: two
BatchNormalizations would cost more than they save. Nothing is changed here: success is a ``Narrowing``
that the caller may accept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from bnfuse.core.decisions import Split
from bnfuse.core.graph import Graph, Node
from bnfuse.core.planning.dead_ends import WIDE
from bnfuse.core.planning.propagate import NEAR, Worklist
from bnfuse.core.planning.state import MoveTarget, Narrowing, State
from bnfuse.core.reasons import Refusal
from bnfuse.core.reparam import IDENTITY, Reparam, from_backward
from bnfuse.core.rules.affine import Candidate, candidate
from bnfuse.core.rules.joint import ConcatSplit
from bnfuse.core.rules.weighted_sum import WeightedSum

# The share of its work that a BatchNormalization may keep, for moving it to be worth while.
MOST = 0.5


def places(state: State, moving: Candidate) -> list[MoveTarget]:
    """Where a BatchNormalization could move for a clear gain, the best first."""
    graph, node = state.graph, moving.node
    if not node.is_batchnorm or moving.rule.broken is not None:
        return []
    joint = _only_for(state, moving.x)
    a, _, axes = state.current(node)
    if joint is None or len(axes) != 1 or node in graph.tied or joint in graph.tied:
        return []
    if state.effort.is_over and len(joint.inputs) + len(joint.outputs) > WIDE:
        return []
    state.effort.take(values=len(joint.inputs) + len(joint.outputs))
    found = [p for p in _places(graph, joint, axes[0], a.size) if graph.movable(graph, node, joint, p.port)]
    if len(found) > WIDE:
        found = _without_refused(state, node, joint, found)
    return sorted(found, key=lambda p: (p.share, p.port))


def _only_for(state: State, value: str) -> Node | None:
    """Who writes a value that has one reader and no name outside, past nodes that went."""
    graph = state.graph
    while value not in graph.pinned and len(graph.adjacent(value)) == 2:
        writer = graph.writer(value)
        if writer not in state.removed:
            return writer
        assert writer is not None
        value = candidate(graph, writer).x
    return None


def _places(graph: Graph, joint: Node, axis: int, channels: int) -> Iterator[MoveTarget]:
    rule, uses = graph.rule(joint), Counter(joint.inputs)
    if isinstance(rule, ConcatSplit) and rule.axis == axis:  # the parts of a split are none of its inputs
        start = 0
        if None in rule.sizes:
            return
        for port, n in zip(rule.parts, rule.sizes, strict=True):
            assert n is not None
            if n and n <= MOST * channels and uses[joint.value(port)] == 1:
                yield MoveTarget(joint, port, start, start + n, flips=False, share=n / channels)
            start += n
    elif isinstance(rule, WeightedSum) and not any(axis in lies.stretched for lies in rule.operands):
        for port, (sign, lies) in enumerate(zip(rule.signs, rule.operands, strict=True)):
            smaller = bool(lies.stretched) and not lies.offset
            if smaller and abs(sign) == 1.0 and uses[joint.value(port)] == 1:
                yield MoveTarget(joint, port, 0, channels, flips=sign == -1.0, share=0.0)


def _without_refused(state: State, node: Node, joint: Node, found: list[MoveTarget]) -> list[MoveTarget]:
    """Of many places those that are left, as far as it is known which branches refuse their share."""
    going = (node, joint)
    whole = MoveTarget(joint, ~0, 0, 0, flips=False, share=0.0)
    asked = zip(range(len(joint.inputs)), _branches(state, node, whole), strict=False)
    refusing = [port for port, (value, held) in asked if state.bars.refusal(value, held, going)]
    return [place for place in found if not set(refusing) - {place.port}]


def narrow(
    state: State, moving: Candidate, place: MoveTarget, choices: Mapping[str, int] | None = None
) -> Narrowing | Refusal:
    """Try one place.

    Args:
        state: what earlier folds did.
        moving: the BatchNormalization.
        place: one of ``places``.
        choices: replay exactly these choices; None for the first of each.

    Returns:
        The move with what the other branches absorb, or the first refusal.
    """
    attempt = Worklist(state, moving, choices or {}, None if choices is not None else NEAR)
    attempt.deep = False  # what is known of values is known with the joint where it was
    attempt.removed_calls = dict.fromkeys((moving.node, place.joint))
    refusal = attempt.propagate([*_branches(state, moving.node, place), (moving.y, IDENTITY)])
    if refusal is not None:
        return refusal
    return Narrowing(place, attempt.found(Split.UP))


def _branches(state: State, node: Node, place: MoveTarget) -> Iterator[tuple[str, Reparam]]:
    """What each input of the joint is to be held as."""
    a, c, axes = state.current(node)
    rule = state.graph.rule(place.joint)
    if isinstance(rule, ConcatSplit):
        start = 0
        for port, n in zip(rule.parts, rule.sizes, strict=True):
            assert n is not None
            cut = slice(start, start + n)
            start += n
            held = IDENTITY if port == place.port else from_backward(axes, a[cut], c[cut])
            yield place.joint.value(port), held
        return
    assert isinstance(rule, WeightedSum)
    scale = from_backward(axes, a, np.zeros_like(a))
    for port, lies in enumerate(rule.operands):
        asked = IDENTITY if port == place.port else lies.from_output(scale)
        assert asked is not None, "an operand is repeated along the channels: ``places`` leaves such sums out"
        yield place.joint.value(port), asked
