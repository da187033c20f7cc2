"""The output shapes of Keras's own layers, as functions of their config and their inputs' shapes.

One row per class. Shapes include the batch axis; an unknown size is None, an unknown shape None as a
whole. A class without a row, a config that makes no sense, or a size that the layer computes at run
time gives None: a shape is a fact here, never a guess, for channels are followed by it.

Sources: the ``compute_output_shape`` of keras/src/layers and tf_keras/src/layers, and
keras/src/ops/operation_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.network import Shape

Config = dict[str, Any]
Size = int | None
Rule = Callable[[Config, Shape], Shape | None]


def output_shape(class_name: str, config: Config, shape: Shape) -> Shape | None:
    """The one output of a layer with one input; None where it is not known."""
    rule = _RULES.get(class_name)
    if rule is None:
        return None
    rank = input_rank(class_name)
    if rank is not None and len(shape) != rank:
        return None
    return as_shape(rule(config, shape))


def input_rank(class_name: str) -> int | None:
    """The number of axes a layer insists on in its input, batch included; None if it takes several."""
    return _RANKS.get(class_name)


def channel_axis(config: Config, rank: int) -> int | None:
    """The axis of a layer's channels, counted from 0: by ``data_format``, or else a single ``axis``.

    The last one for a layer whose config says neither; None where it says more than one, or nonsense.
    """
    axis = config.get("axis", -1)
    if "data_format" in config:
        axis = {"channels_first": 1, "channels_last": -1}.get(str(config["data_format"]).lower())
    elif isinstance(axis, dict | list | tuple):
        several = as_shape(axis) if isinstance(axis, dict) else tuple(axis)
        axis = several[0] if several is not None and len(several) == 1 else None
    if not isinstance(axis, int) or isinstance(axis, bool) or not -rank <= axis < rank:
        return None
    return axis % rank


# --- sizes ---


def _tuple(value: Any, length: int) -> tuple[int, ...]:
    """A setting per spatial axis: one int stands for all.

    Raises:
        ValueError: it is neither an int nor ``length`` of them.
    """
    values = (value,) * length if isinstance(value, int) else as_shape(value)
    if values is None or len(values) != length or any(v is None for v in values):
        raise ValueError(f"not {length} sizes")
    return tuple(int(v) for v in values if v is not None)


def _windows(size: Size, window: int, stride: int, padding: str) -> Size:
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


def _split(config: Config, shape: Shape) -> tuple[Shape, Size]:
    """Spatial sizes and the number of channels."""
    return (shape[2:], shape[1]) if _channels_first(config) else (shape[1:-1], shape[-1])


def _join(config: Config, batch: Size, spatial: Sequence[Size], channels: Size) -> Shape:
    return (batch, channels, *spatial) if _channels_first(config) else (batch, *spatial, channels)


# --- convolution and pooling ---


def _conv(config: Config, shape: Shape, filters: Size = None) -> Shape:
    spatial, _ = _split(config, shape)
    rank = len(spatial)
    kernel = _tuple(config["kernel_size"], rank)
    strides = _tuple(config.get("strides", 1), rank)
    dilation = _tuple(config.get("dilation_rate", 1), rank)
    sizes = [
        _windows(n, (k - 1) * d + 1, s, config.get("padding", "valid"))
        for n, k, s, d in zip(spatial, kernel, strides, dilation, strict=True)
    ]
    return _join(config, shape[0], sizes, config["filters"] if filters is None else filters)


def _depthwise(config: Config, shape: Shape) -> Shape | None:
    channels = _split(config, shape)[1]
    if channels is None:
        spatial = _split(config, _conv(config, shape, 1))[0]
        return _join(config, shape[0], spatial, None)
    return _conv(config, shape, channels * config.get("depth_multiplier", 1))


def _conv_transpose(config: Config, shape: Shape) -> Shape:
    spatial, _ = _split(config, shape)
    rank = len(spatial)
    kernel, strides = _tuple(config["kernel_size"], rank), _tuple(config.get("strides", 1), rank)
    dilation = _tuple(config.get("dilation_rate", 1), rank)
    stored = config.get("output_padding")
    extra = (None,) * rank if stored is None else _tuple(stored, rank)
    sizes = [
        _stretched(n, (k - 1) * d + 1, s, e, config.get("padding", "valid"))
        for n, k, s, d, e in zip(spatial, kernel, strides, dilation, extra, strict=True)
    ]
    return _join(config, shape[0], sizes, config["filters"])


def _stretched(size: Size, kernel: int, stride: int, extra: Size, padding: str) -> Size:
    if size is None:
        return None
    match padding:
        case "valid":
            return (size - 1) * stride + kernel + (max(stride - kernel, 0) if extra is None else extra)
        case "same":
            return size * stride if extra is None else (size - 1) * stride + kernel % 2 + extra
    raise ValueError(f"padding {padding}")


def _pool(config: Config, shape: Shape) -> Shape:
    spatial, channels = _split(config, shape)
    window = _tuple(config["pool_size"], len(spatial))
    strides = window if config.get("strides") is None else _tuple(config["strides"], len(spatial))
    padding = config.get("padding", "valid")
    sizes = [_windows(n, k, s, padding) for n, k, s in zip(spatial, window, strides, strict=True)]
    return _join(config, shape[0], sizes, channels)


def _global_pool(config: Config, shape: Shape) -> Shape:
    spatial, channels = _split(config, shape)
    if config.get("keepdims"):
        return _join(config, shape[0], (1,) * len(spatial), channels)
    return shape[0], channels


def _margins(config: Config, key: str, rank: int) -> list[int]:
    """Both margins of each spatial axis, added up: ``2``, ``[1, 2]`` or ``[[1, 2], [0, 1]]``."""
    value = config[key]
    if isinstance(value, int):
        return [2 * value] * rank
    if rank == 1:
        return [sum(_tuple(value, 2))] if as_shape(value) is not None else [sum(_tuple(value[0], 2))]
    return [2 * v if isinstance(v, int) else sum(_tuple(v, 2)) for v in _per_axis(value, rank)]


def _per_axis(value: Any, rank: int) -> list[Any]:
    """The settings of ``rank`` axes, each an int or a pair.

    Raises:
        ValueError: there are not ``rank`` of them.
    """
    items = value.get("items") if isinstance(value, dict) else value
    if not isinstance(items, list | tuple) or len(items) != rank:
        raise ValueError(f"not {rank} margins")
    return list(items)


def _pad(config: Config, shape: Shape) -> Shape:
    spatial, channels = _split(config, shape)
    margins = _margins(config, "padding", len(spatial))
    sizes = [None if n is None else n + m for n, m in zip(spatial, margins, strict=True)]
    return _join(config, shape[0], sizes, channels)


def _crop(config: Config, shape: Shape) -> Shape:
    spatial, channels = _split(config, shape)
    margins = _margins(config, "cropping", len(spatial))
    sizes = [None if n is None else n - m for n, m in zip(spatial, margins, strict=True)]
    return _join(config, shape[0], sizes, channels)


def _upsample(config: Config, shape: Shape) -> Shape:
    spatial, channels = _split(config, shape)
    factors = _tuple(config["size"], len(spatial))
    sizes = [None if n is None else n * f for n, f in zip(spatial, factors, strict=True)]
    return _join(config, shape[0], sizes, channels)


def _resize(config: Config, shape: Shape) -> Shape | None:
    if len(shape) != 4:
        return None
    _, channels = _split(config, shape)
    return _join(config, shape[0], (config["height"], config["width"]), channels)


# --- axes ---


def _flatten(config: Config, shape: Shape) -> Shape:
    return shape[0], _product(shape[1:])


def _product(sizes: Sequence[Size]) -> Size:
    known = [size for size in sizes if size is not None]
    return prod(known) if len(known) == len(sizes) else None


def _reshape(config: Config, shape: Shape) -> Shape | None:
    target = config["target_shape"]
    items = list(target["items"] if isinstance(target, dict) else target)
    sizes: list[Size] = [None if size == -1 else size for size in items]
    if sizes.count(None) == 1 and -1 in items:
        total, rest = _product(shape[1:]), _product([size for size in sizes if size is not None])
        if total is not None and rest:
            sizes[sizes.index(None)] = total // rest
    return (shape[0], *sizes)


def _permute(config: Config, shape: Shape) -> Shape:
    dims = _tuple(config["dims"], len(shape) - 1)
    if sorted(dims) != list(range(1, len(shape))):
        raise ValueError("dims")
    return (shape[0], *(shape[axis] for axis in dims))


def _same(config: Config, shape: Shape) -> Shape:
    return shape


def _dense(config: Config, shape: Shape) -> Shape | None:
    return (*shape[:-1], config["units"]) if len(shape) > 1 else None


def _einsum_dense(config: Config, shape: Shape) -> Shape | None:
    """``"abc,cd->abd"``, with ``...`` on either side; what only the kernel has is in ``output_shape``."""
    source, _, output = config["equation"].replace(" ", "").partition(",")
    output = output.partition("->")[2]
    front, dots, back = source.partition("...")
    if len(shape) < len(front) + len(back) or (not dots and len(shape) != len(front)):
        return None
    rest = shape[len(front) : len(shape) - len(back)]
    sizes = dict(zip(front + back, shape[: len(front)] + shape[len(shape) - len(back) :], strict=True))
    stored = config.get("output_shape")
    given = (stored,) if isinstance(stored, int) else (as_shape(stored) or ())
    letters = output.replace("...", "")
    named = dict(zip(reversed(letters), reversed(given), strict=False))
    out_front, out_dots, out_back = output.partition("...")
    return (
        *(sizes.get(x, named.get(x)) for x in out_front),
        *(rest if out_dots else ()),
        *(sizes.get(x, named.get(x)) for x in out_back),
    )


# fmt: off
_SAME = frozenset(
    {
        "Activation", "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Dropout", "ELU",
        "GaussianDropout", "GaussianNoise", "GroupNormalization", "Identity", "LayerNormalization",
        "LeakyReLU", "Masking", "Normalization", "PReLU", "RMSNormalization", "RandomBrightness",
        "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "ReLU",
        "Rescaling", "Softmax", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
        "SyncBatchNormalization", "ThresholdedReLU", "UnitNormalization"
    }
)
# fmt: on

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME, _same),
    "Dense": _dense,
    "EinsumDense": _einsum_dense,
    "Embedding": lambda config, shape: (*shape, config["output_dim"]),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": lambda config, shape: (shape[0], config["n"], shape[1]),
    "Resizing": _resize,
    "CenterCrop": _resize,
    "RandomCrop": _resize,
    **{f"SeparableConv{n}D": _conv for n in (1, 2)},
    **{f"LocallyConnected{n}D": _conv for n in (1, 2)},
    **{f"DepthwiseConv{n}D": _depthwise for n in (1, 2)},
}
_RANKS = {"RepeatVector": 2}
for _n in (1, 2, 3):
    _RULES |= {
        f"Conv{_n}D": _conv,
        f"Conv{_n}DTranspose": _conv_transpose,
        f"MaxPooling{_n}D": _pool,
        f"AveragePooling{_n}D": _pool,
        f"GlobalMaxPooling{_n}D": _global_pool,
        f"GlobalAveragePooling{_n}D": _global_pool,
        f"ZeroPadding{_n}D": _pad,
        f"Cropping{_n}D": _crop,
        f"UpSampling{_n}D": _upsample,
    }
_RANKS |= {name: int(found[1]) + 2 for name in _RULES if (found := re.search(r"([123])D(Transpose)?$", name))}
