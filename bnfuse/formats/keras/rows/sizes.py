"""Sizes of what layers put out: what the rules of output shapes have in common.

Shapes include the batch axis; an unknown size is None, an unknown shape None as a whole. A config that
makes no sense, or a size that the layer computes at run time, gives None: a shape is a fact here, never
a guess, for channels are followed by it.

Sources: the ``compute_output_shape`` of keras/src/layers and tf_keras/src/layers, and
keras/src/ops/operation_utils.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.network import Call, Layer, Shape

Config = Mapping[str, Any]
Size = int | None
Inputs = Sequence[Shape | None]
Outputs = tuple[Shape | None, ...]
Shapes = Callable[[Layer, Inputs, Call | None], Outputs]

UNKNOWN: Outputs = (None,)


def unknown(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    """Nothing is known of the output."""
    return UNKNOWN


def same(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    """One output as large as the input."""
    return (checked(inputs[0]),)


def one(rule: Callable[[Config, Shape], Shape | None]) -> Shapes:
    """One input, one output."""

    def shapes(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
        return UNKNOWN if inputs[0] is None else (checked(rule(layer.config, inputs[0])),)

    return shapes


def several(rule: Callable[[Config, Inputs], Shape | None]) -> Shapes:
    """Several inputs, one output."""
    return lambda layer, inputs, call: (checked(rule(layer.config, inputs)),)


def checked(shape: Shape | None) -> Shape | None:
    """The shape, if it is one."""
    return None if shape is None else as_shape(shape)


def ranked(shape: Shape | None, rank: int) -> Shape:
    """Where a layer takes one rank only, its input has it."""
    return (None,) * rank if shape is None else shape


def per_axis(value: Any, length: int) -> tuple[int, ...]:
    """A setting per spatial axis: one int stands for all.

    Raises:
        ValueError: it is neither an int nor ``length`` of them.
    """
    values = (value,) * length if isinstance(value, int) else as_shape(value)
    if values is None or len(values) != length or any(v is None for v in values):
        raise ValueError(f"not {length} sizes")
    return tuple(int(v) for v in values if v is not None)


def windows(size: Size, window: int, stride: int, padding: str) -> Size:
    """How many windows fit along an axis (``window`` already dilated)."""
    if size is None:
        return None
    if padding in ("same", "causal"):
        return -(-size // stride)
    if padding != "valid":
        raise ValueError(f"padding {padding}")
    return (size - window) // stride + 1


def _channels_first(config: Config) -> bool:
    stored = str(config.get("data_format", "channels_last")).lower()
    if stored not in ("channels_first", "channels_last"):
        raise ValueError("data_format")
    return stored == "channels_first"


def split(config: Config, shape: Shape) -> tuple[Shape, Size]:
    """Spatial sizes and the number of channels."""
    return (shape[2:], shape[1]) if _channels_first(config) else (shape[1:-1], shape[-1])


def join(config: Config, batch: Size, spatial: Sequence[Size], channels: Size) -> Shape:
    """The reverse."""
    return (batch, channels, *spatial) if _channels_first(config) else (batch, *spatial, channels)


def conv_shape(config: Config, shape: Shape, filters: Size = None) -> Shape:
    """Windows along each spatial axis."""
    spatial, _ = split(config, shape)
    rank = len(spatial)
    kernel = per_axis(config["kernel_size"], rank)
    strides = per_axis(config.get("strides", 1), rank)
    dilation = per_axis(config.get("dilation_rate", 1), rank)
    sizes = [
        windows(n, (k - 1) * d + 1, s, config.get("padding", "valid"))
        for n, k, s, d in zip(spatial, kernel, strides, dilation, strict=True)
    ]
    return join(config, shape[0], sizes, config["filters"] if filters is None else filters)


def resized(change: Callable[[Config, Shape], Sequence[Size]]) -> Shapes:
    """A layer that changes the spatial sizes alone."""

    def shape(config: Config, given: Shape) -> Shape:
        spatial, channels = split(config, given)
        return join(config, given[0], change(config, spatial), channels)

    return one(shape)


def product(sizes: Sequence[Size]) -> Size:
    """How many elements; None where a size is not known."""
    known = [size for size in sizes if size is not None]
    return prod(known) if len(known) == len(sizes) else None


def broadcast_size(a: Size, b: Size) -> Size:
    """Of two sizes along one axis.

    Raises:
        ValueError: they do not fit.
    """
    if a == 1:
        return b
    if b == 1 or a == b:
        return a
    if a is None or b is None:
        return None
    raise ValueError("sizes do not broadcast")
