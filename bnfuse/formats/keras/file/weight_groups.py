"""Where a ``.keras`` archive keeps each layer: the groups inside ``model.weights.h5``.

Keras never uses a layer's name there. Each network has a container (``layers``) in which a layer's group
is its class in snake case and a number counted per class, in the order of ``model.layers``:
``layers/dense_1/vars/0``. A wrapped layer lies at the wrapper's attribute, a nested network has a
container of its own. So removing or moving a layer renumbers others; reading and writing must count
alike, and both ask here.

What differs between versions is a ``Dialect``:

1. Keras 2.12–2.14 call the container ``_layer_checkpoint_dependencies``; up to 2.13 it lists each layer that
   has variables twice, and each listing uses up a number.
2. Keras 3 uses up a number for a layer that was stored before (shared between networks), Keras 2.15 does not.
3. Keras 2 on Windows joins the path with a backslash, which HDF5 takes for a part of the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct, field

from bnfuse.formats.keras.graph.network import Layer, LayerPath, Network, saved_layers
from bnfuse.formats.keras.rows.ops import slots
from bnfuse.formats.keras.rows.variables import numbered, snake_case

OLD_CONTAINER = "_layer_checkpoint_dependencies"
# The wrapper's attributes that hold the wrapped layers, by class.
_WRAPPED = {"TimeDistributed": ("layer",), "Bidirectional": ("forward_layer", "backward_layer")}


class Dialect(Struct, frozen=True):
    """How a version of Keras names the groups of an archive."""

    container: str = "layers"
    separator: str = "/"
    counts_stored_again: bool = True
    counts_weighted_twice: bool = False


class WeightGroup(Struct, frozen=True):
    """A layer, the names that lead to it, and its group.

    ``again`` is the layer that holds its variables, if it was stored before.
    """

    path: LayerPath
    layer: Layer
    group: str
    again: Layer | None = None


class _Visited(Struct):
    """Layers that several networks share, as far as the config tells: Keras stores each of them once.

    Only from its second appearance on does a shared layer carry an id; the first is found by name.
    """

    by_id: dict[object, Layer] = field(default_factory=dict)
    by_name: dict[tuple[str, str], Layer] = field(default_factory=dict)

    def earlier(self, layer: Layer) -> Layer | None:
        """The same layer, met before."""
        shared = layer.entry.get("shared_object_id")
        key = layer.class_name, layer.name
        found = None
        if isinstance(shared, int):
            found = self.by_id.get(shared) or self.by_name.get(key)
            self.by_id.setdefault(shared, found or layer)
        self.by_name.setdefault(key, layer)
        return found


def places(network: Network, dialect: Dialect) -> Iterator[WeightGroup]:
    """The group of every layer that Keras stores, nested and wrapped ones after what holds them."""
    yield from _network_places(network, (), "", dialect, _Visited())


def _network_places(
    network: Network, path: LayerPath, base: str, dialect: Dialect, visited: _Visited
) -> Iterator[WeightGroup]:
    container = _join(base, dialect.container, dialect)
    counts: dict[str, int] = {}
    for layer in saved_layers(network):
        here = (*path, layer.name)
        earlier = visited.earlier(layer)
        if earlier is not None and not dialect.counts_stored_again:
            yield WeightGroup(here, layer, "", earlier)
            continue
        name = numbered(snake_case(layer.class_name), counts)
        if dialect.counts_weighted_twice and _has_variables(layer):
            numbered(snake_case(layer.class_name), counts)
        if earlier is not None:
            yield WeightGroup(here, layer, "", earlier)
        else:
            yield from _layer_places(layer, here, _join(container, name, dialect), dialect, visited)


def _layer_places(
    layer: Layer, path: LayerPath, group: str, dialect: Dialect, visited: _Visited
) -> Iterator[WeightGroup]:
    yield WeightGroup(path, layer, group)
    if layer.inner is not None:
        yield from _network_places(layer.inner, path, group, dialect, visited)
    for attribute, wrapped in zip(wrapped_at(layer), layer.wrapped, strict=False):
        inside = (*path, wrapped.name)
        yield from _layer_places(wrapped, inside, _join(group, attribute, dialect), dialect, visited)


def in_container(path: str, dialect: Dialect) -> bool:
    """Whether a group or dataset lies in the outermost network's container."""
    return path == dialect.container or path.startswith((f"{dialect.container}/", f"{dialect.container}\\"))


def wrapped_at(layer: Layer) -> tuple[str, ...]:
    """The wrapper's attributes below which its wrapped layers are kept."""
    return _WRAPPED.get(layer.class_name, ()) if layer.wrapped else ()


def _join(base: str, name: str, dialect: Dialect) -> str:
    return f"{base}{dialect.separator}{name}" if base else name


def _has_variables(layer: Layer) -> bool:
    """Whether a layer has any, as its class says, or for unknown classes what is bound to it."""
    if layer.inner is not None:
        return any(map(_has_variables, layer.inner.layers))
    known = slots(layer)
    own = bool(layer.variables) if known is None else bool(known)
    return own or any(map(_has_variables, layer.wrapped))


def version_of(text: str) -> tuple[int, int]:
    """(major, minor) of a version string; (0, 0) where there is none."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def dialects(keras_version: str, names: list[str]) -> list[Dialect]:
    """The dialects a file may be in, the likeliest first, by its version and the names in its root."""
    separator = "\\" if any("\\" in name for name in names) else "/"
    container = OLD_CONTAINER if any(name.startswith(OLD_CONTAINER) for name in names) else "layers"
    modern = Dialect(container, separator)
    skipping = Dialect(container, separator, counts_stored_again=False)
    if container == OLD_CONTAINER:
        doubled = Dialect(container, separator, counts_weighted_twice=True)
        return [doubled, skipping] if version_of(keras_version) < (2, 14) else [skipping, doubled]
    return [skipping, modern] if version_of(keras_version)[0] == 2 else [modern, skipping]
