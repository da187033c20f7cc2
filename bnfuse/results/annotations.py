"""What reports show beside decisions: the graph around them, and what became of weights."""

from __future__ import annotations

from msgspec import Struct


class DrawnNode(Struct, frozen=True):
    """One node of a ``Neighbourhood``.

    ``kind`` is "node", or "input" or "output" for what the model itself reads and writes (``name`` is
    then that value's). ``role`` says what it has to do with the decision: "self", "into" (its weights
    took the node on), "through" (passed), "refuses", or "" for what merely lies beside. ``removed``
    tells that the result no longer has it.
    """

    name: str
    op: str
    kind: str = "node"
    role: str = ""
    removed: bool = False


class Neighbourhood(Struct, frozen=True):
    """The graph around one decision, as the original has it.

    ``nodes`` stand in graph order, writers first; ``edges`` are (writer, reader) as indices of them.
    ``left_out`` counts nodes that belong here and were left out because there are too many to draw.
    """

    nodes: tuple[DrawnNode, ...]
    edges: tuple[tuple[int, int], ...]
    left_out: int = 0


class LayerChange(Struct, frozen=True):
    """What folding did to the parameters of one node that stays.

    ``kind`` is "weight" (a linear op), "scale" (a BatchNormalization or a Mul, Add, Sub, Div) or "constant"
    (an operand, a table). ``shape`` and ``dtype`` are as stored. ``factor_min`` and ``factor_max``
    bound |factor| over all elements. ``largest_change`` is max |new − old| / max |old|, None where the
    old values are all zero. ``bias`` is "made", "changed" or "". ``folded`` names whose folds led here.

    ``ranges_before`` and ``ranges_after`` are the largest |weight| of each output channel, ascending; of
    more than 64 channels 65 evenly spaced quantiles. ``spread_before`` and ``spread_after`` are largest
    over median of them (docs/quantise-next.md), 1 and () where ranges mean nothing (a constant).
    """

    node: str
    op: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    factor_min: float
    factor_max: float
    largest_change: float | None
    bias: str
    folded: tuple[str, ...]
    ranges_before: tuple[float, ...] = ()
    ranges_after: tuple[float, ...] = ()
    spread_before: float = 1.0
    spread_after: float = 1.0


class Details(Struct, frozen=True):
    """What only a report file shows, and what takes a look at all weights to know.

    ``neighbourhoods`` hold one entry per decision of the plan, in its order, None where not drawn.
    """

    neighbourhoods: tuple[Neighbourhood | None, ...] = ()
    layers: tuple[LayerChange, ...] = ()
