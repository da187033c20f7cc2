"""Channel ranges that spread by far more after folding: what costs digits for those who quantise next.

Folding scales each output channel by its own factor. The function computed is the same, but a
quantiser that has one step for a whole weight (per tensor, the default of many tools) makes the step
fit the largest channel. With r_o = max |W'| over channel o,

    spread = max r_o / median of the r_o that are not zero

of 8 bits, a spread of 16 leaves a typical channel 4. A layer is reported when its spread exceeds
``MOST`` (16) and has grown by more than ``GROWTH`` (4, two bits) over what it was.

Factors that differ by less than ``GROWTH`` cannot do that, and their layers are not looked at; the
others are read once. The original weights times the factors give the ranges: W' is not made again.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from bnfuse.core.apply import NewLinear, Patch
from bnfuse.core.quantising.extents import imbalance, largest, nonzero
from bnfuse.core.reparam import Pair

MOST = 16.0
GROWTH = 4.0


class Widened(Struct, frozen=True):
    """A layer whose channel ranges spread: max over median, before and after."""

    node: str
    before: float
    after: float


def widened(patch: Patch) -> tuple[Widened, ...]:
    """The layers to warn about, the worst first. Reads the weights whose factors may widen them."""
    found = []
    for node, new in patch.linears.items():
        if _may_widen(new):
            before, after = _spreads(new)
            if after > MOST and after > GROWTH * before:
                found.append(Widened(node.name, before, after))
    return tuple(sorted(found, key=lambda w: (-w.after / w.before, w.node)))


def _may_widen(new: NewLinear) -> bool:
    """Whether the factors differ by enough: no range can move by more, against any other, than they do."""
    most = 1.0
    for pair in (new.rewrite.read, new.rewrite.write):
        factors = nonzero(np.abs(pair[0])) if pair is not None else ()
        if len(factors):
            most *= float(np.max(factors) / np.min(factors))
    return most > GROWTH


def _spreads(new: NewLinear) -> tuple[float, float]:
    """(before, after); channels that a zero factor silences count in neither."""
    rule, read, write = new.rule, new.rewrite.read, new.rewrite.write
    before = after = largest(rule.weight, rule.form)
    if read is not None and not _alike(read):
        after = largest(rule.weight, rule.form, np.abs(read[0]))
    if write is not None:
        after = after * np.abs(write[0])
    return imbalance(before[after > 0.0]), imbalance(after)


def _alike(pair: Pair) -> bool:
    """Whether one factor multiplies all; that is no spread, unless it silences them."""
    first = pair[0].flat[0]
    return bool(first != 0.0 and (pair[0] == first).all())
