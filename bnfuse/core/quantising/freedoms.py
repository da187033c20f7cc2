"""Which positive scales a graph leaves free: the values whose channels may be held larger or smaller.

A value may be held as s·v, with s > 0 for each channel, wherever everybody who must change absorbs or passes
that: whoever writes it multiplies by s, whoever reads it divides. To find out who they are, the value is
asked to be held with *marks*, scales that differ from channel to channel: what an op then absorbs tells which
of its channels hang on which channel of the value, past residual sums, Concat, Split, channel shuffles and
reshapes alike. Nothing of that is kept; the marks are only read.

A channel that hangs on an earlier value already is no freedom of its own. Where not all channels of a value
are free (some are read by what refuses), parts of it are tried, half by half.

Left out: weights that are stored as integers, and floats of 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bnfuse.core.decisions import Split
from bnfuse.core.graph import Node, Port
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.planning.search import next_choices
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.reasons import Refusal
from bnfuse.core.reparam import Vector, from_backward
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.quantised import QuantisedTensor

Channels = NDArray[np.intp]

# Ways past products of two values, per value.
_MOST_ATTEMPTS = 8
# A value that is not free as a whole is halved so often.
_MOST_HALVINGS = 4
# Marks lie between 2 and 3: no product of two of them, and no quotient, is one, nor is the inverse of one.
_LEAST_MARK = 2.0
_MARK_ROUNDING = 1e-9


class Tie(Struct, frozen=True, eq=False):
    """How the channels of a linear op's port hang on a value's.

    ``channels[k]`` is the one that channel k of the port hangs on, −1 for none. At an output (``port`` is
    ~0) its weight is multiplied by the scale, at an input divided.
    """

    node: Node
    port: Port
    channels: Channels


class Freedom(Struct, frozen=True, eq=False):
    """A value that may be held as s·v for every positive s of shape (channels,) that is 1 outside ``free``.

    Attributes:
        writer: the linear op that writes it.
        axis: its channel axis.
        free: which channels are free, and hang on no earlier value; shape (channels,).
        choices: the way that its demand takes where there are several.
        ties: the linear ops that change.
    """

    writer: Node
    axis: int
    free: NDArray[np.bool_]
    choices: tuple[tuple[str, int], ...]
    ties: tuple[Tie, ...]

    @property
    def value(self) -> str:
        """The value's name."""
        return self.writer.outputs[0]


def freedoms(state: State) -> list[Freedom]:
    """All of a graph, as its folds left it, in graph order; none where to find them takes too long."""
    found: list[Freedom] = []
    tied: dict[tuple[Node, Port], NDArray[np.bool_]] = {}
    for node in state.graph.nodes:
        rule = state.graph.rule(node)
        if not isinstance(rule, Linear) or not rule.writes or not _scalable(rule):
            continue
        if state.effort.is_over:
            return []
        count = rule.form.channels_out
        mine = tied.get((node, ~0))
        open_channels = np.ones(count, bool) if mine is None else ~mine
        for freedom in _parts(state, node, rule, open_channels, tied, _MOST_HALVINGS):
            found.append(freedom)
            for tie in freedom.ties:
                known = tied.setdefault((tie.node, tie.port), np.zeros(tie.channels.size, bool))
                known |= tie.channels >= 0
    return found


def _parts(
    state: State,
    node: Node,
    rule: Linear,
    channels: NDArray[np.bool_],
    tied: Mapping[tuple[Node, Port], NDArray[np.bool_]],
    halvings: int,
) -> Iterator[Freedom]:
    """The freedom of these channels, or of parts of them."""
    if not channels.any():
        return
    found = _freedom(state, node, rule, channels)
    if found is not None and not any(_overlap(tie, tied.get((tie.node, tie.port))) for tie in found.ties):
        yield found
        return
    places = np.flatnonzero(channels)
    if not halvings or places.size < 2 or state.graph.pinned.get(node.outputs[0]) is not None:
        return
    for part in np.array_split(places, 2):
        half = np.zeros_like(channels)
        half[part] = True
        yield from _parts(state, node, rule, half, tied, halvings - 1)


def _overlap(tie: Tie, known: NDArray[np.bool_] | None) -> bool:
    return known is not None and bool((known & (tie.channels >= 0)).any())


def _freedom(state: State, node: Node, rule: Linear, channels: NDArray[np.bool_]) -> Freedom | None:
    """The freedom of exactly these channels, if they have one together."""
    marks = np.where(channels, _LEAST_MARK + np.arange(channels.size) / channels.size, 1.0)
    found = rescaled(state, node, rule.out_axis, marks)
    if found is None:
        return None
    ties = []
    for other, edit in found.edits:
        their = state.graph.rule(other)
        if not isinstance(their, Linear):
            continue
        read = _read_marks(edit.pair[0] if edit.port < 0 else 1.0 / edit.pair[0], marks)
        if read is None or not _scalable(their):
            return None
        ties.append(Tie(other, edit.port, read))
    return Freedom(node, rule.out_axis, channels, found.choices, tuple(ties))


def _scalable(rule: Linear) -> bool:
    """Whether its weight is of floats: integers have a scale of their own, and 8 bits no room for another."""
    return not isinstance(rule.weight, QuantisedTensor) and rule.weight.dtype.itemsize > 1


def _read_marks(scales: Vector, marks: Vector) -> Channels | None:
    """The channel that each scale is the mark of, −1 for ones; None where one is no mark."""
    at = np.clip(np.rint((scales - _LEAST_MARK) * marks.size), 0, marks.size - 1).astype(np.intp)
    plain = np.abs(scales - 1.0) <= _MARK_ROUNDING
    if not (plain | (np.abs(scales - marks[at]) <= _MARK_ROUNDING)).all():
        return None
    return np.where(plain, -1, at)


def rescaled(
    state: State, writer: Node, axis: int, scale: Vector, choices: tuple[tuple[str, int], ...] | None = None
) -> Propagation | None:
    """What everybody absorbs where what a node writes is held as s·v; None where somebody refuses.

    Args:
        state: what earlier folds did; it is not changed.
        writer: the node.
        axis: the channel axis of its first output.
        scale: s, all positive, shape (channels,).
        choices: take exactly this way; None to try several.
    """
    held = from_backward((axis,), scale, np.zeros_like(scale))
    fixed: Mapping[str, int] | None = dict(choices or ())
    for _ in range(_MOST_ATTEMPTS):
        assert fixed is not None
        run = Worklist(state, None, fixed, None)
        if not isinstance(run.propagate([(writer.outputs[0], held)]), Refusal):
            return run.found(Split.UP, writer)
        fixed = next_choices(run.choices) if choices is None else None
        if fixed is None:
            break
    return None


class ScalePlaces(Struct, frozen=True, eq=False):
    """Where the scale of each channel stands in one vector: by value, and by channel of a port."""

    first: dict[Node, int]
    ports: dict[tuple[Node, int], Channels]
    count: int

    def of(self, node: Node, port: int, channels: int) -> Channels:
        """Shape (channels,), −1 for channels that stay."""
        found = self.ports.get((node, port))
        return np.full(channels, -1) if found is None else found


def scale_places(free: Sequence[Freedom]) -> ScalePlaces:
    """One scale for each channel of each value that may be rescaled."""
    first: dict[Node, int] = {}
    ports: dict[tuple[Node, int], Channels] = {}
    count = 0
    for freedom in free:
        start = first.setdefault(freedom.writer, count)
        count = max(count, start + freedom.free.size)
        for tie in freedom.ties:
            places = ports.setdefault((tie.node, tie.port), np.full(tie.channels.size, -1))
            some = tie.channels >= 0
            places[some] = start + tie.channels[some]
    return ScalePlaces(first, ports, count)
