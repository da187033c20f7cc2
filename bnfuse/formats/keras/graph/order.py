"""The order in which Keras lists a Functional's layers, by which weights bind to them.

Keras sorts a graph's layers by depth (the longest way to an output, the deepest first) and, where
depths are equal, by the order in which a depth-first walk back from the outputs meets them. Keras 2,
tf_keras and Keras 3 agree on it: ``map_graph`` (keras/src/ops/function.py) and
``_map_graph_network`` (tf_keras/src/engine/functional.py) differ only for networks that begin at an
inner tensor, which no saved file does. Inputs that no output needs come first among the last.

Layers that no output needs (``add_loss`` in Keras 2) are appended as the file has them; Keras 3
neither writes nor loads such layers, so there they are refused by ``check_order``. A Sequential's
order is the file's, always. ``keras.ops`` nodes take part in the order like layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.graph.calls import is_keras3
from bnfuse.formats.keras.graph.network import Network, networks
from bnfuse.formats.order import depth_first

# One call of a layer by the layer's name and the call's position; an InputLayer counts as one call.
Node = tuple[str, int]


def topological(network: Network) -> list[Node]:
    """Every call of a network after all the calls it reads, InputLayers included.

    Raises:
        UnreadableModel: the calls form a cycle.
    """
    everything = ((layer.name, k) for layer in network.layers for k in range(max(1, len(layer.calls))))
    return _depth_first(network, everything)[0]


def keras_order(network: Network) -> list[str]:
    """The names of ``network``'s layers (and ``keras.ops`` nodes) in the order Keras gives them.

    Raises:
        UnreadableModel: the calls form a cycle.
    """
    if network.kind == "Sequential":
        return [layer.name for layer in network.layers]
    finished, first_met = _depth_first(network)
    depths = _depths(network, finished)
    for ref in network.inputs:
        if ref.layer not in depths:
            depths[ref.layer] = 0
            first_met[ref.layer] = -1
    # Both sorts are stable, as Keras's are: unused inputs keep the order in which the model lists them.
    ordered = sorted(depths, key=lambda name: (-depths[name], first_met[name]))
    return [*ordered, *(layer.name for layer in network.layers if layer.name not in depths)]


def check_order(network: Network) -> None:
    """Make sure that Keras would list the layers of every nested Functional as the file does.

    Raises:
        UnreadableModel: it would not, so which weights belong to which layer cannot be told.
    """
    for path, nested in networks(network):
        if nested.kind == "Sequential":
            continue
        stored = [layer.name for layer in nested.layers]
        order = keras_order(nested)
        if order != stored:
            at = next(k for k, (a, b) in enumerate(zip(order, stored, strict=True)) if a != b)
            raise UnreadableModel(
                f"The order of the layers in {_where(path)} is not the one in which Keras lists them (place "
                f"{at} holds '{stored[at]}', Keras puts '{order[at]}' there), so their weights cannot be "
                "told apart: load the model in the Keras version that wrote it and save it again."
            )
        _refuse_unused(nested, path)


def left_out(network: Network) -> list[str]:
    """Layers that no output needs and that Keras 3 would therefore leave out of a Functional."""
    used = {name for name, _ in _depth_first(network)[0]} | {ref.layer for ref in network.inputs}
    unused = [layer for layer in network.layers if layer.name not in used]
    return [layer.name for layer in unused if any(is_keras3(call.raw) for call in layer.calls)]


def _refuse_unused(network: Network, path: tuple[str, ...]) -> None:
    for name in left_out(network):
        raise UnreadableModel(
            f"No output of {_where(path)} depends on its layer '{name}', which Keras 3 would leave "
            "out when it binds the weights: load the model in Keras and save it again."
        )


def _where(path: tuple[str, ...]) -> str:
    return f"the nested model '{'/'.join(path)}'" if path else "the model"


def _reads(network: Network) -> Callable[[Node], list[Node]]:
    """What a call reads; nothing of an InputLayer, and of what enters a Sequential."""
    layers = {layer.name: layer.calls for layer in network.layers}

    def reads(node: Node) -> list[Node]:
        calls = layers.get(node[0])
        return [(ref.layer, ref.call) for ref in calls[node[1]].inputs] if calls else []

    return reads


def _depth_first(network: Network, more: Iterable[Node] = ()) -> tuple[list[Node], dict[str, int]]:
    """Walk back from the outputs: calls in the order they are finished, and when each layer was first met.

    Keras's ``_build_map_helper`` without its recursion; ``more`` calls to begin at come then.
    """
    ends = ((ref.layer, ref.call) for ref in network.outputs)
    finished, met = depth_first((*ends, *more), _reads(network), _cycle)
    return finished, {name: at for at, name in enumerate(dict.fromkeys(name for name, _ in met))}


def _cycle(node: Node) -> UnreadableModel:
    return UnreadableModel(
        f"Layer '{node[0]}' of the model reads its own output, directly or through others: "
        "the config is damaged, save the model anew."
    )


def _depths(network: Network, finished: list[Node]) -> dict[str, int]:
    """The depth of every layer: of its deepest call at the time Keras looks at it."""
    node_depths: dict[Node, int] = {}
    layer_depths: dict[str, int] = {}
    reads = _reads(network)
    for node in reversed(finished):
        depth = max(node_depths.get(node, 0), layer_depths.get(node[0], 0))
        node_depths[node] = layer_depths[node[0]] = depth
        for parent in reads(node):
            node_depths[parent] = max(depth + 1, node_depths.get(parent, 0))
    return layer_depths
