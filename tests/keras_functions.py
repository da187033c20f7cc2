"""Functions of ``keras.ops`` and of TensorFlow: a row per function and form, with what it refuses and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bnfuse.core.reasons import Reason

# The library's functions, a tensor, another of the same shape; ``_`` where that is not read.
Call = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Function:
    """What stands between a kernel and a BN.

    ``signed``: it passes scales > 0 only; ``shift``, ``never``: why it passes no shift, or nothing;
    ``beside``: the other tensor has to be held in the same way; ``axis``: where the channels come out, None
    for nowhere.
    ``before``: why a BN in front of it stays, where one behind it goes.
    """

    name: str
    call: Call
    shape: tuple[int | None, ...] = (8, 7, 3)
    signed: bool = False
    shift: Reason | None = None
    never: Reason | None = None
    beside: bool = False
    axis: int | None = -1
    floatx: str = "float64"
    before: Reason | None = None

    @property
    def reads_both(self) -> bool:
        """Whether it reads the other tensor, which need not be made otherwise."""
        return self.call.__code__.co_varnames[2] != "_"

    def why(self, gamma: str) -> Reason | None:
        """Why a BN with such γ is refused; None where it passes."""
        if self.never is not None:
            return self.never
        if self.shift is not None and not gamma.endswith("scale"):
            return self.shift
        negative = gamma not in ("positive", "scale")
        return Reason.NEGATIVE_SCALE if self.signed and negative else None

    def why_before(self, gamma: str) -> Reason | None:
        """The same of a BN in front of it: what another kernel must undo has no zeros."""
        return (
            self.before
            or self.why(gamma)
            or (Reason.ZERO_SCALE if self.beside and gamma == "mixed" else None)
        )


VECTOR = np.array([0.5, -2.0, 3.0])


def _kernel(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape)


def _narrow(*shape: int) -> np.ndarray:
    return _kernel(*shape).astype("float32")


_MARGINS = ((0, 0), (1, 2), (0, 1), (0, 0))
_activation, _zeros = Reason.SHIFT_THROUGH_ACTIVATION, Reason.ZERO_PADDING


def of_keras() -> Iterator[Function]:
    """Functions of ``keras.ops``, called with float64 but where Keras itself computes in float32."""
    one = Function
    yield one("concatenate", lambda o, x, y: o.concatenate([x, y], axis=-1))
    yield one("concatenate along 1", lambda o, x, y: o.concatenate([x, y, x], axis=1), beside=True)
    yield one("hstack", lambda o, x, y: o.hstack([x, y]), beside=True)
    yield one("dstack", lambda o, x, y: o.dstack([x, y]), beside=True)
    yield one("stack", lambda o, x, y: o.stack([x, y], axis=1), beside=True)
    yield one("stack in the middle", lambda o, x, y: o.stack([x, x, y], axis=-2), beside=True)
    yield one("split", lambda o, x, _: o.split(x, 3, axis=-1)[1])
    yield one("split over space", lambda o, x, _: o.split(x, [2, 5], axis=1)[1])
    yield one("unstack", lambda o, x, _: o.unstack(x, axis=1)[2])
    yield one("reshape", lambda o, x, _: o.reshape(x, (-1, 56, 3)))
    yield one("reshape of a whole", lambda o, x, _: o.reshape(x, (-1, 7, 8, 3)))
    yield one("reshape into one", lambda o, x, _: o.reshape(x, (-1, 168)), axis=None)
    yield one("transpose", lambda o, x, _: o.transpose(x, (0, 3, 1, 2)), axis=1)
    yield one("swapaxes", lambda o, x, _: o.swapaxes(x, 1, -1), axis=1)
    yield one("moveaxis", lambda o, x, _: o.moveaxis(x, -1, 2), axis=2)
    yield one("moveaxis of two", lambda o, x, _: o.moveaxis(x, (1, 3), (2, 1)), axis=1)
    yield one("expand_dims", lambda o, x, _: o.expand_dims(x, 1))
    yield one("expand_dims behind", lambda o, x, _: o.expand_dims(x, -1), axis=3)
    yield one("squeeze", lambda o, x, _: o.squeeze(o.expand_dims(x, 1), 1))
    yield one("index", lambda o, x, _: x[:, 1:-1, ::2])
    yield one("index of channels", lambda o, x, _: x[..., 1:])
    yield one("index backwards", lambda o, x, _: x[:, ::-2, None, ..., ::-1])
    yield one("index of one", lambda o, x, _: x[:, 3])
    yield one("index of one channel", lambda o, x, _: x[..., 1, None])
    yield one("take", lambda o, x, _: o.take(x, [2, 0, -2], axis=-1))
    yield one("take twice", lambda o, x, _: o.take(x, [2, 2, 2], axis=-1), axis=None)
    yield one("take one", lambda o, x, _: o.take(x, 3, axis=1))
    yield one("depth_to_space", lambda o, x, _: o.depth_to_space(x, 2), (5, 4, 12))
    yield one("space_to_depth", lambda o, x, _: o.space_to_depth(x, 2), (6, 4, 3), axis=None)
    yield one("pad with zeros", lambda o, x, _: o.pad(x, _MARGINS), shift=_zeros)
    yield one(
        "pad with ones", lambda o, x, _: o.pad(x, _MARGINS, constant_values=1.0), never=Reason.UNSUPPORTED_OP
    )
    yield one("pad the channels", lambda o, x, _: o.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2))), axis=None)
    yield one("pad, reflected", lambda o, x, _: o.pad(x, _MARGINS, mode="reflect"))
    yield one("pad, mirrored", lambda o, x, _: o.pad(x, _MARGINS, mode="symmetric"))
    yield one("flip", lambda o, x, _: o.flip(x, axis=1))
    yield one("flip the channels", lambda o, x, _: o.flip(x, axis=-1))
    yield one("flip two", lambda o, x, _: o.flip(x, axis=(1, 2)))
    yield one("roll", lambda o, x, _: o.roll(x, 2, axis=1))
    yield one("roll the channels", lambda o, x, _: o.roll(x, -1, axis=-1))
    yield one("repeat", lambda o, x, _: o.repeat(x, 2, axis=1))
    yield one("tile", lambda o, x, _: o.tile(x, (1, 2, 1, 1)))
    yield one("mean", lambda o, x, _: o.mean(x, axis=(1, 2)))
    yield one("mean, kept", lambda o, x, _: o.mean(x, axis=[1, -2], keepdims=True))
    yield one("average", lambda o, x, _: o.average(x, axis=1))
    yield one("sum", lambda o, x, _: o.sum(x, axis=1))
    yield one("max", lambda o, x, _: o.max(x, axis=(1, 2)), signed=True)
    yield one("min", lambda o, x, _: o.min(x, axis=1, keepdims=True), signed=True)
    yield one("amax", lambda o, x, _: o.amax(x, axis=1), signed=True)
    yield one("sort", lambda o, x, _: o.sort(x, axis=1), signed=True)
    yield one("cumsum", lambda o, x, _: o.cumsum(x, axis=1), shift=Reason.SHIFT_REFUSED)
    yield one("max_pool", lambda o, x, _: o.max_pool(x, 2, padding="same"), signed=True)
    yield one("max_pool of lines", lambda o, x, _: o.max_pool(x, 3, strides=1), (8, 3), signed=True)
    yield one("average_pool", lambda o, x, _: o.average_pool(x, (3, 2), strides=1, padding="same"))
    yield one("resize", lambda o, x, _: o.image.resize(x, (12, 9)), floatx="float32")
    yield one("resize to nearest", lambda o, x, _: o.image.resize(x, (5, 9), interpolation="nearest"))
    yield one(
        "resize into zeros", lambda o, x, _: o.image.resize(x, (12, 5), pad_to_aspect_ratio=True),
        shift=_zeros, floatx="float32",
    )  # fmt: skip
    yield one("conv", lambda o, x, _: o.conv(x, _kernel(3, 2, 3, 4), data_format="channels_last"))
    yield one("conv of lines", lambda o, x, _: o.conv(inputs=x, kernel=_kernel(3, 3, 4)), (8, 3))
    yield one("depthwise_conv", lambda o, x, _: o.depthwise_conv(x, _kernel(3, 2, 3, 2)))
    yield one("separable_conv", lambda o, x, _: o.separable_conv(x, _kernel(3, 2, 3, 2), _kernel(1, 1, 6, 5)))
    yield one("matmul", lambda o, x, _: o.matmul(x, _kernel(3, 5)))
    yield one("matmul, as a tensor", lambda o, x, _: x @ o.convert_to_tensor(_kernel(3, 5)))
    yield one("matmul of a constant", lambda o, x, _: o.matmul(_kernel(5, 7), x), axis=2, before=Reason.AXIS)
    yield one("dot", lambda o, x, _: o.dot(x, _kernel(3, 5)))
    yield one("tensordot", lambda o, x, _: o.tensordot(x, _kernel(3, 5), axes=1))
    yield one("einsum", lambda o, x, _: o.einsum("bhwc,cd->bhdw", x, _kernel(3, 5)), axis=2)
    yield one("einsum of a constant", lambda o, x, _: o.einsum("dc,b...c->b...d", _kernel(5, 3), x))
    yield one(
        "batch_normalization",
        lambda o, x, _: o.batch_normalization(x, VECTOR, VECTOR**2, -1, scale=VECTOR, offset=VECTOR),
    )
    yield one(
        "layer_normalization",
        lambda o, x, _: o.layer_normalization(x, VECTOR, VECTOR),
        before=Reason.UNSUPPORTED_OP,
    )
    yield one(
        "rms_normalization",
        lambda o, x, _: o.rms_normalization(x, VECTOR),
        shift=Reason.SHIFT_REFUSED,
        before=Reason.UNSUPPORTED_OP,
    )
    yield one("add", lambda o, x, y: o.add(x, y), beside=True)
    yield one("subtract", lambda o, x, y: x - y, beside=True)
    yield one("times and plus", lambda o, x, _: x * 2.0 + 1.0)
    yield one("plus, reversed", lambda o, x, _: 1 + x)
    yield one("minus, reversed", lambda o, x, _: 1.5 - x)
    yield one("minus", lambda o, x, _: x - 0.3)
    yield one("divided", lambda o, x, _: x / -3.0)
    yield one("plus a vector", lambda o, x, _: x + VECTOR)
    yield one("times a vector", lambda o, x, _: o.multiply(VECTOR.reshape(1, 1, 3), x))
    plane = np.outer(VECTOR, VECTOR)
    yield one("plus a plane", lambda o, x, _: x + plane, (5, 3, 3), beside=True)
    yield one("minus a plane", lambda o, x, _: x - plane[:, None], (3, 5, 3), beside=True)
    yield one("from a plane", lambda o, x, _: o.subtract(plane, x), (5, 3, 3), beside=True)
    yield one("times a plane", lambda o, x, _: x * plane, (5, 3, 3), never=Reason.BROADCAST)
    yield one("times zero", lambda o, x, y: o.multiply(x, 0.0) + y, never=Reason.BAD_PARAMETERS)
    yield one("divided, reversed", lambda o, x, _: 2.0 / x, never=Reason.UNSUPPORTED_OP)
    yield one("negative", lambda o, x, _: -x)
    yield one("absolute", lambda o, x, _: abs(x), signed=True, shift=_activation)
    yield one("maximum", lambda o, x, y: o.maximum(x, y), signed=True)
    yield one("minimum", lambda o, x, y: o.minimum(x, y), signed=True)
    yield one("maximum with zero", lambda o, x, _: o.maximum(x, 0.0), signed=True, shift=_activation)
    yield one("maximum with one", lambda o, x, _: o.maximum(1.0, x), never=Reason.NONLINEAR)
    yield one("where", lambda o, x, y: o.where(o.greater(o.sin(y), 0.0), x, x))
    yield one("relu", lambda o, x, _: o.relu(x), signed=True, shift=_activation)
    yield one("leaky_relu", lambda o, x, _: o.leaky_relu(x, 0.1), signed=True, shift=_activation)
    yield one("relu6", lambda o, x, _: o.relu6(x), never=Reason.NONLINEAR)
    yield one("gelu", lambda o, x, _: o.gelu(x), never=Reason.NONLINEAR)
    yield one("clip", lambda o, x, _: o.clip(x, -1.0, 1.0), never=Reason.NONLINEAR)
    yield one("cast to the same", lambda o, x, _: o.cast(x, "float64"))
    yield one("cast to a narrower one", lambda o, x, _: o.cast(x, "float32"), never=Reason.OTHER_TYPE)
    yield one("copy", lambda o, x, _: o.copy(x))
    yield one("stop_gradient", lambda o, x, _: o.stop_gradient(x))
    yield one("convert_to_tensor", lambda o, x, _: o.convert_to_tensor(x))
    yield one("softmax", lambda o, x, _: o.softmax(x), never=Reason.NONLINEAR)
    yield one("an unknown one", lambda o, x, y: o.logaddexp(x, y), never=Reason.UNSUPPORTED_OP)


def of_tensorflow() -> Iterator[Function]:
    """TensorFlow's functions, as tf_keras makes layers of them (TFOpLambda, SlicingOpLambda)."""
    one = Function
    yield one("concat", lambda tf, x, y: tf.concat([x, y], -1))
    yield one("concat along 1", lambda tf, x, y: tf.concat(values=[x, y], axis=1), beside=True)
    yield one("stack", lambda tf, x, y: tf.stack([x, y], axis=2), beside=True)
    yield one("split", lambda tf, x, _: tf.split(x, 3, axis=-1)[1])
    yield one("split by sizes", lambda tf, x, _: tf.split(x, [2, -1, 1], 1)[1])
    yield one("unstack", lambda tf, x, _: tf.unstack(x, axis=1)[2])
    yield one("reshape", lambda tf, x, _: tf.reshape(x, (-1, 56, 3)))
    yield one("transpose", lambda tf, x, _: tf.transpose(x, (0, 3, 1, 2)), axis=1)
    yield one("expand_dims", lambda tf, x, _: tf.expand_dims(x, 1))
    yield one("squeeze", lambda tf, x, _: tf.squeeze(tf.expand_dims(x, 1), [1]))
    yield one("index", lambda tf, x, _: x[:, 1:-1, ::2])
    yield one("index of channels", lambda tf, x, _: x[:, :, :, 1:])
    yield one("index of all but channels", lambda tf, x, _: x[..., ::-1])
    yield one("index of one", lambda tf, x, _: x[:, 3, None])
    yield one(
        "strided_slice",
        lambda tf, x, _: tf.strided_slice(x, [0, 1, 0], [9, 5, 6], [1, 2, 1], begin_mask=1, end_mask=1),
    )
    yield one("slice", lambda tf, x, _: tf.slice(x, [0, 1, 0, 1], [-1, 3, -1, 2]))
    yield one("gather", lambda tf, x, _: tf.gather(x, [2, 0, 1], axis=-1))
    yield one("depth_to_space", lambda tf, x, _: tf.nn.depth_to_space(x, 2), (5, 4, 12))
    yield one("space_to_depth", lambda tf, x, _: tf.nn.space_to_depth(x, 2), (6, 4, 3), axis=None)
    yield one("pad with zeros", lambda tf, x, _: tf.pad(x, _MARGINS), shift=_zeros)
    yield one("pad, reflected", lambda tf, x, _: tf.pad(x, _MARGINS, mode="REFLECT"))
    yield one("reverse", lambda tf, x, _: tf.reverse(x, [1, 3]))
    yield one("roll", lambda tf, x, _: tf.roll(x, 2, 1))
    yield one("repeat", lambda tf, x, _: tf.repeat(x, 2, axis=1))
    yield one("tile", lambda tf, x, _: tf.tile(x, (1, 2, 1, 1)))
    yield one("reduce_mean", lambda tf, x, _: tf.reduce_mean(x, [1, 2]))
    yield one("reduce_mean, kept", lambda tf, x, _: tf.reduce_mean(x, [1, -2], keepdims=True))
    yield one("reduce_sum", lambda tf, x, _: tf.reduce_sum(x, axis=1))
    yield one("reduce_max", lambda tf, x, _: tf.reduce_max(x, 1), signed=True)
    yield one("reduce_min", lambda tf, x, _: tf.reduce_min(x, axis=[2, 1]), signed=True)
    yield one("sort", lambda tf, x, _: tf.sort(x, axis=1, direction="DESCENDING"), signed=True)
    yield one("cumsum", lambda tf, x, _: tf.cumsum(x, 1, exclusive=True), shift=Reason.SHIFT_REFUSED)
    yield one("max_pool", lambda tf, x, _: tf.nn.max_pool(x, [1, 2, 3, 1], 2, "SAME"), signed=True)
    yield one("max_pool2d", lambda tf, x, _: tf.nn.max_pool2d(x, 2, 2, "VALID"), signed=True)
    yield one("max_pool1d", lambda tf, x, _: tf.nn.max_pool1d(x, 2, 1, "VALID"), (8, 3), signed=True)
    yield one("avg_pool", lambda tf, x, _: tf.nn.avg_pool(x, 2, 1, "SAME"))
    yield one("avg_pool2d", lambda tf, x, _: tf.nn.avg_pool2d(x, (3, 2), (1, 2), "SAME"))
    yield one("resize", lambda tf, x, _: tf.image.resize(x, (12, 9)), floatx="float32")
    yield one(
        "resize, cubic", lambda tf, x, _: tf.image.resize(x, [12, 5], method="bicubic"), floatx="float32"
    )
    yield one(
        "resize_bilinear",
        lambda tf, x, _: tf.compat.v1.image.resize_bilinear(x, (16, 9), align_corners=True),
        floatx="float32",
    )  # fmt: skip
    yield one(
        "resize_nearest_neighbor", lambda tf, x, _: tf.compat.v1.image.resize_nearest_neighbor(x, (12, 9))
    )
    yield one("add", lambda tf, x, y: x + y, beside=True)
    yield one("math.add", lambda tf, x, y: tf.add(y, x), beside=True)
    yield one("add_n", lambda tf, x, y: tf.add_n([x, y]), beside=True)
    yield one("subtract", lambda tf, x, y: y - x, beside=True)
    yield one("times and plus", lambda tf, x, _: x * 2.0 + 1.0)
    yield one("minus, reversed", lambda tf, x, _: 1.5 - x, floatx="float32")
    yield one("divided", lambda tf, x, _: x / 127.5 - 1.0)
    yield one("plus a vector", lambda tf, x, _: x + VECTOR.astype("float32"), floatx="float32")
    yield one("bias_add", lambda tf, x, _: tf.nn.bias_add(x, [0.5, -2.0, 3.0]), floatx="float32")
    yield one("divided, reversed", lambda tf, x, _: 2.0 / x, never=Reason.UNSUPPORTED_OP, floatx="float32")
    yield one("negative", lambda tf, x, _: -x)
    yield one("absolute", lambda tf, x, _: abs(x), signed=True, shift=_activation)
    yield one("maximum", lambda tf, x, y: tf.maximum(x, y), signed=True, beside=True)
    yield one("maximum with zero", lambda tf, x, _: tf.maximum(x, 0.0), signed=True, shift=_activation)
    yield one("minimum", lambda tf, x, y: tf.minimum(y, x), signed=True, beside=True)
    yield one("where", lambda tf, x, y: tf.where(tf.sin(y) > 0.0, x, x))
    yield one("cast to the same", lambda tf, x, _: tf.cast(x, "float64"))
    yield one("cast to a narrower one", lambda tf, x, _: tf.cast(x, "float32"), never=Reason.OTHER_TYPE)
    narrow = partial(Function, floatx="float32")  # TensorFlow makes float32 of every list
    yield narrow("conv1d", lambda tf, x, _: tf.nn.conv1d(x, _narrow(3, 3, 4), 1, "VALID"), (8, 3))
    yield narrow("conv2d", lambda tf, x, _: tf.nn.conv2d(x, _narrow(3, 2, 3, 4), [1, 2, 1, 1], "VALID"))
    yield narrow(
        "conv3d", lambda tf, x, _: tf.nn.conv3d(x, _narrow(2, 3, 2, 3, 4), [1] * 5, "VALID"), (4, 5, 3, 3)
    )
    yield narrow("convolution", lambda tf, x, _: tf.nn.convolution(x, _narrow(3, 2, 3, 4), 2))
    yield narrow(
        "depthwise_conv2d", lambda tf, x, _: tf.nn.depthwise_conv2d(x, _narrow(3, 2, 3, 2), [1] * 4, "VALID")
    )
    yield narrow(
        "separable_conv2d",
        lambda tf, x, _: tf.nn.separable_conv2d(
            x, _narrow(3, 2, 3, 2), _narrow(1, 1, 6, 5), [1] * 4, "VALID"
        ),
    )
    yield narrow("matmul", lambda tf, x, _: tf.matmul(x, _narrow(3, 5)))
    yield narrow("matmul, exchanged", lambda tf, x, _: tf.matmul(x, _narrow(5, 3), transpose_b=True))
    yield narrow(
        "matmul of a constant", lambda tf, x, _: tf.matmul(_narrow(5, 7), x), axis=2, before=Reason.AXIS
    )
    yield narrow("tensordot", lambda tf, x, _: tf.tensordot(x, _narrow(3, 5), 1))
    yield narrow("times a vector", lambda tf, x, _: _narrow(3) * x)
    yield narrow(
        "batch_normalization",
        lambda tf, x, _: tf.nn.batch_normalization(
            x, _narrow(3), _narrow(3) ** 2, _narrow(3), _narrow(3), 1e-3
        ),
    )
    yield one("identity", lambda tf, x, _: tf.identity(x))
    yield one("stop_gradient", lambda tf, x, _: tf.stop_gradient(x))
    yield one("convert_to_tensor", lambda tf, x, _: tf.convert_to_tensor(x))
    yield one("relu", lambda tf, x, _: tf.nn.relu(x), signed=True, shift=_activation)
    yield one("leaky_relu", lambda tf, x, _: tf.nn.leaky_relu(x, 0.1), signed=True, shift=_activation)
    yield one("relu6", lambda tf, x, _: tf.nn.relu6(x), never=Reason.NONLINEAR)
    yield one("softmax", lambda tf, x, _: tf.nn.softmax(x), never=Reason.NONLINEAR)
    yield one("clip", lambda tf, x, _: tf.clip_by_value(x, -1.0, 1.0), never=Reason.NONLINEAR)
    yield one("an unknown one", lambda tf, x, _: tf.pow(x, 2.0), never=Reason.UNSUPPORTED_OP)
