"""Bind the stored weights to the layers of a parsed config, as Keras's own loader would.

Both layouts bind by position, not by name: an archive by the numbers of its groups (``weight_groups``), HDF5
by the order of ``weight_names`` (``binding_by_name``, ``flat_weights``). So all that could tell a shift is
checked: each layer of a known class must find exactly the variables its config asks for, nothing may be
left over, and names that the file holds must not contradict. What does not fit is refused, naming the layer.

When it does not act: a layer of an unknown class gets all that lies in its group, unnamed; nothing is
read here but what describes the arrays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.file.container import Container, WeightPlace
from bnfuse.formats.keras.file.hdf5_tree import Hdf5Tree, StoredDataset
from bnfuse.formats.keras.file.weight_groups import (
    Dialect,
    WeightGroup,
    dialects,
    in_container,
    places,
    wrapped_at,
)
from bnfuse.formats.keras.graph.binding_by_name import AGAIN, bind_hdf5
from bnfuse.formats.keras.graph.network import Layer, Network, walk
from bnfuse.formats.keras.graph.variables import StoredVariable
from bnfuse.formats.keras.rows.ops import slots
from bnfuse.formats.keras.rows.site import variable_dtype
from bnfuse.formats.keras.rows.variables import Slot, quantised_to

_FLOAT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
_OTHERS = {"bfloat16", "float16"}  # of one size, and neither holds what the other does


def bind(container: Container, network: Network) -> None:
    """Give every layer of ``network`` its variables.

    Raises:
        UnreadableModel: what is stored does not fit the config.
        UnsafeModel: see ``Tree.scan``.
    """
    for _, layer in walk(network):
        if "\0" in layer.name:
            raise UnreadableModel(f"{container.path}: a layer's name holds a NUL character{AGAIN}")
    if container.kind == "archive":
        _bind_archive(container, network)
        _lock_shared(network)
    else:
        bind_hdf5(container, network)
    for _, layer in walk(network):
        for variable in layer.variables:
            if isinstance(variable, StoredVariable) and not variable.locked:
                variable.locked = _odd_type(layer, variable)


def _odd_type(layer: Layer, variable: StoredVariable) -> str:
    """Why a layer is not to be edited that stores a variable in a type which is not its own; "" if it may.

    Keras converts what it loads to the layer's type. What is folded would be rounded to the stored type: to
    whole numbers, or to fewer digits than the layer computes with.
    """
    known = not variable.name or variable.name == "count"  # of unknown use; how much a Normalization has seen
    if known or (quantised_to(layer.config) and variable.name != "bias"):  # integers, and scales of their own
        return ""
    name, size = variable.dtype.name, variable.dtype.itemsize
    stated = layer.config.get("dtype")
    own = variable_dtype(stated) if isinstance(stated, (str, dict)) else name
    if name not in _FLOAT_BYTES or size < _FLOAT_BYTES.get(own, 0):
        return f"its {variable.name} holds {name} values"
    return f"its {variable.name} holds {name} values, not {own}" if {name, own} == _OTHERS else ""


# Archives


def _lock_shared(network: Network) -> None:
    """Layers that also lie in one which is not looked into: Keras 3 makes one layer of those of one id."""
    layers = [layer for _, layer in walk(network)]
    ids = (layer.entry.get("shared_object_id") for layer in layers)
    known = Counter(each for each in ids if isinstance(each, int))
    every = Counter(_shared_ids([layer.entry for layer in network.layers]))
    for layer in layers:
        shared = layer.entry.get("shared_object_id")
        if isinstance(shared, int) and every[shared] > known[shared]:
            for variable in layer.variables:
                if isinstance(variable, StoredVariable):
                    variable.locked = "it lies in another layer, too"


def _shared_ids(config: Any) -> Iterator[int]:
    """Of everything in a config."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            shared = value.get("shared_object_id")
            if isinstance(shared, int):
                yield shared
            pending += value.values()
        elif isinstance(value, list):
            pending += value


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
            container.found[place.path] = WeightPlace(place.group)
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
        self._copies: set[str] = set()

    def fit(
        self, listed: list[WeightGroup]
    ) -> list[tuple[WeightGroup, list[StoredVariable]]] | UnreadableModel:
        """Each layer's variables; or what does not fit: a variable that is missing, a group left over."""
        try:
            found = [(place, [] if place.again else self.variables(place)) for place in listed]
        except UnreadableModel as misfit:
            return misfit
        claimed = self._copies.union(variable.source for _, variables in found for variable in variables)
        for path in self._tree.datasets:
            if path not in claimed and in_container(path, self._dialect):
                return UnreadableModel(
                    f"{self._path}: it holds weights at '{path}', for which its config has no layer{AGAIN}"
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
            found = [at for where in slot.places for at in _spellings(where) if f"{group}/{at}" in stored]
            if len(found) < len(slot.places):
                raise UnreadableModel(
                    f"{self._path}: layer '{'/'.join(place.path)}' ({place.layer.class_name}) has no "
                    f"'{slot.name}': nothing is stored at '{group}/{slot.place}'{AGAIN}"
                )
            first, *again = [stored.pop(f"{group}/{at}") for at in found]
            self._copies.update(copy.path for copy in again)
            taken.append(StoredVariable.of(first, slot.name, found[0], slot.trainable))
        self._refuse_more(place, known, stored)
        rest = [StoredVariable.of(s, "", s.path[len(group) + 1 :], False) for s in stored.values()]
        if any(variable.dtype.kind in "fV" for variable in rest):
            for variable in taken:  # one that nobody knows of may read the input, too
                variable.locked = f"it has weights of unknown use ('{rest[0].place}')"
        return taken + rest

    def _refuse_more(
        self, place: WeightGroup, known: Iterable[Slot], stored: dict[str, StoredDataset]
    ) -> None:
        """Groups that hold slots must hold nothing else (a random generator's state lies elsewhere)."""
        full = {f"{place.group}/{at.rpartition('/')[0]}" for slot in known for at in slot.places}
        for path in stored:
            if path.rpartition("/")[0] in (full or {f"{place.group}/vars"}):
                raise UnreadableModel(
                    f"{self._path}: layer '{'/'.join(place.path)}' ({place.layer.class_name}) has more "
                    f"weights than its config asks for, at '{path}'{AGAIN}"
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
