"""From a plan to new weights: ``apply(graph, planned) -> Patch`` decides nothing.

What each node absorbed is composed and turned into new parameters, computed from the original arrays in
float64 and rounded once. Large weights stay streams (``ScaledTensor``) until they are written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct, field

from bnfuse.core.decisions import Plan
from bnfuse.core.graph import Graph, Node, Port
from bnfuse.core.planning.state import MoveTarget, Propagation, State
from bnfuse.core.reparam import Vector, compose_writes
from bnfuse.core.rules.affine import Affine, affine_rule
from bnfuse.core.rules.base import Absorbed, Source
from bnfuse.core.rules.clamp import Clamp
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import LinearForm, Rewrite, factors, new_bias
from bnfuse.core.weights.scaled import ScaledTensor, round_once
from bnfuse.core.weights.tensor import as_float64

if TYPE_CHECKING:
    from bnfuse.core.planning.constant_channel import ConstantChannel


class NewLinear(Struct, frozen=True, eq=False):
    """New parameters of one linear op; what is None stays as it is.

    ``folded`` names the candidates whose folding led here (for messages).
    """

    weight: ScaledTensor | None
    rule: Linear
    rewrite: Rewrite
    folded: tuple[str, ...]

    @property
    def makes_bias(self) -> bool:
        """Whether the bias changes (or must be made)."""
        if any(pair is not None and pair[1].any() for pair in (self.rewrite.read, self.rewrite.write)):
            return True
        scales = self.rewrite.write is not None and not bool((self.rewrite.write[0] == 1.0).all())
        return self.rule.bias is not None and (scales or self.rule.bias_gain != 1.0)

    def bias(self) -> Vector:
        """b', shape (G·O,), float64."""
        old = None if self.rule.bias is None else as_float64(self.rule.bias).ravel()
        if old is not None:  # the rewrite multiplies by the gain, which the bias never had
            old = np.broadcast_to(old, (self.rule.form.channels_out,)) * (
                self.rule.bias_gain / self.rule.gain
            )
        return new_bias(self.rule.weight, self.rule.form, old, self.rewrite)


class NewAffine(Struct, frozen=True, eq=False):
    """New y = a·x + c of an affine node that stays: vectors along ``axes``, or numbers."""

    rule: Affine
    a: Vector
    c: Vector
    axes: tuple[int, ...]
    folded: tuple[str, ...]


class NewClamp(Struct, frozen=True, eq=False):
    """New bounds of an activation, along ``axes``: y = min(max(x, low), high)."""

    rule: Clamp
    low: Vector
    high: Vector
    axes: tuple[int, ...]
    folded: tuple[str, ...]


class NewSource(Struct, frozen=True, eq=False):
    """New values of a constant operand or a table: s·v + t, in the operand's own shape and type."""

    values: ScaledTensor


class Merged(Struct, frozen=True, eq=False):
    """``nodes``, in a row, compute y = a·x + c along axis 1: vectors of shape (channels,), float64."""

    nodes: tuple[Node, ...]
    a: Vector
    c: Vector


class Moved(Struct, frozen=True, eq=False):
    """``node`` moves from behind ``joint`` in front of its input ``port``, and computes y = a·x + c there.

    ``channels`` are those of its channels that stay with it; a and c have that many, float64.
    """

    node: Node
    joint: Node
    port: Port
    channels: slice
    a: Vector
    c: Vector


class Patch(Struct, frozen=True, eq=False):
    """All that ``write`` needs: nodes that become aliases or move, new parameters, chains to merge.

    ``arithmetic`` holds BatchNormalizations that stay as a product and a sum; ``channels`` tells of linear
    ops that are given one more than their parameters here say (``widened``, from all ``edits``).

    ``steps`` are the folds it comes from, for whoever proves them; the last ``rescalings`` of them only scale
    channels anew.
    """

    removed: frozenset[Node] = frozenset()
    linears: dict[Node, NewLinear] = field(default_factory=dict)
    affines: dict[Node, NewAffine] = field(default_factory=dict)
    clamps: dict[Node, NewClamp] = field(default_factory=dict)
    sources: dict[Node, NewSource] = field(default_factory=dict)
    arithmetic: dict[Node, NewAffine] = field(default_factory=dict)
    channels: tuple[ConstantChannel, ...] = ()
    edits: Mapping[Node, Sequence[Absorbed]] = field(default_factory=dict)
    merged: tuple[Merged, ...] = ()
    moved: tuple[Moved, ...] = ()
    steps: tuple[Propagation, ...] = ()
    rescalings: int = 0

    @property
    def near(self) -> list[Node]:
        """The nodes that the folds remove, change or pass, each once."""
        return list(dict.fromkeys(node for step in self.steps for node in (step.node, *step.touched)))

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.removed or self.steps or self.merged or self.moved or self.arithmetic)

    @property
    def new_weights(self) -> Iterator[ScaledTensor]:
        """What becomes of the weights and tables that it changes."""
        yield from (new.weight for new in self.linears.values() if new.weight is not None)
        yield from (new.values for new in self.sources.values())


class OverflowingFold(Exception):
    """New weights do not fit their dtype; ``nodes`` names the candidates to keep instead."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self.nodes = frozenset(nodes)
        super().__init__(f"new weights do not fit their dtype: {', '.join(sorted(self.nodes))}")


def check_fit(weights: Iterable[ScaledTensor]) -> None:
    """Whether new weights fit their types, without making them.

    Raises:
        OverflowingFold: some do not.
    """
    refuse({name for tensor in weights if not tensor.fits() for name in tensor.folded})


def refuse(overflowing: Collection[str]) -> None:
    """Name all candidates at once whose folds overflow: to plan anew for each would take as many plans.

    Raises:
        OverflowingFold: there are any.
    """
    if overflowing:
        raise OverflowingFold(overflowing)


class Planned(Struct, frozen=True, eq=False):
    """A plan, and the state of its graph that its folds lead to: pure data, and what ``apply`` needs."""

    plan: Plan
    state: State


@np.errstate(all="ignore")  # what overflows on the way is refused where it would be stored
def apply(graph: Graph, planned: Planned) -> Patch:
    """Work out the new parameters that a plan for this graph asks for."""
    state = planned.state
    moved = tuple(_moved(state, node, found.place) for node, found in state.narrowed.items())
    patch = Patch(
        removed=frozenset(state.removed),
        channels=tuple(state.channels),
        edits=state.edits if state.channels else {},
        moved=moved,
        steps=tuple(state.accepted),
        rescalings=state.rescalings,
    )
    settled = {*state.removed, *state.narrowed, *state.arithmetic}
    for node, edits in state.edits.items():
        if node not in settled:
            _add(patch, graph, node, edits, tuple(state.folded[node]))
    for node in state.arithmetic:
        a, c, axes = state.current(node)
        folded = tuple(state.folded.get(node, ()))
        patch.arithmetic[node] = NewAffine(affine_rule(graph, node), a, c, axes, folded)
    return patch


def _moved(state: State, node: Node, place: MoveTarget) -> Moved:
    """The part of the current numbers that stays with a node."""
    a, c, _ = state.current(node)
    part = slice(place.start, place.stop)
    return Moved(node, place.joint, place.port, part, a[part], -c[part] if place.flips else c[part])


def _add(patch: Patch, graph: Graph, node: Node, edits: list[Absorbed], folded: tuple[str, ...]) -> None:
    rule = graph.rule(node)
    match rule:
        case Linear():
            rewrite = rule.composed(edits)
            scale = tuple(factors(rule.form, rewrite))
            weight = ScaledTensor(rule.weight, rule.form, scale, folded) if scale else None
            patch.linears[node] = NewLinear(weight, rule, rewrite, folded)
        case Affine():
            a, c = edits[-1].pair
            axes = next((e.axes for e in reversed(edits) if e.axes), rule.axes)
            patch.affines[node] = NewAffine(rule, a, c, axes, folded)
        case Clamp():
            low, high = edits[-1].pair
            if not rule.is_own(low, high):
                patch.clamps[node] = NewClamp(rule, low, high, edits[-1].axes, folded)
        case Source():
            patch.sources[node] = NewSource(_source_values(rule, edits, folded))
        case _:
            raise AssertionError(f"{node.label} cannot absorb")


def _source_values(rule: Source, edits: Iterable[Absorbed], folded: tuple[str, ...]) -> ScaledTensor:
    """s·v + t of all edits in order, as a stream: a table may be large."""
    shape = rule.tensor.shape
    s, t = np.ones((1,) * len(shape)), np.zeros((1,) * len(shape))
    for edit in edits:
        index = tuple(slice(None) if k in edit.axes else None for k in range(len(shape)))
        s, t = compose_writes((s, t), (edit.pair[0][index], edit.pair[1][index]))
    return ScaledTensor(rule.tensor, LinearForm(shape, "k" * len(shape)), (s,), folded, t)


# Factors and shifts whose squares sum up to less cannot push trained float32 weights out of range.
_SAFE = 2.0**80


def source_overflows(rule: Source, edits: Sequence[Absorbed]) -> bool:
    """Whether the new values of a constant would not fit their dtype; reads it only where they could not."""
    if rule.tensor.dtype.itemsize > 2 and all(_harmless(Rewrite(None, edit.pair)) for edit in edits):
        return False
    return not _source_values(rule, edits, ()).fits()


def overflows(rule: Linear, rewrite: Rewrite) -> bool:
    """Whether the new weights or bias would not fit their dtype; reads the weight only where it could."""
    if not is_read(rule, rewrite):
        return False
    dtype = rule.computes or rule.weight.dtype
    weight = ScaledTensor(rule.weight, rule.form, tuple(factors(rule.form, rewrite)))
    new = NewLinear(weight, rule, rewrite, ())
    try:
        if new.makes_bias:
            round_once(new.bias(), dtype)
        if weight.factors:
            for _, block, _ in weight.blocks():
                if block.dtype != dtype:
                    round_once(block.astype(np.float64), dtype)
    except FloatingPointError:
        return True
    return False


def is_read(rule: Linear, rewrite: Rewrite) -> bool:
    """Whether a weight must be read to tell that: one in 16 bits, or with extreme factors."""
    dtype = rule.computes or rule.weight.dtype
    return dtype.itemsize <= 2 or not _harmless(rewrite)


def _harmless(rewrite: Rewrite) -> bool:
    for pair in (rewrite.read, rewrite.write):
        if pair is None:
            continue
        scale, shift = pair
        if not (np.vdot(scale, scale) < _SAFE and np.vdot(shift, shift) < _SAFE):  # nor where one is NaN
            return False
    return True
