"""What folding did to each layer's parameters, in figures: for reports that show it.

W' = s·W·p is never made: the factors and one look at W, block by block, give all that is told. With
r_o = max |W| over output channel o before, and after, a quantiser sees what it will meet
(``core.quantising.growth``). Rounding to the stored dtype is left out of the figures.

A layer whose factors are the same for all its inputs is read once, others three times.
"""

from __future__ import annotations

import numpy as np

from bnfuse.core.apply import NewAffine, NewLinear, NewSource, Patch
from bnfuse.core.graph import Graph, Node
from bnfuse.core.quantising.extents import imbalance, largest
from bnfuse.core.reparam import Pair, Vector
from bnfuse.core.weights.linear import LinearForm, factors, part_at, row_blocks
from bnfuse.core.weights.scaled import ScaledTensor
from bnfuse.core.weights.tensor import Tensor
from bnfuse.results import LayerChange

# Ranges of more channels than this are told as quantiles.
MOST_RANGES = 64


def layer_changes(graph: Graph, patch: Patch) -> tuple[LayerChange, ...]:
    """One entry per node whose parameters change, in graph order. Reads their weights."""
    found = [(node, _linear(node, linear)) for node, linear in patch.linears.items()]
    found += [(node, _affine(node, affine)) for node, affine in patch.affines.items()]
    found += [(node, _source(node, source)) for node, source in patch.sources.items()]
    return tuple(change for _, change in sorted(found, key=lambda pair: graph.place(pair[0])))


def _linear(node: Node, new: NewLinear) -> LayerChange:
    rule, read, write = new.rule, new.rewrite.read, new.rewrite.write
    before = largest(rule.weight, rule.form)
    after = before
    if read is not None:
        after = before * abs(read[0].flat[0]) if _alike(read) else _scaled(rule.weight, rule.form, read)
    if write is not None:
        after = after * np.abs(write[0])
    least, most = _bounds(rule.form, read, write)
    biased = "" if not new.makes_bias else "made" if rule.bias is None else "changed"
    live = after > 0.0
    return LayerChange(
        node.name,
        node.op,
        "weight",
        rule.weight.shape,
        str(rule.weight.dtype),
        least,
        most,
        _relative(_largest_step(new, before), before),
        biased,
        new.folded,
        quantiles(before),
        quantiles(after),
        imbalance(before[live]),
        imbalance(after),
    )


def _alike(pair: Pair) -> bool:
    return bool((pair[0] == pair[0].flat[0]).all())


def _scaled(weight: Tensor, form: LinearForm, read: Pair) -> Vector:
    return largest(weight, form, np.abs(read[0]))


def _bounds(form: LinearForm, read: Pair | None, write: Pair | None) -> tuple[float, float]:
    """Least and largest |s[g,o]·p[g,i]|: a factor of the output meets those of its own group's inputs."""
    s = np.ones((form.groups, 1)) if write is None else np.abs(write[0]).reshape(form.groups, -1)
    p = np.ones((form.groups, 1)) if read is None else np.abs(read[0]).reshape(form.groups, -1)
    return float((s.min(axis=1) * p.min(axis=1)).min()), float((s.max(axis=1) * p.max(axis=1)).max())


def _largest_step(new: NewLinear, before: Vector) -> float:
    """max |W' − W|."""
    rule, read, write = new.rule, new.rewrite.read, new.rewrite.write
    if read is None or _alike(read):
        s = np.ones(1) if write is None else write[0]
        p = 1.0 if read is None else float(read[0].flat[0])
        return float((before * np.abs(s * p - 1.0)).max(initial=0.0))
    return _step(ScaledTensor(rule.weight, rule.form, tuple(factors(rule.form, new.rewrite))))


def _step(tensor: ScaledTensor) -> float:
    """max |new − old| over all elements, read block by block."""
    most = 0.0
    for _, block, where in row_blocks(tensor.base, tensor.form):
        factor = np.ones(())
        for one in tensor.factors:
            factor = factor * part_at(one, where)
        step = block.astype(np.float64) * (factor - 1.0)
        if tensor.shift is not None:
            step = step + part_at(tensor.shift, where)
        most = max(most, float(np.abs(step).max(initial=0.0)))
    return most


def _affine(node: Node, new: NewAffine) -> LayerChange:
    (a, c), dtype = new.rule.pair, ""
    old, made = np.broadcast_arrays(np.atleast_1d(a), np.atleast_1d(new.a))
    live = old != 0.0
    ratio = np.abs(made[live] / old[live]) if live.any() else np.ones(1)
    shifted = bool((np.asarray(c) != np.asarray(new.c)).any())
    return LayerChange(
        node.name,
        node.op,
        "scale",
        made.shape,
        dtype,
        float(ratio.min()),
        float(ratio.max()),
        _relative(float(np.abs(made - old).max(initial=0.0)), np.abs(old)),
        "changed" if shifted else "",
        new.folded,
        quantiles(np.abs(old)),
        quantiles(np.abs(made)),
        imbalance(np.abs(old)),
        imbalance(np.abs(made)),
    )


def _source(node: Node, new: NewSource) -> LayerChange:
    values = new.values
    sizes = [np.abs(factor) for factor in values.factors] or [np.ones(1)]
    old = max(
        (float(np.abs(b).max(initial=0)) for _, b, _ in row_blocks(values.base, values.form)), default=0.0
    )
    return LayerChange(
        node.name,
        node.op,
        "constant",
        values.shape,
        str(values.dtype),
        float(np.prod([s.min() for s in sizes])),
        float(np.prod([s.max() for s in sizes])),
        _relative(_step(values), np.array([old])),
        "changed" if values.shift is not None and bool(values.shift.any()) else "",
        values.folded,
    )


def _relative(step: float, ranges: Vector) -> float | None:
    most = float(ranges.max(initial=0.0))
    return step / most if most > 0.0 else None


def quantiles(ranges: Vector) -> tuple[float, ...]:
    """The ranges ascending; of more than ``MOST_RANGES`` evenly spaced quantiles, each a channel's own."""
    ascending = np.sort(ranges)
    if ascending.size > MOST_RANGES:
        places = np.linspace(0, ascending.size - 1, MOST_RANGES + 1).round().astype(np.intp)
        ascending = ascending[places]
    return tuple(float(value) for value in ascending)
