"""A Keras model's config as data: networks of layers, the calls that link them, their variables.

One shape for all dialects (Keras 2.0 to 3.x, Sequential and Functional, nested to any depth). What
was read stays beside it (``entry``, ``raw``), so that an edit changes only what it must and the
result stays in the dialect that was read. Nothing here runs or imports a model's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

Shape = tuple[int | None, ...]


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
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    source: str

    def read(self) -> np.ndarray:
        """The whole array."""


@dataclass(frozen=True, slots=True)
class Ref:
    """One tensor inside one network: output ``tensor`` of call ``call`` (0-based) of a layer."""

    layer: str
    call: int
    tensor: int


@dataclass(slots=True, eq=False)
class Call:
    """One call of a layer.

    Attributes:
        inputs: every tensor among the arguments, in the order of the flattened call: positional
            arguments first, then keyword arguments in stored order.
        keywords: for each of ``inputs``, the keyword it was given by ("" if positional).
        arguments: keyword arguments that are no tensors (``training``, ``mask``, an axis…).
        constants: positional arguments that are no tensors, by position (``keras.ops``, TFOpLambda).
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


@dataclass(slots=True, eq=False)
class Layer:
    """One layer, a wrapped layer, or a nested network.

    Attributes:
        name: its name in its network (unique there).
        class_name: "Dense"; ``module``: "keras.layers", "" where the dialect has none;
            ``registered``: the registered name of a custom class ("Package>Name"), else "".
        config: its config (the stored object itself: copy before changing).
        entry: the whole stored object that holds the config.
        calls: in the order of their node index; a wrapped layer has none.
        inner: the network, for a nested Functional, Sequential or Model.
        wrapped: TimeDistributed: (layer,); Bidirectional: (forward, backward); else ().
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


@dataclass(slots=True, eq=False)
class Network:
    """A Sequential or a Functional.

    Attributes:
        kind: "Sequential" or "Functional" ("Model" in old files is a Functional).
        layers: in the file's order, which is the order Keras gives ``model.layers`` and by which weights
            bind. A Sequential without InputLayer gets none here.
        inputs, outputs: flattened, in stored order.
        raw: the stored config (a dict, or for an old Sequential a bare list).
        first_node: what Keras adds to a call's position to make the node index that references store,
            by layer name (nested networks: 1, in Keras 2 and 3 alike; others: 0).
    """

    name: str
    kind: str
    layers: list[Layer]
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref, ...]
    raw: Any
    first_node: dict[str, int] = field(default_factory=dict)

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
        yield path, layer
        for wrapped in layer.wrapped:
            yield (*path, layer.name), wrapped
            if wrapped.inner is not None:
                yield from walk(wrapped.inner, (*path, layer.name, wrapped.name))
        if layer.inner is not None:
            yield from walk(layer.inner, (*path, layer.name))
