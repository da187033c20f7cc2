"""What decisions and refusals say, and what a plan counts."""

from __future__ import annotations

import string

import pytest

from bnfuse.core.decisions import Decision, Fold, Keep, Narrowed, Plan, Split
from bnfuse.core.reasons import Reason, Refusal

MOVED = Narrowed("joint", 1, 4, ("conv", "other"), (), ())
RELU = Refusal(Reason.SHIFT_THROUGH_ACTIVATION, "Relu 'r'", split="up")
DOWN = Refusal(Reason.SHIFT_THROUGH_ACTIVATION, "Relu 'r'", split="down")
PAD = Refusal(Reason.ZERO_PADDING, "Conv 'c'", split="scale-up")
FULL = Refusal(Reason.OVERFLOW, "BatchNormalization 'b'", detail="their dtype")
SPLIT_FULL = Refusal(Reason.OVERFLOW, "Conv 'c'", detail="float16", split="up")


def fold(name: str, *, bn: bool = True, into: str = "", through: str = "") -> Fold:
    return Fold(name, "Op", bn, 4, Split.SHIFT_UP, tuple(into.split()), tuple(through.split()))


def keep(name: str, *refusals: Refusal, bn: bool = True, narrowed: Narrowed | None = None) -> Keep:
    return Keep(name, "Op", bn, 6, refusals, narrowed)


PADS = "Conv 'c' pads with zeros, which a shift would turn into wrong values at the borders"
MESSAGES: list[tuple[Decision, str]] = [
    (fold("a", into="p q", through="r s"), "folded shift-up into p, q, through r, s"),
    (fold("a", into="p"), "folded shift-up into p"),
    (fold("a"), "folded shift-up into nothing (it was the identity)"),
    (keep("a", RELU), "up: a shift cannot pass through Relu 'r'"),
    (keep("a", RELU, DOWN, PAD), f"up: a shift cannot pass through Relu 'r'; scale-up: {PADS}"),
    (keep("a", FULL), "the weights of BatchNormalization 'b' would overflow their dtype or hold NaN"),
    (
        keep("a", PAD, narrowed=MOVED),
        f"stays on 4 of 6 channels, before joint, the rest folded into conv, other; scale-up: {PADS}",
    ),
    (
        keep("a", PAD, narrowed=Narrowed("joint", 0, 6, ("conv",), ())),
        f"stays on the smaller operand of joint, the rest folded into conv; scale-up: {PADS}",
    ),
]


@pytest.mark.parametrize(("decision", "message"), MESSAGES)
def test_a_decision_says_where_it_went_or_why_it_stays(decision: Decision, message: str) -> None:
    assert decision.message == message


def test_the_first_refusal_is_the_one_to_report() -> None:
    assert keep("a", RELU, PAD).primary is RELU


def test_a_plan_counts() -> None:
    folds = [fold("a"), fold("b"), fold("c", bn=False)]
    moved = keep("d", PAD, narrowed=MOVED)
    kept = [keep("e", FULL), keep("f", SPLIT_FULL), keep("g", RELU, FULL), keep("h", PAD, bn=False)]
    kept.append(keep("i", Refusal(Reason.BAD_PARAMETERS, "Mul 'i'"), bn=False))
    made = Plan((*folds, moved, *kept), (folds[1], folds[0], folds[2]))
    assert made.narrowed == (("d", MOVED),)
    assert made.banned == {"e"}
    assert made.rewrites == 4
    assert made.counts(batchnorm=True) == (6, 2, 4)
    assert made.counts(batchnorm=False) == (3, 1, 2)
    assert (Plan(()).rewrites, Plan(()).order, Plan(()).banned) == (0, (), frozenset())


SENTENCES = [
    (Refusal(Reason.AXIS, "Relu 'r'"), "Relu 'r' works along another axis than the channels"),
    (Refusal(Reason.AXIS, detail="2"), "a node works along another axis than the channels (2)"),
    (Refusal(Reason.CONFLICT, "Relu 'r'", "v"), "two neighbours need different scales or shifts of 'v'"),
    (
        Refusal(Reason.NEGATIVE_SCALE, "Relu 'r'", "v", "1 of 2"),
        "Relu 'r' passes only non-negative scales (1 of 2)",
    ),
    (
        Refusal(Reason.OVERFLOW, "Conv 'c'", detail="float16"),
        "the weights of Conv 'c' would overflow float16 or hold NaN",
    ),
]


@pytest.mark.parametrize(("refusal", "sentence"), SENTENCES)
def test_a_refusal_is_a_sentence(refusal: Refusal, sentence: str) -> None:
    assert refusal.sentence == sentence


@pytest.mark.parametrize("reason", Reason, ids=lambda r: r.name)
def test_every_reason_has_a_sentence_that_names_what_it_knows(reason: Reason) -> None:
    told = Refusal(reason, "Op 'n'", "v", "d").sentence
    fields = {name for _, name, _, _ in string.Formatter().parse(reason.value) if name}
    assert fields <= {"node", "value", "detail"}
    for field, text in (("node", "Op 'n'"), ("value", "'v'"), ("detail", "d")):
        assert field not in fields or text in told
