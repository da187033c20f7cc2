"""One small network per kind of layer, for tests that damage the settings of that layer.

A subject is tanh → BN "before" → the layer "it" → BN "behind" → … → a kernel → BN "sound". Its γ are positive
and the sizes H ≠ W ≠ C, so that "before" and "behind" go wherever the layer lets them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.keras_nets import Keras, Make, computing_in, random_inputs, stir

Build = Callable[[Keras, str], tuple[Any, Any]]  # keras, what names begin with -> input, the layer's output

Saved = Callable[[str], tuple[Path, list[np.ndarray]]]  # a kind of layer -> the file, inputs for it

# kind: the shape of the input and the layer
PLAIN: dict[str, tuple[tuple[int, ...], Make]] = {
    "Dense": ((6, 5), lambda k: k.Dense(4)),
    "EinsumDense": ((6, 5), lambda k: k.EinsumDense("abc,cd->abd", output_shape=(6, 4), bias_axes="d")),
    "Conv1D, same": ((9, 4), lambda k: k.Conv1D(6, 3, padding="same")),
    "Conv2D": ((9, 8, 4), lambda k: k.Conv2D(6, (3, 2), groups=2)),
    "Conv2D 1x1, same": ((9, 8, 4), lambda k: k.Conv2D(6, 1, padding="same")),
    "Conv2DTranspose": ((6, 5, 4), lambda k: k.Conv2DTranspose(3, (3, 2))),
    "DepthwiseConv2D": ((9, 8, 3), lambda k: k.DepthwiseConv2D(3, depth_multiplier=2)),
    "SeparableConv2D": ((9, 8, 3), lambda k: k.SeparableConv2D(5, (3, 2), depth_multiplier=2)),
    "LSTM": ((6, 3), lambda k: k.LSTM(4, return_sequences=True)),
    "GRU": ((6, 3), lambda k: k.GRU(4, return_sequences=True)),
    "BatchNormalization": ((8, 7, 3), lambda k: k.BatchNormalization()),
    "LayerNormalization": ((4, 6), lambda k: k.LayerNormalization()),
    "GroupNormalization": ((4, 6), lambda k: k.GroupNormalization(groups=2)),
    "Normalization": ((3, 4), lambda k: k.Normalization(mean=[1.0, 2, 3, 4], variance=[4.0, 3, 2, 1])),
    "Rescaling": ((3, 4), lambda k: k.Rescaling([1.0, 2, 3, 4])),
    "MaxPooling2D": ((8, 7, 3), lambda k: k.MaxPooling2D((3, 2), padding="same")),
    "AveragePooling2D": ((8, 7, 3), lambda k: k.AveragePooling2D(3, padding="same")),
    "GlobalAveragePooling2D": ((8, 7, 3), lambda k: k.GlobalAveragePooling2D()),
    "GlobalMaxPooling2D": ((8, 7, 3), lambda k: k.GlobalMaxPooling2D(keepdims=True)),
    "ZeroPadding2D": ((8, 7, 3), lambda k: k.ZeroPadding2D(0)),
    "Cropping2D": ((8, 7, 3), lambda k: k.Cropping2D(((1, 0), (0, 2)))),
    "UpSampling2D": ((8, 7, 3), lambda k: k.UpSampling2D((2, 3))),
    "Flatten": ((8, 7, 3), lambda k: k.Flatten()),
    "Reshape": ((8, 7, 3), lambda k: k.Reshape((7, 8, 3))),
    "Permute": ((8, 7, 3), lambda k: k.Permute((2, 1, 3))),
    "RepeatVector": ((5,), lambda k: k.RepeatVector(4)),
    "Dropout": ((5,), lambda k: k.Dropout(0.5)),
    "ReLU": ((5,), lambda k: k.ReLU(negative_slope=0.2)),
    "LeakyReLU": ((5,), lambda k: k.LeakyReLU(0.2)),
    "PReLU": ((5, 4), lambda k: k.PReLU(shared_axes=[1])),
    "Activation": ((5,), lambda k: k.Activation("linear")),
    "TimeDistributed": ((4, 8, 3), lambda k: k.TimeDistributed(k.Conv1D(5, 3))),
    "Bidirectional": ((4, 3), lambda k: k.Bidirectional(k.LSTM(5, return_sequences=True))),
}
MERGED = ("Add", "Average", "Maximum", "Multiply", "Concatenate")


def _plain(kind: str) -> Build:
    def build(keras: Keras, tag: str) -> tuple[Any, Any]:
        layers = keras.layers
        shape, make = PLAIN[kind]
        x = layers.Input(shape, name=tag + "x")
        layer = make(layers)
        layer.name = tag + "it"
        return x, layer(layers.BatchNormalization(name=tag + "before")(layers.Activation("tanh")(x)))

    return build


def _merged(kind: str) -> Build:
    def build(keras: Keras, tag: str) -> tuple[Any, Any]:
        layers = keras.layers
        x = layers.Input((6, 3), name=tag + "x")
        one = layers.BatchNormalization(name=tag + "before")(layers.Dense(4)(x))
        return x, getattr(layers, kind)(name=tag + "it")([one, layers.Dense(4)(x)])

    return build


def _embedding(keras: Keras, tag: str) -> tuple[Any, Any]:
    x = keras.layers.Input((6,), dtype="int32", name=tag + "x")
    return x, keras.layers.Embedding(9, 4, name=tag + "it")(x)


def _attention(keras: Keras, tag: str) -> tuple[Any, Any]:
    layers = keras.layers
    x = layers.Input((6, 3), name=tag + "x")
    y = layers.BatchNormalization(name=tag + "before")(layers.Activation("tanh")(x))
    return x, layers.MultiHeadAttention(2, 3, name=tag + "it")(y, y)


SUBJECTS: dict[str, Build] = {
    **{kind: _plain(kind) for kind in PLAIN},
    **{kind: _merged(kind) for kind in MERGED},
    "Embedding": _embedding,
    "MultiHeadAttention": _attention,
}


def subject(keras: Keras, kind: str) -> Any:
    """The network around a layer of this kind."""
    return stir(keras.Model(*_subject(keras, kind, "")), gamma="positive")


def saving(keras: Keras, folder: Path) -> Saved:
    """What saves the network around a kind of layer, in float64, when it is first asked for."""

    @cache
    def made(kind: str) -> tuple[Path, list[np.ndarray]]:
        path = folder / f"{len(list(folder.iterdir()))}.keras"
        with computing_in(keras, "float64"):
            model = subject(keras, kind)
        model.save(path)
        return path, random_inputs(model)

    return made


def every_subject(keras: Keras) -> Any:
    """All networks side by side in one model; the layers' names begin with the number of the kind and "_"."""
    made = [_subject(keras, kind, f"{number}_") for number, kind in enumerate(SUBJECTS)]
    inputs, outputs = (list(ends) for ends in zip(*made, strict=True))
    return stir(keras.Model(inputs, outputs), gamma="positive")


def _subject(keras: Keras, kind: str, tag: str) -> tuple[Any, Any]:
    layers = keras.layers
    x, y = SUBJECTS[kind](keras, tag)
    y = layers.Activation("tanh")(layers.BatchNormalization(name=tag + "behind")(y))
    y = layers.Dense(3, name=tag + "last")(layers.Flatten()(y))
    return x, layers.BatchNormalization(name=tag + "sound")(y)
