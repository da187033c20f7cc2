"""The ways to remove one node, in the order in which they are tried.

    split    which share of y = a·x + c the one tensor takes on (``splits``)
    reach    near by first, then further and further: on a long residual stream one split is usually settled
             within a few nodes, while another would go all the way
    choices  which way a shift takes at each sum, depth first, the last one first, up to a bound; where all of
             them ask some value for two things, the branches of a sum may begin in one value: then each
             takes the same share
    biasless linear ops that would need a node for their bias pass the shift on instead, where that can be
    bounds   where nothing else goes, activations become clamps with other bounds (``clamp``)

``removal`` is what the planner follows; an ``Observer`` may look on, and ask for more of the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.core.decisions import Split
from bnfuse.core.graph import Node
from bnfuse.core.planning.offers import Offer
from bnfuse.core.planning.propagate import NEAR, Worklist
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.planning.worth import made_nodes, objection
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam
from bnfuse.core.rules.linear_rule import Linear

# Attempts per split and reach: enough for every routing past a handful of sums.
MAX_ATTEMPTS = 64

# Each attempt asks all inputs of a sum: where one has more than so many, fewer attempts make the same work.
_MANY_WAYS = 72

# How many linear ops of one attempt are tried without a bias of their own.
_MOST_BIASLESS = 8


class Tried(Struct, frozen=True, eq=False):
    """What came of one split within a reach.

    Attributes:
        split: the split.
        propagation: the attempt that went through, if one did.
        makes: how many nodes it would have to make.
        refusal: why the split is not to be had; None where it is.
    """

    split: Split
    propagation: Propagation | None
    makes: int
    refusal: Refusal | None


class SearchResult(Struct, frozen=True, eq=False):
    """What came of all splits: the cheapest (if any), what others were told, and how far they were tried."""

    best: Propagation | None
    refusals: tuple[Refusal, ...]
    reach: int


class Observer:
    """Looks on while the ways to remove a node are tried; this one sees nothing."""

    worklist: type[Worklist] = Worklist  # what runs an attempt

    def begins(self, state: State, node: Node) -> None:
        """The search for a node begins (again: only the last one counts)."""

    def searches(self) -> None:
        """The choices of a split are gone through: at first, or with one linear op more without a bias."""

    def ran(self, run: Worklist, refusal: Refusal | None) -> None:
        """One attempt is over."""

    def tried(self, tried: Tried) -> None:
        """A split was gone through within a reach."""

    def decided(self, state: State, offer: Offer, found: SearchResult) -> None:
        """The search is over; nothing was changed yet."""


def cheapest(state: State, offer: Offer, observer: Observer, *, far: bool = True) -> SearchResult:
    """The way that makes and touches the fewest nodes; not ``far``: near by alone.

    What is tried after a first success must touch fewer nodes than that one.
    """
    best: Tried | None = None
    touched = 0  # by the best
    refusals: dict[Split, Refusal] = {}
    observer.begins(state, offer.node)
    open_splits: Iterable[Split] = offer.splits()
    reach = NEAR
    while True:
        too_far: list[Split] = []
        for split in open_splits:
            limit = reach if best is None or best.makes else min(reach, touched - 1)
            if limit <= 0:
                break
            tried = try_split(state, offer, split, limit, observer)
            if tried.refusal is not None:
                refusals[split] = tried.refusal
                if tried.refusal.reason is Reason.TOO_FAR:
                    too_far.append(split)
            elif tried.propagation is not None:
                size = len(tried.propagation.touched)
                if best is None or (tried.makes, size) < (best.makes, touched):
                    best, touched = tried, size
        if best is not None or not too_far or not far:
            break
        open_splits = too_far
        reach *= 8
    found = SearchResult(None if best is None else best.propagation, tuple(refusals.values()), reach)
    observer.decided(state, offer, found)
    return found


def removal(
    state: State, offer: Offer, observer: Observer, *, moves_bounds: bool, refused: bool = False
) -> SearchResult:
    """The cheapest way; where there is none, and bounds may move, the cheapest past activations that change.

    What was ``refused`` before with the activations as they are is tried near by alone once more: the way
    of such a refusal may be long, where one past an activation that changes is short.

    A refusal is the one that was met last.
    """
    state.moves_bounds = False
    found = cheapest(state, offer, observer, far=not refused)
    if found.best is not None or not moves_bounds:
        return found
    state.moves_bounds = True
    return cheapest(state, offer, observer)


def try_split(state: State, offer: Offer, split: Split, limit: int, observer: Observer) -> Tried:
    """One split, all choices, within a reach of so many nodes."""
    outcome = _attempt(state, offer, split, limit, observer)
    if isinstance(outcome, Refusal):
        tried = Tried(split, None, 0, outcome)
    else:
        found, makes = outcome
        tried = Tried(split, found, makes, objection(state, offer, found, makes))
    observer.tried(tried)
    return tried


def _attempt(
    state: State, offer: Offer, split: Split, limit: int, observer: Observer
) -> tuple[Propagation, int] | Refusal:
    """One split, and how many nodes it makes: linear ops without a bias pass the shift on, where they can."""
    found = _search(state, offer, split, limit, observer, offer.fixed)
    if isinstance(found, Refusal):
        return found
    makers = made_nodes(state, found)
    if not makers:
        return found, 0
    biasless = offer.fixed
    fewest, tried = len(makers), set[Node]()
    while len(tried) < _MOST_BIASLESS:
        linears = (
            node for node in makers if isinstance(state.graph.rule(node), Linear) and node not in tried
        )
        linear = next(linears, None)
        if linear is None:
            break
        tried.add(linear)
        without = {**biasless, linear.name: 1}
        other = _search(state, offer, split, limit, observer, without)
        if isinstance(other, Propagation) and len(others := made_nodes(state, other)) <= len(makers):
            makers, biasless = others, without  # what comes to the next one may go on from there
            if len(makers) < fewest:
                found, fewest = other, len(makers)
    return found, fewest


def _search(
    state: State,
    offer: Offer,
    split: Split,
    limit: int,
    observer: Observer,
    biasless: Mapping[str, int],
) -> Propagation | Refusal:
    """The first choices that go through, or why none do: the first refusal of the first attempt."""
    x_held, y_held = offer.held(split)
    first: Refusal | None = None
    fixed = biasless
    observer.searches()
    for tried in count(1):
        run = observer.worklist(state, offer.wanted, fixed, limit)
        refusal = offer.begin(run, x_held, y_held)
        observer.ran(run, refusal)
        if refusal is None:
            return run.found(split, offer.node)
        following = next_choices(run.choices)
        if first is None:
            first = replace(refusal, split=split.value)
            alone = None if following is None else _scale_refused(state, offer, limit, x_held, y_held)
            if alone is not None:
                return replace(alone, split=split.value)
        if following is None or run.over or tried >= _most_attempts(run):
            break
        fixed = {**biasless, **following}
    assert first is not None
    if first.reason is Reason.CONFLICT and limit <= NEAR:
        run = observer.worklist(state, offer.wanted, biasless, limit, shares=True)
        refusal = offer.begin(run, x_held, y_held)
        observer.ran(run, refusal)
        if refusal is None:
            return run.found(split, offer.node)
    if following is not None and first.reason is not Reason.TOO_FAR:  # further away it may be seen whole
        reason = Reason.TOO_LARGE if run.over else Reason.TOO_MANY_CHOICES
        return Refusal(reason, run.first_choice, split=split.value)
    return first


def _most_attempts(run: Worklist) -> int:
    """By the most choices that a joint left."""
    widest = max((ways for *_, ways in run.choices), default=1)
    return max(1, MAX_ATTEMPTS * _MANY_WAYS // max(widest, _MANY_WAYS))


def _scale_refused(
    state: State, offer: Offer, limit: int, x_held: Reparam, y_held: Reparam
) -> Refusal | None:
    """Whether the scales alone are refused: then no way of the shift helps."""
    run = Worklist(state, offer.wanted, {}, limit)
    refusal = offer.begin(run, x_held.scale_only, y_held.scale_only)
    return None if run.routes_scales else refusal


def next_choices(choices: list[tuple[str, int, int]]) -> dict[str, int] | None:
    """The next combination in depth-first order, None when all were tried."""
    for last in range(len(choices) - 1, -1, -1):
        name, chosen, count = choices[last]
        if chosen + 1 < count:
            return {**{n: c for n, c, _ in choices[:last]}, name: chosen + 1}
    return None
