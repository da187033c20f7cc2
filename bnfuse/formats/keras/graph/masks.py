"""Which mask each value carries: Keras hands masks on beside the tensors, from layer to layer.

An Embedding with ``mask_zero`` and a Masking make one; layers that support masking hand the mask of their
input on. Keras 3 also writes the mask that a layer found into its call, beside the ops that work it out
(``NotEqual``, ``Any``), so that it looks like a second input. A BatchNormalization does not look at it at
inference, but hands it on, also to readers whose calls do not name it (MultiHeadAttention). So one may go
only where its own input carries the very same mask; a mask that somebody else gave it would be lost.

When it does not act: masks of merges, of nested networks and of what a call gives to several inputs are
not known; an unknown mask is equal to none.

Sources: ``Layer.__call__`` and ``_set_mask_metadata`` (keras/src/layers/layer.py), the ``compute_mask`` of
keras/src/layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from bnfuse.formats.keras.graph.network import Call, Layer

# How a mask is worked out; equal where the masks are equal.
Mask = tuple[object, ...]

_HAND_ON = frozenset({
    "Activation", "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Dense", "Dropout", "ELU",
    "GaussianDropout", "GaussianNoise", "GroupNormalization", "Identity", "LayerNormalization", "LeakyReLU",
    "Normalization", "PReLU", "ReLU", "Rescaling", "Softmax", "TimeDistributed", "UnitNormalization",
})  # fmt: skip
_SEQUENCES = frozenset({"LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional"})


def makes_mask(layer: Layer) -> bool:
    """Whether what the layer puts out carries a mask that its input need not have."""
    return layer.class_name == "Masking" or bool(layer.config.get("mask_zero"))


class Masks(Struct, eq=False):
    """Collects while the calls are walked."""

    _made: dict[str, Mask] = field(default_factory=dict)  # by value that is a mask
    _carried: dict[str, Mask] = field(default_factory=dict)  # by value that has one

    def learn(self, layer: Layer, call: Call | None, given: Sequence[str], outputs: Sequence[str]) -> None:
        """What the first output of one call is, or carries."""
        if layer.registered or not given:
            return
        made = self._worked_out(layer, call, given[0])
        if made is not None:
            self._made[outputs[0]] = made
        carried = self._handed_on(layer, call, given)
        if carried is not None:
            self._carried[outputs[0]] = carried

    def carries(self, value: str, mask: str) -> bool:
        """Whether ``value`` carries the mask that is the value ``mask``."""
        return self._carried.get(value, ()) == self._made.get(mask, (mask,))

    def _worked_out(self, layer: Layer, call: Call | None, value: str) -> Mask | None:
        constants = {} if call is None else dict(call.constants)
        if layer.function == "ops.NotEqual" and isinstance(constants.get(1), int | float):
            return "not equal", value, constants[1]
        along = layer.config.get("axis"), layer.config.get("keepdims")
        if layer.function == "ops.Any" and along == (-1, False) and value in self._made:
            return "any", self._made[value]
        return None

    def _handed_on(self, layer: Layer, call: Call | None, given: Sequence[str]) -> Mask | None:
        config, value = layer.config, given[0]
        if layer.class_name == "Embedding" and config.get("mask_zero"):
            return "not equal", value, 0
        if layer.class_name == "Masking" and isinstance(config.get("mask_value"), int | float):
            return "any", ("not equal", value, config["mask_value"])
        steps = layer.wrapped[0].config if layer.class_name == "Bidirectional" and layer.wrapped else config
        several = layer.class_name in _SEQUENCES and steps.get("return_sequences")
        if layer.class_name not in _HAND_ON and not several:
            return None
        named = dict(zip(call.keywords, given, strict=True)) if call is not None else {}
        if "mask" in named:
            return self._made.get(named["mask"], (named["mask"],))
        return self._carried.get(value)
