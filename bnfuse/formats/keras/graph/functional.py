"""A Functional's graph: which call of which layer reads which output of which other call.

References name a layer, a node and a tensor. A node is a call, counted from 0 or, for some nested
networks, from 1: that depends on the version that wrote the file, and is found out here. A reference
that leads nowhere is an error, never repaired: weights bind by position, and a wrong graph would compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.graph.calls import StoredCall, StoredRef, is_keras3, read_call, read_ends
from bnfuse.formats.keras.graph.network import Call, Layer, Network, Ref
from bnfuse.formats.keras.graph.order import topological

_FREE_OUTPUTS, _OUTPUTS_FOR_ONE_READ = 10_000, 8


def malformed(what: str) -> UnreadableModel:
    """The error for a config that no Keras version writes."""
    return UnreadableModel(
        f"The model's config is malformed: {what}; the file is damaged, save the model anew."
    )


def functional(
    name: str, layers: list[Layer], config: dict[str, Any], class_name: str, registered: str
) -> Network:
    """The graph that a Functional's config describes; ``layers`` get their calls.

    Raises:
        UnreadableModel: a reference leads nowhere, or the calls form a cycle.
    """
    by_name = {layer.name: layer for layer in layers}
    calls = {layer.name: _stored_calls(layer) for layer in layers}
    inputs, outputs = (read_ends(config[key], key) for key in ("input_layers", "output_layers"))
    if not outputs:
        raise malformed(f"the model '{name}' has no outputs")
    network = Network(
        name, "Functional", layers, (), (), config, class_name=class_name, registered=registered
    )
    _number_nodes(network, calls, (*inputs, *outputs))
    resolve = _Resolver(by_name, calls, {stored.layer for stored in inputs})
    network.inputs = tuple(resolve(stored, network.first_output_node) for stored in inputs)
    network.outputs = tuple(resolve(stored, network.first_output_node) for stored in outputs)
    for layer in layers:
        for raw, stored_call in zip(layer.entry["inbound_nodes"], calls[layer.name], strict=True):
            refs = tuple(resolve(stored, network.first_node) for stored in stored_call.tensors)
            layer.calls.append(_call(raw, stored_call, refs))
    _refuse_called_inputs(by_name, network.inputs)
    _refuse_far_outputs(network)
    topological(network)
    return network


def _stored_calls(layer: Layer) -> list[StoredCall]:
    nodes = layer.entry.get("inbound_nodes")
    if not isinstance(nodes, list | tuple):
        raise malformed(f"layer '{layer.name}' has no list of inbound nodes")
    return [read_call(raw) for raw in nodes]


def _call(raw: Any, stored: StoredCall, refs: tuple[Ref, ...]) -> Call:
    return Call(
        inputs=refs,
        keywords=stored.keywords,
        arguments=stored.arguments,
        constants=stored.constants,
        shapes=tuple(tensor.shape for tensor in stored.tensors),
        dtypes=tuple(tensor.dtype for tensor in stored.tensors),
        raw=raw,
    )


# --- node indices ---


def _number_nodes(network: Network, calls: dict[str, list[StoredCall]], ends: Sequence[StoredRef]) -> None:
    """Find out what the file adds to a call's position to name it (see ``Network.first_node``)."""
    nested = {layer.name: layer.inner for layer in network.layers if layer.inner is not None}
    if not nested:
        return
    if any(is_keras3(raw) for layer in network.layers for raw in layer.entry["inbound_nodes"]):
        # Keras takes 0 for the last call there; only where that is the sole call is it no guess.
        from_zero = {end.layer for end in ends if end.node == 0 and len(calls.get(end.layer, ())) == 1}
        network.first_output_node = {
            name: 1 for name, inner in nested.items() if inner.kind == "Functional" and name not in from_zero
        }
        return
    used = _used_nodes(calls, ends)
    network.first_node = {
        name: 1
        for name, inner in nested.items()
        if _counts_from_one(inner, len(calls[name]), used.get(name, set()))
    }
    network.first_output_node = network.first_node


def _used_nodes(calls: dict[str, list[StoredCall]], ends: Sequence[StoredRef]) -> dict[str, set[int]]:
    """The node indices by which each layer is named."""
    found: dict[str, set[int]] = {}
    for stored_calls in calls.values():
        for call in stored_calls:
            for stored in call.tensors:
                found.setdefault(stored.layer, set()).add(stored.node)
    for stored in ends:
        found.setdefault(stored.layer, set()).add(stored.node)
    return found


def _counts_from_one(inner: Network, calls: int, used: set[int]) -> bool:
    """Whether a Keras 2 file calls the first call of a nested network node 1.

    It does if the network's input shape is known: node 0 is then its own input-to-output link
    (``_should_skip_first_node``; versions differ on a Sequential). The references themselves tell, unless
    only inner nodes are used: of n calls, node 0 exists only if counting starts at 0, node n only if at 1.
    """
    if 0 in used:
        return False
    return calls in used or _knows_input(inner)


def _knows_input(network: Network) -> bool:
    if network.kind == "Functional":
        return True
    if not network.layers:
        return False
    first = network.layers[0]
    if first.class_name == "InputLayer" or "batch_input_shape" in first.config:
        return True
    return first.inner is not None and _knows_input(first.inner)


# --- references ---


class _Resolver:
    """Stored tensors as references to calls that exist."""

    def __init__(
        self, layers: dict[str, Layer], calls: dict[str, list[StoredCall]], inputs: set[str]
    ) -> None:
        self._layers, self._calls, self._inputs = layers, calls, inputs

    def __call__(self, stored: StoredRef, first_node: dict[str, int]) -> Ref:
        layer = self._layers.get(stored.layer)
        if layer is None:
            raise malformed(f"a layer '{stored.layer}' that is read does not exist")
        count = len(self._calls[stored.layer])
        if count == 0 and (layer.class_name == "InputLayer" or stored.layer in self._inputs):
            count = 1
        call = stored.node - first_node.get(stored.layer, 0)
        outputs = len(layer.inner.outputs) if layer.inner is not None else None
        if not 0 <= call < count or stored.tensor < 0 or (outputs is not None and stored.tensor >= outputs):
            raise malformed(
                f"output {stored.tensor} of node {stored.node} of layer '{stored.layer}' is read "
                "but does not exist"
            )
        return Ref(stored.layer, call, stored.tensor)


def _refuse_far_outputs(network: Network) -> None:
    """No file tells how many outputs a layer has, but those that nobody reads are few beside the others."""
    read = {*network.outputs, *(ref for layer in network.layers for c in layer.calls for ref in c.inputs)}
    last: dict[tuple[str, int], int] = {}
    for ref in read:
        last[ref.layer, ref.call] = max(ref.tensor, last.get((ref.layer, ref.call), 0))
    if sum(last.values()) > _FREE_OUTPUTS + _OUTPUTS_FOR_ONE_READ * len(read):
        name, _ = max(last, key=lambda call: last[call])
        raise malformed(f"output {max(last.values())} of layer '{name}' is read, which hardly exists")


def _refuse_called_inputs(layers: dict[str, Layer], inputs: tuple[Ref, ...]) -> None:
    for ref in inputs:
        if layers[ref.layer].calls:
            raise malformed(f"the input '{ref.layer}' reads another layer")
    if len(set(inputs)) != len(inputs):
        raise malformed("an input is listed twice")
