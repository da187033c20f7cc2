"""Edit a model's config: values with one channel more than the file has, wherever their shapes are told.

A call of Keras 3 tells the shape of all it reads, and a layer of a ``.keras`` file that of what it was built
with, from which Keras makes its kernel. How many channels a layer puts out is a setting of its own, and
somebody else's work, as are the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bnfuse.formats.keras.edit.rewire import Source, rewire
from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.network import Layer, LayerPath, Network, Ref, Shape

if TYPE_CHECKING:
    from bnfuse.core.planning.constant_channel import ConstantChannel
    from bnfuse.formats.keras.graph.flow import OutputPath

Wider = Mapping[Ref, int]  # the axis along which there is one channel more


def wider_values(
    channels: Sequence[ConstantChannel], inside: Mapping[str, OutputPath]
) -> dict[LayerPath, dict[Ref, int]]:
    """The tensors of each network that get another channel, by the network's path."""
    found: dict[LayerPath, dict[Ref, int]] = {}
    for channel in channels:
        for value in channel.propagation.held if channel.added else ():
            at = inside.get(value)  # what is inside one layer is told nowhere
            if at is not None:
                path = tuple(name for name, _ in at.steps[:-1])
                found.setdefault(path, {})[Ref(*at.steps[-1], at.output)] = channel.axis
    return found


def widen(network: Network, wider: Wider) -> None:
    """Tell the new shapes, in place; the network is to be parsed anew afterwards."""
    instead = {
        ref: Source(ref, _more(shape, wider[ref]))
        for layer in network.layers
        for call in layer.calls
        for ref, shape in zip(call.inputs, call.shapes, strict=True)
        if ref in wider
    }
    for layer in network.layers:
        if any(ref in wider for call in layer.calls for ref in call.inputs):
            if network.kind != "Sequential":
                rewire(network, layer, instead)
            _built(layer, wider)


def _built(layer: Layer, wider: Wider) -> None:
    """What it was built with in its first call."""
    built: Any = layer.entry.get("build_config")
    if not isinstance(built, dict) or "input_shape" not in built:
        return
    told, reads = built["input_shape"], layer.calls[0].inputs
    if len(reads) == 1:
        shapes: Any = _more(as_shape(told), wider.get(reads[0]))
    else:
        every = told.get("items") if isinstance(told, dict) else told
        if not isinstance(every, list) or len(every) != len(reads):
            return
        shapes = [_more(as_shape(shape), wider.get(ref)) for shape, ref in zip(every, reads, strict=True)]
    layer.entry["build_config"] = {**built, "input_shape": shapes}


def _more(shape: Shape | None, axis: int | None) -> Shape | None:
    if shape is None or axis is None:
        return shape
    return tuple(n + 1 if k == axis and n is not None else n for k, n in enumerate(shape))
