"""The plan as pure data: one decision for every BatchNormalization, no arrays.

``--dry-run``, ``inspect``, the reports and ``apply`` all read this one object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from msgspec import Struct, field

from bnfuse.core.reasons import Reason, Refusal, shortened


class Split(str, Enum):
    """Which share of y = a·x + c the single tensor that replaces x and y takes on."""

    UP = "up"  # x is held as a·x + c
    DOWN = "down"  # y is held as (y − c)/a
    SHIFT_UP = "shift-up"  # x is held as sign(a)·x + c/|a|, y as y/|a|
    SHIFT_UP_SIGNED = "shift-up-signed"  # x is held as x + c/a, y as y/a
    SCALE_UP = "scale-up"  # x is held as a·x, y as y − c
    CONSTANT = "constant-channel"  # y is held as x beside a channel that is constant (``constant_channel``)


def _passed(through: Sequence[str], becomes: Iterable[tuple[str, str]]) -> list[str]:
    """The names in ``through``, with what becomes of each."""
    forms = dict(becomes)
    return [
        f"{shortened(name)} (becomes {forms[name]})" if name in forms else shortened(name) for name in through
    ]


def _listed(into: Iterable[str]) -> str:
    return ", ".join(map(shortened, into))


def _via(through: Sequence[str], becomes: Iterable[tuple[str, str]]) -> str:
    """How a sentence ends that says where something went."""
    return f", through {', '.join(_passed(through, becomes))}" if through else ""


class Part(str, Enum):
    """What goes when all is folded that goes as a whole before anything stays in another form."""

    WHOLE = "whole"  # a node after all
    SCALE = "scale"  # of a BatchNormalization that stays as arithmetic
    SHIFT = "shift"  # the same
    BIAS = "bias"  # of a linear op for which it would have to be a node of its own


class Fold(Struct, frozen=True):
    """This node goes: ``into`` names the nodes whose weights take it on, ``through`` those it passes.

    ``choices`` records, in the order they were met, which way the shift took at each sum, ``becomes`` what
    nodes among ``through`` turn into, by name: activations "Max", "Min", both, or "Clip", a layer "one
    channel wider".
    """

    node: str
    op: str
    is_batchnorm: bool
    channels: int
    split: Split
    into: tuple[str, ...]
    through: tuple[str, ...]
    choices: tuple[tuple[str, int], ...] = ()
    becomes: tuple[tuple[str, str], ...] = ()

    @property
    def passed(self) -> list[str]:
        """The names in ``through``, with what becomes of each."""
        return _passed(self.through, self.becomes)

    @property
    def message(self) -> str:
        """One sentence: where it went."""
        where = _listed(self.into) if self.into else "nothing (it was the identity)"
        return f"folded {self.split.value} into {where}{_via(self.through, self.becomes)}"


class Settled(Struct, frozen=True):
    """A part of a node goes that otherwise stays, or one goes since; the rest as in ``Fold``."""

    node: str
    op: str
    part: Part
    split: Split
    into: tuple[str, ...]
    through: tuple[str, ...]
    choices: tuple[tuple[str, int], ...] = ()
    becomes: tuple[tuple[str, str], ...] = ()

    @property
    def message(self) -> str:
        """What went where."""
        into = f"{_listed(self.into)}{_via(self.through, self.becomes)}"
        return f"its {self.part.value} folded {self.split.value} into {into}"


class Narrowed(Struct, frozen=True):
    """What became of a node that can go in part: it moves onto one branch of the ``joint`` before it.

    ``port`` is the joint's input that it reads now, with ``channels`` channels; the other branches
    absorbed their share: ``into``, ``through`` and ``choices`` are as in ``Fold``.
    """

    joint: str
    port: int
    channels: int
    into: tuple[str, ...]
    through: tuple[str, ...]
    choices: tuple[tuple[str, int], ...] = ()


class Keep(Struct, frozen=True):
    """This node stays: ``refusals`` holds, per split that was tried, who said no and why.

    ``narrowed`` tells where it stays on a part of its work only, ``becomes`` as which operators it stays, and
    ``settled`` which part of it went nevertheless.
    """

    node: str
    op: str
    is_batchnorm: bool
    channels: int | None
    refusals: tuple[Refusal, ...]
    narrowed: Narrowed | None = None
    becomes: tuple[str, ...] = ()
    settled: tuple[Settled, ...] = ()

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
        why = "; ".join(f"{split}: {text}" if split else text for text, split in seen.items())
        if self.becomes:
            parts = "".join(f", {part.message}" for part in self.settled)
            return f"stays as {' and '.join(self.becomes)}{parts}; {why}"
        return f"{self._moved}; {why}" if self.narrowed else why

    @property
    def _moved(self) -> str:
        assert self.narrowed is not None
        left, joint = self.narrowed.channels, self.narrowed.joint
        rest = f"the rest folded into {_listed(self.narrowed.into)}"
        if left == self.channels:
            return f"stays on the smaller operand of {joint}, {rest}"
        return f"stays on {left} of {self.channels} channels, before {joint}, {rest}"


Decision = Fold | Keep


class Rescaled(Struct, frozen=True):
    """What a node writes is held larger or smaller by channel: ``into`` names whose weights take that on.

    ``channels`` counts those whose scale is not one; ``least`` and ``most`` bound their scales.
    """

    node: str
    op: str
    channels: int
    into: tuple[str, ...]
    through: tuple[str, ...]
    least: float
    most: float


class Spread(Struct, frozen=True):
    """Largest over median weight range among a node's output channels, folded and then equalised."""

    node: str
    before: float
    after: float


class Equalized(Struct, frozen=True):
    """How channels were rescaled for those who quantise the result, in the order in which it was done.

    ``spreads`` has all linear ops in graph order. ``gain_db`` is by how much less noise 8 bits with one step
    per tensor are expected to add, for weights and activations together.
    """

    values: tuple[Rescaled, ...]
    spreads: tuple[Spread, ...]
    gain_db: float


class Plan(Struct, frozen=True):
    """One decision per candidate, in graph order; ``order`` lists folds in the order to apply them.

    What is narrowed is so after all folds, in graph order; then parts of nodes that stay go, in the order of
    ``settled``, and then channels are ``equalized``.
    """

    decisions: tuple[Decision, ...]
    order: tuple[Fold, ...] = field(default=())
    equalized: Equalized | None = None
    settled: tuple[Settled, ...] = ()

    @property
    def narrowed(self) -> tuple[tuple[str, Narrowed], ...]:
        """The nodes that stay on a part of their work, and how."""
        return tuple((d.node, d.narrowed) for d in self.decisions if isinstance(d, Keep) and d.narrowed)

    @property
    def arithmetic(self) -> frozenset[str]:
        """The BatchNormalizations that stay as other operators."""
        return frozenset(d.node for d in self.decisions if isinstance(d, Keep) and d.becomes)

    @property
    def left(self) -> tuple[Keep, ...]:
        """The BatchNormalizations that stay what they are."""
        kept = (d for d in self.decisions if isinstance(d, Keep))
        return tuple(d for d in kept if d.is_batchnorm and not d.becomes)

    @property
    def banned(self) -> frozenset[str]:
        """The nodes that stay because their fold overflowed when it was written: no split was tried."""
        kept = (d for d in self.decisions if isinstance(d, Keep))
        return frozenset(d.node for d in kept if d.primary.reason is Reason.OVERFLOW and not d.primary.split)

    @property
    def rescaled(self) -> tuple[Rescaled, ...]:
        """The values that are held with other scales."""
        return () if self.equalized is None else self.equalized.values

    @property
    def rewrites(self) -> int:
        """How many nodes are folded, in whole or in part."""
        return len(self.order) + len(self.narrowed) + len(self.settled)

    def counts(self, *, batchnorm: bool) -> tuple[int, int, int]:
        """(found, folded, kept) among true BatchNormalizations, or among decomposed affines."""
        mine = [d for d in self.decisions if d.is_batchnorm is batchnorm]
        folded = sum(isinstance(d, Fold) for d in mine)
        return len(mine), folded, len(mine) - folded
