"""Keras files taken apart and put together again, as the tests of storage see them."""

from __future__ import annotations

import copy
import json
import zipfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bnfuse.formats.keras.edit.write import write
from bnfuse.formats.keras.file.container import Container
from bnfuse.formats.keras.file.opening import open_container
from bnfuse.formats.keras.graph.binding import bind
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import Layer, Network, walk

REAL_MODELS = Path(__file__).resolve().parents[2] / "shared" / "models" / "keras"  # beside the project
NamePath = tuple[str, ...]


def opened(path: Path) -> tuple[Container, Network]:
    """A file's container and its network with the weights bound."""
    with ExitStack() as damaged:
        container = damaged.enter_context(closing(open_container(path)))
        network = parse(container.config, container.keras_version)
        bind(container, network)
        damaged.pop_all()  # sound: whoever asked for it closes it
    return container, network


def edited(network: Network, config: Any) -> Network:
    """The network of an edited config, carrying the variables that the original's layers have."""
    new = parse(config)
    old = {(*path, layer.name): layer for path, layer in walk(network)}
    for path, layer in walk(new):
        here = (*path, layer.name)
        layer.variables = list(old[here].variables)
    return new


def rewritten(path: Path, target: Path) -> None:
    """An unedited round trip."""
    container, network = opened(path)
    with closing(container):
        write(container, container.config, edited(network, copy.deepcopy(container.config)), target)


def held(network: Network) -> dict[NamePath, Layer]:
    """Layers that have variables, by the names that lead to them."""
    return {(*path, layer.name): layer for path, layer in walk(network) if layer.variables}


def as_hex(array: np.ndarray) -> list[Any]:
    """Shape, type and bytes, as JSON can hold them."""
    return [list(array.shape), str(array.dtype), array.tobytes().hex()]


def contents(path: Path) -> dict[str, Any]:
    """Every group's and array's path, type, bytes and attributes, without the optimiser's."""
    with closing(open_container(path)) as container:
        tree = container.tree
        found: dict[str, Any] = {"": plain(tree.attributes())}
        for group in tree.groups:
            found[group] = plain(tree.attributes(group))
        for name, stored in tree.datasets.items():
            found[name] = (stored.shape, stored.raw.str, stored.read().tobytes(), plain(stored.attributes()))
        return found


def plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes with lists for arrays, so that they compare."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in attributes.items()}


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """A Sequential's config without some layers."""
    new = copy.deepcopy(config)
    new["config"]["layers"] = [e for e in new["config"]["layers"] if e["config"].get("name") not in names]
    return new


def entry(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A layer's entry in a network's config."""
    return next(e for e in config["config"]["layers"] if e["config"].get("name") == name)


def with_setting(source: Path, target: Path, name: str, key: str, value: Any) -> None:
    """The same archive with one setting of one layer changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.namelist():
            data = old.read(member)
            if member == "config.json":
                config = json.loads(data)
                entry(config, name)["config"][key] = value
                data = json.dumps(config).encode()
            new.writestr(member, data)


def real_configs() -> dict[str, Any]:
    """The configs of the real ``.h5`` models, by their files' names; none where they are not there."""
    found: dict[str, Any] = {}
    for path in sorted(REAL_MODELS.glob("*.h*5")) if REAL_MODELS.is_dir() else []:
        with h5py.File(path) as file:
            found[path.name] = json.loads(file.attrs["model_config"])
    return found
