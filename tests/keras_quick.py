"""Keras and TensorFlow make thousands of small models in these tests: what that costs, and need not.

Nothing that a model computes, saves or loads changes. First values of weights are drawn by numpy, as they are
overwritten by a file or by ``stir``; a variable's handle has no name of its own, for which TensorFlow
would make a kernel of its own.
"""

from __future__ import annotations

import functools
import gc
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_RNG = np.random.default_rng(0)
_DRAWN = ("RandomUniform", "RandomNormal", "TruncatedNormal", "VarianceScaling", "Orthogonal")
_INITIALISERS = {
    "keras": "keras.src.initializers.random_initializers",
    "tf_keras": "tf_keras.src.initializers.initializers",
}


@functools.cache
def settled(keras: Any) -> Any:
    """The same module, Keras 3 on TensorFlow or tf_keras, made quick.

    Its objects, and TensorFlow's, are many: the garbage collector looks at them no more.
    """
    _nameless_handles()
    _draw_by_numpy(importlib.import_module(_INITIALISERS[keras.__name__]))
    if keras.__name__ == "keras":
        _remember_what_is_not_saved()
    else:
        _no_recurrence_for_gpus()
    gc.collect()
    gc.freeze()
    return keras


def _nameless_handles() -> None:
    """TensorFlow keeps a kernel per set of attributes, and the name is one: 0.7 ms a variable."""
    ops = importlib.import_module("tensorflow.python.ops.gen_resource_variable_ops")
    found = ops.var_handle_op
    if found.__name__ == "nameless":
        return

    def nameless(*args: Any, debug_name: str = "", **kwargs: Any) -> Any:
        return found(*args, **kwargs)

    ops.var_handle_op = nameless  # type: ignore[attr-defined]


def _draw_by_numpy(module: Any) -> None:
    """A first weight in a tenth of the time that a stateless random op takes."""

    def drawing(found: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(found)
        def draw(self: Any, shape: Sequence[int], dtype: Any = None, **kwargs: Any) -> Any:
            kind = np.dtype("float32") if dtype is None else _numpy_type(dtype)
            if kind is None or kwargs:
                return found(self, shape, dtype, **kwargs)
            fan_in = max(1, int(np.prod(shape[:-1])))
            return (_RNG.uniform(-1.0, 1.0, tuple(shape)) / np.sqrt(fan_in)).astype(kind)

        return draw

    for name in _DRAWN:
        kind = getattr(module, name)
        kind.__call__ = drawing(kind.__call__)


def _numpy_type(dtype: Any) -> np.dtype[Any] | None:
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", "")
    return np.dtype(name) if name in ("float16", "float32", "float64") else None


def _remember_what_is_not_saved() -> None:
    """Which attributes Keras never saves, found once per kind of object, not by making one for every layer.

    Keras 3.15 means to keep them, but keeps them by one name and looks for them by another: a third of the
    time that small models take to save and load.
    """
    saving = importlib.import_module("keras.src.saving.saving_lib")
    found = getattr(saving, "get_attr_skipset", None)
    if found is not None and not hasattr(found, "cache_info"):
        saving.get_attr_skipset = functools.cache(found)  # type: ignore[attr-defined]


def _no_recurrence_for_gpus() -> None:
    """tf_keras traces a second LSTM and GRU, gradients and all, that a GPU might run instead: 1 s a layer."""
    module = importlib.import_module("tf_keras.src.layers.rnn.gru_lstm_utils")
    module.function_register = lambda *_, **__: None  # type: ignore[attr-defined]
