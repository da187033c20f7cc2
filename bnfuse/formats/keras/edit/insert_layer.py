"""Edit a model's config: put a layer in front of one input of the layer that it reads.

    before   y = layer(joint(…, v, …))        after   y = joint(…, layer(v), …)

Both layers are called once, in one Functional; what read the layer reads the joint then. Only calls and
the shape that the layer was built with change: its weights are somebody else's work.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from bnfuse.formats.keras.edit.rewire import Source, rewire, rewire_outputs
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
    others = {after: Source(whole)}
    reads = {
        wanted.joint: {branch: Source(after)},
        name: {whole: Source(branch, wanted.shape, joint.calls[0].dtypes[wanted.port])},
    }
    for layer in network.layers:
        rewire(network, layer, reads.get(layer.name, others))
    rewire_outputs(network, others)
    _built_with(moved, wanted.shape)


def _built_with(layer: Layer, shape: Shape) -> None:
    """Keras builds the variables of a ``.keras`` file's layer from this shape before it loads them."""
    built: Any = layer.entry.get("build_config")
    if isinstance(built, dict) and "input_shape" in built:
        layer.entry["build_config"] = {**built, "input_shape": list(shape)}
