"""Edit a model's config: nodes of ``keras.ops`` in a layer's place, or behind it (Keras 3).

    in place   y = relu(x)              →   y = maximum(x, low)
    behind     y = layer(x), relu'd     →   h = layer(x), y = maximum(h, low)

Each node computes with one constant. In place, the last one takes the layer's name; behind, who read the
layer reads the last one. Only nodes and calls change: settings and weights are somebody else's work.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from msgspec import Struct

from bnfuse.core.weights.tensor import Array
from bnfuse.formats.keras.edit.rewire import Source, rewire, rewire_outputs
from bnfuse.formats.keras.graph.calls import StoredRef, read_call
from bnfuse.formats.keras.graph.network import Network, Ref, Shape


class Compute(Struct, frozen=True, eq=False):
    """Nodes of ``keras.ops``, one behind the other, each told by its class and its second operand."""

    ops: tuple[tuple[str, Array], ...]


class Follow(Compute, frozen=True, eq=False):
    """The same behind a layer that puts out values of this shape (the batch included) and type."""

    shape: Shape
    dtype: str


def put_in_place(network: Network, wanted: Mapping[str, Compute]) -> None:
    """Nodes instead of layers, by the layers' names."""
    names = {layer.name for layer in network.layers}
    for layer in network.layers:
        if layer.name in wanted:
            (raw,) = layer.entry["inbound_nodes"]
            (source,) = read_call(raw).tensors
            *before, (last, bound) = wanted[layer.name].ops
            made, read = _chain(layer.name, before, tensor(source), names)
            network.raw["layers"].extend(made)
            layer.entry.clear()
            layer.entry.update(op_entry(layer.name, last, read, bound))


def put_behind(network: Network, wanted: Mapping[str, Follow]) -> None:
    """Nodes behind layers, by the layers' names; the network is to be parsed anew afterwards."""
    names = {layer.name for layer in network.layers}
    instead: dict[Ref, Source] = {}
    made: list[dict[str, Any]] = []
    for layer in network.layers:
        if layer.name in wanted:
            follow = wanted[layer.name]
            first = network.first_node.get(layer.name, 0)
            read = tensor(StoredRef(layer.name, first, 0, follow.shape, follow.dtype))
            nodes, read = _chain(layer.name, follow.ops, read, names)
            made += nodes
            instead[Ref(layer.name, 0, 0)] = Source(Ref(*read["config"]["keras_history"]))

    for layer in network.layers:
        rewire(network, layer, instead)
    rewire_outputs(network, instead)
    network.raw["layers"].extend(made)


def _chain(
    layer: str, ops: Any, read: dict[str, Any], names: set[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """New nodes, named after a layer, and the tensor that the last one puts out."""
    made = []
    for op, operand in ops:
        name = new_name(f"{layer}_{op.lower()}", names)
        made.append(op_entry(name, op, read, operand))
        read = {**read, "config": {**read["config"], "keras_history": [name, 0, 0]}}
    return made, read


def new_name(base: str, names: set[str]) -> str:
    """A name that none of ``names`` is, which it joins."""
    name = next(n for k in count() if (n := f"{base}{k or ''}") not in names)
    names.add(name)
    return name


def tensor(stored: StoredRef) -> dict[str, Any]:
    """As a call names what it reads."""
    history = [stored.layer, stored.node, stored.tensor]
    shape = None if stored.shape is None else list(stored.shape)
    config = {"shape": shape, "dtype": stored.dtype, "keras_history": history}
    return {"class_name": "__keras_tensor__", "config": config}


def op_entry(name: str, op: str, read: Any, operand: Array) -> dict[str, Any]:
    """As Keras writes ``keras.ops.maximum(x, array)``: see ``serialize_node`` beside its Functional."""
    stored = {"value": operand.tolist(), "dtype": operand.dtype.name}
    constant = {"class_name": "__numpy__", "config": stored}
    return {
        "module": "keras.src.ops.numpy", "class_name": op, "config": {"name": name}, "registered_name": op,
        "name": name, "inbound_nodes": [{"args": [read, constant], "kwargs": {}}],
    }  # fmt: skip
