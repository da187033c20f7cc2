"""Edit a model's config: take layers out, change their settings, and leave the rest as it was.

Edits name a layer by its path, the names from the outermost network inwards (as ``network.walk`` gives
them). The result is a new object in the dialect that was read: stored calls that read nothing removed
are copied untouched, and node indices stay valid because a layer loses all of its calls or none.
Afterwards the layers of every Functional are put into the order in which Keras will list them: weights
bind by that order, and taking a layer out may change it for others. What nobody reads any longer goes, too.

Some layers cannot go, though they no longer compute anything: those that name an output of the model,
or its input (an old Sequential names its input after its first layer), the only layer of a Sequential,
the only one between a nested model's input and output, and one inside a wrapper. ``settle`` turns their
``Remove`` into ``LINEAR``: an ``Activation("linear")`` of the same name takes their place.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import getitem
from typing import Any

from msgspec import Struct

from bnfuse.core.weights.tensor import Array
from bnfuse.formats.keras.edit.insert_layer import Move, move
from bnfuse.formats.keras.edit.insert_ops import Compute, Follow, put_behind, put_in_place
from bnfuse.formats.keras.edit.insert_sum import Sum, put_sums
from bnfuse.formats.keras.edit.rewire import Source, rewire, rewire_outputs
from bnfuse.formats.keras.edit.widen import Wider, widen
from bnfuse.formats.keras.file.json_documents import copied
from bnfuse.formats.keras.graph.call_constants import Place, bare_call, with_constants
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import Layer, LayerPath, Network, Ref, networks, walk
from bnfuse.formats.keras.graph.order import keras_order, left_out


class Remove(Struct, frozen=True):
    """Take the layer out: whoever read it reads its input."""


class Configure(Struct, frozen=True):
    """Set keys of the layer's config, such as ``{"use_bias": True}``, or of one ``inside`` it."""

    changes: Mapping[str, Any]
    inside: tuple[str | int, ...] = ()


class NewConstants(Struct, frozen=True):
    """Put other constants into the layer's one call, and behind it ``then``, if it has one."""

    arrays: Mapping[Place, Array]
    then: Sum | None = None


class Become(Struct, frozen=True):
    """Put a layer of another class, with these settings and no variables, in the layer's place and name."""

    class_name: str
    settings: Mapping[str, Any]


LINEAR = Become("Activation", {"activation": "linear"})

Edit = Remove | Configure | NewConstants | Become | Compute
Edits = Mapping[LayerPath, Edit]


def rewrite(
    config: Any,
    edits: Edits,
    keras_version: str = "",
    moves: Mapping[LayerPath, Move] | None = None,
    behind: Mapping[LayerPath, Follow] | None = None,
    wider: Mapping[LayerPath, Wider] | None = None,
) -> Any:
    """A copy of a config with ``moves`` and ``edits`` made and the layers in Keras's order.

    ``edits`` are settled first (see ``settle``); ``behind`` holds what follows a layer that stays, ``wider``
    the tensors of each network that have another channel. The config itself is not changed.

    Raises:
        ValueError: an edit names no layer, or takes away one that does not have exactly one input.
        UnreadableModel: the config is malformed.
    """
    new = copied(config)
    network = parse(new, keras_version)
    if wider:
        for path, nested in networks(network):
            widen(nested, wider.get(path, {}))
        network = parse(new, keras_version)
    settled = settle(network, edits)
    _refuse_uneven_twins(network, settled)
    for path, nested in networks(network):
        _take_out(nested, path, settled)
        computed = {layer.name: settled.get((*path, layer.name)) for layer in nested.layers}
        put_in_place(nested, {name: e for name, e in computed.items() if isinstance(e, Compute)})
    for path, layer in walk(network):
        match settled.get((*path, layer.name)):
            case Configure(changes, inside):
                reduce(getitem, inside, layer.entry["config"]).update(copy.deepcopy(dict(changes)))
            case NewConstants(arrays):
                calls = [with_constants(raw, arrays) for raw in layer.entry["inbound_nodes"]]
                layer.entry["inbound_nodes"] = calls
            case Become() as other:
                _become(layer, other)
    for place, wanted in (moves or {}).items():  # only now do they read what they will read
        nested = next(n for path, n in networks(parse(new, keras_version)) if path == place[:-1])
        move(nested, place[-1], wanted)
    if behind:
        for path, nested in networks(parse(new, keras_version)):
            put_behind(nested, {place[-1]: made for place, made in behind.items() if place[:-1] == path})
    sums = {p: e.then for p, e in settled.items() if isinstance(e, NewConstants) and e.then is not None}
    if sums:
        for path, nested in networks(parse(new, keras_version)):
            put_sums(nested, {place[-1]: made for place, made in sums.items() if place[:-1] == path})
    _sort(parse(new, keras_version))
    return new


def settle(network: Network, edits: Edits) -> dict[LayerPath, Edit]:
    """The same edits, with ``LINEAR`` for what cannot be removed.

    Raises:
        ValueError: an edit names no layer, or takes away one that does not have exactly one input.
    """
    settled = dict(edits)
    known = {(*path, layer.name) for path, layer in walk(network)}
    for path in settled:
        if path not in known:
            raise ValueError(f"no layer at {'/'.join(path)}")
    inside_networks: set[LayerPath] = set()
    for path, nested in networks(network):
        inside_networks.update((*path, layer.name) for layer in nested.layers)
        removed = {layer.name for layer in nested.layers if settled.get((*path, layer.name)) == Remove()}
        if nested.kind == "Functional":
            _refuse_unless_one_input(layer for layer in nested.layers if _loses_itself(settled, path, layer))
        keep = _keep_in_sequential if nested.kind == "Sequential" else _keep_in_functional
        for name in keep(nested, removed, outermost=not path):
            place = (*path, name)
            settled[place] = LINEAR
    for path, edit in settled.items():
        if edit == Remove() and path not in inside_networks:
            settled[path] = LINEAR
    return settled


# --- what cannot go ---


def _keep_in_sequential(network: Network, removed: set[str], outermost: bool) -> set[str]:
    """Of the removed layers of a Sequential, those that must stay in place."""
    if any(layer.name in removed and layer.class_name == "InputLayer" for layer in network.layers):
        raise ValueError("an InputLayer cannot be removed")
    names = [layer.name for layer in network.layers if layer.class_name != "InputLayer"]
    if not names:
        return set()
    kept: set[str] = set()
    if outermost:
        kept = {names[-1]} | ({names[0]} if len(names) == len(network.layers) else set())
    elif removed >= set(names):
        kept = {names[-1]}
    return kept & removed


def _keep_in_functional(network: Network, removed: set[str], outermost: bool) -> set[str]:
    """Of the removed layers of a Functional, those that must stay in place."""
    layers = {layer.name: layer for layer in network.layers}
    if outermost:
        return {ref.layer for ref in network.outputs} & removed
    kept: set[str] = set()
    for ref in network.outputs:
        if ref.layer in removed and _source(layers, ref, removed - kept).ref in network.inputs:
            kept.add(ref.layer)
    return kept


def _loses_itself(edits: Edits, path: LayerPath, layer: Layer) -> bool:
    return isinstance(edits.get((*path, layer.name)), Remove | Become)


def _refuse_unless_one_input(layers: Iterable[Layer]) -> None:
    for layer in layers:
        if not layer.calls:
            raise ValueError(f"layer '{layer.name}' reads nothing, so it cannot go")
        if any(len(c.inputs) != 1 and (c.keywords.count("") != 1 or c.keywords[0]) for c in layer.calls):
            raise ValueError(f"layer '{layer.name}' does not have exactly one input, so it cannot go")


def _refuse_uneven_twins(network: Network, edits: Edits) -> None:
    """A backward layer that shares the forward layer's entry can only be edited alike."""
    for path, layer in walk(network):
        if len(layer.wrapped) == 2 and layer.wrapped[0].entry is layer.wrapped[1].entry:
            first, second = (edits.get((*path, layer.name, wrapped.name)) for wrapped in layer.wrapped)
            if first != second:
                raise ValueError(f"the two layers of '{layer.name}' share one config: edit both alike")


# --- taking layers out ---


def _take_out(network: Network, path: LayerPath, edits: Edits) -> None:
    removed = {layer.name for layer in network.layers if edits.get((*path, layer.name)) == Remove()}
    if not removed:
        return
    if network.kind == "Sequential":
        _hand_on_input_shape(network.layers, removed)
    else:
        _rewire(network, removed)
    kept = [layer.entry for layer in network.layers if layer.name not in removed]
    if isinstance(network.raw, list):
        network.raw[:] = kept
    else:
        network.raw["layers"] = kept


def _hand_on_input_shape(layers: list[Layer], removed: set[str]) -> None:
    """An old Sequential without InputLayer keeps its input's shape in its first layer."""
    first = layers[0]
    if first.name not in removed or "batch_input_shape" not in first.config:
        return
    heir = next(layer for layer in layers if layer.name not in removed)
    if heir.inner is None or heir.inner.kind == "Sequential":
        heir.config.setdefault("batch_input_shape", first.config["batch_input_shape"])


def _rewire(network: Network, removed: set[str]) -> None:
    layers = {layer.name: layer for layer in network.layers}
    instead = {
        ref: _source(layers, ref, removed)
        for name in removed
        for ref in (Ref(name, k, 0) for k in range(len(layers[name].calls)))
    }
    for layer in network.layers:
        if layer.name not in removed:
            rewire(network, layer, instead)
    rewire_outputs(network, instead)


def _source(layers: dict[str, Layer], ref: Ref, removed: set[str]) -> Source:
    """What stays of ``ref`` when ``removed`` are gone, with its shape and dtype where the file has them."""
    source = Source(ref)
    while source.ref.layer in removed:
        call = layers[source.ref.layer].calls[source.ref.call]
        source = Source(call.inputs[0], call.shapes[0], call.dtypes[0])
    return source


def _become(layer: Layer, other: Become) -> None:
    entry, old = layer.entry, layer.config
    kept = {key: old[key] for key in ("name", "trainable", "batch_input_shape", "dtype") if key in old}
    if layer.function and layer.calls and layer.calls[0].dtypes[0]:  # whose type is that of what it reads
        kept["dtype"] = layer.calls[0].dtypes[0]
    entry["class_name"] = other.class_name
    entry["config"] = {**kept, **copy.deepcopy(dict(other.settings))}
    if "inbound_nodes" in entry:  # such a layer takes no mask and no training
        entry["inbound_nodes"] = [bare_call(raw) for raw in entry["inbound_nodes"]]
    if "module" in entry:
        entry["module"] = "keras.layers"
    if "registered_name" in entry:
        entry["registered_name"] = None


# --- order ---


def _sort(network: Network) -> None:
    """Into Keras's order, without ops that worked out the mask of a layer that is gone."""
    for _, nested in networks(network):
        if nested.kind == "Sequential":
            continue
        entries = {layer.name: layer.entry for layer in nested.layers}
        unread = left_out(nested)
        nested.raw["layers"] = [entries[name] for name in keras_order(nested) if name not in unread]
