"""Which affine nodes go, and how: ``plan(graph) -> Planned``.

Every candidate is offered the splits of ``splits``; the one that touches the fewest nodes wins (``search``).
What was refused is offered again after the others have gone, until nothing more goes: a fold changes what its
neighbours look like. At first no candidate may hand what it holds to another that still waits, which
could make that one's signs worse; only when nothing more goes that way may it. And only then may activations
become clamps with other bounds (``clamp``).

A BatchNormalization goes if the graph does not grow by it; a decomposed affine only if the graph shrinks.
One that cannot go stays whole, unless moving it onto a part of its input is a clear gain (``narrow``), or no
BatchNormalization is to be left: then it goes by a constant channel (``constant_channel``), or its map stays
as arithmetic, where the format can write that.

Decisions are taken on the actual numbers. A fold whose new weights would not fit their dtype is
refused here when that can be told without reading all weights of the model (float16, bfloat16 and
extreme factors are checked exactly); ``banned`` takes the rare rest, which the writer finds.

Nothing is changed: the plan is pure data, in graph order and deterministic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np
from msgspec.structs import replace

from bnfuse.core.apply import Planned
from bnfuse.core.decisions import Decision, Equalized, Fold, Keep, Narrowed, Part, Plan, Settled, Split
from bnfuse.core.graph import Graph, Node
from bnfuse.core.planning.effort import set_aside
from bnfuse.core.planning.narrow import narrow, places
from bnfuse.core.planning.offers import Offer, whole
from bnfuse.core.planning.search import Observer, removal
from bnfuse.core.planning.settle import settle, settle_again
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.planning.worth import made_nodes, objection
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.rules.affine import Affine, Candidate, candidate
from bnfuse.core.rules.base import Opaque
from bnfuse.core.rules.clamp import Clamp

_NOBODY = Observer()


@np.errstate(all="ignore")  # what overflows on the way is refused where it would be stored
def plan(
    graph: Graph,
    banned: Collection[str] = (),
    observers: Mapping[str, Observer] | None = None,
    *,
    equalizes: bool = False,
) -> Planned:
    """Decide for every candidate of a graph.

    Args:
        graph: the model as core sees it.
        banned: names of candidates to keep because their fold overflowed when it was written.
        observers: who looks on while the ways to remove a candidate are tried, by its name.
        equalizes: whether channels are rescaled in the end, for those who quantise the result.
    """
    state = State(graph, effort=set_aside(graph))
    decisions: dict[Node, Decision] = {}
    order: list[Fold] = []
    left = list(graph.candidates)
    protect_waiting = True  # whether other candidates are spared what would make it harder for them
    moves_bounds = False  # whether activations may change, so that more goes
    while left:
        tried, left = left, []
        state.waiting = set(tried) if protect_waiting else set()
        for node in tried:
            state.waiting.discard(node)
            observer = observers.get(node.name, _NOBODY) if observers else _NOBODY
            decisions[node] = decision = _decide(state, node, banned, observer, moves_bounds=moves_bounds)
            if isinstance(decision, Fold):
                order.append(decision)
            else:
                left.append(node)
                if protect_waiting:
                    state.waiting.add(node)
        progress = len(left) < len(tried) and not state.effort.is_over
        if not progress and not protect_waiting:
            if moves_bounds or not graph.moves_bounds or not _has_clamps(graph):
                break
            moves_bounds = protect_waiting = True
            continue
        protect_waiting = progress
    state.waiting, state.moves_bounds = set(), False
    for node, decision in decisions.items():
        if isinstance(decision, Keep) and graph.no_batchnorms:
            decisions[node] = made = _by_channel(state, node, decision, banned)
            if isinstance(made, Fold):
                order.append(made)
            else:
                decisions[node] = _as_arithmetic(state, node, decision)
        elif isinstance(decision, Keep) and node.name not in banned:
            decisions[node] = _narrowed(state, node, decision)
    state.waiting = set(state.narrowed)
    settled = settle(state, _left(graph, decisions, banned), partial(_goes, state), _becomes)
    state.waiting = set()
    _tell(state, decisions, settled)
    state.effort = set_aside(graph) if equalizes else state.effort  # as much again
    equalized = _equalized(state) if equalizes else None
    decided = tuple(decisions[node] for node in graph.candidates)
    return Planned(Plan(decided, tuple(order), equalized, settled), state)


def _occupied(state: State) -> set[Node]:
    """What was moved, or has a constant channel: it takes nothing on."""
    return {*state.narrowed, *(node for found in state.channels for node in (found.writer, *found.readers))}


def _equalized(state: State, most: int | None = None) -> Equalized | None:
    """Rescale what is free."""
    from bnfuse.core.quantising.equalize import equalize

    state.waiting = _occupied(state)
    try:
        return equalize(state, most)
    finally:
        state.waiting = set()


def _has_clamps(graph: Graph) -> bool:
    """Whether an activation may change."""
    return any(graph.rule(node).plain is not graph.rule(node) for node in graph.nodes)


def _decide(
    state: State, node: Node, banned: Collection[str], observer: Observer, *, moves_bounds: bool
) -> Decision:
    rule = state.graph.rule(node)
    if not isinstance(rule, Affine):
        opaque = rule if isinstance(rule, Opaque) else Opaque()
        refusal = Refusal(opaque.reason, node.label, detail=opaque.detail)
        return Keep(node.name, node.op, node.is_batchnorm, None, (refusal,))
    channels = int(rule.pair[0].size)
    if rule.broken is not None:
        return Keep(node.name, node.op, node.is_batchnorm, channels or None, (rule.broken,))
    if node.name in banned:
        refusal = Refusal(Reason.OVERFLOW, node.label, detail="their dtype")
        return Keep(node.name, node.op, node.is_batchnorm, channels, (refusal,))
    offer = whole(state, Candidate(node, rule))
    # Bounds move once nothing else goes any more.
    found = removal(state, offer, observer, moves_bounds=moves_bounds, refused=moves_bounds)
    best = found.best
    if best is None:
        return Keep(node.name, node.op, node.is_batchnorm, channels, found.refusals)
    state.accept(best)
    return Fold(
        node.name,
        node.op,
        node.is_batchnorm,
        channels,
        best.split,
        best.into,
        best.through,
        best.choices,
        _becomes(state, best),
    )


def _becomes(state: State, found: Propagation) -> tuple[tuple[str, str], ...]:
    """What the activations that it changes turn into, by name."""
    if not state.graph.moves_bounds:
        return ()
    rules = ((node, state.graph.rule(node), edit.pair) for node, edit in found.edits)
    return tuple(
        (node.name, " and ".join(rule.operators(*pair)))
        for node, rule, pair in rules
        if isinstance(rule, Clamp)
    )


def _by_channel(state: State, node: Node, kept: Keep, banned: Collection[str]) -> Decision:
    """A fold by a constant channel, where a BatchNormalization can go so; the same decision where not."""
    rule = state.graph.rule(node)
    if (
        not node.is_batchnorm
        or not isinstance(rule, Affine)
        or rule.broken is not None
        or node.name in banned
    ):
        return kept
    from bnfuse.core.planning.constant_channel import constant_channel

    found = constant_channel(state, Candidate(node, rule))
    if found is None:
        return kept
    state.accept_channel(found)
    made = found.propagation
    wider = ((found.writer.name, "one channel wider"),) if found.added else ()
    channels = int(rule.pair[0].size)
    return Fold(node.name, node.op, True, channels, made.split, made.into, made.through, (), wider)


def _as_arithmetic(state: State, node: Node, kept: Keep) -> Keep:
    """The same decision, in another form where it is about a BatchNormalization."""
    rule = state.graph.rule(node)
    if not node.is_batchnorm or not isinstance(rule, Affine) or rule.broken is not None:
        return kept
    becomes = state.graph.arithmetic(node, state.current(node)[:2])
    if isinstance(becomes, Refusal):
        return replace(kept, refusals=(becomes, *kept.refusals))
    state.spell(node)
    return replace(kept, becomes=becomes)


def _goes(state: State, offer: Offer) -> Propagation | None:
    return removal(state, offer, _NOBODY, moves_bounds=state.graph.moves_bounds).best


def _left(graph: Graph, decisions: Mapping[Node, Decision], banned: Collection[str]) -> list[Candidate]:
    """Whoever stays, and could go as far as its own numbers tell."""
    stay = (n for n, decision in decisions.items() if isinstance(decision, Keep) and n.name not in banned)
    rules = ((node, graph.rule(node)) for node in stay)
    return [Candidate(n, rule) for n, rule in rules if isinstance(rule, Affine) and rule.broken is None]


def _tell(state: State, decisions: dict[Node, Decision], settled: Sequence[Settled]) -> None:
    """Put down what became of nodes, and of parts of them, in the end."""
    steps: dict[str, tuple[Settled, ...]] = {}
    for step in settled:
        steps[step.node] = (*steps.get(step.node, ()), step)
    for node, kept in decisions.items():
        mine = steps.get(node.name, ())
        whole = next((step for step in mine if step.part is Part.WHOLE), None)
        if whole is not None:
            how = (whole.split, whole.into, whole.through, whole.choices, whole.becomes)
            decisions[node] = Fold(kept.node, kept.op, kept.is_batchnorm, kept.channels or 0, *how)
        elif isinstance(kept, Keep) and kept.becomes:
            becomes = state.graph.arithmetic(node, state.current(node)[:2])
            assert not isinstance(becomes, Refusal), "a part is written where the whole could be"
            decisions[node] = replace(kept, becomes=becomes, settled=mine)


def _narrowed(state: State, node: Node, kept: Keep) -> Keep:
    """The same decision, on a part of the work where that is a clear gain."""
    if not isinstance(state.graph.rule(node), Affine):
        return kept
    moving = candidate(state.graph, node)
    for place in places(state, moving):
        found = narrow(state, moving, place)
        if isinstance(found, Refusal) or made_nodes(state, found.propagation):
            continue
        if objection(state, whole(state, moving), found.propagation, 0):
            continue
        state.accept_narrowing(found)
        propagation = found.propagation
        left = place.stop - place.start
        narrowed = Narrowed(
            place.joint.name, place.port, left, propagation.into, propagation.through, propagation.choices
        )
        return replace(kept, narrowed=narrowed)
    return kept


@np.errstate(all="ignore")  # what overflows on the way is refused where it would be stored
def replay(graph: Graph, plan: Plan) -> Planned:
    """The state after a plan's folds, from the plan alone: they are made anew in its order, with its choices.

    Raises:
        AssertionError: the plan does not belong to this graph.
    """
    from bnfuse.core.planning.constant_channel import constant_channel
    from bnfuse.core.planning.retrace import retrace

    state = State(graph, moves_bounds=True)  # which answers the same to whatever leaves them as they are
    by_name = {node.name: node for node in graph.candidates}
    for fold in plan.order:
        if fold.split is Split.CONSTANT:
            channel = constant_channel(state, candidate(graph, by_name[fold.node]))
            assert channel is not None, f"the plan does not fit the graph: {fold.node}"
            state.accept_channel(channel)
            continue
        offer = whole(state, candidate(graph, by_name[fold.node]))
        found = retrace(state, offer, fold.split, dict(fold.choices))
        if isinstance(found, Refusal):
            raise AssertionError(f"the plan does not fit the graph: {found.sentence}")
        state.accept(found)
    state.moves_bounds = False
    for name, wanted in plan.narrowed:
        moving = candidate(graph, by_name[name])
        (place,) = [p for p in places(state, moving) if p.port == wanted.port]
        move = narrow(state, moving, place, dict(wanted.choices))
        if isinstance(move, Refusal):
            raise AssertionError(f"the plan does not fit the graph: {move.sentence}")
        state.accept_narrowing(move)
    gone = {step.node for step in plan.settled} if graph.no_batchnorms else set()  # after they were spelled
    for node in graph.candidates:
        if node.name in plan.arithmetic or (node.is_batchnorm and node.name in gone):
            state.spell(node)
    state.moves_bounds, state.waiting = True, set(state.narrowed)
    settle_again(state, plan.settled)
    state.moves_bounds, state.waiting = False, set()
    if plan.rescaled:
        _equalized(state, len(plan.rescaled))
    return Planned(plan, state)
