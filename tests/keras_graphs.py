"""Random Functional models, built with Keras 3 or tf_keras: shared layers, nested models, keyword tensors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tests.keras_configs import Json


def random_model(
    keras: Any, rng: np.random.Generator, steps: int = 9, depth: int = 0, wrapped: bool = False
) -> Any:
    """A Functional over tensors of shape (batch, 3, 4), with 1-3 inputs and 1-3 outputs.

    Its BatchNormalizations are exact identities: fresh statistics, no epsilon. ``wrapped``: with layers whose
    weights lie inside a wrapper or a cell, too.
    """
    inputs = [keras.Input((3, 4), name=f"in{k}_{depth}") for k in range(rng.integers(1, 4))]
    tensors: list[Any] = list(inputs)
    called: list[Any] = []
    for _ in range(steps):
        tensors += _step(keras, rng, tensors, called, depth, wrapped)
    outputs = [tensors[-1 - k] for k in sorted(rng.choice(min(5, len(tensors) - 1), 3, replace=False))]
    outputs = outputs[: rng.integers(1, 4)]
    if rng.random() < 0.3:
        return keras.Model(inputs, {f"out{7 - k}": tensor for k, tensor in enumerate(outputs)})
    return keras.Model(inputs, outputs if len(outputs) > 1 or rng.random() < 0.5 else outputs[0])


def _step(
    keras: Any, rng: np.random.Generator, tensors: list[Any], called: list[Any], depth: int, wrapped: bool
) -> list[Any]:
    layers = keras.layers

    def pick() -> Any:
        return tensors[rng.integers(max(0, len(tensors) - 6), len(tensors))]

    kind = rng.integers(0, 12)
    if kind <= 2 or kind >= 10:
        kind = min(kind, 11 - kind)
        layer = [layers.Dense(4), layers.BatchNormalization(epsilon=0.0), layers.Activation("relu")][kind]
        called.append(layer)
        return [layer(pick())]
    if kind <= 4:
        merge = [layers.Add(), layers.Concatenate(axis=1)][kind - 3]
        merged = merge([pick() for _ in range(rng.integers(2, 4))])
        return [merged if kind == 3 else merged[:, :3]]
    if kind == 5 and called:
        return [called[rng.integers(len(called))](pick())]
    if kind == 6:
        return [layers.MultiHeadAttention(1, 2)(pick(), value=pick(), key=pick())]
    if kind == 7 and depth < 2:
        inner = random_model(keras, rng, steps=3, depth=depth + 1, wrapped=wrapped)
        found = []
        for _ in range(rng.integers(1, 3)):
            out = inner([pick() for _ in inner.inputs])
            found += list(out.values()) if isinstance(out, dict) else out if isinstance(out, list) else [out]
        return found
    if kind == 9 and wrapped and rng.random() < 0.8:
        return [_sequence_layer(layers, rng)(pick())]
    if kind == 8:
        inner = keras.Sequential([keras.Input((3, 4)), layers.Dense(4), layers.ReLU()][rng.integers(2) :])
        return [inner(pick()) for _ in range(rng.integers(1, 3))]
    return [pick() * 0.5 + pick()]


def _sequence_layer(layers: Any, rng: np.random.Generator) -> Any:
    """A layer from (3, 4) to (3, 4) whose weights lie inside a wrapper or a cell."""
    made = (
        lambda: layers.Bidirectional(layers.GRU(2, return_sequences=True)),
        lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True), merge_mode="ave"),
        lambda: layers.RNN([layers.SimpleRNNCell(2), layers.LSTMCell(4)], return_sequences=True),
        lambda: layers.TimeDistributed(layers.Dense(4)),
        lambda: layers.TimeDistributed(layers.BatchNormalization(epsilon=0.0)),
        lambda: layers.Permute((1, 2)),
    )
    return made[rng.integers(len(made))]()


def shuffled(config: Any, rng: np.random.Generator) -> Any:
    """A copy of a model's config with the layers of every Functional in random order."""
    new = json.loads(json.dumps(config))
    _shuffle(new, rng)
    return new


def _shuffle(value: Any, rng: np.random.Generator) -> None:
    if isinstance(value, dict):
        if "output_layers" in value:
            value["layers"] = [value["layers"][k] for k in rng.permutation(len(value["layers"]))]
        for item in value.values():
            _shuffle(item, rng)
    elif isinstance(value, list):
        for item in value:
            _shuffle(item, rng)


def without_shapes(model: Any) -> Json:
    """A model's config with no shape in it but those of its inputs, as Keras 2 writes it."""
    config: Json = json.loads(json.dumps({"class_name": "Functional", "config": model.get_config()}))
    _strip(config)
    return config


def _strip(value: Any) -> None:
    if isinstance(value, dict):
        value.pop("build_config", None)
        if value.get("class_name") == "__keras_tensor__":
            del value["config"]["shape"]
        for item in value.values():
            _strip(item)
    elif isinstance(value, list):
        for item in value:
            _strip(item)
