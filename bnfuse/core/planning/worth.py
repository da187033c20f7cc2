"""Whether an attempt that goes through on paper is worth it: nodes to make, digits to lose, overflow."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bnfuse.core.apply import is_read, overflows, source_overflows
from bnfuse.core.decisions import Part, Split
from bnfuse.core.graph import Node
from bnfuse.core.planning.offers import Offer
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Vector
from bnfuse.core.rules.affine import Affine, Typical
from bnfuse.core.rules.base import Absorbed, Source
from bnfuse.core.rules.clamp import Clamp
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import factors
from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.core.weights.tensor import size

# A shift this many times larger than what the tensor holds leaves fewer than 4 of float32's 7 digits.
MAX_SHIFT = 1e3
# Nor may what moves behind a clamp be made anew there out of numbers this many times larger, all channels
# taken together: a layer's own rounding errors are some ten units in the last place.
MAX_CANCELLED = 32.0
# Nor may a cast to a half precision, which has 3 digits, be given numbers this many times larger than before.
MAX_HALVED = 8.0

# Integers count for four floats: those that are mirrored are held until they are written.
_READ_QUANTISED = 4


def made_nodes(state: State, found: Propagation) -> list[Node]:
    """The ops of which one node becomes more: a bias as a node of its own, a clamp with two bounds."""
    made: list[Node] = []
    with_bias: set[Node] = set()
    for node, edit in found.edits:
        rule = state.graph.rule(node)
        if isinstance(rule, Clamp):
            low, high, _ = state.current(node)
            made.extend([node] * (rule.nodes(*edit.pair) - rule.nodes(low, high)))
            continue
        if not isinstance(rule, Linear) or rule.bias is not None or not rule.bias_nodes or node in with_bias:
            continue  # most: a bias lies beside its weight, or costs no node
        if edit.pair[1].any() and not state.shifts(node):
            made.extend([node] * rule.bias_nodes)
            with_bias.add(node)
    return made


def objection(state: State, offer: Offer, found: Propagation, makes: int) -> Refusal | None:
    """Why an attempt that goes through on paper, making so many nodes, is not worth it or spoils numbers."""
    split = found.split.value
    if makes > offer.may_make:
        return Refusal(Reason.NO_GAIN, found.node.label, split=split)
    lost = _spoils(state, offer, found)
    if lost is None and state.graph.moves_bounds:
        lost = _bounds_overflow(state, found)
    lost = lost or _unwritable(state, offer, found)
    if lost is not None:
        return lost
    for node, rule, edits in linear_edits(state, found):
        rewrite = state.rewrite(node, edits)
        if isinstance(rule.weight, QuantisedTensor):  # one attempt may have come to it from both sides
            if not state.effort.may_read(_READ_QUANTISED * size(rule.weight)):
                return Refusal(Reason.TOO_LARGE, node.label, split=split)
            why = rule.weight.refuses(rule.form, factors(rule.form, rewrite))
            if why:
                return Refusal(Reason.QUANTISED_WEIGHT, node.label, detail=why, split=split)
        if is_read(rule, rewrite) and not state.effort.may_read(size(rule.weight)):
            return Refusal(Reason.TOO_LARGE, node.label, split=split)
        if overflows(rule, rewrite):
            return Refusal(Reason.OVERFLOW, node.label, detail=str(rule.weight.dtype), split=split)
    return _numbers_overflow(state, found)


def _numbers_overflow(state: State, found: Propagation) -> Refusal | None:
    """Whether constants do not fit their type: of a node y = a·x + c, or of an operand."""
    split = found.split.value
    for node, edit in found.edits:
        rule = state.graph.rule(node)
        if isinstance(rule, Affine) and not rule.fits(*edit.pair):
            return Refusal(Reason.OVERFLOW, node.label, detail=str(rule.stored or "float64"), split=split)
        if isinstance(rule, Source) and source_overflows(rule, [*state.edits.get(node, ()), edit]):
            return Refusal(Reason.OVERFLOW, node.label, detail=str(rule.tensor.dtype), split=split)
    return None


def _unwritable(state: State, offer: Offer, found: Propagation) -> Refusal | None:
    """Whether a node that stays as a product and a sum could not be written with its new numbers.

    One whose scale goes is such a node, with another shift.
    """
    numbers = [(node, edit.pair) for node, edit in found.edits if node in state.arithmetic]
    if offer.part is Part.SCALE:
        numbers.append((offer.node, offer.left(found.split)))
    becomes = (state.graph.arithmetic(node, pair) for node, pair in numbers)
    return next((refusal for refusal in becomes if isinstance(refusal, Refusal)), None)


def _bounds_overflow(state: State, found: Propagation) -> Refusal | None:
    """Whether a bound does not fit the type of the values that it clamps."""
    for node, edit in found.edits:
        rule = state.graph.rule(node)
        if isinstance(rule, Clamp):
            finite = [np.abs(bound[np.isfinite(bound)]) for bound in edit.pair]
            if max(bound.max(initial=0.0) for bound in finite) > np.finfo(rule.dtype).max:
                return Refusal(Reason.OVERFLOW, node.label, detail=str(rule.dtype), split=found.split.value)
    return None


def linear_edits(state: State, found: Propagation) -> Iterable[tuple[Node, Linear, list[Absorbed]]]:
    """The new edits of each linear op that an attempt touches."""
    edits: dict[Node, list[Absorbed]] = {}
    for node, edit in found.edits:
        edits.setdefault(node, []).append(edit)
    for node, its in edits.items():
        rule = state.graph.rule(node)
        if isinstance(rule, Linear):
            yield node, rule, its


def _spoils(state: State, offer: Offer, found: Propagation) -> Refusal | None:
    """Whether digits would be lost, as far as a BatchNormalization's statistics tell."""
    rule = None if offer.wanted is None else offer.wanted.rule
    if rule is None or rule.typical is None:
        return None
    if found.split in (Split.DOWN, Split.SCALE_UP):  # x itself is not shifted
        return _cancels(state, offer, found, rule.typical) or _is_halved(state, offer, found, rule.typical)
    return _loses_digits(state, offer, found, rule.typical)


def _loses_digits(state: State, offer: Offer, found: Propagation, typical: Typical) -> Refusal | None:
    """A tensor that others read too must not be shifted by far more than it varies.

    Where a is zero nothing of x is left to lose: who reads it takes nothing from there.
    """
    assert offer.wanted is not None, "a part that is no candidate has no statistics"
    x = offer.wanted.x
    if state.graph.reader_count(x) < 2:
        return None
    a, c = offer.a, offer.shift
    with np.errstate(divide="ignore", invalid="ignore"):
        worst = float(np.nanmax(np.abs(c) / (np.abs(a) * typical.size), initial=0.0, where=a != 0.0))
    if worst <= MAX_SHIFT:
        return None
    return Refusal(Reason.PRECISION, found.node.label, x, _times(worst), found.split.value)


def _cancels(state: State, offer: Offer, found: Propagation, typical: Typical) -> Refusal | None:
    """Whoever reads a clamp that a shift went down through must not lose what the clamp lets through.

    Where min(max(a·x + c, low), high) was read, a·h + c is read now, with h from clamps of other bounds.
    A channel that is cut off everywhere was zero, and is the difference of two numbers of the size of c.
    With x as the statistics say, a·x + c lies around m = a·mean + c, most of it within two deviations, and
    the clamp lets max(|clamp(m − 2·|a|·deviation)|, |clamp(m + 2·|a|·deviation)|) through.
    """
    if not state.graph.moves_bounds:
        return None
    a, c = offer.a, offer.shift
    middle, width = a * typical.mean + offer.c, 2.0 * np.abs(a) * typical.deviation
    lost = _rms(np.where(a == 0.0, 0.0, c))  # a constant stays one
    for node, edit in found.edits:
        rule = state.graph.rule(node)
        if not isinstance(rule, Clamp) or edit.port < 0:
            continue
        ends = [np.clip(end, rule.low, rule.high) for end in (middle - width, middle + width)]
        left = _rms(np.maximum(*np.abs(ends)))
        if lost > MAX_CANCELLED * left:
            times = _times(lost / left) if left else ""
            return Refusal(Reason.PRECISION, found.node.label, node.outputs[0], times, found.split.value)
    return None


def _is_halved(state: State, offer: Offer, found: Propagation, typical: Typical) -> Refusal | None:
    """A cast to a half precision rounded a·x + c, and is to round x, of which its reader makes a·x + c.

    With x as the statistics say, it makes a·x of the size of a·(mean, deviation), where a·x + c varies less.
    """
    if not offer.shift.any():
        return None
    halved = (node for node in found.touched if getattr(state.graph.rule(node), "halves", False))
    if next(halved, None) is None:
        return None
    a, c = offer.a, offer.c
    before = np.abs(a * typical.mean + c) + np.abs(a) * typical.deviation
    now, then = _rms(np.abs(a) * typical.size), _rms(before)
    if now <= MAX_HALVED * then:
        return None
    times = _times(now / then) if then else ""
    return Refusal(Reason.PRECISION, found.node.label, found.node.outputs[0], times, found.split.value)


def _times(ratio: float) -> str:
    """``2000 times``: the order of size is what matters."""
    return f"{float(f'{ratio:.0e}'):.0f} times" if ratio < 1e6 else f"{ratio:.0e} times"


def _rms(values: Vector) -> float:
    return float(np.sqrt(np.square(values).mean()))
