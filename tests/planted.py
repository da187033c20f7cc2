"""What a fold can get wrong, planted into one layer of a network; and networks of ONNX and Keras to hold it.

A defect is planted where the fold takes its numbers from (a ``Layer``), so that all else is as an honest
fold would leave it. Used by the tests of ``verify`` and by ``benchmarks/proof_power.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from msgspec import Struct
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from tests.tiny_models import Layer, layer, model, net

Plant = Callable[[Layer, int], Layer]  # the layer, one of its channels


def _scale(one: Layer) -> np.ndarray:
    return one.gamma / np.sqrt(one.var + one.epsilon)


def _at(values: np.ndarray, channel: int, value: float) -> np.ndarray:
    return np.where(np.arange(values.size) == channel, value, values)


def lost_shift(one: Layer, channel: int) -> Layer:
    """c = β − μ·a is 0 in one channel."""
    return replace(one, beta=_at(one.beta, channel, (one.mean * _scale(one))[channel]))


def small_shift(one: Layer, channel: int) -> Layer:
    """β is off by 0.01 in one channel."""
    return replace(one, beta=_at(one.beta, channel, one.beta[channel] + 1e-2))


def lost_scale(one: Layer, channel: int) -> Layer:
    """a is 1 in one channel, or −1 where it should be 1 or nearly so."""
    root = np.sqrt(one.var + one.epsilon)[channel]
    sign = -1.0 if abs(_scale(one)[channel] - 1.0) < 0.2 else 1.0
    return replace(one, gamma=_at(one.gamma, channel, sign * root))


def keras_epsilon(one: Layer, channel: int) -> Layer:
    """ε is 1e-3, Keras's default, instead of ONNX's 1e-5 (or the other way round)."""
    return replace(one, epsilon=1e-3 if one.epsilon < 1e-4 else 1e-5)


def swapped_axis(one: Layer, channel: int) -> Layer:
    """Inputs and outputs change places where their numbers agree; else the statistics run backwards."""
    if one.weight.shape[0] == one.weight.shape[1]:
        return replace(one, weight=np.swapaxes(one.weight, 0, 1))
    return replace(one, gamma=one.gamma[::-1])


def neighbours(one: Layer, channel: int) -> Layer:
    """Two channels' scales and shifts change places."""
    other = (channel + 1) % one.gamma.size
    order = np.arange(one.gamma.size)
    order[[channel, other]] = other, channel
    named = {name: getattr(one, name)[order] for name in ("gamma", "beta", "mean", "var")}
    return replace(one, **named)


def lost_bias(one: Layer, channel: int) -> Layer:
    """The linear layer's own bias is dropped in one channel."""
    return replace(one, bias=_at(one.bias, channel, 0.0))


DEFECTS: Mapping[str, Plant] = {
    "one channel's shift lost": lost_shift,
    "one channel's shift off by 0.01": small_shift,
    "one channel's scale lost": lost_scale,
    "epsilon 1e-3 for 1e-5": keras_epsilon,
    "swapped axis": swapped_axis,
    "two channels swapped": neighbours,
    "one channel's bias lost": lost_bias,
}


def spoiled(layers: list[Layer], at: int, plant: Plant, channel: int) -> list[Layer]:
    """The layers with a defect in one of them."""
    return [plant(one, channel) if index == at else one for index, one in enumerate(layers)]


class Pair(Struct, frozen=True):
    """A model and what a wrong (or honest) fold makes of it."""

    before: onnx.ModelProto
    after: onnx.ModelProto


def border(*, honest: bool = False, dtype: str = "float32", seed: int = 0) -> Pair:
    """BN → Conv 3×3, padded with zeros: a shift folded forward is right inside and wrong at the borders.

    ``honest`` pads with the value that the shift takes instead.
    """
    rng = np.random.default_rng(seed)
    one = layer(rng, 4, 3, 3, 3)
    kernel = 0.2 * rng.standard_normal((5, 4, 3, 3))
    a = one.gamma / np.sqrt(one.var + float(np.float32(1e-5)))
    c = one.beta - one.mean * a
    weight, bias = kernel * a[None, :, None, None], np.einsum("oihw,i->o", kernel, c)
    statistics = {name: getattr(one, name) for name in ("gamma", "beta", "mean", "var")}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 6, 5])
    conv: dict[str, Any] = {"pads": [1, 1, 1, 1]}

    def arrays(named: dict[str, np.ndarray]) -> list[onnx.TensorProto]:
        return [numpy_helper.from_array(v.astype(np.float32), k) for k, v in named.items()]

    norm = helper.make_node("BatchNormalization", ["x", *statistics], ["n"])
    before = model(
        [norm, helper.make_node("Conv", ["n", "w"], ["y"], **conv)],
        [x],
        [y],
        arrays({**statistics, "w": kernel}),
    )
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], **conv)]
    if honest:  # y = W'·x + b' − W·c where the padding is: as a constant of the size of the output
        ones = np.ones((1, 4, 6, 5)) * c[None, :, None, None]
        inside = np.pad(ones, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(inside, (3, 3), axis=(2, 3))
        shift = np.einsum("nihwkl,oikl->nohw", windows, kernel)
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["z"], **conv),
            helper.make_node("Add", ["z", "b"], ["y"]),
        ]
        bias = shift
    return Pair(before, model(nodes, [x], [y], arrays({"w": weight, "b": bias})))


def overflow(seed: int = 0) -> Pair:
    """A weight beyond float16's 65504, where the BN's small γ had kept the product small."""
    rng = np.random.default_rng(seed)
    one = layer(rng, 16, 5)
    before, after = (net([one], folded=folded, dtype="float16") for folded in (False, True))
    weight, bias = one.stored("float16").folded()
    weight[0, 0] = 1e6
    with np.errstate(over="ignore"):
        arrays = [numpy_helper.from_array(v.astype(np.float16), n) for v, n in ((weight, "w0"), (bias, "b0"))]
    del after.graph.initializer[:]
    after.graph.initializer.extend(arrays)
    return Pair(before, after)


# ---- Keras ----------------------------------------------------------------------------------------


def keras_net(
    keras: Any, layers: list[Layer], *, folded: bool, dtype: str = "float32", output: str = "out"
) -> Any:
    """The network of ``tiny_models.net`` in Keras: Conv2D (same padding) or Dense, BN, Relu between.

    Images are (h, w, c), 9×7. A Keras file holds float32 for float32 models, so rounding is as in ONNX.
    """
    make = keras.layers
    spatial = layers[0].weight.ndim == 4
    into = layers[0].weight.shape[1]
    first = keras.Input((9, 7, into) if spatial else (into,), dtype=dtype, name="x")
    x, weights = first, []
    for index, one in enumerate(layers):
        last = index == len(layers) - 1
        name = output if last and folded else f"linear{index}"
        weight, bias = one.stored(dtype).folded() if folded else (one.weight, one.bias)
        kernel = weight.transpose(2, 3, 1, 0) if spatial else weight.T
        units = weight.shape[0]
        linear = (
            make.Conv2D(units, weight.shape[2:], padding="same", name=name, dtype=dtype)
            if spatial
            else make.Dense(units, name=name, dtype=dtype)
        )
        x = linear(x)
        weights.append((linear, [kernel, bias]))
        if not folded:
            norm = make.BatchNormalization(
                epsilon=one.epsilon, name=output if last else f"bn{index}", dtype=dtype
            )
            x = norm(x)
            weights.append((norm, [one.gamma, one.beta, one.mean, one.var]))
        if not last:
            x = make.ReLU(name=f"relu{index}", dtype=dtype)(x)
    made = keras.Model(first, x)
    for built, values in weights:
        built.set_weights(values)
    return made
