"""Keras models made in this process, with inputs and a call by hand to hold a runner against."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.keras_quick import quick, quick_too

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "digits_b.keras"


def import_keras() -> Any:
    """Keras 3 on TensorFlow, in this process; skips the test where there is none."""
    pytest.importorskip("tensorflow")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    module = pytest.importorskip("keras", minversion="3.0")
    if module.backend.backend() != "tensorflow":
        pytest.skip("Keras was imported on another backend before")
    return quick(module)


def import_tf_keras() -> Any:
    """tf_keras, in this process; skips the test where there is none."""
    module = pytest.importorskip("tf_keras")
    return quick_too(module)


Feeds = dict[str, Any]
Made = tuple[Any, Feeds, Callable[[Any, Feeds], dict[str, Any]]]  # model, inputs, the call by hand


def stirred(model: Any) -> Any:
    """Random weights, BN statistics included: a fresh BN hides every mistake."""
    rng = np.random.default_rng(5)
    for weight in model.weights:
        name = weight.path if hasattr(weight, "path") else weight.name
        if str(weight.dtype).startswith(("float", "bfloat")) and "seed" not in name:
            low = 0.5 if "variance" in name else -0.5
            weight.assign(rng.uniform(low, low + 1.0, weight.shape).astype(np.float32))
    return model


def _two_and_two(keras: Any) -> Made:
    """An int and a float input; two outputs, one of them in the middle; a layer called twice."""
    layers = keras.layers
    words, image = layers.Input((5,), dtype="int32", name="words"), layers.Input((6, 7, 3), name="image")
    seen = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, padding="same", name="conv")(image))
    shared = layers.Dense(4, name="shared")
    a = shared(layers.GlobalAveragePooling2D()(seen))
    b = shared(layers.GlobalAveragePooling1D()(layers.Embedding(9, 4)(words)))
    model = stirred(keras.Model([words, image], [layers.Add(name="sum")([a, b]), seen]))
    rng = np.random.default_rng(1)
    image_feed = rng.normal(size=(3, 6, 7, 3)).astype(np.float32)
    feeds = {"words": rng.integers(0, 9, (3, 5)).astype(np.int32), "image": image_feed}

    def call(model: Any, feeds: Feeds) -> dict[str, Any]:
        total, seen = model([feeds["words"], feeds["image"]], training=False)
        return {"sum": total, "bn": seen}

    return model, feeds, call


def _dicts(keras: Any) -> Made:
    """Inputs and outputs by key; the keys are not the layers' names."""
    layers = keras.layers
    left, right = layers.Input((4,), name="in_l"), layers.Input((3,), name="in_r")
    x = layers.BatchNormalization()(layers.Concatenate()([left, right]))
    outputs = {"z": layers.Dense(2, name="d1")(x), "a": layers.Dense(5, activation="tanh", name="d2")(x)}
    model = stirred(keras.Model({"right": right, "left": left}, outputs))
    rng = np.random.default_rng(2)
    shapes = {"left": (2, 4), "right": (2, 3)}
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return model, feeds, lambda model, feeds: dict(model(feeds, training=False))


def _nested(keras: Any) -> Made:
    """A Functional in a Sequential in a Sequential."""
    layers = keras.layers
    x = layers.Input((8, 3))
    inner = keras.Model(x, layers.BatchNormalization()(layers.Conv1D(5, 3)(x)), name="inner")
    middle = keras.Sequential([layers.Input((8, 3)), inner, layers.Flatten()], name="middle")
    model = stirred(keras.Sequential([layers.Input((8, 3), name="x"), middle, layers.Dense(2, name="y")]))
    feeds = {"x": np.random.default_rng(3).normal(size=(4, 8, 3)).astype(np.float32)}
    return model, feeds, lambda model, feeds: {"y": model(feeds["x"], training=False)}


def _half(keras: Any) -> Made:
    """Policy mixed_float16: computes in float16, puts float32 out."""
    layers = keras.layers
    policy = "mixed_float16"
    x = layers.Input((6,), name="x")
    y = layers.BatchNormalization(dtype=policy)(layers.Dense(7, dtype=policy)(x))
    model = stirred(keras.Model(x, [layers.Dense(2, dtype="float32", name="y")(y), y]))
    feeds = {"x": np.random.default_rng(4).normal(size=(3, 6)).astype(np.float32)}
    names = list(model.output_names)
    return model, feeds, lambda m, f: dict(zip(names, m(f["x"], training=False), strict=True))


def _bfloat16(keras: Any) -> Made:
    """bfloat16 in and out: numpy itself has no such type."""
    layers = keras.layers
    x = layers.Input((6,), name="x", dtype="bfloat16")
    model = stirred(keras.Model(x, layers.Dense(3, dtype="bfloat16", name="y")(x)))
    feeds = {"x": np.random.default_rng(4).normal(size=(3, 6)).astype(ml_dtypes.bfloat16)}
    return model, feeds, lambda model, feeds: {"y": model(feeds["x"], training=False)}


def _states(keras: Any) -> Made:
    """One layer with three outputs, which all have its name; a free axis of time."""
    layers = keras.layers
    x = layers.Input((None, 4), name="x")
    model = stirred(keras.Model(x, layers.LSTM(3, return_sequences=True, return_state=True, name="rnn")(x)))
    feeds = {"x": np.random.default_rng(6).normal(size=(2, 5, 4)).astype(np.float32)}
    names = ["rnn", "rnn:1", "rnn:2"]
    return model, feeds, lambda m, f: dict(zip(names, m(f["x"], training=False), strict=True))


def _strings(keras: Any) -> Made:
    """Words to numbers and back."""
    layers = keras.layers
    x = layers.Input((2,), dtype="string", name="x")
    numbers = layers.StringLookup(vocabulary=["the", "cat", "sät"], name="number")(x)
    words = layers.StringLookup(vocabulary=["the", "cat", "sät"], invert=True, name="word")(numbers)
    feeds = {"x": np.array([["cat", "dog"], ["sät", "the"]], object)}
    expected = {"number": np.array([[2, 0], [3, 1]]), "word": [["cat", "[UNK]"], ["sät", "the"]]}
    return keras.Model(x, [numbers, words]), feeds, lambda model, feeds: expected


MAKERS = {f.__name__[1:]: f for f in (_two_and_two, _dicts, _nested, _half, _bfloat16, _states, _strings)}


def as_array(value: Any) -> np.ndarray:
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def with_lambda(keras: Any, path: Path, code: Callable[[Any], Any]) -> Path:
    """x → code → y, saved with the code in it."""
    x = keras.layers.Input((2,), name="x")
    keras.Model(x, keras.layers.Lambda(code, output_shape=(2,), name="y")(x)).save(path)
    return path
