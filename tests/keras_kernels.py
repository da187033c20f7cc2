"""Layers with kernels: a row per class and per option that changes what may enter it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from bnfuse.core.reasons import Reason


@dataclass(frozen=True)
class Kernel:
    """A layer class and its arguments; ``shift``: why no shift can come in, ``axis``: of the channels."""

    name: str
    shape: tuple[int | None, ...]
    layer: str
    arguments: dict[str, Any]
    shift: Reason | None = None
    axis: int = -1

    def make(self, layers: Any, **more: Any) -> Any:
        return getattr(layers, self.layer)(**{**self.arguments, **more})

    @property
    def channels_first(self) -> bool:
        """Whether its data are laid out in a way that a CPU has no convolutions for."""
        return self.arguments.get("data_format") == "channels_first"


def _table() -> Iterator[Kernel]:
    pad, refused = Reason.ZERO_PADDING, Reason.SHIFT_REFUSED
    first = {"data_format": "channels_first"}
    yield Kernel("dense", (5,), "Dense", {"units": 4})
    yield Kernel("dense of rank 3", (6, 5), "Dense", {"units": 4})
    yield Kernel("dense of rank 4", (6, 4, 5), "Dense", {"units": 3})
    yield Kernel("conv1d", (9, 4), "Conv1D", {"filters": 6, "kernel_size": 3, "strides": 2})
    yield Kernel("conv1d of any length", (None, 4), "Conv1D", {"filters": 5, "kernel_size": 2})
    yield Kernel(
        "conv1d causal", (9, 4), "Conv1D", {"filters": 6, "kernel_size": 3, "padding": "causal"}, pad
    )
    yield Kernel(
        "conv2d groups",
        (9, 8, 6),
        "Conv2D",
        {"filters": 4, "kernel_size": (3, 2), "groups": 2, "strides": (2, 1)},
    )
    yield Kernel(
        "conv2d dilated", (9, 8, 3), "Conv2D", {"filters": 4, "kernel_size": (3, 2), "dilation_rate": (1, 2)}
    )
    yield Kernel(
        "conv2d same", (9, 8, 3), "Conv2D", {"filters": 4, "kernel_size": (3, 2), "padding": "same"}, pad
    )
    yield Kernel(
        "conv2d 1x1 same",
        (9, 8, 3),
        "Conv2D",
        {"filters": 4, "kernel_size": 1, "padding": "same", "strides": 2},
    )
    yield Kernel(
        "conv2d same that fits",
        (9, 8, 3),
        "Conv2D",
        {"filters": 4, "kernel_size": (3, 2), "padding": "same", "strides": (3, 2)},
    )
    yield Kernel(
        "conv2d same that fits along one axis",
        (9, 8, 3),
        "Conv2D",
        {"filters": 4, "kernel_size": (3, 3), "padding": "same", "strides": (3, 3)},
        pad,
    )
    yield Kernel(
        "conv1d same that may fit",
        (None, 4),
        "Conv1D",
        {"filters": 5, "kernel_size": 2, "padding": "same", "strides": 2},
        pad,
    )
    yield Kernel(
        "conv2d channels first", (5, 9, 8), "Conv2D", {"filters": 4, "kernel_size": (3, 2), **first}, axis=1
    )
    yield Kernel("conv1d channels first", (5, 9), "Conv1D", {"filters": 4, "kernel_size": 3, **first}, axis=1)
    yield Kernel(
        "conv2d transpose channels first",
        (4, 6, 5),
        "Conv2DTranspose",
        {"filters": 3, "kernel_size": (3, 2), **first},
        refused,
        axis=1,
    )
    yield Kernel(
        "depthwise 2d channels first",
        (3, 9, 8),
        "DepthwiseConv2D",
        {"kernel_size": (3, 2), "depth_multiplier": 2, **first},
        axis=1,
    )
    yield Kernel(
        "separable 2d channels first",
        (3, 9, 8),
        "SeparableConv2D",
        {"filters": 5, "kernel_size": (3, 2), "depth_multiplier": 2, **first},
        axis=1,
    )
    yield Kernel("conv3d", (5, 6, 7, 3), "Conv3D", {"filters": 4, "kernel_size": (2, 3, 1)})
    yield Kernel(
        "conv1d transpose", (9, 4), "Conv1DTranspose", {"filters": 3, "kernel_size": 3, "strides": 2}, refused
    )
    yield Kernel(
        "conv2d transpose",
        (6, 5, 4),
        "Conv2DTranspose",
        {"filters": 3, "kernel_size": (3, 2), "strides": (1, 2)},
        refused,
    )
    yield Kernel(
        "conv2d transpose same",
        (6, 5, 4),
        "Conv2DTranspose",
        {"filters": 3, "kernel_size": 3, "padding": "same"},
        refused,
    )
    yield Kernel("conv2d transpose 1x1", (6, 5, 4), "Conv2DTranspose", {"filters": 3, "kernel_size": 1})
    yield Kernel(
        "conv2d transpose 1x1 apart",
        (6, 5, 4),
        "Conv2DTranspose",
        {"filters": 3, "kernel_size": 1, "strides": 2},
        refused,
    )
    yield Kernel(
        "conv3d transpose",
        (4, 5, 6, 2),
        "Conv3DTranspose",
        {"filters": 3, "kernel_size": (2, 3, 1)},
        refused,
    )
    yield Kernel("depthwise 1d", (9, 4), "DepthwiseConv1D", {"kernel_size": 3, "depth_multiplier": 2})
    yield Kernel("depthwise 2d", (9, 8, 3), "DepthwiseConv2D", {"kernel_size": (3, 2), "depth_multiplier": 2})
    yield Kernel(
        "depthwise 2d same",
        (9, 8, 3),
        "DepthwiseConv2D",
        {"kernel_size": 3, "depth_multiplier": 2, "padding": "same"},
        pad,
    )
    yield Kernel(
        "separable 1d",
        (9, 4),
        "SeparableConv1D",
        {"filters": 5, "kernel_size": 3, "depth_multiplier": 2},
    )
    yield Kernel(
        "separable 2d",
        (9, 8, 3),
        "SeparableConv2D",
        {"filters": 5, "kernel_size": (3, 2), "depth_multiplier": 2},
    )
    yield Kernel(
        "separable 2d same",
        (9, 8, 3),
        "SeparableConv2D",
        {"filters": 5, "kernel_size": (3, 2), "padding": "same"},
        pad,
    )


KERNELS = {kernel.name: kernel for kernel in _table()}
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
