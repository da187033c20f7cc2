"""``inspect --explain`` in words.

Every split gets a line with its outcome, the choices that were tried at sums, and a table of the nodes
that its furthest attempt met, in order. No line begins with a string of the model.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfuse.core.decisions import Fold, Keep, Split
from bnfuse.core.explanation import AffineFigures, Asked, Attempt, Explanation, Explanations, Trial
from bnfuse.core.reasons import Reason
from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.json import outcome
from bnfuse.results.figures import digits

_MOST_STEPS = 40
_MOST_ATTEMPTS = 6
# What the single tensor that replaces x and y = a·x + c holds.
_HELD = {
    Split.UP: "x is held as a·x + c",
    Split.DOWN: "y is held as (y − c)/a",
    Split.SHIFT_UP: "x is held as sign(a)·x + c/|a|, y as y/|a|",
    Split.SHIFT_UP_SIGNED: "x is held as x + c/a, y as y/a",
    Split.SCALE_UP: "x is held as a·x, y as y − c",
    Split.CONSTANT: "y is held as x, beside a channel that is constant",
}
_STYLE = {"taken": "green", "possible": "", "refused": "yellow"}


def document(found: Explanations, form: doc.Form) -> doc.Document:
    """One after the other, apart; long lists are cut unless with -v."""
    apart = doc.Section("", "", (doc.Paragraph(""),))
    every = [[apart, *_sections(explanation, form)] for explanation in found.nodes]
    return doc.Document("", [section for sections in every for section in sections][1:])


def _sections(explanation: Explanation, form: doc.Form) -> Iterator[doc.Section]:
    """The decision and its numbers, then a section for each split."""
    taken = next((trial for trial in explanation.trials if trial.taken), None)
    yield doc.Section("node", "", (doc.Facts(_decided(explanation)),))
    for trial in explanation.trials:
        yield doc.Section(trial.split.value, "", tuple(_trial(trial, taken, form)))


def _decided(explanation: Explanation) -> list[doc.Line]:
    decision = explanation.decision
    folded = isinstance(decision, Fold)
    # a plan is explained: nothing has gone yet
    said = text.went(decision, done=False) if isinstance(decision, Fold) else f"kept: {decision.message}"
    lines: list[doc.Line] = [
        ("node", f"{decision.node} ({decision.op})", "bold"),
        ("decision", said, "green" if folded else "yellow"),
    ]
    if explanation.numbers is not None:
        lines += _numbers("", explanation.numbers)
    if explanation.numbers_then is not None:
        by = text.names(explanation.absorbed) or "earlier folds"
        lines.append(("then", f"when this was decided, it had absorbed {by}:"))
        lines += _numbers(" then", explanation.numbers_then)
    if not explanation.trials:
        asked = isinstance(decision, Keep) and decision.primary.reason is Reason.BY_REQUEST
        why = "it is to stay, as you asked" if asked else "the node itself is at fault"
        lines.append(("splits", f"none was tried, as {why}", "dim"))
    return lines


def _numbers(suffix: str, numbers: AffineFigures) -> tuple[doc.Line, doc.Line]:
    signs = f"{numbers.positive} positive, {numbers.negative} negative, {numbers.zero} zero"
    sizes = f"|a| from {digits(numbers.least)} to {digits(numbers.most)}"
    channels = _count(numbers.channels, "channel")
    shifts = f"not 0 in {numbers.shifted} of {channels}; |c| up to {digits(numbers.largest_shift)}"
    return (f"a{suffix}", f"{channels}: {signs}; {sizes}"), (f"c{suffix}", shifts)


def _trial(trial: Trial, taken: Trial | None, form: doc.Form) -> Iterator[doc.Block]:
    brief = form is doc.Form.BRIEF
    what = f"{trial.split.value} ({_HELD[trial.split]}): {_verdict(trial, taken)}"
    yield doc.Paragraph(what, "split", _STYLE[outcome(trial)])
    if any(attempt.choices for attempt in trial.attempts):
        ways, more = doc.cut(trial.attempts, _MOST_ATTEMPTS if brief else None, form, "ways")
        yield doc.Notes([_attempt(way) for way in ways], "tried", "")
        yield from more
    steps, more = doc.cut(trial.steps, _MOST_STEPS if brief else None, form, "nodes")
    if steps:
        rows = [
            (str(i), step.node, step.op, step.value, _asked(step.asked), step.answer.value)
            for i, step in enumerate(steps, 1)
        ]
        yield doc.Table(("", "node", "operator", "value", "asked to take", "answer"), rows, texts=6)
    yield from more


def _attempt(attempt: Attempt) -> str:
    """A way that was tried at sums."""
    ways = "; ".join(f"at {c.op} '{c.node}' the rest to '{c.taker}'" for c in attempt.choices)
    end = "goes through" if attempt.refusal is None else attempt.refusal.sentence
    return f"{ways or 'without a choice'} → {end} ({_count(attempt.reached, 'node')})"


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
    return f"{_count(trial.attempts[-1].reached, 'node')}{new}"


def _touches(taken: Trial, other: Trial) -> str:
    """What the cheaper split needs: what is made counts first."""
    none = " and makes none" if other.makes and not taken.makes else ""
    return f"touches {taken.attempts[-1].reached}{none}"


def _asked(asked: Asked) -> str:
    """``a scale (3 of 64 negative) and a shift``."""
    negative = f" ({asked.negative} of {asked.size} negative)" if asked.negative else ""
    parts = [f"a scale{negative}"] if asked.scale else []
    parts += ["a shift"] if asked.shift else []
    return " and ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
