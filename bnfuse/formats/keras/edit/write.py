"""Write an edited model as a file of the kind that was read, its weights laid out as Keras would lay them.

Groups are numbered (archives) or listed (HDF5) after the *edited* network, by the same rules by which
``weights.bind`` found them, so that Keras's loader, which goes by position, binds each array to its layer.
The optimiser's state is left out. Everything else of the file stays: an archive's other members and its
metadata, HDF5's attributes, the compile configuration. The same input gives the same bytes.

When it does not act: it computes nothing and decides nothing; what each layer holds is what hangs on it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py

from bnfuse.formats.keras.file.container import Container
from bnfuse.formats.keras.file.hdf5_copy import (
    copy_array,
    copy_attributes,
    copy_tree,
    group_at,
    output_errors,
    put_array,
    put_names,
)
from bnfuse.formats.keras.file.hdf5_tree import Hdf5Tree
from bnfuse.formats.keras.file.weight_groups import WeightGroup, in_container, places, version_of, wrapped_at
from bnfuse.formats.keras.file.written_file import new_hdf5
from bnfuse.formats.keras.graph.flat_weights import FlatLayer, is_trainable, leaves
from bnfuse.formats.keras.graph.network import Layer, Network, Variable, saved_layers
from bnfuse.formats.keras.graph.variables import StoredVariable
from bnfuse.formats.keras.rows.ops import slots
from bnfuse.formats.keras.rows.variables import in_turn

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
_BLOCK_BYTES = 1 << 20
_DEEPEST_ASSET = 100
Check = Callable[[], None]  # raises where the file so far could not be written


def write(container: Container, config: Any, network: Network, path: Path) -> None:
    """Write a model to ``path``.

    Args:
        container: the input, still open, to which ``weights.bind`` was applied.
        config: the edited config object.
        network: what the edited config describes; its layers carry the variables to store.
        path: where to, in a folder where a temporary file may lie beside it.

    Raises:
        OutputError: no space left, no permission.
        UnreadableModel: the input turned out to be damaged.
        ValueError: a layer's variables do not fit its edited config.
    """
    if container.kind == "archive":
        _write_archive(container, config, network, path)
        return
    with output_errors(path), new_hdf5(path) as (target, file):
        _fill_hdf5(container, config, network, target, file.check)


# Archives


def _write_archive(container: Container, config: Any, network: Network, path: Path) -> None:
    container.check_sum()
    weights = path.with_name(path.name + ".weights")
    try:
        with output_errors(path):
            with new_hdf5(weights) as (target, file):
                _fill_archive(container, network, target, file.check)
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                if container.has_metadata:
                    _put(archive, "metadata.json", container.member("metadata.json"))
                _put(archive, "config.json", [json.dumps(config).encode()])
                _put(archive, "model.weights.h5", _blocks(weights), weights.stat().st_size)
                for name, source in _moved(container, network):
                    _put(archive, name, container.member(source))
    finally:
        with output_errors(path):
            weights.unlink(missing_ok=True)


def _put(archive: zipfile.ZipFile, name: str, blocks: Iterable[bytes], size: int = 0) -> None:
    """A member without time or owner, uncompressed; ``size`` in bytes if it may be a large one."""
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o600 << 16
    info.file_size = size
    with archive.open(info, "w") as target:
        for block in blocks:
            target.write(block)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while block := source.read(_BLOCK_BYTES):
            yield block


def _fill_archive(container: Container, network: Network, target: h5py.File, check: Check) -> None:
    tree, dialect = container.tree, container.dialect
    assert dialect is not None, "bind comes before write"
    for name in sorted({group.split("/", 1)[0] for group in tree.groups}):
        if not in_container(name, dialect):
            copy_tree(tree, name, target)
    names_groups = any("name" in tree.attributes(g) for g in tree.groups if g == "vars")
    for place in places(network, dialect):
        if place.again is not None:
            continue
        check()
        groups = _copy_groups(container, place, target, names_groups)
        old = container.found.get(place.path)
        for at, variable in _placed(place.layer, old.group if old else "", container):
            parent, _, name = f"{place.group}/{at}".rpartition("/")
            group = groups.get(parent) or group_at(target, parent)
            if isinstance(variable, StoredVariable):
                copy_array(variable.stored, group, name)
            else:
                put_array(variable.read(), group, name, mark=True)


def _copy_groups(
    container: Container, place: WeightGroup, target: h5py.File, names_groups: bool
) -> dict[str, h5py.Group]:
    """A layer's groups, by path, with their attributes, without those of what is inside it."""
    assert container.dialect is not None
    tree, found = container.tree, container.found.get(place.path)
    if found is None:
        made = group_at(target, f"{place.group}/vars")
        if names_groups:
            made.attrs["name"] = place.layer.name
        return {f"{place.group}/vars": made}
    inner = (container.dialect.container,) if place.layer.inner is not None else wrapped_at(place.layer)
    foreign = {group for name in inner for group in _whole(tree, f"{found.group}/{name}")}
    foreign |= {group for name in inner for group in _whole(tree, f"{found.group}\\{name}")}
    groups = {}
    for group in _whole(tree, found.group):
        if group not in foreign:
            name = place.group + group[len(found.group) :]
            groups[name] = group_at(target, name)
            copy_attributes(tree, group, groups[name])
    return groups


def _whole(tree: Hdf5Tree, top: str) -> list[str]:
    """A group, if it is there, and all groups below it."""
    return [top, *tree.groups_below(top)] if top in tree.groups else tree.groups_below(top)


def _placed(layer: Layer, old: str, container: Container) -> Iterator[tuple[str, Variable]]:
    """Each variable of a layer with its place below the layer's group.

    Known classes: by name, from the edited config. Others keep the places they had.
    """
    known = slots(layer)
    if known is None or layer.inner is not None or layer.wrapped:
        for variable in layer.variables:
            yield _old_place(layer, variable, old), variable
        return
    by_name = {v.name: v for v in layer.variables if v.name}
    _require_fit(layer, by_name.keys(), {slot.name for slot in known})
    for slot in known:
        for place in slot.places:
            private = f"_{place}"
            was_private = f"{old}/{private.rpartition('/')[0]}" in container.tree.groups
            yield private if was_private else place, by_name[slot.name]
    for variable in layer.variables:
        if not variable.name:
            yield _old_place(layer, variable, old), variable


def _old_place(layer: Layer, variable: Variable, old: str) -> str:
    if isinstance(variable, StoredVariable):
        return variable.place
    if old and variable.source.startswith(f"{old}/"):
        return variable.source[len(old) + 1 :]
    raise ValueError(f"layer '{layer.name}' ({layer.class_name}) has no known place for '{variable.name}'")


def _require_fit(layer: Layer, has: Iterable[str], wants: set[str]) -> None:
    if set(has) != wants:
        raise ValueError(
            f"layer '{layer.name}' ({layer.class_name}) carries {sorted(has)} where its config asks for "
            f"{sorted(wants)}"
        )


def _moved(container: Container, network: Network) -> Iterator[tuple[str, str]]:
    """The archive's other members: (new name, old name). Assets of a layer lie at its group's path."""
    assert container.dialect is not None
    new = {p.path: p.group for p in places(network, container.dialect) if p.again is None}
    groups = {found.group: new.get(path) for path, found in container.found.items()}
    for name in container.side:
        head, _, rest = name.partition("/")
        steps = rest.split("/", _DEEPEST_ASSET)[:_DEEPEST_ASSET]
        ways = ("/".join(steps[:count]) for count in range(len(steps), 0, -1))
        owner = next((way for way in ways if way in groups), "")
        if head != "assets" or not owner:
            yield name, name
            continue
        moved = groups[owner]
        if moved is not None:
            yield f"assets/{moved}{rest[len(owner) :]}", name


# HDF5


def _fill_hdf5(container: Container, config: Any, network: Network, target: h5py.File, check: Check) -> None:
    tree = container.tree
    copy_attributes(tree, "", target, skip=("model_config",))
    kind = h5py.check_string_dtype(h5py.h5a.open(tree.file.id, b"model_config").dtype)
    encoding = kind.encoding if kind is not None else "utf-8"
    target.attrs.create("model_config", json.dumps(config).encode(), dtype=h5py.string_dtype(encoding))
    weights = target.create_group("model_weights")
    layers = [layer for layer in saved_layers(network) if _is_listed(container, layer)]
    fixed = _fixed_texts(tree)
    put_names(weights, "layer_names", [layer.name for layer in layers], fixed)
    lists = tuple(name for name in tree.attributes("model_weights") if name.startswith("layer_names"))
    copy_attributes(tree, "model_weights", weights, skip=lists)
    # By name, so that the group "a" is there before "a/b", as Keras does.
    for layer in sorted(layers, key=lambda layer: layer.name):
        check()
        _put_layer(container, layer, weights.require_group(layer.name), fixed)
    if "model_weights/top_level_model_weights" in tree.groups:
        copy_tree(tree, "model_weights/top_level_model_weights", target)


def _fixed_texts(tree: Hdf5Tree) -> bool:
    """Whether lists of names hold texts of fixed length, as h5py before 3 wrote them.

    That is all that Keras with such an h5py can read. (Lists in several parts always are.)
    """
    for group in ["model_weights", *tree.groups_below("model_weights")]:
        attributes = tree.attributes(group)
        for name in ("layer_names", "weight_names"):
            if name in attributes and len(attributes[name]):
                return bool(attributes[name].dtype.kind == "S")
    return False


def _is_listed(container: Container, layer: Layer) -> bool:
    """All layers but those that the file did not list either (``keras.ops`` nodes)."""
    found = container.found.get((layer.name,))
    return found is None or bool(found.group)


def _put_layer(container: Container, layer: Layer, group: h5py.Group, fixed: bool) -> None:
    found = container.found.get((layer.name,))
    pairs = [pair for leaf in leaves(layer, (layer.name,)) for pair in _of_leaf(leaf)]
    if found is None or not found.interleaved:
        pairs.sort(key=lambda pair: not pair[0])
    names: dict[str, None] = {}
    for _, leaf, variable in pairs:
        known = _stored_name(variable, found.group if found else "")
        name = known or _new_name(container, leaf, variable, found.group if found else "")
        if name in names:
            raise ValueError(f"layer '{layer.name}' would store '{name}' twice")
        names[name] = None
        if isinstance(variable, StoredVariable):
            copy_array(variable.stored, group, name)
        else:
            put_array(variable.read(), group, name, mark=False)
    put_names(group, "weight_names", list(names), fixed)


def _of_leaf(leaf: FlatLayer) -> list[tuple[bool, FlatLayer, Variable]]:
    """(counts as trainable, leaf, variable), trainable by nature first."""
    variables = leaf.layer.variables
    if leaf.slots is None:
        return [(getattr(v, "trainable", not leaf.frozen), leaf, v) for v in variables]
    by_name = {v.name: v for v in variables}
    _require_fit(leaf.layer, by_name.keys(), {slot.name for slot in leaf.slots})
    return [(is_trainable(leaf, slot), leaf, by_name[slot.name]) for slot in in_turn(leaf.slots)]


def _stored_name(variable: Variable, group: str) -> str | None:
    """What the file calls a variable in ``weight_names``, or called the one whose place it takes."""
    if isinstance(variable, StoredVariable):
        return variable.place
    start = f"{group}/"
    return variable.source[len(start) :] if variable.source.startswith(start) else None


def _new_name(container: Container, leaf: FlatLayer, variable: Variable, group: str) -> str:
    """A name like those of its neighbours: ``inn/dense_1/kernel:0`` gives ``inn/dense_1/bias:0``."""
    part, _, name = variable.name.rpartition("/")
    for other in leaf.layer.variables:
        known = _stored_name(other, group)
        if known is not None and other.name.rpartition("/")[0] == part:
            end = ":0" if known.endswith(":0") else ""
            return f"{known.rpartition('/')[0]}/{name}{end}".lstrip("/")
    end = ":0" if version_of(container.keras_version)[0] < 3 else ""
    return f"{leaf.layer.name}/{variable.name}{end}"
