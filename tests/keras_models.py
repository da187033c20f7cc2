"""Keras models made in this process, with inputs and a call by hand to hold a runner against."""

from __future__ import annotations

import functools
import gc
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "digits_b.keras"


def import_keras() -> Any:
    """Keras 3 on TensorFlow, in this process; skips the test where there is none."""
    pytest.importorskip("tensorflow")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    module = pytest.importorskip("keras", minversion="3.0")
    if module.backend.backend() != "tensorflow":
        pytest.skip("Keras was imported on another backend before")
    _hold_variables_without_a_name()
    _remember_what_is_not_saved()
    _set_plain_attributes_at_once(module.Layer)
    _draw_by_numpy(module)
    return _settled(module)


def import_tf_keras() -> Any:
    """tf_keras, in this process; skips the test where there is none."""
    module = pytest.importorskip("tf_keras")
    _hold_variables_without_a_name()
    _step_by_step(module)
    for name in ("BatchNormalization", "Dense", "LayerNormalization"):
        _know_what_comes_out(getattr(module.layers, name))
    _draw_by_numpy_too(module)
    return _settled(module)


def _step_by_step(tf_keras: Any) -> None:
    """LSTM and GRU compute by their cell, as their settings other than the usual have it.

    Else each of them traces its loop twice, once for a GPU that is not asked for: five sixths of the time
    that they take to make and to load. bnfuse's own runner, in a process of its own, has them as they come.
    """
    for layer in (tf_keras.layers.LSTM, tf_keras.layers.GRU):
        layer._could_use_gpu_kernel = property(lambda _: False, lambda _, value: None)


def _know_what_comes_out(layer: Any) -> None:
    """A layer of this class is not traced where its place in a model is made: its own rule tells the shape.

    A graph of its own with some ten operations, or thirty for a Dense of rank 3, whenever one is made or
    loaded: a sixth of what small models cost. What it computes when the model is called is its own, as ever.
    """
    slowly = layer._infer_output_signature
    if slowly.__name__ == "quickly":
        return
    placeholder = importlib.import_module("tensorflow").compat.v1.placeholder

    def quickly(self: Any, *given: Any) -> Any:
        self.__dict__["call"] = lambda inputs, *_, **__: placeholder(
            inputs.dtype, self.compute_output_shape(inputs.shape)
        )
        try:
            return slowly(self, *given)
        finally:
            del self.__dict__["call"]

    layer._infer_output_signature = quickly


class _Draws:
    """Random numbers by numpy: TensorFlow takes a hundred times as long for the few that a layer has."""

    def __init__(self, floatx: Callable[[], str], others: Any = None) -> None:
        self._rng = np.random.default_rng(0)
        self._floatx, self._others = floatx, others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._others, name)

    def uniform(
        self, shape: Any, minval: float = 0.0, maxval: float = 1.0, dtype: Any = None, seed: Any = None
    ) -> np.ndarray:
        return self._rng.uniform(minval, maxval, shape).astype(dtype or self._floatx())

    def normal(
        self, shape: Any, mean: float = 0.0, stddev: float = 1.0, dtype: Any = None, seed: Any = None
    ) -> np.ndarray:
        return self._rng.normal(mean, stddev, shape).astype(dtype or self._floatx())

    truncated_normal = normal


def _draw_by_numpy(keras: Any) -> None:
    """What a kernel begins with, in Keras 3: most tests draw all weights anew, and the others ask for any."""
    initializers = importlib.import_module("keras.src.initializers.random_initializers")
    if not isinstance(initializers.random, _Draws):
        initializers.random = _Draws(keras.config.floatx, initializers.random)  # type: ignore[attr-defined]


def _draw_by_numpy_too(tf_keras: Any) -> None:
    """The same in tf_keras, of all but orthogonal kernels."""
    draws = _Draws(tf_keras.backend.floatx)

    def drawn(self: Any, shape: Any, dtype: Any, nonce: Any) -> np.ndarray:
        fan_in = int(np.prod(shape[:-1]))
        return draws.normal(shape, 0.0, max(1, fan_in) ** -0.5, dtype.as_numpy_dtype)

    tf_keras.initializers.VarianceScaling._generate_init_val = drawn


def _hold_variables_without_a_name() -> None:
    """TensorFlow sets up the operation that makes a variable once for each shape, not for each name, too.

    The name is there to be read in its logs; it is 0.4 ms instead of 0.03 for every variable of a new name.
    """
    operations = importlib.import_module("tensorflow.python.ops.gen_resource_variable_ops")
    slowly = operations.var_handle_op
    if slowly.__name__ != "quickly":

        def quickly(**given: Any) -> Any:
            return slowly(**{**given, "debug_name": ""})

        operations.var_handle_op = quickly  # type: ignore[attr-defined]


def _remember_what_is_not_saved() -> None:
    """Which attributes Keras never saves, found once per kind of object, not by making one for every layer.

    Keras 3.15 means to keep them, but keeps them by one name and looks for them by another: a third of the
    time that small models take to save and load.
    """
    saving = importlib.import_module("keras.src.saving.saving_lib")
    found = getattr(saving, "get_attr_skipset", None)
    if found is not None and not hasattr(found, "cache_info"):
        saving.get_attr_skipset = functools.cache(found)  # type: ignore[attr-defined]


_PLAIN = frozenset({bool, int, float, str, type(None)})


def _set_plain_attributes_at_once(layer: Any) -> None:
    """Layers keep numbers, names and None as any object does: Keras finds nothing in them to keep track of.

    It looks through some eighty of them for each layer, a fifth of the time that layers take to make.
    """
    slowly = layer.__setattr__
    if slowly.__name__ == "quickly":
        return

    def quickly(self: Any, name: str, value: Any) -> None:
        if type(value) in _PLAIN and "_tracker" in self.__dict__:
            object.__setattr__(self, name, value)
        else:
            slowly(self, name, value)

    layer.__setattr__ = quickly


def _settled(module: Any) -> Any:
    """TensorFlow's objects are many: looking at them again and again took a third of the time."""
    if module.__name__ not in _SETTLED:
        gc.collect()
        gc.freeze()
        _SETTLED.add(module.__name__)
    return module


_SETTLED: set[str] = set()


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
