"""The contents of a Keras file as data: layers, weights, interface and facts, without running it.

Layers and weights are called by the names that lead to them (``encoder/dense_3/kernel``), which a
``.keras`` archive and an HDF5 file of one model have in common; a variable whose name the file does not
tell is called by its place. A nested network counts as what is in it, and is no operator itself.

When it does not act: a layer's ``name`` and what a config says about modules and building are no settings;
dtypes of outputs are told only where the last layer's config does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from bnfuse.errors import UnreadableModel
from bnfuse.formats.base import TensorSpec
from bnfuse.formats.contents import Contents, NodeItem, Setting, Slot, WeightItem
from bnfuse.formats.keras.file.container import Container
from bnfuse.formats.keras.file.opening import open_container
from bnfuse.formats.keras.file.stored_array import StoredTensor
from bnfuse.formats.keras.graph.binding import bind
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import SEQUENTIAL_INPUT, Layer, Network, Ref, networks, walk
from bnfuse.formats.keras.graph.order import check_order
from bnfuse.formats.keras.graph.shapes import TensorShapes, infer
from bnfuse.formats.keras.graph.variables import StoredVariable
from bnfuse.formats.table import Malformed

# Entries of a config that are no settings: the layer's name, layers inside it, and how to build it; and those
# of layers that are looked into by themselves.
_NO_SETTINGS = frozenset(
    {"name", "layers", "input_layers", "output_layers"}
    | {"module", "registered_name", "shared_object_id", "build_config", "compile_config", "build_input_shape"}
)
_WRAPPED = frozenset({"layer", "backward_layer"})


def read_contents(path: Path) -> Contents:
    """Everything in a Keras file; weights are read when asked for.

    Raises:
        UnreadableModel: not a whole model with its graph of layers and their weights.
        UnsafeModel: it reaches out of the file, or would fill memory or disk.
    """
    container = open_container(path)
    try:
        network = parse(container.config, container.keras_version)
        check_order(network)
        container.check_sum()
        bind(container, network)
        return _contents(path, container, network)
    except Malformed as e:
        container.close()
        raise UnreadableModel(f"{path}: its config does not hold together ({e}); save the model again") from e
    except BaseException:
        container.close()
        raise


def _contents(path: Path, container: Container, network: Network) -> Contents:
    weights = _weights(network)
    operators: dict[str, Counter[str]] = {}
    for around, layer in walk(network):
        if layer.inner is None and layer.class_name != "InputLayer":
            operators.setdefault(_prefix(around), Counter())[_operator(layer)] += 1
    storage = {"container": "zip archive" if container.kind == "archive" else "HDF5"}
    if container.backend:  # HDF5 alone tells it
        storage["saved by"] = container.backend
    shapes = infer(network)
    return Contents(
        form="keras",
        total_bytes=path.stat().st_size,
        inputs=tuple(_specs(network, network.inputs, shapes)),
        outputs=tuple(_specs(network, network.outputs, shapes)),
        sources=tuple(_value("", ref) for ref in network.inputs),
        results=tuple(_value("", ref) for ref in network.outputs),
        nodes=list(_nodes(network, weights)),
        operators=operators,
        weights={item.name: item for item in weights.values()},
        facts=_facts(container, network),
        storage=storage,
        settings=_settings,
        close=container.close,
        state_bytes=container.optimizer_bytes(),
    )


def _prefix(path: tuple[str, ...]) -> str:
    return "".join(f"{name}/" for name in path)


def _operator(layer: Layer) -> str:
    return layer.registered or layer.class_name


def _value(prefix: str, ref: Ref) -> str:
    """A tensor of a network: "dense", the second call "dense#2", a second output "lstm:1"."""
    name = "(input)" if ref == SEQUENTIAL_INPUT else ref.layer
    call = f"#{ref.call + 1}" if ref.call else ""
    tensor = f":{ref.tensor}" if ref.tensor else ""
    return f"{prefix}{name}{call}{tensor}"


# Layers


def _nodes(network: Network, weights: Mapping[int, WeightItem]) -> Iterator[NodeItem]:
    written = {_prefix(path): _written(inner, _prefix(path)) for path, inner in networks(network)}
    for around, layer in walk(network):
        if layer.class_name == "InputLayer":
            continue
        prefix = _prefix(around)
        inputs = [_value(prefix, ref) for call in layer.calls for ref in call.inputs]
        if layer.inner is not None:  # what is inside results in what the layer writes
            inside = f"{prefix}{layer.name}/"
            inputs += [_value(inside, ref) for ref in layer.inner.outputs]
        apart = _WRAPPED if layer.wrapped else frozenset()
        own = {} if layer.inner is not None else layer.config
        settings = _flat({key: value for key, value in own.items() if key not in apart})
        yield NodeItem(
            layer.name,
            _operator(layer),
            prefix,
            tuple(inputs),
            tuple(written.get(prefix, {}).get(layer.name, ())),
            tuple(_slots(layer, weights)),
            json.dumps(settings, sort_keys=True, default=str).encode(),
            settings,
        )


def _written(network: Network, prefix: str) -> dict[str, list[str]]:
    """By layer: the tensors it writes, as far as anybody reads them; the first always."""
    refs = [Ref(layer.name, 0, 0) for layer in network.layers]
    refs += [ref for layer in network.layers for call in layer.calls for ref in call.inputs]
    found: dict[str, list[str]] = {}
    for ref in dict.fromkeys([*refs, *network.outputs]):
        found.setdefault(ref.layer, []).append(_value(prefix, ref))
    return found


def _slots(layer: Layer, weights: Mapping[int, WeightItem]) -> Iterator[tuple[Slot, str]]:
    for number, variable in enumerate(layer.variables):
        yield variable.name or number, weights[id(variable)].name


def _settings(item: NodeItem) -> dict[str, Setting]:
    settings = item.handle
    assert isinstance(settings, dict)
    return settings


def _flat(config: Mapping[str, Any], start: str = "") -> dict[str, Setting]:
    """A config with nested objects spelled out: ``kernel_initializer.config.seed``."""
    found: dict[str, Setting] = {}
    for key, value in config.items():
        name = f"{start}{key}"
        if key in _NO_SETTINGS:
            continue
        if key == "dtype":
            found[name] = _dtype(value)
        elif isinstance(value, dict) and value:
            found.update(_flat(value, f"{name}."))
        else:
            found[name] = value
    return found


def _dtype(value: Any) -> str:
    """The name of a dtype or of a dtype policy; "" where it is neither."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"].get("name", "")
    return value if isinstance(value, str) else ""


# Weights


def _weights(network: Network) -> dict[int, WeightItem]:
    """Every stored variable once, by its identity; called by the layer that comes first."""
    found: dict[int, WeightItem] = {}
    taken: set[str] = set()
    for around, layer in walk(network):
        for variable in layer.variables:
            if id(variable) in found or not isinstance(variable, StoredVariable):
                continue
            name = f"{_prefix(around)}{layer.name}/{variable.name or variable.place}"
            while name in taken:
                name += "'"
            taken.add(name)
            dtype, stored = variable.dtype, variable.stored
            found[id(variable)] = WeightItem(
                name,
                variable.shape,
                dtype.name,
                prod(variable.shape) * dtype.itemsize,
                None,
                partial(StoredTensor, stored),
            )
    return found


# Interface and facts


def _specs(network: Network, refs: tuple[Ref, ...], shapes: TensorShapes) -> Iterator[TensorSpec]:
    layers = {layer.name: layer for layer in network.layers}
    seen: Counter[str] = Counter()
    for ref in refs:
        name = "input" if ref == SEQUENTIAL_INPUT else ref.layer
        number, seen[name] = seen[name], seen[name] + 1
        layer = layers.get(ref.layer)
        dtype = "" if layer is None else _dtype(layer.config.get("dtype")).removeprefix("mixed_")
        yield TensorSpec(f"{name}:{number}" if number else name, dtype, shapes.of((), ref))


def _facts(container: Container, network: Network) -> dict[str, str]:
    found = {
        "Keras version": container.keras_version,
        "model": network.name,
        "kind": network.kind,
        "custom class": network.registered,
        "compiled": "yes" if container.training_config else "no",
        "optimiser state": "yes" if container.has_optimizer else "no",
    }
    return {label: value for label, value in found.items() if value}
