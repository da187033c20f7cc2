"""Which layer's channel ranges of one model are which of the other's, and in what order they are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bnfuse.core.quantising.channel_ranges import ChannelRanges
from bnfuse.difference.match import Matching
from bnfuse.difference.result import RangeChange, Ranges

Layers = Sequence[ChannelRanges | None]


def paired(before: Layers, after: Layers, names: Mapping[str, str]) -> Ranges:
    """Layers of both models side by side; one that the other lacks stands alone.

    Args:
        before: of the one model; None for a weight that nothing is told of.
        after: of the other.
        names: what a layer of the first is called in the second, where it is not called the same.
    """
    left = {layer.node: layer for layer in after if layer is not None}
    changes = [
        RangeChange(layer, left.pop(names.get(layer.node, layer.node), None))
        for layer in before
        if layer is not None
    ]
    changes += [RangeChange(None, layer) for layer in left.values()]
    changes.sort(key=lambda one: -one.worst_loss_db)  # stable: else in the models' order
    return Ranges(tuple(changes), sum(layer is None for layer in (*before, *after)))


def names_of(nodes: Matching) -> dict[str, str]:
    """What matched nodes of the first model are called in the second."""
    labels = ((nodes.a.nodes[i].label, nodes.b.nodes[j].label) for i, j in nodes.after.items())
    return {before: after for before, after in labels if before != after}
