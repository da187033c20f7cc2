"""``inspect --explain`` in words: on a terminal, with rich, and as plain values for JSON.

Every split gets a line with its outcome, the choices that were tried at sums, and a table of the nodes
that its furthest attempt met, in order. Model strings are data: they go through ``text.plain``, and no
line begins with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bnfuse.core.decisions import Fold, Split
from bnfuse.core.explanation import AffineFigures, Asked, Attempt, Explanation, Step, Trial
from bnfuse.report import text
from bnfuse.report.json import decided, refused
from bnfuse.report.terminal import add_row, new_table, say

_MOST_STEPS = 40
_MOST_ATTEMPTS = 6
# What the single tensor that replaces x and y = a·x + c holds.
_HELD = {
    Split.UP: "x is held as a·x + c",
    Split.DOWN: "y is held as (y − c)/a",
    Split.SHIFT_UP: "x is held as sign(a)·x + c/|a|, y as y/|a|",
    Split.SHIFT_UP_SIGNED: "x is held as x + c/a, y as y/a",
    Split.SCALE_UP: "x is held as a·x, y as y − c",
}
_STYLE = {"taken": "green", "possible": "", "refused": "yellow"}


def document(pattern: str, explanations: Sequence[Explanation]) -> dict[str, Any]:
    """The value of ``explanation`` in the JSON report."""
    return {"pattern": pattern, "nodes": [_explained(explanation) for explanation in explanations]}


def print_explanations(explanations: Sequence[Explanation], out: Console, *, verbose: bool = False) -> None:
    """Every explanation, one after the other; long lists are cut unless ``verbose``."""
    for number, explanation in enumerate(explanations):
        if number:
            out.print()
        _print(explanation, out, verbose=verbose)


def _print(explanation: Explanation, out: Console, *, verbose: bool) -> None:
    decision = explanation.decision
    say(out, "node", f"{decision.node} ({decision.op})", "bold")
    style = "green" if isinstance(decision, Fold) else "yellow"
    say(
        out,
        "decision",
        decision.message if isinstance(decision, Fold) else f"kept: {decision.message}",
        style,
    )
    if explanation.numbers is not None:
        _print_numbers(out, "", explanation.numbers)
    if explanation.numbers_then is not None:
        by = text.names(explanation.absorbed) or "earlier folds"
        say(out, "then", f"when this was decided, it had absorbed {by}:")
        _print_numbers(out, " then", explanation.numbers_then)
    if not explanation.trials:
        say(out, "splits", "none was tried, as the node itself is at fault", "dim")
    taken = next((trial for trial in explanation.trials if trial.taken), None)
    for trial in explanation.trials:
        _print_trial(trial, taken, out, verbose=verbose)


def _print_numbers(out: Console, suffix: str, numbers: AffineFigures) -> None:
    signs = f"{numbers.positive} positive, {numbers.negative} negative, {numbers.zero} zero"
    sizes = f"|a| from {numbers.least:.3g} to {numbers.most:.3g}"
    say(out, f"a{suffix}", f"{_count(numbers.channels, 'channel')}: {signs}; {sizes}")
    shifts = f"not 0 in {numbers.shifted} of {_count(numbers.channels, 'channel')}"
    say(out, f"c{suffix}", f"{shifts}; |c| up to {numbers.largest_shift:.3g}")


def _print_trial(trial: Trial, taken: Trial | None, out: Console, *, verbose: bool) -> None:
    what = f"{trial.split.value} ({_HELD[trial.split]}): {_verdict(trial, taken)}"
    say(out, "split", what, _STYLE[_outcome(trial)])
    _print_attempts(trial.attempts, out, verbose=verbose)
    if not trial.steps:
        return
    shown = trial.steps if verbose else trial.steps[:_MOST_STEPS]
    made = new_table("", "node", "operator", "value", "asked to take", "answer", numbers=False)
    for number, step in enumerate(shown, 1):
        add_row(made, str(number), step.node, step.op, step.value, _asked(step.asked), step.answer.value)
    out.print(made)
    if len(trial.steps) > len(shown):
        say(out, "", f"{len(trial.steps) - len(shown)} more nodes: -v shows them all", "dim")


def _print_attempts(attempts: Sequence[Attempt], out: Console, *, verbose: bool) -> None:
    """The ways tried at sums; nothing to say where there was no choice."""
    if not any(attempt.choices for attempt in attempts):
        return
    shown = attempts if verbose else attempts[:_MOST_ATTEMPTS]
    for attempt in shown:
        ways = "; ".join(f"at {c.op} '{c.node}' the rest to '{c.taker}'" for c in attempt.choices)
        end = "goes through" if attempt.refusal is None else attempt.refusal.sentence
        say(out, "tried", f"{ways or 'without a choice'} → {end} ({_count(attempt.reached, 'node')})")
    if len(attempts) > len(shown):
        say(out, "", f"{len(attempts) - len(shown)} more ways: -v shows them all", "dim")


def _verdict(trial: Trial, taken: Trial | None) -> str:
    """One sentence: what came of a split, beside the one that was taken."""
    if trial.refusal is not None:
        return f"refused: {trial.refusal.sentence}"
    into = text.names(trial.into) or "nothing (it was the identity)"
    where = f"into {into}, through {text.names(trial.through)}" if trial.through else f"into {into}"
    if trial.taken:
        return f"taken: {where} ({_cost(trial)})"
    beside = f"; {taken.split.value} {_touches(taken, trial)}" if taken is not None else ""
    return f"possible too: {where} ({_cost(trial)}{beside})"


def _cost(trial: Trial) -> str:
    """How many nodes a split touches, and how many it would make."""
    new = f", {trial.makes} new" if trial.makes else ""
    return f"{_count(_reached(trial), 'node')}{new}"


def _touches(taken: Trial, other: Trial) -> str:
    """What the cheaper split needs: what is made counts first."""
    return f"touches {_reached(taken)}" + (" and makes none" if other.makes and not taken.makes else "")


def _reached(trial: Trial) -> int:
    return trial.attempts[-1].reached


def _outcome(trial: Trial) -> str:
    if trial.taken:
        return "taken"
    return "possible" if trial.refusal is None else "refused"


def _asked(asked: Asked) -> str:
    """``a scale (3 of 64 negative) and a shift``."""
    negative = f" ({asked.negative} of {asked.size} negative)" if asked.negative else ""
    parts = [f"a scale{negative}"] if asked.scale else []
    parts += ["a shift"] if asked.shift else []
    return " and ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _explained(explanation: Explanation) -> dict[str, Any]:
    return {
        "decision": decided(explanation.decision),
        "numbers": _numbers(explanation.numbers),
        "numbers_then": _numbers(explanation.numbers_then),
        "absorbed": list(explanation.absorbed),
        "splits": [_trial(trial) for trial in explanation.trials],
    }


def _numbers(numbers: AffineFigures | None) -> dict[str, Any] | None:
    if numbers is None:
        return None
    return {
        "channels": numbers.channels,
        "positive": numbers.positive,
        "negative": numbers.negative,
        "zero": numbers.zero,
        "scale_min": numbers.least,
        "scale_max": numbers.most,
        "shifted": numbers.shifted,
        "shift_max": numbers.largest_shift,
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "split": trial.split.value,
        "outcome": _outcome(trial),
        "refusal": trial.refusal and refused(trial.refusal),
        "into": list(trial.into),
        "through": list(trial.through),
        "makes": trial.makes,
        "attempts": [_attempt(attempt) for attempt in trial.attempts],
        "steps": [_step(step) for step in trial.steps],
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "choices": [
            {"node": c.node, "op": c.op, "taker": c.taker, "taken": c.taken, "of": c.of}
            for c in attempt.choices
        ],
        "reached": attempt.reached,
        "refusal": attempt.refusal and refused(attempt.refusal),
    }


def _step(step: Step) -> dict[str, Any]:
    asked = step.asked
    return {
        "node": step.node,
        "op": step.op,
        "value": step.value,
        "scale": asked.scale,
        "shift": asked.shift,
        "negative": asked.negative,
        "size": asked.size,
        "answer": step.answer.value,
    }
