"""Edit a model's config: a sum with a constant behind a function that has no bias of its own.

    y = conv(x, kernel)   →   h = conv(x, kernel), y = h − (−bias)

The function gets another name, and the sum takes its name: whoever read it, and whatever it is an output of,
stays as it is. Keras 3 gets a difference, for its sum is another one under TensorFlow (``rows.bias_add``);
in a file of Keras 2 it is a sum, and a TFOpLambda.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import count
from typing import Any

from msgspec import Struct

from bnfuse.core.tensor import Array
from bnfuse.formats.keras.graph.calls import is_keras3
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
        name = next(n for k in count() if (n := f"{layer.name}_product{k or ''}") not in names)
        names.add(name)
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
    config = {"shape": list(wanted.shape), "dtype": wanted.dtype, "keras_history": list(read)}
    stored = {"value": (-wanted.bias).tolist(), "dtype": wanted.bias.dtype.name}
    args = [
        {"class_name": "__keras_tensor__", "config": config},
        {"class_name": "__numpy__", "config": stored},
    ]
    return {
        "module": "keras.src.ops.numpy", "class_name": "Subtract", "config": {"name": entry["name"]},
        "registered_name": "Subtract", "name": entry["name"], "inbound_nodes": [{"args": args, "kwargs": {}}],
    }  # fmt: skip


def _keras2(entry: dict[str, Any], read: tuple[str, int, int], wanted: Sum) -> dict[str, Any]:
    """As tf_keras writes ``tf.add(h, array)``."""
    made = {**entry, "config": {**entry["config"], "function": "math.add"}}
    return {**made, "inbound_nodes": [[*read, {"y": wanted.bias.tolist(), "name": None}]]}
