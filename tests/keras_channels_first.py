"""Convolutions of channels-first data, which TensorFlow has for a CPU in XLA alone."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def channels_first_on_a_cpu() -> Iterator[None]:
    """Keras 3 computes convolutions of channels-first data as those of the same data, channels last.

    XLA compiles for a second what is called once.
    """
    nn = importlib.import_module("keras.src.backend.tensorflow.nn")
    with pytest.MonkeyPatch.context() as here:
        for name in ("conv", "conv_transpose", "depthwise_conv", "separable_conv"):
            here.setattr(nn, name, _channels_last(getattr(nn, name)))
        yield


def _channels_last(convolve: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(convolve)

    def transposed(*given: Any, **named: Any) -> Any:
        import tensorflow as tf

        call = signature.bind(*given, **named)
        if call.arguments.get("data_format") != "channels_first":
            return convolve(*given, **named)
        x = call.arguments["inputs"]
        rank = len(x.shape)
        call.arguments |= {
            "inputs": tf.transpose(x, (0, *range(2, rank), 1)),
            "data_format": "channels_last",
        }
        return tf.transpose(convolve(*call.args, **call.kwargs), (0, rank - 1, *range(1, rank - 1)))

    return transposed
