"""Rescale what is free so that the result loses the least when it is quantised: ``equalize(state)``.

A positive scale for each channel may pass through ReLUs, pooling, residual sums and Concat (``freedoms``).
The function stays exactly what it is, whatever the scales; 8 bits with one step for a whole tensor do not.
Cross-layer equalisation (Nagel et al., arXiv 1906.04721) makes the ranges of neighbouring weights agree,
s_i = √(r⁽¹⁾_i/r⁽²⁾_i). That looks at weights alone, and may spread the ranges of the activations between
them. Here the scales are those of which rounding weights *and* activations adds the least noise to the
outputs (``noise``), as far as the file tells how large values are (``moments``). They are sought from
s_i = √(C_i/X_i), X_i the size of a channel and C_i what the outputs feel of it: there a channel is as large
as it matters, whatever scales a model came with.

Weights are multiplied once, in float64, by what they absorb of folds and scales together, and rounded once.
So a scale that is no power of two costs no more than a fold does; where nothing is folded, it rounds a weight
once that was not rounded before. Powers of two would leave ranges up to √2 apart, and results that depend on
the scales that a model came with.

Does nothing where the noise would not shrink by ``LEAST_GAIN_DB``, and nothing beyond ``MOST_PAIRS``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnfuse.core.apply import overflows
from bnfuse.core.decisions import Equalized, Rescaled, Spread
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.planning.worth import linear_edits
from bnfuse.core.quantising.extents import imbalance
from bnfuse.core.quantising.freedoms import Freedom, ScalePlaces, freedoms, rescaled, scale_places
from bnfuse.core.quantising.noise import NoiseLayer, Places, padded, quietest, total_noise
from bnfuse.core.quantising.pairs import pair_count
from bnfuse.core.quantising.sensitivities import noise_layers
from bnfuse.core.reparam import Vector
from bnfuse.core.rules.linear_rule import Linear

# Less than this would not be seen in a result.
LEAST_GAIN_DB = 0.1
# A scale this near to one is one: what is left of a sum in float64 is no reason to write another file.
_NEARLY_ONE = 1e-6
# float16 ends at 65504 and loses digits below 6e-5. No scale is larger than this there, or smaller than its
# inverse: values of up to 4094 stay finite, and a channel whose largest weight is 1e-3 keeps its digits.
_MOST_IN_HALF = 16.0
# Pairs of channels (output, input) of all weights together: they take 16 bytes each.
MOST_PAIRS = 1 << 26
# A byte of the file holds two; some more may be of weights that are computed, or that several layers have.
SHARED_PAIRS, PAIRS_A_BYTE = 1 << 23, 2


def equalize(state: State, most: int | None = None) -> Equalized | None:
    """Rescale what is free in a graph, as its folds left it; ``state`` takes it on.

    Args:
        state: what the folds did.
        most: take only the first so many values that are rescaled; None for all.

    Returns:
        What was done; None where nothing is free, or nothing would be gained.
    """
    state.moves_bounds = state.graph.moves_bounds
    try:
        with np.errstate(all="ignore"):  # weights that are not finite make noise that is not: no gain
            return _equalized(state, most)
    finally:
        state.moves_bounds = False


def _equalized(state: State, most: int | None) -> Equalized | None:
    free = freedoms(state)
    rules = {node: rule for node in state.graph.nodes if isinstance(rule := state.graph.rule(node), Linear)}
    most_pairs = min(MOST_PAIRS, SHARED_PAIRS + PAIRS_A_BYTE * state.graph.stored_bytes)
    if not free or sum(pair_count(rule.form) for rule in rules.values()) > most_pairs:
        return None
    places = scale_places(free)
    layers, sizes = noise_layers(state, rules, places)
    scale = _settled(layers, quietest(layers, _balanced(layers, sizes)))
    scale = _representable(state, free, places, scale)
    ones = np.ones_like(scale)
    before, after = total_noise(layers, ones), total_noise(layers, scale)
    gain_db = 10.0 * float(np.log10(before / after)) if after > 0.0 else 0.0
    if not LEAST_GAIN_DB <= gain_db < np.inf:  # NaN, too
        return None
    values = _accepted(state, free, places, scale, most)
    held = padded(ones), padded(scale)
    spreads = tuple(
        Spread(layer.node.name, *(imbalance(layer.ranges(scales)) for scales in held)) for layer in layers
    )
    return Equalized(values, spreads, gain_db) if values else None


def _balanced(layers: Sequence[NoiseLayer], sizes: Vector) -> Vector:
    """√(C/X), X the size of a channel, C the root of what is felt of its noise; 1 where one of them is 0."""
    felt = np.zeros_like(sizes)
    for layer in layers:
        some = layer.columns >= 0
        np.add.at(felt, layer.columns[some], layer.input_gains[some])
    live = (felt > 0.0) & (sizes > 0.0)
    return np.where(live, np.sqrt(np.sqrt(np.where(live, felt, 1.0)) / np.where(live, sizes, 1.0)), 1.0)


def _settled(layers: Sequence[NoiseLayer], scale: Vector) -> Vector:
    """The same where one factor for all channels of a tensor, which is nobody's concern, is left out.

    Values whose channels meet in one tensor can only have one together, and none where some of the tensor's
    channels have no scale. It is taken for the median of their scales.
    """
    roots = _meeting(layers, scale.size + 1)  # the last stands for all that stays, which is where −1 points
    settled = scale.copy()
    order = np.argsort(roots[:-1], kind="stable")
    starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
    for mine in np.split(order, starts[1:]):
        if roots[mine[0]] != roots[-1]:
            settled[mine] /= np.median(scale[mine])
    rounded: Vector = np.where(np.abs(settled - 1.0) <= _NEARLY_ONE, 1.0, settled)
    return rounded


def _meeting(layers: Sequence[NoiseLayer], count: int) -> Places:
    """For each of so many scales the first of those that it hangs together with, tensor by tensor."""
    tensors = [together % count for layer in layers for together in (layer.rows, layer.columns)]
    ones = np.concatenate([np.full(each.size, each[0]) for each in tensors if each.size])
    others = np.concatenate(tensors)
    roots = np.arange(count)
    while True:
        pair = np.sort([roots[ones], roots[others]], axis=0)
        apart = pair[0] != pair[1]
        if not apart.any():
            return roots
        np.minimum.at(roots, pair[1][apart], pair[0][apart])
        while not np.array_equal(further := roots[roots], roots):
            roots = further


def _representable(state: State, free: Sequence[Freedom], places: ScalePlaces, scale: Vector) -> Vector:
    """The same, no further from 1 than ``_MOST_IN_HALF`` where a value meets weights of float16."""
    kept: Vector = scale.copy()
    for freedom in free:
        rules = [state.graph.rule(tie.node) for tie in freedom.ties]
        if any(isinstance(rule, Linear) and rule.weight.dtype == np.float16 for rule in rules):
            start = places.first[freedom.writer]
            mine = slice(start, start + freedom.free.size)
            kept[mine] = np.where(
                freedom.free, np.clip(scale[mine], 1.0 / _MOST_IN_HALF, _MOST_IN_HALF), kept[mine]
            )
    return kept


def _accepted(
    state: State, free: Sequence[Freedom], places: ScalePlaces, scale: Vector, most: int | None
) -> tuple[Rescaled, ...]:
    """Hold one value after the other with its scale; what would overflow stays."""
    done: list[Rescaled] = []
    for freedom in free:
        if most is not None and len(done) == most:
            break
        start = places.first[freedom.writer]
        wanted = np.where(freedom.free, scale[start : start + freedom.free.size], 1.0)
        if (wanted == 1.0).all():
            continue
        found = rescaled(state, freedom.writer, freedom.axis, wanted, freedom.choices)
        if found is None or _overflows(state, found):
            continue
        state.accept_rescaling(found)
        changed = wanted[wanted != 1.0]
        done.append(
            Rescaled(
                freedom.writer.name,
                freedom.writer.op,
                int(changed.size),
                found.into,
                found.through,
                float(changed.min()),
                float(changed.max()),
            )
        )
    return tuple(done)


def _overflows(state: State, found: Propagation) -> bool:
    """Whether new weights would not fit their type."""
    return any(overflows(rule, state.rewrite(node, new)) for node, rule, new in linear_edits(state, found))
