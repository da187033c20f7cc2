"""A Keras model's config, parsed from JSON, as networks of layers and calls.

One shape for what Keras 2.0 to 3.x and tf.keras write: Sequential (old ones are a bare list) and
Functional, nested in each other and in TimeDistributed or Bidirectional. Whatever else a config names is
an opaque layer: nothing is imported, built or run. A subclassed model stores no graph and is refused;
so is every reference that leads nowhere, since weights bind by position and a guess would go unnoticed.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from msgspec.structs import replace

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.graph.functional import functional, malformed
from bnfuse.formats.keras.graph.network import SEQUENTIAL_INPUT, Call, Layer, Network, Ref

# Every real model is far below; a config beyond is an attack on memory and time.
_MAX_LAYERS = 200_000
_FREE_CALLS, _CALLS_OF_A_LAYER = 20_000, 10
_MAX_NAME = 4096  # of models and wrappers: it is part of the names of all that they hold
_NESTED = (dict, list, tuple)
_MAX_NESTING = 121  # of JSON values; a model nested in a model takes four levels
_GRAPH_KEYS = frozenset({"layers", "input_layers", "output_layers"})
_FUNCTIONAL = frozenset({"Functional", "Model"})


def parse(config: Any, keras_version: str = "") -> Network:
    """The network that a model's config describes.

    Args:
        config: the parsed ``config.json`` of an archive or ``model_config`` attribute of an HDF5 file.
        keras_version: the version that wrote it; only named in errors.

    Raises:
        UnreadableModel: a subclassed model, or a config that is malformed in any way.
    """
    _refuse_deep([config])
    writer = f" (written by Keras {keras_version})" if keras_version else ""
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise UnreadableModel(f"The model's config{writer} names no class: the file is damaged.")
    if not _is_network(config):
        raise UnreadableModel(
            f"The model{writer} is a subclassed '{config['class_name']}', whose config does not say how its "
            "layers are connected: rebuild it with the Functional API, or export it to ONNX."
        )
    parser = _Parser()
    network = parser.network(config, config["class_name"].rpartition(">")[2].lower())
    if _calls(network) > _FREE_CALLS + _CALLS_OF_A_LAYER * parser.layers:
        raise malformed("its nested models call each other far more often than any model's")
    return network


def _calls(network: Network) -> int:
    """How many calls a network makes, those inside included: two at each of thirty levels are a billion."""
    return sum(max(1, len(layer.calls)) * (1 + _calls_inside(layer)) for layer in network.layers)


def _calls_inside(layer: Layer) -> int:
    own = 0 if layer.inner is None else _calls(layer.inner) + len(layer.inner.outputs)
    return own + sum(1 + _calls_inside(wrapped) for wrapped in layer.wrapped)


def _refuse_deep(config: Any) -> None:
    """Everything that follows recurses, so it must not go deep."""
    level = [config]
    for _ in range(_MAX_NESTING):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, _NESTED)
        ]
        if not level:
            return
    raise malformed(f"it nests values more than {_MAX_NESTING - 1} levels deep")


def _is_network(entry: dict[str, Any]) -> bool:
    """Whether an entry describes a graph of layers; a custom class counts only if it is a Functional's."""
    config = entry.get("config")
    if entry["class_name"] == "Sequential":
        return isinstance(config, list) or (isinstance(config, dict) and "layers" in config)
    return isinstance(config, dict) and config.keys() >= _GRAPH_KEYS


class _Parser:
    """Counts layers over all nested networks, so that their number is bounded."""

    def __init__(self) -> None:
        self.layers = 0

    def network(self, entry: dict[str, Any], fallback: str) -> Network:
        config = entry["config"]
        listed = config if isinstance(config, list) else config["layers"]
        stored_name = config.get("name") if isinstance(config, dict) else None
        name = stored_name if isinstance(stored_name, str) else fallback
        if not isinstance(listed, list | tuple):
            raise malformed(f"the layers of '{name}' are no list")
        layers = self._unique([self.layer(item) for item in listed], name)
        registered = _registered(entry)
        if entry["class_name"] == "Sequential":
            return _sequential(name, layers, config, registered)
        return functional(name, layers, config, entry["class_name"], registered)

    def layer(self, entry: Any) -> Layer:
        """One entry of a network's layers, or of a wrapper, without its calls' targets."""
        self.layers += 1
        if self.layers > _MAX_LAYERS:
            raise malformed(f"it has more than {_MAX_LAYERS:,} layers")
        if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
            raise malformed("a layer names no class")
        class_name, config = entry["class_name"], entry.get("config")
        module = entry.get("module")
        build_config = entry.get("build_config")
        layer = Layer(
            name=_name(entry),
            class_name=class_name.rpartition(">")[2],
            module=module if isinstance(module, str) else "",
            registered=_registered(entry),
            config=config if isinstance(config, dict) else {},
            entry=entry,
            built=build_config.get("input_shape") if isinstance(build_config, dict) else None,
        )
        if not isinstance(config, dict) and not isinstance(config, list):
            raise malformed(f"the layer '{layer.name or layer.class_name}' has no settings")
        if _is_network(entry):
            layer.inner = self.network(entry, layer.name or "sequential")
        elif class_name == "Sequential" or (class_name in _FUNCTIONAL and not layer.registered):
            raise malformed(f"the nested model '{layer.name}' has no layers, input_layers or output_layers")
        elif not layer.registered:
            layer.wrapped = self._wrapped(layer)
        if len(layer.name) > _MAX_NAME and (layer.inner is not None or layer.wrapped):
            raise malformed(f"the name of what holds other layers has {len(layer.name):,} characters")
        return layer

    def _wrapped(self, layer: Layer) -> tuple[Layer, ...]:
        if layer.class_name == "TimeDistributed":
            return (self.layer(layer.config.get("layer")),)
        if layer.class_name != "Bidirectional":
            return ()
        forward = self.layer(layer.config.get("layer"))
        stored = layer.config.get("backward_layer")
        if stored is not None:
            backward = self.layer(stored)
        else:
            turned = dict(forward.config, go_backwards=not forward.config.get("go_backwards", False))
            backward = replace(forward, config=turned, calls=[], variables=[])
        bare = forward.name.removeprefix("forward_")
        forward.name = f"forward_{bare}"
        backward.name = f"backward_{backward.name.removeprefix('backward_').removeprefix('forward_')}"
        return forward, backward

    def _unique(self, layers: list[Layer], network: str) -> list[Layer]:
        """Give names to those that the file leaves without one (nested lists of Keras 2.0)."""
        names = {layer.name for layer in layers if layer.name}
        seen: set[str] = set()
        counts: Counter[str] = Counter()
        for layer in layers:
            if not layer.name:
                layer.name = _unused(layer.class_name.lower(), names, counts)
                names.add(layer.name)
                if layer.inner is not None:
                    layer.inner.name = layer.name
            if layer.name in seen:
                raise malformed(f"'{network}' has two layers named '{layer.name}'")
            seen.add(layer.name)
        return layers


def _unused(stem: str, names: set[str], counts: Counter[str]) -> str:
    """``stem_1`` and so on; ``counts`` remembers how far it came."""
    counts[stem] += 1
    while f"{stem}_{counts[stem]}" in names:
        counts[stem] += 1
    return f"{stem}_{counts[stem]}"


def _name(entry: dict[str, Any]) -> str:
    config = entry.get("config")
    for holder in (entry, config):
        name = holder.get("name") if isinstance(holder, dict) else None
        if isinstance(name, str):
            return name
    return ""


def _registered(entry: dict[str, Any]) -> str:
    """The name of a custom class; "" for Keras's own."""
    class_name, module, registered = (entry.get(k) for k in ("class_name", "module", "registered_name"))
    for name in (registered, class_name):
        if isinstance(name, str) and ">" in name:
            return name
    own = not isinstance(module, str) or module.partition(".")[0] in ("", "keras", "tf_keras", "keras_core")
    if own or str(module).startswith("tensorflow."):
        return ""
    return registered if isinstance(registered, str) and registered else str(class_name)


# --- Sequential ---


def _sequential(name: str, layers: list[Layer], config: Any, registered: str) -> Network:
    source = SEQUENTIAL_INPUT
    if layers and layers[0].class_name == "InputLayer":
        source = Ref(layers[0].name, 0, 0)
    first, rest = source, layers if source is SEQUENTIAL_INPUT else layers[1:]
    for layer in rest:
        layer.calls = [Call((source,), ("",), {}, {}, (None,), (None,), None)]
        source = Ref(layer.name, 0, 0)
    network = Network(name, "Sequential", layers, (first,), (source,), config)
    network.class_name, network.registered = "Sequential", registered
    return network
