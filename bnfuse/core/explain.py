"""How one decision came about: every split tried again, with all that it met written down.

``explain(graph, plan, names)`` replays the plan's folds up to the decision in question (all of them for
a node that stays, since it was refused once nothing more went) and runs that node's attempts anew with
an observer. The planner itself records nothing and pays nothing.

Does not decide: a split that was taken is replayed with the plan's own choices, the others are searched
as ``spread`` searches them, near first. Where a node goes, its other splits are followed no further than
``FAR`` nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from bnfuse.core.affine import Reparam
from bnfuse.core.affine_rule import Affine
from bnfuse.core.decisions import Decision, Fold, Plan, Split
from bnfuse.core.explanation import Answer, Asked, Attempt, Choice, Explanation, Numbers, Step, Trial
from bnfuse.core.graph import Graph, Node, Port
from bnfuse.core.ops import Current, Joint, Rule
from bnfuse.core.plan import made_nodes, objection
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.splits import holdings, splits
from bnfuse.core.spread import MAX_ATTEMPTS, NEAR, Worklist, next_choices, scale_refused, spread
from bnfuse.core.state import Spread, State

# How many nodes away the splits that were not taken are followed.
FAR = NEAR * 64


def explain(graph: Graph, plan: Plan, names: Collection[str]) -> tuple[Explanation, ...]:
    """Explain the decisions on these candidates, in graph order.

    Args:
        graph: the model as core sees it.
        plan: a plan made for it.
        names: names of candidates; others are passed over.

    Raises:
        AssertionError: the plan does not belong to this graph.
    """
    wanted = {node.name: node for node in graph.candidates if node.name in names}
    decisions = {d.node: d for d in plan.decisions if d.node in wanted}
    state = State(graph)
    by_name = {node.name: node for node in graph.candidates}
    found: dict[str, Explanation] = {}
    for fold in plan.order:
        node = by_name[fold.node]
        if fold.node in wanted:
            found[fold.node] = _explained(state, node, fold)
        outcome = spread(state, node, fold.split, choices=dict(fold.choices))
        if isinstance(outcome, Refusal):
            raise AssertionError(f"the plan does not fit the graph: {outcome.sentence}")
        state.accept(outcome)
    for name, node in wanted.items():
        if name not in found:
            found[name] = _explained(state, node, decisions[name])
    return tuple(found[name] for name in wanted)


def _explained(state: State, node: Node, decision: Decision) -> Explanation:
    rule = state.graph.rule(node)
    if not isinstance(rule, Affine):
        return Explanation(decision, None, None, (), ())
    stored = (*rule.pair, rule.axes)
    numbers = _numbers(stored) if rule.pair[0].size else None
    if rule.broken is not None:
        return Explanation(decision, numbers, None, (), ())
    now = state.affine(node)
    then = _numbers(now)
    trials = tuple(_trial(state, node, split, decision) for split in splits(now[0], now[1]))
    absorbed = tuple(dict.fromkeys(state.folded.get(node, ())))
    return Explanation(decision, numbers, then if then != numbers else None, absorbed, trials)


def _numbers(current: Current) -> Numbers:
    a, c = np.broadcast_arrays(current[0], current[1])
    size = np.abs(a)
    return Numbers(
        channels=int(a.size),
        positive=int(np.count_nonzero(a > 0)),
        negative=int(np.count_nonzero(a < 0)),
        zero=int(np.count_nonzero(a == 0)),
        least=float(size.min()),
        most=float(size.max()),
        shifted=int(np.count_nonzero(c)),
        largest_shift=float(np.abs(c).max()),
    )


def _trial(state: State, node: Node, split: Split, decision: Decision) -> Trial:
    """One split as the planner tried it: near first, then further and further."""
    if isinstance(decision, Fold) and decision.split is split:
        run = _Observed(state, node, dict(decision.choices), None)
        refusal = run.begin(split)
        return _told(run, split, [run.outcome(refusal, split)], refusal, taken=True)
    reach = NEAR
    while True:
        trial = _searched(state, node, split, reach)
        far = trial.refusal is not None and trial.refusal.reason is Reason.TOO_FAR
        if not far or (isinstance(decision, Fold) and reach >= FAR):
            return trial
        reach *= 8


def _searched(state: State, node: Node, split: Split, limit: int) -> Trial:
    """All attempts of a split within a reach, in the order of ``spread``."""
    fixed: dict[str, int] = {}
    attempts: list[Attempt] = []
    furthest: _Observed | None = None
    while True:
        run = _Observed(state, node, fixed, limit)
        refusal = run.begin(split)
        attempts.append(run.outcome(refusal, split))
        if refusal is None:
            found = run.as_spread(split)
            return _told(run, split, attempts, objection(state, found, len(made_nodes(state, found))))
        if furthest is None or len(run.touched) > len(furthest.touched):
            furthest = run
        following = next_choices(run.choices)
        alone = None if fixed or following is None else run.scale_refused(split)
        if following is None or alone is not None or len(attempts) == MAX_ATTEMPTS:
            walked = _walked(furthest, split) if furthest.deep else furthest
            return _told(walked, split, attempts, alone or attempts[0].refusal)
        fixed = following


def _walked(run: _Observed, split: Split) -> _Observed:
    """The same attempt on foot: far attempts refuse where a value's class is known to, before any node."""
    walk = _Observed(run.state, run.node, run.fixed, run.limit)
    walk.deep = False
    walk.begin(split)
    return walk


def _told(
    run: _Observed, split: Split, attempts: list[Attempt], refusal: Refusal | None, *, taken: bool = False
) -> Trial:
    through = attempts[-1].refusal is None
    made = run.as_spread(split)
    return Trial(
        split=split,
        taken=taken,
        attempts=tuple(attempts),
        steps=tuple(run.steps),
        refusal=refusal,
        into=made.into if through else (),
        through=made.through if through else (),
    )


class _Observed(Worklist):
    """An attempt that writes down what it meets."""

    def __init__(self, state: State, node: Node, fixed: Mapping[str, int], limit: int | None) -> None:
        super().__init__(state, node, fixed, limit)
        self.steps: list[Step] = []
        self.described: list[Choice] = []

    def begin(self, split: Split) -> Refusal | None:
        """Spread the demands of a split."""
        return self.run(self._in_port, *self._holdings(split))

    def scale_refused(self, split: Split) -> Refusal | None:
        """Why the scales alone are refused, so that no other choice helps; None where they are not."""
        refusal = scale_refused(self.state, self.node, self.limit, *self._holdings(split))
        return None if refusal is None else replace(refusal, split=split.value)

    def as_spread(self, split: Split) -> Spread:
        """The attempt as ``spread`` would hand it out."""
        taken = tuple((name, chosen) for name, chosen, _ in self.choices)
        return Spread(self.node, split, tuple(self.edits), tuple(self.touched), taken)

    def outcome(self, refusal: Refusal | None, split: Split) -> Attempt:
        """The attempt in short."""
        told = None if refusal is None else replace(refusal, split=split.value)
        return Attempt(tuple(self.described), len(self.touched), told)

    @property
    def _in_port(self) -> Port:
        rule = self.graph.rule(self.node)
        assert isinstance(rule, Affine)
        return rule.in_port

    def _holdings(self, split: Split) -> tuple[Reparam, Reparam]:
        a, c, axes = self.state.affine(self.node)
        return holdings(split, axes, a, c)

    def _react(self, node: Node, port: Port, rule: Rule, held: Reparam) -> Refusal | None:
        edits, asked = len(self.edits), len(self.asked)
        refusal = super()._react(node, port, rule, held)
        absorbs, passes = len(self.edits) > edits, len(self.asked) > asked
        self._write_down(node, node.value(port), held, refusal, absorbs, passes)
        return refusal

    def _settle(self, node: Node) -> Refusal | None:
        rule = self.state.rule(node)
        assert isinstance(rule, Joint)
        known = {port: self.held[value] for port, value in _ports(node) if value in self.held}
        takers = rule.takers(node, known)
        refusal = super()._settle(node)
        _, taken, of = self.choices[-1]
        if takers and of > 1:
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
        if node in self.state.removed and isinstance(self.graph.rule(node), Affine):
            answer = Answer.GONE
        elif refusal is not None and refusal.node == node.label:
            answer = Answer.REFUSES
        asked = Asked(held.scales, held.shifts, held.negative, held.size)
        self.steps.append(Step(node.name, node.op, value, asked, answer))


def _ports(node: Node) -> list[tuple[Port, str]]:
    """Every port of a node with its value, inputs first."""
    inputs = [(i, value) for i, value in enumerate(node.inputs) if value]
    return inputs + [(~j, value) for j, value in enumerate(node.outputs) if value]
