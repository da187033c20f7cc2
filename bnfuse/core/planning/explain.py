"""How one decision came about: every way that the planner tried, with all that it met written down.

``explain(graph, plan, names)`` plans once more, with somebody who looks on at the nodes in question: what is
told of a node is the search that decided on it, in the state in which it was decided. There is no second
search. The splits that the planner cut short, because a cheaper one was known, are gone on with in that same
state, no further than the planner went for the one it took.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from msgspec.structs import replace

from bnfuse.core.decisions import Decision, Plan, Split
from bnfuse.core.explanation import AffineFigures, Answer, Asked, Attempt, Choice, Explanation, Step, Trial
from bnfuse.core.graph import Graph, Node, Port
from bnfuse.core.planning.offers import Offer, whole
from bnfuse.core.planning.plan import plan as plan_folds
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.planning.search import Observer, SearchResult, Tried, try_split
from bnfuse.core.planning.state import State
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Current, Joint, Rule


def explain(graph: Graph, plan: Plan, names: Collection[str]) -> tuple[Explanation, ...]:
    """Explain the decisions on these candidates, in graph order.

    Args:
        graph: the model as core sees it.
        plan: a plan made for it.
        names: names of candidates; others are passed over.

    Raises:
        AssertionError: the plan does not belong to this graph.
    """
    witnesses = {node.name: _Recorder() for node in graph.candidates if node.name in names}
    again = plan_folds(graph, plan.banned, witnesses).plan
    if again != plan:
        raise AssertionError("the plan does not fit the graph: planning it again decides otherwise")
    return tuple(
        _explained(graph, node, decision, witnesses[node.name])
        for node, decision in zip(graph.candidates, plan.decisions, strict=True)
        if node.name in witnesses
    )


def _explained(graph: Graph, node: Node, decision: Decision, seen: _Recorder) -> Explanation:
    rule = graph.rule(node)
    if not isinstance(rule, Affine):
        return Explanation(decision, None, None, (), ())
    numbers = _numbers((*rule.pair, rule.axes)) if rule.pair[0].size else None
    then = seen.numbers if seen.numbers != numbers else None
    return Explanation(decision, numbers, then, seen.absorbed, tuple(seen.trials))


def _numbers(current: Current) -> AffineFigures:
    a, c = np.broadcast_arrays(current[0], current[1])
    size = np.abs(a)
    return AffineFigures(
        channels=int(a.size),
        positive=int(np.count_nonzero(a > 0)),
        negative=int(np.count_nonzero(a < 0)),
        zero=int(np.count_nonzero(a == 0)),
        least=float(size.min()),
        most=float(size.max()),
        shifted=int(np.count_nonzero(c)),
        largest_shift=float(np.abs(c).max()),
    )


class _Observed(Worklist):
    """An attempt that writes down what it meets."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.steps: list[Step] = []
        self.described: list[Choice] = []

    def outcome(self, refusal: Refusal | None, split: Split) -> Attempt:
        """The attempt in short."""
        told = None if refusal is None else replace(refusal, split=split.value)
        return Attempt(tuple(self.described), len(self.touched), told)

    def _react(self, node: Node, port: Port, rule: Rule, held: Reparam) -> Refusal | None:
        edits, asked = len(self.edits), len(self.asked)
        refusal = super()._react(node, port, rule, held)
        absorbs, passes = len(self.edits) > edits, len(self.asked) > asked
        self._write_down(node, node.value(port), held, refusal, absorbs, passes)
        return refusal

    def _settle(self, node: Node) -> Refusal | None:
        rule = self.state.rule(node)
        assert isinstance(rule, Joint)
        known = {port: self.held[value] for port, value in node.ports() if value in self.held}
        takers = rule.takers(node, known)
        refusal = super()._settle(node)
        _, taken, of = self.choices[-1]
        if of > 1:
            taker = "all inputs alike" if taken == of else node.value(takers[taken])
            self.described.append(Choice(node.name, node.op, taker, taken, of))
        port, held = next((p, h) for p, h in known.items() if not h.is_identity)
        self._write_down(node, node.value(port), held, refusal, absorbs=False, passes=True)
        return refusal

    def _write_down(
        self, node: Node, value: str, held: Reparam, refusal: Refusal | None, absorbs: bool, passes: bool
    ) -> None:
        answer = {
            (True, False): Answer.ABSORBS,
            (True, True): Answer.ABSORBS_AND_PASSES,
            (False, True): Answer.PASSES,
            (False, False): Answer.NO_MATTER,
        }[absorbs, passes]
        if node in self.state.removed:
            answer = Answer.GONE
        elif refusal is not None and refusal.node == node.label:
            answer = Answer.REFUSES
        asked = Asked(held.scales, held.shifts, held.negative, held.size)
        self.steps.append(Step(node.name, node.op, value, asked, answer))


class _Recorder(Observer):
    """Looks on while the ways to remove one node are tried, and writes them down."""

    worklist = _Observed

    def __init__(self) -> None:
        self.numbers: AffineFigures | None = None
        self.absorbed: tuple[str, ...] = ()
        self.trials: list[Trial] = []
        self._by_split: dict[Split, Trial] = {}
        self._searches: list[list[tuple[_Observed, Refusal | None]]] = []

    def begins(self, state: State, node: Node) -> None:
        """Forget what an earlier round tried."""
        self.numbers = _numbers(state.current(node))
        self.absorbed = tuple(dict.fromkeys(state.folded.get(node, ())))
        self._by_split.clear()
        self._searches.clear()

    def searches(self) -> None:
        """A row of attempts begins."""
        self._searches.append([])

    def ran(self, run: Worklist, refusal: Refusal | None) -> None:
        """One of them is over."""
        assert isinstance(run, _Observed)
        self._searches[-1].append((run, refusal))

    def tried(self, tried: Tried) -> None:
        """A split was gone through; further away it may be again."""
        self._by_split[tried.split] = _trial(tried, self._row_of(tried))
        self._searches.clear()

    def _row_of(self, tried: Tried) -> list[tuple[_Observed, Refusal | None]]:
        """The attempts that led to the result: the first row whose last one made its choices."""
        if tried.propagation is None:
            return self._searches[0]
        choices = tried.propagation.choices
        return next(row for row in self._searches if row[-1][0].taken == choices)

    def decided(self, state: State, offer: Offer, found: SearchResult) -> None:
        """Go on with what was cut short, then put the splits in order."""
        every = list(offer.splits())
        for split in every:
            trial = self._by_split.get(split)
            if trial is None or (trial.refusal is not None and trial.refusal.reason is Reason.TOO_FAR):
                with state.aside():
                    try_split(state, offer, split, found.reach, self)
        taken = None if found.best is None else found.best.split
        self.trials = [replace(self._by_split[split], taken=split is taken) for split in every]


def _trial(tried: Tried, row: list[tuple[_Observed, Refusal | None]]) -> Trial:
    attempts = tuple(run.outcome(refusal, tried.split) for run, refusal in row)
    run = row[-1][0]
    if tried.propagation is None:
        furthest = max((run for run, _ in row), key=lambda run: len(run.touched))
        run = _on_foot(furthest, tried.split) if furthest.deep or furthest.hubs else furthest
    return Trial(
        split=tried.split,
        taken=False,
        attempts=attempts,
        steps=tuple(run.steps),
        refusal=tried.refusal,
        into=tried.propagation.into if tried.propagation is not None else (),
        through=tried.propagation.through if tried.propagation is not None else (),
        makes=tried.makes,
    )


def _on_foot(run: _Observed, split: Split) -> _Observed:
    """The same attempt on foot: others refuse where that is known of a value's class, or of a way from it."""
    walk = _Observed(run.state, run.wanted, run.fixed, run.limit, shares=run.shares)
    walk.deep = walk.leads = False
    assert run.wanted is not None, "what is explained is a node that is to go"
    offer = whole(run.state, run.wanted)
    with run.state.aside():
        offer.begin(walk, *offer.held(split))
    return walk
