"""Rows of the op table: convolutions.

Kernel layouts are those of keras/src/layers: convolutions (k…, in/groups, out), transposed ones
(k…, out, in), depthwise ones (k…, channels, multiplier), locally connected ones (places, k…·in, out).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import LinearForm
from bnfuse.formats.keras.graph.network import Shape
from bnfuse.formats.keras.rows.kind import spatial_kinds
from bnfuse.formats.keras.rows.linear_layers import Within, bias_apart, linear_part, with_activation
from bnfuse.formats.keras.rows.site import Part, Parts, Site
from bnfuse.formats.keras.rows.sizes import Size, conv_shape, join, one, per_axis, split
from bnfuse.formats.keras.rows.stored import LinearStore
from bnfuse.formats.keras.rows.variables import Config, holds
from bnfuse.formats.table import Malformed


def _padding(site: Site, n: int) -> Reason | None:
    """Why a shift cannot come in: zeros at the borders; 'same' pads nothing where all windows fit."""
    padding, kernel = site.config.get("padding", "valid"), site.window("kernel_size", n)
    if padding == "valid" or set(kernel) == {1}:
        return None
    if padding != "same":
        return Reason.ZERO_PADDING
    strides, dilation = site.window("strides", n, 1), site.window("dilation_rate", n, 1)
    fit = [
        _fits(size, *window)
        for size, *window in zip(_spatial(site, n), kernel, strides, dilation, strict=True)
    ]
    return None if all(fit) else Reason.ZERO_PADDING


def _spatial(site: Site, n: int) -> Sequence[object]:
    """The sizes of the input's spatial axes at inference, None where they are not known."""
    shape, rank = site.shapes[0], n + 2 + site.lead
    if shape is None or len(shape) != rank or not site.keeps_sizes:
        return (None,) * n
    return [shape[axis] for axis in site.spatial_axes(rank)]


def _fits(size: object, kernel: int, stride: int, dilation: int) -> bool:
    """Whether ⌈size/stride⌉ windows lie inside ``size`` elements: then nothing is padded."""
    return isinstance(size, int) and (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 <= size


def _channel_axes(site: Site, n: int) -> tuple[int, int]:
    axis = site.channel_axis(n + 2 + site.lead)
    return axis, axis


def _groups(site: Site) -> int:
    """``groups``, which older files leave out."""
    stored = site.config.get("groups")
    if stored is not None and type(stored) is not int:
        raise Malformed(f"groups {stored}")
    return stored or 1


def convolution(site: Site, n: int) -> Sequence[Part]:
    """Conv1D/2D/3D: (k…, in/groups, out)."""
    part = linear_part(
        site, "k* i go", axes=_channel_axes(site, n), groups=_groups(site),
        shift_in=_padding(site, n),
    )  # fmt: skip
    return with_activation(site, [part])


def transposed(site: Site, n: int) -> Sequence[Part]:
    """Conv*Transpose: (k…, out, in); border outputs sum over fewer taps, so no shift comes in.

    A window of one at every place is a plain convolution.
    """
    plain = set(site.window("kernel_size", n)) == set(site.window("strides", n, 1)) == {1}
    part = linear_part(
        site, "k* o i", axes=_channel_axes(site, n), shift_in=None if plain else Reason.SHIFT_REFUSED
    )
    return with_activation(site, [part])


def depthwise(site: Site, n: int) -> Sequence[Part]:
    """DepthwiseConv1D/2D: (k…, channels, multiplier)."""
    part = linear_part(site, "k* g o", axes=_channel_axes(site, n), shift_in=_padding(site, n))
    return with_activation(site, [part])


def separable(site: Site, n: int) -> Sequence[Part]:
    """SeparableConv: a depthwise convolution without bias, then a pointwise one."""
    between = f"{site.outputs[0]}/depthwise"
    axes = _channel_axes(site, n)
    first = linear_part(
        site, "k* g o", axes=axes, stored=LinearStore("depthwise_kernel", ""),
        within=Within("depthwise", site.inputs, (between,)), shift_in=_padding(site, n), has_bias=False,
    )  # fmt: skip
    second = linear_part(
        site, "k* i o", axes=axes, stored=LinearStore("pointwise_kernel"),
        within=Within("pointwise", (between,), site.outputs),
    )  # fmt: skip
    return with_activation(site, [first, second])


def locally_connected(site: Site, n: int) -> Parts:
    """LocallyConnected1D/2D: (places, k…·in, out), and a bias of (places…, out).

    A sum over the kernel differs from place to place, so no shift comes in; one that comes behind goes into
    the bias, where there is one. When it does not act: other implementations hold the kernel otherwise.
    """
    taps, weight = prod(site.window("kernel_size", n)), site.tensor("kernel")
    if site.channels_first or site.config.get("implementation", 1) != 1 or site.locked or weight is None:
        return Opaque(detail="it holds its kernel in another way")
    places, reads, filters = weight.shape
    axis = n + 1 + site.lead
    form = LinearForm((places, taps, reads // taps, filters), "kkio")
    rule = Linear(weight, form, None, axis, axis, shift_in=Reason.SHIFT_REFUSED, has_bias=False)
    part = Part(site.layer.class_name, site.inputs, site.outputs, rule, "", LinearStore(bias=""))
    biased = site.config.get("use_bias", True)
    return with_activation(site, bias_apart(site, part, axis + 1) if biased else [part])


def _depthwise_shape(config: Config, shape: Shape) -> Shape | None:
    channels = split(config, shape)[1]
    if channels is None:
        spatial = split(config, conv_shape(config, shape, 1))[0]
        return join(config, shape[0], spatial, None)
    return conv_shape(config, shape, channels * config.get("depth_multiplier", 1))


def _transposed_shape(config: Config, shape: Shape) -> Shape:
    spatial, _ = split(config, shape)
    rank = len(spatial)
    kernel, strides = per_axis(config["kernel_size"], rank), per_axis(config.get("strides", 1), rank)
    dilation = per_axis(config.get("dilation_rate", 1), rank)
    stored = config.get("output_padding")
    extra = (None,) * rank if stored is None else per_axis(stored, rank)
    sizes = [
        _stretched(n, (k - 1) * d + 1, s, e, config.get("padding", "valid"))
        for n, k, s, d, e in zip(spatial, kernel, strides, dilation, extra, strict=True)
    ]
    return join(config, shape[0], sizes, config["filters"])


def _stretched(size: Size, kernel: int, stride: int, extra: Size, padding: str) -> Size:
    if size is None:
        return None
    match padding:
        case "valid":
            return (size - 1) * stride + kernel + (max(stride - kernel, 0) if extra is None else extra)
        case "same":
            return size * stride if extra is None else (size - 1) * stride + kernel % 2 + extra
    raise ValueError(f"padding {padding}")


_KERNEL = holds("kernel", "bias:use_bias")
_TWO_KERNELS = holds("depthwise_kernel", "pointwise_kernel", "bias:use_bias")
_CONV, _TRANSPOSED, _DEPTHWISE = one(conv_shape), one(_transposed_shape), one(_depthwise_shape)
_FLAT = (1, 2)
ROWS = (
    *spatial_kinds(("Conv{n}D", "Convolution{n}D"), convolution, _CONV, _KERNEL, linear=True),
    *spatial_kinds(("Conv{n}DTranspose",), transposed, _TRANSPOSED, _KERNEL, linear=True),
    *spatial_kinds(("DepthwiseConv{n}D",), depthwise, _DEPTHWISE, _KERNEL, dims=_FLAT, linear=True),
    *spatial_kinds(("SeparableConv{n}D",), separable, _CONV, _TWO_KERNELS, dims=_FLAT, linear=True),
    *spatial_kinds(("LocallyConnected{n}D",), locally_connected, _CONV, _KERNEL, dims=_FLAT, linear=True),
)
