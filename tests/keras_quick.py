"""What makes Keras quick to make, save and load small models in this process; what they compute is as ever.

Most of what a small model costs is not arithmetic. bnfuse's own runner, in a process of its own, has Keras
as it comes.
"""

from __future__ import annotations

import functools
import gc
import importlib
import inspect
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.keras_quick_saving import look_at_no_text_for_what_to_save, look_only_at_what_may_be_saved

# Layers of tf_keras whose rule for the shape of what comes out asks for no graph.
_RULED = "BatchNormalization", "Dense", "LayerNormalization", "SpectralNormalization", "RNN", "Bidirectional"
# And those that do nothing at inference, but hundreds of operations in training.
_AUGMENTING = "Contrast", "Crop", "Flip", "Height", "Rotation", "Translation", "Width", "Zoom"


def quick(keras: Any) -> Any:
    """Keras 3 on TensorFlow."""
    _hold_variables_without_a_name()
    _remember_what_protocols_ask_for()
    _remember_signatures()
    look_only_at_what_may_be_saved()
    _set_plain_attributes_at_once(keras.Layer)
    _take_variables_away_at_once(keras.Layer)
    _draw_by_numpy(keras)
    return _settled(keras)


def quick_too(tf_keras: Any) -> Any:
    """tf_keras."""
    _hold_variables_without_a_name()
    _remember_what_protocols_ask_for()
    _remember_signatures_too()
    look_at_no_text_for_what_to_save()
    _step_by_step(tf_keras)
    for name in (*_RULED, *(f"Random{kind}" for kind in _AUGMENTING)):
        _know_what_comes_out(getattr(tf_keras.layers, name), _by_its_rule)
    _know_what_comes_out(tf_keras.Model, _as_in_itself)
    _draw_by_numpy_too(tf_keras)
    return _settled(tf_keras)


def _step_by_step(tf_keras: Any) -> None:
    """LSTM and GRU compute by their cell, as their settings other than the usual have it.

    Else each of them traces its loop twice, once for a GPU that is not asked for: five sixths of the time
    that they take to make and to load.
    """
    for layer in (tf_keras.layers.LSTM, tf_keras.layers.GRU):
        layer._could_use_gpu_kernel = property(lambda _: False, lambda _, value: None)


def _know_what_comes_out(layer: Any, told: Callable[[Any, Any], tuple[Any, Any] | None]) -> None:
    """A layer of this class is not traced where its place in a model is made: shape and type are told.

    A graph of its own with some ten operations, thirty for a Dense of rank 3, hundreds for a cell in both
    directions, whenever one is made or loaded: a fifth of what small models cost. What it computes when the
    model is called is its own, as ever.
    """
    if getattr(vars(layer).get("_infer_output_signature"), "__name__", "") == "quickly":
        return
    slowly = layer._infer_output_signature
    placeholder = importlib.import_module("tensorflow").compat.v1.placeholder

    def quickly(self: Any, *given: Any) -> Any:
        def call(x: Any, *others: Any, **named: Any) -> Any:
            known = told(self, x) if hasattr(x, "shape") else None
            return type(self).call(self, x, *others, **named) if known is None else placeholder(*known)

        self.__dict__["call"] = call
        try:
            return slowly(self, *given)
        finally:
            del self.__dict__["call"]

    layer._infer_output_signature = quickly


def _by_its_rule(layer: Any, x: Any) -> tuple[Any, Any] | None:
    """Of a layer with one output: what it computes in, and the shape by its own rule."""
    shape = layer.compute_output_shape(x.shape)
    return None if isinstance(shape, list) else (layer.compute_dtype, shape)


def _as_in_itself(model: Any, x: Any) -> tuple[Any, Any] | None:
    """Of a model that is called on what it was made for: what it put out then."""
    y: Any = getattr(model, "_nested_outputs", None)
    if not hasattr(y, "shape") or [z.shape.as_list() for z in model.inputs] != [x.shape.as_list()]:
        return None
    masked = any(getattr(value, "_keras_mask", None) is not None for value in (x, y))
    return None if masked else (y.dtype, y.shape)


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


def _remember_what_protocols_ask_for() -> None:
    """What makes an object a TensorFlow tensor is read off the protocol's class once, as from Python 3.12 on.

    Keras asks this of every argument of every call: 3 % of what small models cost.
    """
    found = typing._get_protocol_attrs  # type: ignore[attr-defined]
    if not hasattr(found, "cache_info"):
        typing._get_protocol_attrs = functools.cache(found)  # type: ignore[attr-defined]


class _Inspect:
    """``inspect``, which looks at each function once, not for each layer that is made, built or called."""

    def __init__(self) -> None:
        self._signatures: dict[tuple[Any, bool], inspect.Signature] = {}
        self._specs: dict[tuple[Any, bool], inspect.FullArgSpec] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)

    def signature(self, obj: Any) -> inspect.Signature:
        key = _looked_at(obj)
        if key not in self._signatures:
            self._signatures[key] = inspect.signature(obj)
        return self._signatures[key]

    def getfullargspec(self, obj: Any) -> inspect.FullArgSpec:
        key = _looked_at(obj)
        if key not in self._specs:
            self._specs[key] = inspect.getfullargspec(obj)
        found = self._specs[key]
        return found._replace(args=list(found.args))  # the caller's own


def _looked_at(obj: Any) -> tuple[Any, bool]:
    """The function whose signature an object has, and whether it is bound."""
    obj = inspect.unwrap(obj, stop=lambda found: hasattr(found, "__signature__") or inspect.ismethod(found))
    return (obj.__func__, True) if inspect.ismethod(obj) else (obj, False)


_INSPECT = _Inspect()


def _remember_signatures() -> None:
    """Keras 3 looks at some ten functions for each layer: 3 % of the time that small models take."""
    for name in ("layers.layer", "ops.operation", "models.functional", "models.model", "models.sequential"):
        importlib.import_module(f"keras.src.{name}").inspect = _INSPECT  # type: ignore[attr-defined]


def _remember_signatures_too() -> None:
    """The same in tf_keras."""
    importlib.import_module("tf_keras.src.utils.tf_inspect")._getfullargspec = _INSPECT.getfullargspec  # type: ignore[attr-defined]


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


def _take_variables_away_at_once(layer: Any) -> None:
    """A layer that is quantised asks for a garbage collection for each variable that it takes away: 0.1 s."""
    slowly = layer.__delattr__
    if slowly.__name__ == "quickly":
        return

    def quickly(self: Any, name: str) -> None:
        with pytest.MonkeyPatch.context() as here:
            here.setattr(gc, "collect", lambda: 0)
            slowly(self, name)

    layer.__delattr__ = quickly


def _settled(module: Any) -> Any:
    """TensorFlow's objects are many: looking at them again and again took a third of the time."""
    if module.__name__ not in _SETTLED:
        gc.collect()
        gc.freeze()
        _SETTLED.add(module.__name__)
    return module


_SETTLED: set[str] = set()
