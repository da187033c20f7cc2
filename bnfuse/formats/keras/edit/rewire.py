"""Edit a model's config: let layers, and the model's outputs, read other tensors of their network."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from bnfuse.formats.keras.graph.calls import Replace, StoredRef, rewire_call, rewire_ends
from bnfuse.formats.keras.graph.network import Layer, Network, Ref, Shape


class Source(Struct, frozen=True):
    """What is read instead of a tensor; a shape or dtype of None stays as it was stored."""

    ref: Ref
    shape: Shape | None = None
    dtype: str | None = None


Instead = Mapping[Ref, Source]


def rewire(network: Network, layer: Layer, instead: Instead) -> None:
    """Other tensors for a layer, in place; a call that reads none of those stays as it is stored."""
    put = _putting(instead, network.first_node)
    if layer.calls:
        layer.entry["inbound_nodes"] = [
            rewire_call(call.raw, put) if any(ref in instead for ref in call.inputs) else call.raw
            for call in layer.calls
        ]


def rewire_outputs(network: Network, instead: Instead) -> None:
    """Other tensors for a network's outputs, in place."""
    if any(ref in instead for ref in network.outputs):
        put = _putting(instead, network.first_output_node)
        network.raw["output_layers"] = rewire_ends(network.raw["output_layers"], put)


def _putting(instead: Instead, first_node: Mapping[str, int]) -> Replace:
    def put(stored: StoredRef) -> StoredRef:
        new = instead.get(Ref(stored.layer, stored.node - first_node.get(stored.layer, 0), stored.tensor))
        if new is None:
            return stored
        node = new.ref.call + first_node.get(new.ref.layer, 0)
        return StoredRef(new.ref.layer, node, new.ref.tensor, new.shape, new.dtype)

    return put
