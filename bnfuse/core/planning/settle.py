"""What is left when all is folded that goes as a whole: parts of nodes that stay, as far as they go.

A BatchNormalization that stays as a product and a sum (``Graph.no_batchnorms``) is two nodes, each of which
may go though both cannot. A linear op that took on a shift and can store no bias is followed by a sum, which
may go on since more has gone behind it. Both are tried until nothing more goes, and whoever stayed as a
whole with them, so that another run finds nothing.

It does not act where fewer nodes are not to be had: where a format writes y = a·x + c as one node in any
case, and at layers that are called several times. Where a BatchNormalization stays for the digits that its
shift would cost, so does the shift alone; its statistics tell that, and are not in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bnfuse.core.apply import NewLinear
from bnfuse.core.decisions import Part, Settled
from bnfuse.core.graph import Node
from bnfuse.core.planning.offers import Offer, whole
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.reasons import Refusal
from bnfuse.core.rules.affine import Candidate, candidate
from bnfuse.core.rules.linear_rule import Linear

Removal = Callable[[Offer], Propagation | None]  # the cheapest way to let something go
Becomes = Callable[[State, Propagation], tuple[tuple[str, str], ...]]


def settle(
    state: State, left: Sequence[Candidate], removal: Removal, becomes: Becomes
) -> tuple[Settled, ...]:
    """Let all parts go that can, and whoever can go since; the state holds what came of it.

    Args:
        state: where everything was folded that could be, and is in the form in which it stays.
        left: the candidates that stay, but for those of which nothing may go.
        removal: looks for a way.
        becomes: what the activations that an attempt changes turn into, by name.
    """
    done: list[Settled] = []
    progress = True
    while progress:
        progress = False
        for offer in _offers(state, left, bool(done)):
            found = removal(offer)
            if found is None:
                continue
            _accept(state, offer, found)
            done.append(
                Settled(
                    offer.node.name, offer.node.op, offer.part, found.split, found.into, found.through,
                    found.choices, becomes(state, found),
                )
            )  # fmt: skip
            progress = not state.effort.is_over
    return tuple(done)


def settle_again(state: State, steps: Sequence[Settled]) -> None:
    """The same from what was written down.

    Raises:
        AssertionError: the steps do not belong to this graph.
    """
    from bnfuse.core.planning.retrace import retrace

    by_name = {node.name: node for node in state.graph.nodes} if steps else {}
    for step in steps:
        node = by_name[step.node]
        offer = _offer(state, node, step.part)
        assert offer is not None, f"the plan does not fit the graph: {step.node}"
        found = retrace(state, offer, step.split, dict(step.choices))
        if isinstance(found, Refusal):
            raise AssertionError(f"the plan does not fit the graph: {found.sentence}")
        _accept(state, offer, found)


def _offers(state: State, left: Sequence[Candidate], changed: bool) -> Iterator[Offer]:
    """What could go by now, one after the other: each with the numbers that the others left."""
    changed = changed or bool(state.arithmetic or state.narrowed)
    for wanted in left:
        for part in (Part.SCALE, Part.SHIFT):
            offer = _part(state, wanted.node, part)
            if offer is not None and _pays(state, offer):
                yield offer
        if changed and wanted.node not in state.removed and wanted.node not in state.narrowed:
            yield whole(state, wanted)
    for node in tuple(state.edits):
        offer = _bias(state, node)
        if offer is not None:
            yield offer


def _offer(state: State, node: Node, part: Part) -> Offer | None:
    match part:
        case Part.WHOLE:
            return whole(state, candidate(state.graph, node))
        case Part.BIAS:
            return _bias(state, node)
        case _:
            return _part(state, node, part)


def _part(state: State, node: Node, part: Part) -> Offer | None:
    a, c, axes = state.current(node)
    if (
        node not in state.rules
        or node in state.removed
        or not ((a != 1.0).any() and c.any())
        or node in state.graph.tied
    ):
        return None
    return Offer(node, candidate(state.graph, node), a, c, axes, part)


def _pays(state: State, offer: Offer) -> bool:
    """Whether the format writes what is left with fewer nodes."""
    left = offer.left(next(iter(offer.splits())))
    now, then = (state.graph.arithmetic(offer.node, pair) for pair in ((offer.a, offer.c), left))
    assert not isinstance(now, Refusal), "what cannot be written takes nothing on (``worth``)"
    return not isinstance(then, Refusal) and len(then) < len(now)


def _bias(state: State, node: Node) -> Offer | None:
    """The bias of a linear op for which a node would be made, if it is one."""
    rule = state.graph.rule(node)
    if not isinstance(rule, Linear) or rule.bias is not None or not rule.bias_nodes:
        return None
    rewrite = state.rewrite(node)
    new = NewLinear(None, rule, rewrite, ())
    if not new.makes_bias or node in state.graph.tied:
        return None
    c = new.bias()  # one number where the op has no axis of outputs
    return Offer(node, None, np.ones_like(c), c, (rule.out_axis,), Part.BIAS)


def _accept(state: State, offer: Offer, found: Propagation) -> None:
    """Make it part of the state."""
    match offer.part:
        case Part.WHOLE:
            state.accept(found)
        case Part.BIAS:
            state.accept_bias(found)
        case _:
            state.accept_part(found, offer.left(found.split))
