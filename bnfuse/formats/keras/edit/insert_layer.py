"""Edit a model's config: put a layer in front of one input of the layer that it reads.

    before   y = layer(joint(…, v, …))        after   y = joint(…, layer(v), …)

Both layers are called once, in one Functional; what read the layer reads the joint then. Only calls and
the shape that the layer was built with change: its weights are somebody else's work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.formats.keras.graph.calls import Replace, StoredRef, rewire_call, rewire_ends
from bnfuse.formats.keras.graph.network import Layer, Network, Ref, Shape


class Move(Struct, frozen=True):
    """Where to: input ``port`` of the layer ``joint``, which has this shape (the batch included)."""

    joint: str
    port: int
    shape: Shape


def move(network: Network, name: str, wanted: Move) -> None:
    """Move the layer ``name`` of a network, in place.

    The network is to be parsed anew afterwards.

    Raises:
        KeyError: one of the two layers is not in the network.
    """
    layers = {layer.name: layer for layer in network.layers}
    moved, joint = layers[name], layers[wanted.joint]
    branch, whole = joint.calls[0].inputs[wanted.port], Ref(wanted.joint, 0, 0)
    after = Ref(name, 0, 0)
    for layer in network.layers:
        if layer is joint:
            asked = _instead_of(branch, after, network.first_node)
        elif layer is moved:
            asked = _instead_of(
                whole, branch, network.first_node, wanted.shape, joint.calls[0].dtypes[wanted.port]
            )
        else:
            asked = _instead_of(after, whole, network.first_node)
        if layer.calls:
            layer.entry["inbound_nodes"] = [rewire_call(call.raw, asked) for call in layer.calls]
    asked = _instead_of(after, whole, network.first_output_node)
    network.raw["output_layers"] = rewire_ends(network.raw["output_layers"], asked)
    _built_with(moved, wanted.shape)


def _instead_of(
    old: Ref, new: Ref, first_node: Mapping[str, int], shape: Shape | None = None, dtype: str | None = None
) -> Replace:
    """A visitor that puts one tensor in another's place, with a shape and dtype if they differ."""

    def put(stored: StoredRef) -> StoredRef:
        ref = Ref(stored.layer, stored.node - first_node.get(stored.layer, 0), stored.tensor)
        if ref != old:
            return stored
        return replace(
            stored,
            layer=new.layer,
            node=new.call + first_node.get(new.layer, 0),
            tensor=new.tensor,
            shape=shape or stored.shape,
            dtype=dtype or stored.dtype,
        )

    return put


def _built_with(layer: Layer, shape: Shape) -> None:
    """Keras builds the variables of a ``.keras`` file's layer from this shape before it loads them."""
    built: Any = layer.entry.get("build_config")
    if isinstance(built, dict) and "input_shape" in built:
        layer.entry["build_config"] = {**built, "input_shape": list(shape)}
