"""Networks of keras.applications with fewer blocks: every kind of block, and of seam between two, is there.

More blocks of one kind cost Keras seconds to make, to save and to load, and show no more. Some have all their
blocks and fewer channels: what is drawn, written and read of 22 million weights is most of what those cost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest

Make = Callable[..., Any]  # takes what the functions of keras.applications take


def fewer_blocks(name: str) -> Make | None:
    """What makes the network of this name; None where it is made in its own size."""
    made = _FEWER.get(name)
    return made and made()


def _of(module: str, function: str, **settings: Any) -> Make:
    return partial(getattr(import_module(f"keras.src.applications.{module}"), function), **settings)


class _Narrow:
    """The layers of Keras, convolutions with a quarter of the channels that they are asked for."""

    def __init__(self, layers: Any) -> None:
        self._layers = layers

    def __getattr__(self, name: str) -> Any:
        kind = getattr(self._layers, name)
        if name not in ("Conv2D", "SeparableConv2D"):
            return kind
        return lambda filters, *others, **settings: kind(filters // 4, *others, **settings)


def _narrow(module: str, function: str) -> Make:
    found = import_module(f"keras.src.applications.{module}")

    def make(**settings: Any) -> Any:
        with pytest.MonkeyPatch.context() as here:
            here.setattr(found, "layers", _Narrow(found.layers))
            return getattr(found, function)(**settings)

    return make


def _residual(version: int, *blocks: int) -> Make:
    """Stages of so many blocks, narrower than the published ones; the last keeps the size."""

    def stages(x: Any) -> Any:
        stack = getattr(import_module("keras.src.applications.resnet"), f"stack_residual_blocks_v{version}")
        for k, count in enumerate(blocks):
            x = stack(x, 12 + 4 * k, count, stride1=2 if k + 1 < len(blocks) else 1, name=f"stage{k}")
        return x

    return _of("resnet", "ResNet", stack_fn=stages, preact=version == 2, use_bias=True)


_FEWER: dict[str, Callable[[], Make]] = {
    "ResNet": lambda: _residual(1, 2, 2, 2, 2),  # published: 3, 4, 6, 3
    "ResNetV2": lambda: _residual(2, 3, 3, 2, 2),
    "EfficientNet": lambda: _of(
        "efficientnet", "EfficientNet", width_coefficient=1.0, depth_coefficient=0.3, default_size=224
    ),
    "EfficientNetV2": lambda: _of(
        "efficientnet_v2", "EfficientNetV2", width_coefficient=1.0, depth_coefficient=0.25, default_size=224,
        name="efficientnetv2-b0",
    ),
    "NASNet": lambda: _of(
        "nasnet", "NASNet", penultimate_filters=192, num_blocks=1, stem_block_filters=16, skip_reduction=False
    ),
    "DenseNet": lambda: _of("densenet", "DenseNet", blocks=[2, 3, 2, 2]),
    "InceptionV3": lambda: _narrow("inception_v3", "InceptionV3"),
    "Xception": lambda: _narrow("xception", "Xception"),
}  # fmt: skip
