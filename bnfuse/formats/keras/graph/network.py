"""A Keras model's config as data: networks of layers, the calls that link them, their variables.

One shape for all dialects (Keras 2.0 to 3.x, Sequential and Functional, nested to any depth). What
was read stays beside it (``entry``, ``raw``), so that an edit changes only what it must and the
result stays in the dialect that was read. Nothing here runs or imports a model's code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from msgspec import Struct, field

Shape = tuple[int | None, ...]
LayerPath = tuple[str, ...]  # names of the models that hold a layer, outermost first, and its own


class Variable(Protocol):
    """One stored weight array, read when asked for.

    Attributes:
        name: how Keras names it inside its layer: "kernel", "gamma", "moving_mean" (without ":0" and
            without the layer's own name); "" where the file does not say (``.keras`` before 3.6 stores
            positions only).
        shape, dtype: as stored; bfloat16 is ml_dtypes' type.
        source: the dataset's path inside the HDF5 file.
    """

    name: str
    source: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""

    def read(self) -> np.ndarray:
        """The whole array."""


class Ref(Struct, frozen=True):
    """One tensor inside one network: output ``tensor`` of call ``call`` (0-based) of a layer."""

    layer: str
    call: int
    tensor: int


# What enters a Sequential that has no InputLayer in the file.
SEQUENTIAL_INPUT = Ref("", 0, 0)


class Call(Struct, eq=False):
    """One call of a layer.

    Attributes:
        inputs: every tensor among the arguments, in the order in which Keras flattens the call: positional
            arguments first, then keyword arguments (Keras 3: sorted by name, Keras 2: as stored).
        keywords: for each of ``inputs``, the keyword it was given by ("" if positional).
        arguments: keyword arguments that are no tensors (``training``, ``mask``, an axis…), and those
            that mix tensors with other values, whole.
        constants: positional arguments that are no tensors (``keras.ops``, TFOpLambda), and those that
            mix tensors with other values, whole; by position (Keras 2: in the flattened first argument).
        shapes, dtypes: of each input where the file says so (Keras 3), else None.
        raw: the stored inbound node; None in a Sequential.
    """

    inputs: tuple[Ref, ...]
    keywords: tuple[str, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[int, Any]
    shapes: tuple[Shape | None, ...]
    dtypes: tuple[str | None, ...]
    raw: Any


class Layer(Struct, eq=False):
    """One layer, a wrapped layer, or a nested network.

    Attributes:
        name: its name in its network (unique there).
        class_name: "Dense"; ``module``: "keras.layers", "" where the dialect has none;
            ``registered``: the registered name of a custom class ("Package>Name"), else "".
        config: its config (the stored object itself: copy before changing).
        entry: the whole stored object that holds the config.
        calls: in the order of their node index; a wrapped layer has none.
        inner: the network, for a nested Functional, Sequential or Model.
        wrapped: TimeDistributed: (layer,); Bidirectional: (forward, backward), named "forward_…" and
            "backward_…"; else (). A backward layer that the file does not spell out has a derived
            ``config`` and shares the forward layer's ``entry``.
        variables: in Keras's order (``layer.weights``: trainable first, then the rest); the variables of
            ``inner`` and ``wrapped`` layers hang on those.
        built: stored ``build_config.input_shape`` where there is one.
    """

    name: str
    class_name: str
    module: str
    registered: str
    config: dict[str, Any]
    entry: dict[str, Any]
    calls: list[Call] = field(default_factory=list)
    inner: Network | None = None
    wrapped: tuple[Layer, ...] = ()
    variables: list[Variable] = field(default_factory=list)
    built: Any = None

    @property
    def function(self) -> str:
        """What a node calls: "ops.Add" of ``keras.ops``, "nn.relu" of TensorFlow; "" for a layer.

        ``keras.activations`` has a class or two of such nodes of its own.
        """
        if re.search(r"\.(ops|activations)\.", f".{self.module}."):
            return f"ops.{self.class_name}"
        lambdas = ("TFOpLambda", "SlicingOpLambda")
        return str(self.config.get("function", "?")) if self.class_name in lambdas else ""


class Network(Struct, eq=False):
    """A Sequential or a Functional.

    Attributes:
        kind: "Sequential" or "Functional" ("Model" in old files is a Functional).
        layers: in the file's order, which is the order Keras gives ``model.layers`` and by which weights
            bind. A Sequential without InputLayer gets none here: its first call reads SEQUENTIAL_INPUT.
        inputs, outputs: flattened as Keras does (dicts sorted by key).
        raw: the stored config (a dict, or for an old Sequential a bare list).
        first_node: what Keras adds to a call's position to make the node index that calls store, by
            layer name. Keras 3: 0. Keras 2: 1 for nested networks whose input shape is known, else 0.
        first_output_node: the same for ``input_layers`` and ``output_layers``: as ``first_node``, but
            Keras 3 counts a nested Functional from 1 there.
        class_name: "Functional", or the class of a custom Functional; ``registered``: as a Layer's.
    """

    name: str
    kind: str
    layers: list[Layer]
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref, ...]
    raw: Any
    first_node: dict[str, int] = field(default_factory=dict)
    first_output_node: dict[str, int] = field(default_factory=dict)
    class_name: str = ""
    registered: str = ""

    def layer(self, name: str) -> Layer:
        """By name.

        Raises:
            KeyError: no such layer.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)


def walk(network: Network, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Layer]]:
    """Every layer with the names of the layers around it, outer ones first, in file order."""
    for layer in network.layers:
        yield from _inside(layer, path)


def _inside(layer: Layer, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Layer]]:
    yield path, layer
    deeper = (*path, layer.name)
    for wrapped in layer.wrapped:
        yield from _inside(wrapped, deeper)
    if layer.inner is not None:
        yield from walk(layer.inner, deeper)


def networks(network: Network) -> Iterator[tuple[tuple[str, ...], Network]]:
    """The network itself (path ()) and every nested one with its path, outer ones first."""
    yield (), network
    for path, layer in walk(network):
        if layer.inner is not None:
            yield (*path, layer.name), layer.inner


def saved_layers(network: Network) -> list[Layer]:
    """``model.layers``: without a Sequential's InputLayer and without ``keras.ops`` nodes."""
    return [
        layer
        for layer in network.layers
        if not (network.kind == "Sequential" and layer.class_name == "InputLayer")
        and not re.match(r"(tf_)?keras(\.src)?\.(ops|activations)(\.|$)", layer.module)
    ]
