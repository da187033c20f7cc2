"""The plan as pure data: one decision for every BatchNormalization, no arrays.

``--dry-run``, ``inspect``, the reports and ``apply`` all read this one object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from bnfuse.core.reasons import Refusal


class Split(str, Enum):
    """Which share of y = a·x + c the single tensor that replaces x and y takes on."""

    UP = "up"  # x is held as a·x + c
    DOWN = "down"  # y is held as (y − c)/a
    SHIFT_UP = "shift-up"  # x is held as sign(a)·x + c/|a|, y as y/|a|
    SHIFT_UP_SIGNED = "shift-up-signed"  # x is held as x + c/a, y as y/a
    SCALE_UP = "scale-up"  # x is held as a·x, y as y − c


@dataclass(frozen=True, slots=True)
class Fold:
    """This node goes: ``into`` names the nodes whose weights take it on, ``through`` those it passes.

    ``choices`` records, in the order they were met, which way the shift took at each sum.
    """

    node: str
    op: str
    is_batchnorm: bool
    channels: int
    split: Split
    into: tuple[str, ...]
    through: tuple[str, ...]
    choices: tuple[tuple[str, int], ...] = ()

    @property
    def message(self) -> str:
        """One sentence: where it went."""
        where = ", ".join(self.into) if self.into else "nothing (it was the identity)"
        via = f", through {', '.join(self.through)}" if self.through else ""
        return f"folded {self.split.value} into {where}{via}"


@dataclass(frozen=True, slots=True)
class Keep:
    """This node stays: ``refusals`` holds, per split that was tried, who said no and why."""

    node: str
    op: str
    is_batchnorm: bool
    channels: int | None
    refusals: tuple[Refusal, ...]

    @property
    def primary(self) -> Refusal:
        """The refusal to report first."""
        return self.refusals[0]

    @property
    def message(self) -> str:
        """One sentence: why it stays, both ways."""
        seen: dict[str, str] = {}
        for refusal in self.refusals:
            seen.setdefault(refusal.sentence, refusal.split)
        return "; ".join(f"{split}: {text}" if split else text for text, split in seen.items())


Decision = Fold | Keep


@dataclass(frozen=True, slots=True)
class Plan:
    """One decision per candidate, in graph order; ``order`` lists folds in the order to apply them."""

    decisions: tuple[Decision, ...]
    order: tuple[Fold, ...] = field(default=())

    def counts(self, *, batchnorm: bool) -> tuple[int, int, int]:
        """(found, folded, kept) among true BatchNormalizations, or among decomposed affines."""
        mine = [d for d in self.decisions if d.is_batchnorm is batchnorm]
        folded = sum(isinstance(d, Fold) for d in mine)
        return len(mine), folded, len(mine) - folded
