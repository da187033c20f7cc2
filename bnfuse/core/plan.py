"""Which affine nodes go, and how: ``plan(graph) -> Plan``.

Every candidate is offered the splits of ``splits``; the one that touches the fewest nodes wins. What was
refused is offered again after the others have gone, until nothing more goes: a fold changes what its
neighbours look like. At first no candidate may hand what it holds to another that still waits, which
could make that one's signs worse; only when nothing more goes that way may it.

A BatchNormalization goes if the graph does not grow by it; a decomposed affine only if the graph shrinks.
One that cannot go stays whole, unless moving it onto a part of its input is a clear gain (``narrow``).

Decisions are taken on the actual numbers. A fold whose new weights would not fit their dtype is
refused here when that can be told without reading all weights of the model (float16, bfloat16 and
extreme factors are checked exactly); ``banned`` takes the rare rest, which the writer finds.

Nothing is changed: the result is pure data, in graph order and deterministic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from bnfuse.core.affine_rule import Affine
from bnfuse.core.apply import Replayed, linear_rewrite, overflows
from bnfuse.core.decisions import Decision, Fold, Keep, Narrowed, Plan, Split
from bnfuse.core.graph import Graph, Node
from bnfuse.core.linear_rule import Linear
from bnfuse.core.narrow import narrow, places
from bnfuse.core.ops import Edit, Opaque
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.splits import splits
from bnfuse.core.spread import NEAR, spread
from bnfuse.core.state import Spread, State

# A shift this many times larger than what the tensor holds leaves fewer than 4 of float32's 7 digits.
_MAX_SHIFT = 1e3

# How many linear ops of one attempt are tried without a bias of their own.
_MOST_LEAN = 8


def plan(graph: Graph, banned: Collection[str] = ()) -> Plan:
    """Decide for every candidate of a graph.

    Args:
        graph: the model as core sees it.
        banned: names of candidates to keep because their fold overflowed when it was written.
    """
    state = State(graph)
    decisions: dict[Node, Decision] = {}
    order: list[Fold] = []
    waiting = list(graph.candidates)
    patient = True  # whether other candidates are spared what would make it harder for them
    while waiting:
        state.spared = set(waiting) if patient else set()
        left: list[Node] = []
        for node in waiting:
            state.spared.discard(node)
            decision = _decide(state, node, banned)
            decisions[node] = decision
            if isinstance(decision, Fold):
                order.append(decision)
            else:
                left.append(node)
                if patient:
                    state.spared.add(node)
        progress = len(left) < len(waiting)
        waiting = left
        if not progress and not patient:
            break
        patient = progress
    state.spared = set()
    for node, decision in decisions.items():
        if isinstance(decision, Keep) and node.name not in banned:
            decisions[node] = _narrowed(state, node, decision)
    state.spared = set()
    made = Plan(tuple(decisions[node] for node in graph.candidates), tuple(order))
    graph.replay = Replayed(made, state)
    return made


def _decide(state: State, node: Node, banned: Collection[str]) -> Decision:
    rule = state.graph.rule(node)
    if not isinstance(rule, Affine):
        opaque = rule if isinstance(rule, Opaque) else Opaque()
        refusal = Refusal(opaque.reason, node.label, detail=opaque.detail)
        return Keep(node.name, node.op, node.is_batchnorm, None, (refusal,))
    channels = int(rule.pair[0].size)
    if rule.broken is not None:
        return Keep(node.name, node.op, node.is_batchnorm, channels or None, (rule.broken,))
    if node.name in banned:
        refusals: list[Refusal] = [Refusal(Reason.OVERFLOW, node.label, detail="their dtype")]
        best = None
    else:
        best, refusals = _cheapest(state, node)
    if best is None:
        return Keep(node.name, node.op, node.is_batchnorm, channels, tuple(refusals))
    state.accept(best)
    return Fold(
        node.name, node.op, node.is_batchnorm, channels, best.split, best.into, best.through, best.choices
    )


def _narrowed(state: State, node: Node, kept: Keep) -> Keep:
    """The same decision, on a part of the work where that is a clear gain."""
    for place in places(state, node):
        found = narrow(state, node, place)
        if isinstance(found, Refusal) or made_nodes(state, found.spread) or objection(state, found.spread, 0):
            continue
        state.accept_narrowing(found)
        spread = found.spread
        left = place.stop - place.start
        narrowed = Narrowed(place.joint.name, place.port, left, spread.into, spread.through, spread.choices)
        return replace(kept, narrowed=narrowed)
    return kept


def _cheapest(state: State, node: Node) -> tuple[Spread | None, list[Refusal]]:
    """The accepted attempt that touches the fewest nodes, and what the other splits were told.

    All splits are tried near by first, then further and further: on a long residual stream one of them
    is usually settled within a few nodes, while another would go all the way.
    """
    best: Spread | None = None
    made = 0  # nodes that the best attempt so far must make
    refusals: dict[Split, Refusal] = {}
    a, c, _ = state.affine(node)
    open_splits: Iterable[Split] = splits(a, c)
    reach = NEAR
    while open_splits and best is None:
        far: list[Split] = []
        for split in open_splits:
            limit = reach if best is None or made else min(reach, len(best.touched) - 1)
            if limit == 0:
                break
            outcome = _attempt(state, node, split, limit)
            if isinstance(outcome, Refusal):
                refusals[split] = outcome
                if outcome.reason is Reason.TOO_FAR:
                    far.append(split)
                continue
            makes = len(made_nodes(state, outcome))
            why_not = objection(state, outcome, makes)
            if why_not is not None:
                refusals[split] = why_not
            elif best is None or (makes, len(outcome.touched)) < (made, len(best.touched)):
                best, made = outcome, makes
        open_splits = far
        reach *= 8
    return best, list(refusals.values())


def _attempt(state: State, node: Node, split: Split, limit: int) -> Spread | Refusal:
    """One split. Linear ops that would need a node for their bias pass the shift on, where that can be."""
    found = spread(state, node, split, limit)
    if isinstance(found, Refusal):
        return found
    lean: tuple[str, ...] = ()
    makers = made_nodes(state, found)
    for linear in list(dict.fromkeys(makers))[:_MOST_LEAN]:
        leaner = spread(state, node, split, limit, lean=(*lean, linear.name))
        if isinstance(leaner, Spread) and len(fewer := made_nodes(state, leaner)) < len(makers):
            found, makers, lean = leaner, fewer, (*lean, linear.name)
    return found


def objection(state: State, found: Spread, makes: int) -> Refusal | None:
    """Why an attempt that goes through on paper, making so many nodes, is not worth it or spoils numbers."""
    split = found.split.value
    if makes > (1 if found.node.is_batchnorm else 0):
        return Refusal(Reason.NO_GAIN, found.node.label, split=split)
    lost = _loses_digits(state, found)
    if lost is not None:
        return lost
    for node, edits in _linear_edits(state, found):
        rule = state.graph.rule(node)
        assert isinstance(rule, Linear)
        if overflows(rule, linear_rewrite(rule, edits)):
            return Refusal(Reason.OVERFLOW, node.label, detail=str(rule.weight.dtype), split=split)
    return None


def _linear_edits(state: State, found: Spread) -> Iterable[tuple[Node, list[Edit]]]:
    """All edits, old and new, of each linear op an attempt touches."""
    for node in dict.fromkeys(n for n, _ in found.edits):
        if isinstance(state.graph.rule(node), Linear):
            new = [e for n, e in found.edits if n is node]
            yield node, [*state.edits.get(node, ()), *new]


def made_nodes(state: State, found: Spread) -> list[Node]:
    """The linear ops whose bias must be made as a node of its own, each as often as it needs nodes."""
    made: list[Node] = []
    for node, edit in found.edits:
        rule = state.graph.rule(node)
        if not isinstance(rule, Linear) or rule.bias is not None or not rule.bias_nodes or node in made:
            continue
        if edit.pair[1].any() and not any(e.pair[1].any() for e in state.edits.get(node, ())):
            made.extend([node] * rule.bias_nodes)
    return made


def _loses_digits(state: State, found: Spread) -> Refusal | None:
    """A tensor that others read too must not be shifted by far more than it varies."""
    rule = state.graph.rule(found.node)
    assert isinstance(rule, Affine)
    x = found.node.value(rule.in_port)
    if rule.magnitude is None or sum(1 for _ in state.graph.readers(x)) < 2:
        return None
    a, c, _ = state.affine(found.node)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(c) / (np.abs(a) * rule.magnitude)
    worst = float(np.nanmax(ratio, initial=0.0))
    if found.split.value in ("down", "scale-up") or worst <= _MAX_SHIFT:
        return None
    return Refusal(Reason.PRECISION, found.node.label, x, f"{worst:.0e} times", found.split.value)
