"""Bind the stored weights to the layers of a parsed config, as Keras's own loader would.

Both layouts bind by position, not by name: an archive by the numbers of its groups (``places``), HDF5 by the
order of ``weight_names`` (``flat``). So everything that could tell a shift is checked: each layer of a known
class must find exactly the variables its config asks for, nothing may be left over, and names that the
file holds must not contradict. What does not fit is refused, naming the layer.

When it does not act: a layer of an unknown class gets all that lies in its group, unnamed; nothing is
read here but what describes the arrays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.file.container import Container, Found
from bnfuse.formats.keras.file.hdf5_tree import Hdf5Tree, StoredDataset
from bnfuse.formats.keras.file.weight_groups import (
    Dialect,
    WeightGroup,
    dialects,
    in_container,
    places,
    saved_layers,
    wrapped_at,
)
from bnfuse.formats.keras.graph.flat_weights import (
    Leaf,
    by_name,
    contradiction,
    expected,
    is_trainable,
    leaves,
    variable_name,
)
from bnfuse.formats.keras.graph.network import Layer, Network, walk
from bnfuse.formats.keras.graph.variables import StoredVariable
from bnfuse.formats.keras.rows.ops import slots
from bnfuse.formats.keras.rows.variables import Slot

_AGAIN = "; load the model in Keras and save it again"


def bind(container: Container, network: Network) -> None:
    """Give every layer of ``network`` its variables.

    Raises:
        UnreadableModel: what is stored does not fit the config.
        UnsafeModel: see ``Tree.scan``.
    """
    for _, layer in walk(network):
        if "\0" in layer.name:
            raise UnreadableModel(f"{container.path}: a layer's name holds a NUL character{_AGAIN}")
    if container.kind == "archive":
        _bind_archive(container, network)
    else:
        _bind_hdf5(container, network)


# Archives


def _bind_archive(container: Container, network: Network) -> None:
    """Bind in the first dialect that fits; if none does, the likeliest one's first misfit is told."""
    first: UnreadableModel | None = None
    for dialect in dialects(container.keras_version, container.tree.children()):
        fitting = _Archive(container, dialect).fit(list(places(network, dialect)))
        if not isinstance(fitting, UnreadableModel):
            container.dialect = dialect
            _hand_out(container, fitting)
            return
        first = first or fitting
    assert first is not None, "there is always a dialect to try"
    raise first


def _hand_out(container: Container, fitting: list[tuple[WeightGroup, list[StoredVariable]]]) -> None:
    for place, variables in fitting:
        if place.again is None:
            place.layer.variables = list(variables)
            container.found[place.path] = Found(place.group)
            continue
        for variable in place.again.variables:
            if isinstance(variable, StoredVariable):
                variable.locked = f"it is shared with another network ('{'/'.join(place.path)}')"
        place.layer.variables = list(place.again.variables)


class _Archive:
    """The datasets of an archive, found by the group they lie in."""

    def __init__(self, container: Container, dialect: Dialect) -> None:
        self._path, self._dialect = container.path, dialect
        self._tree: Hdf5Tree = container.tree

    def fit(
        self, listed: list[WeightGroup]
    ) -> list[tuple[WeightGroup, list[StoredVariable]]] | UnreadableModel:
        """Each layer's variables; or what does not fit: a variable that is missing, a group left over."""
        try:
            found = [(place, [] if place.again else self.variables(place)) for place in listed]
        except UnreadableModel as misfit:
            return misfit
        claimed = {variable.source for _, variables in found for variable in variables}
        for path in self._tree.datasets:
            if path not in claimed and in_container(path, self._dialect):
                return UnreadableModel(
                    f"{self._path}: it holds weights at '{path}', for which its config has no layer{_AGAIN}"
                )
        return found

    def variables(self, place: WeightGroup) -> list[StoredVariable]:
        """A layer's own variables: those of its slots first, then what else its group holds."""
        group = place.group
        stored = self._below(group, self._foreign(place.layer))
        known = slots(place.layer)
        if known is None or place.layer.inner is not None or place.layer.wrapped:
            return [StoredVariable.of(s, "", s.path[len(group) + 1 :]) for s in stored.values()]
        taken: list[StoredVariable] = []
        for slot in known:
            at = next((at for at in _spellings(slot.place) if f"{group}/{at}" in stored), None)
            if at is None:
                raise UnreadableModel(
                    f"{self._path}: layer '{'/'.join(place.path)}' ({place.layer.class_name}) has no "
                    f"'{slot.name}': nothing is stored at '{group}/{slot.place}'{_AGAIN}"
                )
            taken.append(StoredVariable.of(stored.pop(f"{group}/{at}"), slot.name, at, slot.trainable))
        self._refuse_more(place, known, stored)
        rest = [StoredVariable.of(s, "", s.path[len(group) + 1 :], False) for s in stored.values()]
        return taken + rest

    def _refuse_more(
        self, place: WeightGroup, known: Iterable[Slot], stored: dict[str, StoredDataset]
    ) -> None:
        """Groups that hold slots must hold nothing else (a random generator's state lies elsewhere)."""
        full = {f"{place.group}/{slot.place.rpartition('/')[0]}" for slot in known}
        for path in stored:
            if path.rpartition("/")[0] in (full or {f"{place.group}/vars"}):
                raise UnreadableModel(
                    f"{self._path}: layer '{'/'.join(place.path)}' ({place.layer.class_name}) has more "
                    f"weights than its config asks for, at '{path}'{_AGAIN}"
                )

    def _foreign(self, layer: Layer) -> tuple[str, ...]:
        """What lies in a layer's group but belongs to layers inside it."""
        held = (self._dialect.container,) if layer.inner is not None else wrapped_at(layer)
        return tuple(f"{name}{end}" for name in held for end in "/\\")

    def _below(self, group: str, foreign: tuple[str, ...]) -> dict[str, StoredDataset]:
        """The datasets below a group by path, in the order of their numbers."""
        found = self._tree.datasets_below(group)
        if foreign:
            found = [path for path in found if not path[len(group) + 1 :].startswith(foreign)]
        return {path: self._tree.datasets[path] for path in sorted(found, key=_natural)}


def _spellings(place: str) -> tuple[str, ...]:
    """A part of a layer may be kept under its private attribute, in older versions."""
    return (place,) if place.startswith(("vars/", "cell/")) else (place, f"_{place}")


def _natural(path: str) -> list[tuple[int, str]]:
    """Sort ``vars/10`` after ``vars/9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"[/\\]", path)]


# HDF5


def attribute_list(tree: Hdf5Tree, group: str, name: str) -> list[str]:
    """A list of strings kept as an attribute, or as several (``name0``, ``name1``, …) if it is long."""
    attributes = tree.attributes(group)
    parts = [attributes[name]] if name in attributes else []
    while name not in attributes and f"{name}{len(parts)}" in attributes:
        parts.append(attributes[f"{name}{len(parts)}"])
    names: list[str] = []
    for part in parts:
        if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype.kind not in "OSf":
            raise UnreadableModel(f"{tree.origin}: '{name}' of '{group}' is no list of names{_AGAIN}")
        with tree.reading(f"{name} of {group}"):
            names += [text.decode() if isinstance(text, bytes) else str(text) for text in part]
    return names


def _bind_hdf5(container: Container, network: Network) -> None:
    tree, path = container.tree, container.path
    listed = attribute_list(tree, "model_weights", "layer_names")
    stored = {name: _weights_of(tree, name) for name in dict.fromkeys(listed)}
    if len(stored) < len(listed):
        raise UnreadableModel(f"{path}: two groups of weights have the same name{_AGAIN}")
    layers = {layer.name: layer for layer in saved_layers(network)}
    order = [name for name in listed if stored[name]]
    for name in order:
        if name not in layers:
            raise UnreadableModel(f"{path}: it holds weights for '{name}', which its config lacks{_AGAIN}")
    if order != [name for name in layers if stored.get(name)]:
        raise UnreadableModel(
            f"{path}: its weights are in another order than its layers, so Keras would mix them up{_AGAIN}"
        )
    for name, layer in layers.items():
        if name in stored:
            interleaved = _bind_flat(path, layer, stored[name])
            container.found[(name,)] = Found(f"model_weights/{name}", interleaved)
        else:
            container.found[(name,)] = Found("")


def _weights_of(tree: Hdf5Tree, layer: str) -> dict[str, StoredDataset]:
    """The datasets of a top-level layer by their stored names, in their order."""
    group = f"model_weights/{layer}"
    if group not in tree.groups:
        raise UnreadableModel(f"{tree.origin}: it lists a layer '{layer}' whose weights are missing{_AGAIN}")
    found: dict[str, StoredDataset] = {}
    for name in attribute_list(tree, group, "weight_names"):
        if f"{group}/{name}" not in tree.datasets or name in found:
            raise UnreadableModel(f"{tree.origin}: the weight '{name}' of layer '{layer}' is missing{_AGAIN}")
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
                f"config asks for {len(order)} ({wanted}){_AGAIN}"
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
        f"out of place), so Keras would mix them up{_AGAIN}"
    )


def _sort_by_slots(inside: Iterable[Leaf]) -> None:
    """Trainable first was the file's order; a layer's own variables go by its slots."""
    for leaf in inside:
        place = {slot.name: at for at, slot in enumerate(leaf.slots or ())}
        leaf.layer.variables.sort(key=lambda v, place=place: place[v.name])  # type: ignore[misc]


def _bind_by_name(path: object, layer: Layer, inside: list[Leaf], stored: dict[str, StoredDataset]) -> None:
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


def _first_not_trainable(owners: list[Leaf], names: list[str], inside: list[Leaf]) -> int:
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


def _name_by_slots(path: object, leaf: Leaf) -> None:
    """Name the variables of a known layer among unknown ones."""
    if leaf.slots is None:
        return
    if len(leaf.slots) != len(leaf.layer.variables):
        raise UnreadableModel(
            f"{path}: layer '{'/'.join(leaf.path)}' has {len(leaf.layer.variables)} weights where its config "
            f"asks for {len(leaf.slots)}{_AGAIN}"
        )
    for slot, variable in zip(leaf.slots, leaf.layer.variables, strict=True):
        variable.name = slot.name


def _own_name(leaf: Leaf, stored: str) -> str:
    """A stored name without the path that leads to its layer."""
    name, marker = variable_name(stored), f"{leaf.layer.name}/"
    at = f"/{name}".rfind(f"/{marker}")
    return name[at + len(marker) :] if at >= 0 else name
