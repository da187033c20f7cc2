"""What a ``Probe`` asks of a loaded Keras model: to see and set what layers put out, and to move weights.

A seam ``[[layer, call], …, output]`` (``runtime.seams``) leads from the model through its nested
models to a layer, whose ``call`` is wrapped on the instance: what it computed is kept, and where seams
are forced, what was given is put out in its place, in the type that was computed.

A layer may be called several times in one call of the model. Keras calls by depth, the deepest first, not in
the order of the file, so which time is meant follows from the loaded graph; from network to network inwards::

    which = which (of the network) · calls (of the layer, by the network) + calls before this one

How often a layer was called is checked afterwards. Only for calls that run operation by operation.

Imported by the child process only.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct, field

from bnfuse.formats.base import Probe
from bnfuse.formats.child.messages import Arrays, dtype_named
from bnfuse.formats.child.shaking import is_shaken, stepped
from bnfuse.formats.keras.runtime.backends import Backend


class Tap(Struct):
    """A layer that is listened to: the seam's name by (which of its calls, which of its outputs).

    ``calls`` is how many one call of the model makes, ``made`` how many it has made so far.
    """

    calls: int
    seams: dict[tuple[int, int], str] = field(default_factory=dict)
    made: int = 0


class OpenSeams:
    """Seams of one loaded model."""

    def __init__(self, model: Any, probe: Probe, backend: Backend) -> None:
        """Wrap the layers.

        Raises:
            LookupError: a name leads nowhere.
        """
        self._backend, self._forced = backend, probe.forced
        self._most_bytes = probe.most_bytes or float("inf")
        self._given: Mapping[str, np.ndarray] = {}
        self._seen: Arrays = {}
        self._passed_bytes: dict[str, int] = {}
        self._taps: dict[int, Tap] = {}
        self._wrapped: list[tuple[Any, str, Any]] = []
        for name in probe.seams:
            *steps, output = json.loads(name)
            layer, turn, calls = _reached(model, steps)
            if id(layer) not in self._taps:
                self._taps[id(layer)] = Tap(calls)
                self._listen(layer, self._taps[id(layer)])
            self._taps[id(layer)].seams[turn, output] = name

    def called(self, call: Callable[[], Any], given: Mapping[str, np.ndarray]) -> tuple[Any, Arrays]:
        """Call the model: its result, and what was computed at every seam.

        Raises:
            ValueError: a value does not fit its seam, or the model does not call its layers as it says.
        """
        self._given, self._seen, self._passed_bytes = given, {}, {}
        for tap in self._taps.values():
            tap.made = 0
        try:
            result = call()
            for tap in self._taps.values():
                missing = set(tap.seams.values()) - self._passed_bytes.keys()
                if tap.made != tap.calls or missing:
                    raise ValueError(f"a layer was called {tap.made} times, not {tap.calls}: {tap.seams}")
            return result, self._seen
        finally:
            self._given, self._seen = {}, {}

    def close(self) -> None:
        """Let the layers be as they were."""
        while self._wrapped:
            layer, attribute, before = self._wrapped.pop()
            if before is None:
                object.__delattr__(layer, attribute)
            else:
                object.__setattr__(layer, attribute, before)

    def _listen(self, layer: Any, tap: Tap) -> None:
        attribute = "call" if getattr(layer, "quantization_mode", None) is None else "quantized_call"
        inner = getattr(layer, attribute)

        @functools.wraps(inner)
        def listening(*args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            turn, tap.made = tap.made, tap.made + 1
            names = {output: name for (when, output), name in tap.seams.items() if when == turn}
            return self._passed(result, names) if names else result

        self._wrapped.append((layer, attribute, vars(layer).get(attribute)))
        object.__setattr__(layer, attribute, listening)  # Keras would look into it for variables

    def _passed(self, result: Any, names: Mapping[int, str]) -> Any:
        """What the layer is to put out, by the numbers of its outputs."""
        tensors = _flat(result)
        for output, name in names.items():
            tensors[output] = self._crossed(name, tensors[output])
        return _packed(result, iter(tensors)) if self._forced else result

    def _crossed(self, name: str, tensor: Any) -> Any:
        computed = self._backend.array(tensor)
        self._passed_bytes[name] = computed.nbytes
        if sum(self._passed_bytes.values()) <= self._most_bytes:
            self._seen[name] = computed
        if not self._forced:
            return tensor
        given = self._given[name]
        if given.shape != computed.shape:
            raise ValueError(f"a value of shape {given.shape} was given where {computed.shape} is computed")
        forced = self._backend.tensor(given.astype(computed.dtype, copy=False))
        mask = getattr(tensor, "_keras_mask", None)
        if mask is not None:  # some layers hang a mask on what they put out; others get it from Keras later
            forced._keras_mask = mask
        return forced


def _reached(model: Any, steps: Sequence[tuple[str, int]]) -> tuple[Any, int, int]:
    """The layer at the end of the steps; which of its calls is meant, and of how many."""
    layer, turn, calls = model, 0, 1
    for name, call in steps:
        inner = _child(layer, name)
        order = _order_of_calls(layer, inner)
        turn, calls = turn * len(order) + order.index(call), calls * len(order)
        layer = inner
    return layer, turn, calls


def _child(holder: Any, name: str) -> Any:
    """A layer of a network by name, or of a wrapper.

    Raises:
        LookupError: there is none.
    """
    if hasattr(holder, "forward_layer"):
        return holder.forward_layer if name.startswith("forward_") else holder.backward_layer
    if hasattr(holder, "layer") and not hasattr(holder, "layers"):
        return holder.layer
    # ``operations`` are the layers of a Functional of Keras 3, and its ``keras.ops`` nodes.
    for part in getattr(holder, "operations", None) or holder.layers:
        if part.name == name:
            return part
    raise LookupError(f"no layer '{name}' in '{holder.name}'")


def _order_of_calls(network: Any, layer: Any) -> list[int]:
    """The numbers of a layer's calls, as the network makes them one after the other."""
    graph = getattr(network, "_functional", None) or network  # a Sequential of Keras 3 wraps a Functional
    depths: Mapping[int, Sequence[Any]] = getattr(graph, "_nodes_by_depth", None) or {}
    ran = [node for depth in sorted(depths, reverse=True) for node in depths[depth] if _of(node) is layer]
    if not ran:  # a Sequential that has not built a graph: one layer after the other
        return [0]
    made = [id(node) for node in layer._inbound_nodes]
    places = sorted(made.index(id(node)) for node in ran)
    return [places.index(made.index(id(node))) for node in ran]


def _of(node: Any) -> Any:
    """Whose call a node is: Keras 3 speaks of operations, Keras 2 of layers."""
    return node.operation if hasattr(node, "operation") else node.layer


def _flat(value: Any) -> list[Any]:
    """The tensors in what a layer puts out, as Keras counts them."""
    if isinstance(value, Mapping):
        return [tensor for key in sorted(value) for tensor in _flat(value[key])]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _flat(part)]
    return [value]


def _packed(like: Any, tensors: Any) -> Any:
    """The next tensors in the place of those in a structure."""
    if isinstance(like, Mapping):
        made = {key: _packed(like[key], tensors) for key in sorted(like)}
        return {key: made[key] for key in like}
    if isinstance(like, tuple) and hasattr(like, "_fields"):
        return type(like)(*(_packed(part, tensors) for part in like))
    if isinstance(like, list | tuple):
        return type(like)(_packed(part, tensors) for part in like)
    return next(tensors)


def shake(model: Any, probe: Probe, backend: Backend) -> Callable[[], None]:
    """Move every float of the wanted layers' variables by one step, up or down at random.

    Returns:
        What moves them back.

    Raises:
        LookupError: a name leads nowhere.
    """
    layers = [functools.reduce(_child, json.loads(name), model) for name in probe.shaken]
    if probe.shakes_all:
        every = model._flatten_layers(include_self=False, recursive=True)
        layers = [layer for layer in every if not list(layer._flatten_layers(include_self=False))]
    before: dict[int, tuple[Any, np.ndarray]] = {}  # by identity: several names may lead to one layer
    for at, layer in enumerate(layers):
        for number, variable in enumerate(layer.weights):
            rng = np.random.default_rng((probe.seed, at, number))
            value = variable.value() if callable(variable.value) else variable.value
            array = backend.array(value)
            if is_shaken(array.dtype) and id(variable) not in before:
                before[id(variable)] = variable, array.copy()
                variable.assign(backend.tensor(stepped(array, _read_as(variable, layer, array.dtype), rng)))

    def follow() -> None:
        for layer in layers:
            if hasattr(layer, "finalize_state"):  # a Normalization keeps what follows from its variables
                layer.finalize_state()

    def back() -> None:
        for variable, array in before.values():
            variable.assign(backend.tensor(array))
        follow()

    follow()
    return back


def _read_as(variable: Any, layer: Any, stored: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which a layer computes with a variable: a mixed policy casts most to a narrower one."""
    # What Keras casts when a layer reads it: in Keras 3 by a flag, in Keras 2 by a class of its own.
    casts = getattr(variable, "_autocast", hasattr(variable, "_cast_dtype"))
    computes = dtype_named(str(getattr(layer, "compute_dtype", None) or stored.name)) if casts else stored
    return computes if is_shaken(computes) and computes.itemsize < stored.itemsize else stored
