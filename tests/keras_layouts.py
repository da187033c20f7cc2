"""Convolutions of channels-first data on a CPU, where TensorFlow has no kernels for them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_CONVOLUTIONS = ("conv", "depthwise_conv", "separable_conv", "conv_transpose")


@contextmanager
def channels_first_by_transposing() -> Iterator[None]:
    """In here Keras 3's own convolutions compute them channels last, and put the channels first again.

    That is what channels first means; compiling each by XLA, which has kernels, takes 100 times as long.
    """
    module = importlib.import_module("keras.src.backend.tensorflow.nn")
    with pytest.MonkeyPatch.context() as here:
        for name in _CONVOLUTIONS:
            here.setattr(module, name, _transposing(getattr(module, name)))
        yield


def _transposing(found: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    signature = inspect.signature(found)

    def convolve(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        if given.get("data_format") != "channels_first":
            return found(*args, **kwargs)
        x = given["inputs"]
        rank = len(x.shape)
        to_last, to_first = (0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))
        given |= {"inputs": tf.transpose(x, to_last), "data_format": "channels_last"}
        return tf.transpose(found(**given), to_first)

    return convolve
