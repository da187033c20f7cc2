"""The shape of every tensor of a model, as far as the file or Keras's own rules tell it.

Keras 3 stores a shape with every tensor that a call reads: those win. Keras 2 stores the shape of
the inputs only: the rest follows by the op table (``rows``). What passes an unknown
layer is unknown, until a later layer's ``build_config`` or its fixed rank tells again.

A nested network is followed for each call; where its calls differ, only what they have in common is
kept. One that is called with very many different shapes is given up, so that the work stays linear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from bnfuse.formats.keras.graph.calls import as_shape, plausible
from bnfuse.formats.keras.graph.network import SEQUENTIAL_INPUT, Call, Layer, LayerPath, Network, Ref, Shape
from bnfuse.formats.keras.graph.order import topological
from bnfuse.formats.keras.rows.ops import input_rank, output_shapes

_Outputs = tuple[Shape | None, ...]
_MAX_VARIANTS = 8


class TensorShapes(Struct):
    """Looks up by the path of a network (names from the outermost inwards) and a tensor in it."""

    _found: dict[tuple[LayerPath, Ref], Shape | None] = field(default_factory=dict)
    _given_up: set[LayerPath] = field(default_factory=set)

    def of(self, path: LayerPath, ref: Ref) -> Shape | None:
        """Sizes with the batch axis, None for an unknown size; None where even the rank is unknown."""
        if self._given_up and any(path[:k] in self._given_up for k in range(1, len(path) + 1)):
            return None
        return self._found.get((path, ref))

    def rank(self, path: LayerPath, ref: Ref) -> int | None:
        """Number of axes, the batch included."""
        shape = self.of(path, ref)
        return None if shape is None else len(shape)

    def _learn(self, path: LayerPath, ref: Ref, shape: Shape | None) -> None:
        key = (path, ref)
        self._found[key] = _common(self._found[key], shape) if key in self._found else shape


def infer(network: Network, inputs: Sequence[Shape | None] | None = None) -> TensorShapes:
    """Find the shape of every tensor of a network and of those nested in it.

    Args:
        network: the outermost network, as ``parse`` gives it.
        inputs: the shapes of its inputs, where they are known better than the file says.
    """
    inference = _Inference()
    inference.follow(network, (), inputs or (None,) * len(network.inputs))
    return inference.shapes


def _common(one: Shape | None, two: Shape | None) -> Shape | None:
    """What two shapes of one tensor agree on."""
    if one is None or two is None or len(one) != len(two):
        return None
    return tuple(a if a == b else None for a, b in zip(one, two, strict=True))


def _refined(declared: Shape | None, actual: Shape | None) -> Shape | None:
    """A declared input with the sizes it leaves open taken from the tensor that is passed in.

    Keras squeezes or expands a tensor whose rank differs from the declared one by an axis of size 1.
    """
    if declared is None or actual is None or len(declared) != len(actual):
        return actual if declared is None else declared
    return tuple(a if d is None else d for d, a in zip(declared, actual, strict=True))


class _Inference:
    def __init__(self) -> None:
        self.shapes = TensorShapes()
        self._outputs: dict[tuple[int, _Outputs], _Outputs] = {}  # (network, its inputs): its outputs
        self._variants: dict[int, int] = {}

    def follow(self, network: Network, path: LayerPath, inputs: Sequence[Shape | None]) -> _Outputs:
        """The outputs of a network for given inputs; every tensor inside is learnt on the way."""
        key = (id(network), tuple(inputs))
        if key not in self._outputs:
            self._variants[key[0]] = self._variants.get(key[0], 0) + 1
            if self._variants[key[0]] > _MAX_VARIANTS:
                self.shapes._given_up.add(path)
                return (None,) * len(network.outputs)
            self._outputs[key] = self._follow(network, path, inputs)
        return self._outputs[key]

    def _follow(self, network: Network, path: LayerPath, inputs: Sequence[Shape | None]) -> _Outputs:
        layers = {layer.name: layer for layer in network.layers}
        known: dict[Ref, Shape | None] = {**_stored(network)}
        for ref, shape in zip(network.inputs, inputs, strict=False):
            known[ref] = _refined(_declared(network, ref, layers), shape)
        for name, position in topological(network):
            layer = layers.get(name)
            if layer is None or not layer.calls:
                continue
            call = layer.calls[position]
            shapes = [known.get(ref) for ref in call.inputs]
            if len(shapes) == 1 and shapes[0] is None:
                shapes[0] = known[call.inputs[0]] = _told_by_reader(layer, position)
            for tensor, shape in enumerate(self._call(layer, (*path, name), shapes, call)):
                ref = Ref(name, position, tensor)
                if known.get(ref) is None:
                    known[ref] = plausible(shape)
        for ref, shape in known.items():
            self.shapes._learn(path, ref, shape)
        return tuple(known.get(ref) for ref in network.outputs)

    def _call(
        self, layer: Layer, path: LayerPath, inputs: Sequence[Shape | None], call: Call | None
    ) -> _Outputs:
        if layer.inner is not None:
            return self.follow(layer.inner, path, inputs)
        if layer.class_name == "TimeDistributed" and layer.wrapped:
            return self._time_distributed(layer.wrapped[0], path, inputs)
        return output_shapes(layer, inputs, call)

    def _time_distributed(self, wrapped: Layer, path: LayerPath, inputs: Sequence[Shape | None]) -> _Outputs:
        """The wrapped layer sees each step: ``(batch, time, …)`` without the time axis."""
        shape = inputs[0] if inputs else None
        step = None if shape is None or len(shape) < 3 else (shape[0], *shape[2:])
        outputs = self._call(wrapped, (*path, wrapped.name), (step,), None)
        time = None if shape is None or len(shape) < 2 else shape[1]
        return tuple(None if out is None or not out else (out[0], time, *out[1:]) for out in outputs)


def _stored(network: Network) -> Mapping[Ref, Shape]:
    """The shapes that readers of a tensor have stored with it."""
    found: dict[Ref, Shape] = {}
    for layer in network.layers:
        for call in layer.calls:
            for ref, shape in zip(call.inputs, call.shapes, strict=True):
                if shape is not None:
                    found.setdefault(ref, shape)
    return found


def _declared(network: Network, ref: Ref, layers: Mapping[str, Layer]) -> Shape | None:
    """What the file says about an input: in its InputLayer, or else in a Sequential's first layer."""
    if ref != SEQUENTIAL_INPUT:
        config = layers[ref.layer].config
        return as_shape(config.get("batch_shape", config.get("batch_input_shape")))
    stored = network.raw.get("build_input_shape") if isinstance(network.raw, dict) else None
    if not network.layers:
        return as_shape(stored)
    return as_shape(network.layers[0].config.get("batch_input_shape", stored))


def _told_by_reader(layer: Layer, position: int) -> Shape | None:
    """An input that nothing else tells: the shape its reader was built with, or the only rank it takes."""
    built = as_shape(layer.built) if position == 0 else None
    rank = input_rank(layer)
    if built or rank is None:
        return built or None
    return (None,) * rank
