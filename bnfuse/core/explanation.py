"""What an explanation of a decision holds: every split that was tried, step by step."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from bnfuse.core.decisions import Decision, Split
from bnfuse.core.reasons import Refusal


class Answer(str, Enum):
    """What a node did with a demand."""

    ABSORBS = "absorbs"
    ABSORBS_AND_PASSES = "absorbs a part, passes on the rest"
    PASSES = "passes on"
    GONE = "folded already: passes on"
    NO_MATTER = "is not affected"
    REFUSES = "refuses"


class AffineFigures(Struct, frozen=True):
    """The scale a and shift c of y = a·x + c in figures: counts of channels, and sizes.

    ``least`` and ``most`` bound |a|; ``shifted`` counts c ≠ 0, ``largest_shift`` is max |c|.
    """

    channels: int
    positive: int
    negative: int
    zero: int
    least: float
    most: float
    shifted: int
    largest_shift: float


class Asked(Struct, frozen=True):
    """What a value was to be held with: ``negative`` of its ``size`` scales are below zero."""

    scale: bool
    shift: bool
    negative: int
    size: int


class Step(Struct, frozen=True):
    """One node that a demand reached, by which of its values, and what it did."""

    node: str
    op: str
    value: str
    asked: Asked
    answer: Answer


class Choice(Struct, frozen=True):
    """At this sum or product, what was left over went to ``taker``, the ``taken``-th (from 0) of ``of``."""

    node: str
    op: str
    taker: str
    taken: int
    of: int


class Attempt(Struct, frozen=True):
    """One run with fixed choices: ``reached`` counts the nodes met; no ``refusal``: it went through."""

    choices: tuple[Choice, ...]
    reached: int
    refusal: Refusal | None


class Trial(Struct, frozen=True):
    """One split: all its attempts, and the steps of the one that got furthest.

    Attributes:
        taken: whether the plan took it.
        attempts: in the order they were made; the last one went through if any did. Where linear ops
            were tried without a bias of their own, those that led to the result.
        steps: what the furthest attempt met, in order; where it was refused from afar (the values that
            scale together are known to end in somebody who refuses), the way there as far as its reach.
        refusal: why the split was not possible; None where it was (another one makes or touches fewer nodes).
        into, through: as in ``Fold``, for an attempt that went through.
        makes: how many nodes that attempt would have to make.
    """

    split: Split
    taken: bool
    attempts: tuple[Attempt, ...]
    steps: tuple[Step, ...]
    refusal: Refusal | None
    into: tuple[str, ...]
    through: tuple[str, ...]
    makes: int


class Explanation(Struct, frozen=True):
    """One decision in full.

    Attributes:
        decision: as the plan holds it.
        numbers: as the file holds them; None where they are not known.
        numbers_then: when it was decided, where earlier folds had changed them.
        absorbed: the nodes whose folds had changed them.
        trials: empty where the node itself is at fault.
    """

    decision: Decision
    numbers: AffineFigures | None
    numbers_then: AffineFigures | None
    absorbed: tuple[str, ...]
    trials: tuple[Trial, ...]


class Explanations(Struct, frozen=True):
    """The decisions on the nodes that a pattern names."""

    pattern: str
    nodes: tuple[Explanation, ...]
