"""Bind the weights of an HDF5 file without groups of slots: by the flat list of a layer, or by name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.file.container import Container, WeightPlace
from bnfuse.formats.keras.file.hdf5_tree import Hdf5Tree, StoredDataset
from bnfuse.formats.keras.graph.flat_weights import (
    FlatLayer,
    by_name,
    contradiction,
    expected,
    is_trainable,
    leaves,
    variable_name,
)
from bnfuse.formats.keras.graph.network import Layer, Network, saved_layers
from bnfuse.formats.keras.graph.variables import StoredVariable

AGAIN = "; load the model in Keras and save it again"


def attribute_list(tree: Hdf5Tree, group: str, name: str) -> list[str]:
    """A list of strings kept as an attribute, or as several (``name0``, ``name1``, …) if it is long."""
    attributes = tree.attributes(group)
    parts = [attributes[name]] if name in attributes else []
    while name not in attributes and f"{name}{len(parts)}" in attributes:
        parts.append(attributes[f"{name}{len(parts)}"])
    names: list[str] = []
    for part in parts:
        if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype.kind not in "OSf":
            raise UnreadableModel(f"{tree.origin}: '{name}' of '{group}' is no list of names{AGAIN}")
        with tree.reading(f"{name} of {group}"):
            names += [text.decode() if isinstance(text, bytes) else str(text) for text in part]
    return names


def bind_hdf5(container: Container, network: Network) -> None:
    """Hand out what the file lists, layer by layer.

    Raises:
        UnreadableModel: the weights do not fit the config.
    """
    tree, path = container.tree, container.path
    listed = attribute_list(tree, "model_weights", "layer_names")
    stored = {name: _weights_of(tree, name) for name in dict.fromkeys(listed)}
    if len(stored) < len(listed):
        raise UnreadableModel(f"{path}: two groups of weights have the same name{AGAIN}")
    layers = {layer.name: layer for layer in saved_layers(network)}
    order = [name for name in listed if stored[name]]
    for name in order:
        if name not in layers:
            raise UnreadableModel(f"{path}: it holds weights for '{name}', which its config lacks{AGAIN}")
    if order != [name for name in layers if stored.get(name)]:
        raise UnreadableModel(
            f"{path}: its weights are in another order than its layers, so Keras would mix them up{AGAIN}"
        )
    for name, layer in layers.items():
        if name in stored:
            interleaved = _bind_flat(path, layer, stored[name])
            container.found[(name,)] = WeightPlace(f"model_weights/{name}", interleaved)
        else:
            container.found[(name,)] = WeightPlace("")


def _weights_of(tree: Hdf5Tree, layer: str) -> dict[str, StoredDataset]:
    """The datasets of a top-level layer by their stored names, in their order."""
    group = f"model_weights/{layer}"
    if group not in tree.groups:
        raise UnreadableModel(f"{tree.origin}: it lists a layer '{layer}' whose weights are missing{AGAIN}")
    found: dict[str, StoredDataset] = {}
    for name in attribute_list(tree, group, "weight_names"):
        if f"{group}/{name}" not in tree.datasets or name in found:
            raise UnreadableModel(f"{tree.origin}: the weight '{name}' of layer '{layer}' is missing{AGAIN}")
        found[name] = tree.datasets[f"{group}/{name}"]
    return found


def _bind_flat(path: object, layer: Layer, stored: dict[str, StoredDataset]) -> bool:
    """Share a flat list out among what is inside a layer; whether it goes layer by layer."""
    inside = list(leaves(layer, (layer.name,)))
    names = list(stored)
    misfit: str | None = None
    for interleaved in (False, True):
        order = expected(inside, interleaved)
        if order is None:
            _bind_by_name(path, layer, inside, stored)
            return False
        if len(order) != len(names):
            wanted = ", ".join(slot.name for _, slot in order[:8]) or "none"
            raise UnreadableModel(
                f"{path}: layer '{layer.name}' ({layer.class_name}) has {len(names)} weights where its "
                f"config asks for {len(order)} ({wanted}){AGAIN}"
            )
        if contradiction(order, names) is None:
            for (leaf, slot), (name, array) in zip(order, stored.items(), strict=True):
                trainable = is_trainable(leaf, slot)
                leaf.layer.variables.append(StoredVariable.of(array, slot.name, name, trainable))
            _sort_by_slots(inside)
            return interleaved
        misfit = misfit or contradiction(order, names)
    raise UnreadableModel(
        f"{path}: the weights inside layer '{layer.name}' are not in the order of its layers ('{misfit}' is "
        f"out of place), so Keras would mix them up{AGAIN}"
    )


def _sort_by_slots(inside: Iterable[FlatLayer]) -> None:
    """Trainable first was the file's order; a layer's own variables go by its slots."""
    for leaf in inside:
        place = {slot.name: at for at, slot in enumerate(leaf.slots or ())}
        leaf.layer.variables.sort(key=lambda v, place=place: place[v.name])  # type: ignore[misc]


def _bind_by_name(
    path: object, layer: Layer, inside: list[FlatLayer], stored: dict[str, StoredDataset]
) -> None:
    """Where a class is unknown only the names can tell; one layer alone gets everything."""
    owners = (
        [inside[0]] * len(stored) if len(inside) == 1 else by_name(inside, list(stored)) if stored else []
    )
    if isinstance(owners, str):
        raise UnreadableModel(
            f"{path}: it cannot be told which layer inside '{layer.name}' the weight '{owners}' belongs to, "
            "since there are layers of unknown classes; bring them to the top level and save the model again"
        )
    turn = _first_not_trainable(owners, list(stored), inside)
    for at, (leaf, (name, array)) in enumerate(zip(owners, stored.items(), strict=True)):
        leaf.layer.variables.append(StoredVariable.of(array, _own_name(leaf, name), name, at < turn))
    for leaf in inside:
        _name_by_slots(path, leaf)


def _first_not_trainable(owners: list[FlatLayer], names: list[str], inside: list[FlatLayer]) -> int:
    """Where the trainable variables of a flat list end.

    That is where it starts again with an earlier layer; if it never does, at the first variable that is
    known not to be trainable.
    """
    place = {id(leaf): at for at, leaf in enumerate(inside)}
    for at in range(1, len(owners)):
        if place[id(owners[at])] < place[id(owners[at - 1])]:
            return at
    for at, (leaf, name) in enumerate(zip(owners, names, strict=True)):
        kind = variable_name(name).rsplit("/", 1)[-1]
        if leaf.frozen or any(not s.trainable and s.name == kind for s in leaf.slots or ()):
            return at
    return len(names)


def _name_by_slots(path: object, leaf: FlatLayer) -> None:
    """Name the variables of a known layer among unknown ones."""
    if leaf.slots is None:
        return
    if len(leaf.slots) != len(leaf.layer.variables):
        raise UnreadableModel(
            f"{path}: layer '{'/'.join(leaf.path)}' has {len(leaf.layer.variables)} weights where its config "
            f"asks for {len(leaf.slots)}{AGAIN}"
        )
    for slot, variable in zip(leaf.slots, leaf.layer.variables, strict=True):
        variable.name = slot.name


def _own_name(leaf: FlatLayer, stored: str) -> str:
    """A stored name without the path that leads to its layer."""
    name, marker = variable_name(stored), f"{leaf.layer.name}/"
    at = f"/{name}".rfind(f"/{marker}")
    return name[at + len(marker) :] if at >= 0 else name
