"""Edit a model's config: a sum with a constant behind a function that has no bias of its own.

    y = conv(x, kernel)   →   h = conv(x, kernel), y = h − (−bias)

The function gets another name, and the sum takes its name: whoever read it, and whatever it is an output of,
stays as it is. Keras 3 gets a difference, for its sum is another one under TensorFlow (``rows.bias_add``);
in a file of Keras 2 it is a sum, and a TFOpLambda.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from bnfuse.core.weights.tensor import Array
from bnfuse.formats.keras.edit.insert_ops import new_name, op_entry, tensor
from bnfuse.formats.keras.graph.calls import StoredRef, is_keras3
from bnfuse.formats.keras.graph.network import Network, Shape


class Sum(Struct, frozen=True, eq=False):
    """What is added, in a shape that broadcasts, to values of this shape (the batch included) and type."""

    bias: Array
    shape: Shape
    dtype: str


def put_sums(network: Network, wanted: Mapping[str, Sum]) -> None:
    """Sums behind functions, by the functions' names; the network is to be parsed anew afterwards."""
    names = {layer.name for layer in network.layers}
    for layer in network.layers:
        if layer.name not in wanted:
            continue
        behind = copy.deepcopy(layer.entry)
        name = new_name(f"{layer.name}_product", names)
        behind["name"] = behind["config"]["name"] = name
        network.raw["layers"].append(behind)
        (raw,) = layer.entry["inbound_nodes"]
        first = network.first_node.get(layer.name, 0)
        make = _keras3 if is_keras3(raw) else _keras2
        made = make(layer.entry, (name, first, 0), wanted[layer.name])
        layer.entry.clear()
        layer.entry.update(made)


def _keras3(entry: dict[str, Any], read: tuple[str, int, int], wanted: Sum) -> dict[str, Any]:
    """As Keras writes ``keras.ops.subtract(h, array)``."""
    return op_entry(
        entry["name"], "Subtract", tensor(StoredRef(*read, wanted.shape, wanted.dtype)), -wanted.bias
    )


def _keras2(entry: dict[str, Any], read: tuple[str, int, int], wanted: Sum) -> dict[str, Any]:
    """As tf_keras writes ``tf.add(h, array)``."""
    made = {**entry, "config": {**entry["config"], "function": "math.add"}}
    return {**made, "inbound_nodes": [[*read, {"y": wanted.bias.tolist(), "name": None}]]}
