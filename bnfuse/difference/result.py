"""What ``bnfuse diff`` found out: frozen values that all forms of its report read. Nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from bnfuse.core.quantising.channel_ranges import ChannelRanges
from bnfuse.formats.base import TensorSpec
from bnfuse.formats.contents import Setting
from bnfuse.results import FileInfo
from bnfuse.results.outcomes import Gate


class Side(Struct, frozen=True):
    """One of the two models as a whole.

    Attributes:
        file: path, format, size.
        operators: nodes by operator, by scope ("" is the main graph).
        weights: number of stored arrays.
        parameters: their elements; int64, boolean and text arrays, which are shapes and indices, left out.
        weight_bytes: size of all of them as stored.
        storage: how the file stores it (container, external data).
    """

    file: FileInfo
    operators: Mapping[str, Mapping[str, int]]
    weights: int
    parameters: int
    weight_bytes: int
    storage: Mapping[str, str]

    @property
    def totals(self) -> dict[str, int]:
        """Nodes by operator, over all scopes."""
        total: dict[str, int] = {}
        for counts in self.operators.values():
            for operator, count in counts.items():
                total[operator] = total.get(operator, 0) + count
        return total


class InterfaceChange(Struct, frozen=True):
    """One input or output that differs; ``before`` or ``after`` is None where it is new or gone.

    ``what`` holds one or more of "removed", "added", "renamed", "moved" (another position), "dtype",
    "shape" and "source" (an output that other nodes compute).
    """

    kind: str  # "input" or "output"
    what: tuple[str, ...]
    before: TensorSpec | None
    after: TensorSpec | None


class FactChange(Struct, frozen=True):
    """One fact about the file (opset, producer, metadata) that differs; None where it says nothing."""

    label: str
    before: str | None
    after: str | None


class NodeName(Struct, frozen=True):
    """A node of one of the models, by the name a report gives it."""

    name: str
    operator: str


class Changed(Struct, frozen=True):
    """One setting or input of a node: its value in both models, None where there is none."""

    label: str
    before: Setting
    after: Setting


class NodeChange(Struct, frozen=True):
    """A node that both models have, and what differs: its name, operator, settings, what it reads.

    Inputs that changed only because a node between was removed or added are not among ``inputs``.
    """

    before: NodeName
    after: NodeName
    settings: tuple[Changed, ...] = ()
    inputs: tuple[Changed, ...] = ()


class WeightName(Struct, frozen=True):
    """One stored array. ``reader`` is the first node that reads it, ``slot`` where."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    reader: NodeName | None = None
    slot: str = ""


class Figures(Struct, frozen=True):
    """How far two arrays of the same shape are apart.

    Attributes:
        changed: elements that differ; NaN equals NaN, and −0 equals 0.
        elements: all of them.
        max_abs: max |a − b|; inf where one of the two is not finite and the other differs.
        max_rel: ``max_abs`` / max |a| over a's finite elements; inf where those are all zero. NaN, as
            ``max_abs`` and ``rms``, for texts.
        rms: √(mean (a − b)²).
    """

    changed: int
    elements: int
    max_abs: float
    max_rel: float
    rms: float


class WeightChange(Struct, frozen=True):
    """A weight that both models have and that differs.

    Attributes:
        before, after: the two arrays.
        what: one or more of "values", "shape", "dtype", "renamed".
        figures: how far apart; None where shapes differ by more than axes of size 1.
        shared: "split" where the first model uses ``before`` in more places than this one, "merged" where
            the second does so with ``after``; "" else.
    """

    before: WeightName
    after: WeightName
    what: tuple[str, ...]
    figures: Figures | None
    shared: str = ""


class RangeChange(Struct, frozen=True):
    """What 8 bits leave of a layer's weight in the one model and in the other; None where it is not there."""

    before: ChannelRanges | None
    after: ChannelRanges | None

    @property
    def worst_loss_db(self) -> float:
        """What one step for the whole weight costs, in whichever model it costs more."""
        return max(side.loss_db for side in (self.before, self.after) if side is not None)


class Ranges(Struct, frozen=True):
    """The channel ranges of all linear layers of both models, those that lose most first.

    ``left_out`` counts weights of both models that nothing is told of: integers already, zero, or not finite.
    """

    layers: tuple[RangeChange, ...]
    left_out: int


class Difference(Struct, frozen=True):
    """Everything that differs between two models.

    Attributes:
        before, after: the two models.
        comparable: whether both are of one format; if not, only interface, operators and numbers of
            parameters were compared.
        nodes_same, weights_same: how many have an equal counterpart, whatever it is called.
        nodes_renamed, weights_renamed: (name before, name after) of equal ones under another name.
        weights_ignored: changed, but by less than asked for.
        largest_ignored: the largest ``max_rel`` of those, 0 where there is none.
        gates: what ``--exit-code`` says, where it was given.
        ranges: what 8 bits would leave of the weights; None unless asked for. No part of what differs.
    """

    before: Side
    after: Side
    comparable: bool
    interface: tuple[InterfaceChange, ...] = ()
    facts: tuple[FactChange, ...] = ()
    nodes_same: int = 0
    nodes_renamed: tuple[tuple[str, str], ...] = ()
    nodes_changed: tuple[NodeChange, ...] = ()
    nodes_removed: tuple[NodeName, ...] = ()
    nodes_added: tuple[NodeName, ...] = ()
    weights_same: int = 0
    weights_renamed: tuple[tuple[str, str], ...] = ()
    weights_ignored: int = 0
    largest_ignored: float = 0.0
    weights_changed: tuple[WeightChange, ...] = ()
    weights_removed: tuple[WeightName, ...] = ()
    weights_added: tuple[WeightName, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    ranges: Ranges | None = None

    @property
    def differs(self) -> bool:
        """Whether anything does; how the files are stored and what was ignored does not count."""
        lists = (
            self.interface, self.facts,
            self.nodes_renamed, self.nodes_changed, self.nodes_removed, self.nodes_added,
            self.weights_renamed, self.weights_changed, self.weights_removed, self.weights_added,
        )  # fmt: skip
        return not self.comparable or any(lists)
