"""Layers that move, average or clip values: a row per class and option, with what it refuses and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from bnfuse.core.reasons import Reason
from tests.keras_nets import Make


@dataclass(frozen=True)
class Mover:
    """What stands between a kernel and a BN.

    ``signed``: it passes scales > 0 only; ``shift``, ``never``: why it passes no shift, or nothing.
    """

    name: str
    shape: tuple[int | None, ...]
    make: Make
    signed: bool = False
    shift: Reason | None = None
    never: Reason | None = None
    axis: int = -1
    floatx: str = "float64"

    def why(self, gamma: str) -> Reason | None:
        """Why a BN with such γ is refused; None where it passes."""
        if self.never is not None:
            return self.never
        if self.shift is not None and not gamma.endswith("scale"):
            return self.shift
        negative = gamma not in ("positive", "scale")
        return Reason.NEGATIVE_SCALE if self.signed and negative else None


def _up(mode: str, layers: Any) -> Any:
    return layers.UpSampling2D(2, interpolation=mode)


def _resizing(height: int, width: int, mode: str, layers: Any, **more: Any) -> Any:
    return layers.Resizing(height, width, interpolation=mode, **more)


def _table() -> Iterator[Mover]:
    image, cube, line = (8, 7, 3), (6, 5, 4, 3), (8, 3)
    shift, pad = Reason.SHIFT_THROUGH_ACTIVATION, Reason.ZERO_PADDING
    negative = True
    nonlinear = (False, None, Reason.NONLINEAR)
    yield Mover("max 1d", line, lambda k: k.MaxPooling1D(2), negative)
    yield Mover("max 2d", image, lambda k: k.MaxPooling2D((3, 2), strides=2, padding="same"), negative)
    yield Mover("max 3d", cube, lambda k: k.MaxPooling3D(2), negative, floatx="float32")
    yield Mover("max of one", image, lambda k: k.MaxPooling2D(1, strides=2))
    yield Mover(
        "max channels first",
        (3, 8, 7),
        lambda k: k.MaxPooling2D(2, data_format="channels_first"),
        negative,
        axis=1,
    )
    yield Mover("average 1d", line, lambda k: k.AveragePooling1D(2))
    yield Mover("average 2d same", image, lambda k: k.AveragePooling2D(3, strides=2, padding="same"))
    yield Mover("average 3d same", cube, lambda k: k.AveragePooling3D(2, padding="same"), floatx="float32")
    yield Mover("global max 2d", image, lambda k: k.GlobalMaxPooling2D(), negative)
    yield Mover("global max 1d, kept", line, lambda k: k.GlobalMaxPooling1D(keepdims=True), negative)
    yield Mover("global max 3d", cube, lambda k: k.GlobalMaxPooling3D(), negative)
    yield Mover("global average 1d", line, lambda k: k.GlobalAveragePooling1D())
    yield Mover("global average 2d", image, lambda k: k.GlobalAveragePooling2D())
    yield Mover("global average 3d", cube, lambda k: k.GlobalAveragePooling3D(keepdims=True))
    yield Mover(
        "global average channels first",
        (3, 8, 7),
        lambda k: k.GlobalAveragePooling2D(data_format="channels_first"),
        axis=1,
    )
    yield Mover("zero padding 1d", line, lambda k: k.ZeroPadding1D((0, 2)), False, pad)
    yield Mover("zero padding 2d", image, lambda k: k.ZeroPadding2D(((0, 1), (2, 0))), False, pad)
    yield Mover("zero padding 3d", cube, lambda k: k.ZeroPadding3D(1), False, pad)
    yield Mover("zero padding of nothing", image, lambda k: k.ZeroPadding2D(0))
    yield Mover(
        "zero padding channels first",
        (3, 8, 7),
        lambda k: k.ZeroPadding2D(1, data_format="channels_first"),
        False,
        pad,
        axis=1,
    )
    yield Mover(
        "cropping channels first",
        (3, 8, 7),
        lambda k: k.Cropping2D(1, data_format="channels_first"),
        axis=1,
    )
    yield Mover(
        "up channels first", (3, 8, 7), lambda k: k.UpSampling2D(2, data_format="channels_first"), axis=1
    )
    yield Mover(
        "average channels first",
        (3, 8, 7),
        lambda k: k.AveragePooling2D(2, data_format="channels_first"),
        axis=1,
    )
    yield Mover("cropping 1d", line, lambda k: k.Cropping1D((1, 2)))
    yield Mover("cropping 2d", image, lambda k: k.Cropping2D(((1, 0), (0, 2))))
    yield Mover("cropping 3d", cube, lambda k: k.Cropping3D(1))
    yield Mover("up 1d", line, lambda k: k.UpSampling1D(2))
    yield Mover("up 2d", image, lambda k: k.UpSampling2D((2, 3)))
    # TensorFlow resizes in float32.
    yield Mover("up bilinear", image, lambda k: k.UpSampling2D(2, interpolation="bilinear"), floatx="float32")
    for mode in ("bicubic", "lanczos3", "lanczos5"):
        yield Mover(f"up {mode}", image, partial(_up, mode), floatx="float32")
        yield Mover(f"resizing {mode}", image, partial(_resizing, 12, 3, mode), floatx="float32")
    yield Mover(
        "resizing bilinear", image, partial(_resizing, 5, 9, "bilinear", antialias=True), floatx="float32"
    )
    yield Mover("resizing nearest", image, partial(_resizing, 12, 5, "nearest", crop_to_aspect_ratio=True))
    yield Mover(
        "resizing into zeros",
        image,
        partial(_resizing, 12, 5, "bilinear", pad_to_aspect_ratio=True),
        shift=pad,
        floatx="float32",
    )
    yield Mover(
        "resizing into ones",
        image,
        partial(_resizing, 12, 5, "bilinear", pad_to_aspect_ratio=True, fill_value=1.0),
        never=Reason.UNSUPPORTED_OP,
        floatx="float32",
    )
    yield Mover("center crop", image, lambda k: k.CenterCrop(4, 5))
    yield Mover("center crop of less", image, lambda k: k.CenterCrop(12, 5), floatx="float32")
    yield Mover("adaptive max", image, lambda k: k.AdaptiveMaxPooling2D((3, 4)), negative)
    yield Mover("adaptive max 1d", line, lambda k: k.AdaptiveMaxPooling1D(3), negative)
    yield Mover("adaptive max 3d", cube, lambda k: k.AdaptiveMaxPooling3D(2), negative, floatx="float32")
    yield Mover("adaptive average", image, lambda k: k.AdaptiveAveragePooling2D((3, 4)))
    yield Mover("adaptive average 1d", line, lambda k: k.AdaptiveAveragePooling1D(3))
    yield Mover("adaptive average 3d", cube, lambda k: k.AdaptiveAveragePooling3D(2), floatx="float32")
    yield Mover("up 3d", cube, lambda k: k.UpSampling3D(2))
    yield Mover("flatten", image, lambda k: k.Flatten())
    yield Mover("flatten to one axis", (8,), lambda k: k.Flatten())
    yield Mover(
        "flatten channels first", (3, 8, 7), lambda k: k.Flatten(data_format="channels_first"), axis=1
    )
    yield Mover("reshape", image, lambda k: k.Reshape((7, 8, 3)))
    yield Mover("reshape into one", image, lambda k: k.Reshape((-1,)))
    yield Mover("reshape apart", (24,), lambda k: k.Reshape((2, 4, 3)))
    yield Mover("permute", image, lambda k: k.Permute((3, 1, 2)))
    yield Mover("repeat", (5,), lambda k: k.RepeatVector(4))
    yield Mover("dropout", image, lambda k: k.Dropout(0.5))
    yield Mover("spatial dropout", image, lambda k: k.SpatialDropout2D(0.5))
    yield Mover("spatial dropout 1d", line, lambda k: k.SpatialDropout1D(0.5))
    yield Mover("spatial dropout 3d", cube, lambda k: k.SpatialDropout3D(0.5))
    yield Mover("gaussian dropout", image, lambda k: k.GaussianDropout(0.5))
    yield Mover("gaussian noise", image, lambda k: k.GaussianNoise(0.5))
    yield Mover("alpha dropout", image, lambda k: k.AlphaDropout(0.5))
    yield Mover("identity", image, lambda k: k.Identity())
    yield Mover("activity regularization", image, lambda k: k.ActivityRegularization(0.1))
    yield Mover("linear", image, lambda k: k.Activation("linear"))
    yield Mover("relu", image, lambda k: k.Activation("relu"), negative, shift)
    yield Mover("relu layer", image, lambda k: k.ReLU(), negative, shift)
    yield Mover("relu with a slope", image, lambda k: k.ReLU(negative_slope=0.2), negative, shift)
    yield Mover("relu with a maximum", image, lambda k: k.ReLU(max_value=6.0), *nonlinear)
    yield Mover("relu with a threshold", image, lambda k: k.ReLU(threshold=0.5), *nonlinear)
    yield Mover("leaky relu", image, lambda k: k.LeakyReLU(0.3), negative, shift)
    yield Mover("leaky relu by name", image, lambda k: k.Activation("leaky_relu"), negative, shift)
    yield Mover("prelu", image, lambda k: k.PReLU(), negative, shift)
    yield Mover("prelu, shared", image, lambda k: k.PReLU(shared_axes=[1, 2]), negative, shift)
    yield Mover("elu", image, lambda k: k.ELU(), *nonlinear)
    yield Mover("softmax", image, lambda k: k.Softmax(), *nonlinear)
    yield Mover("relu6", image, lambda k: k.Activation("relu6"), *nonlinear)
    yield Mover("gelu", image, lambda k: k.Activation("gelu"), *nonlinear)
    yield Mover("time distributed relu", image, lambda k: k.TimeDistributed(k.ReLU()), negative, shift)
    yield Mover("time distributed max", image, lambda k: k.TimeDistributed(k.MaxPooling1D(2)), negative)
    yield Mover("time distributed average", cube, lambda k: k.TimeDistributed(k.GlobalAveragePooling2D()))
    yield Mover("time distributed flatten", image, lambda k: k.TimeDistributed(k.Flatten()))
    yield Mover("time distributed permute", image, lambda k: k.TimeDistributed(k.Permute((2, 1))))
    yield Mover("time distributed reshape", image, lambda k: k.TimeDistributed(k.Reshape((21,))))
    yield Mover("time distributed repeat", line, lambda k: k.TimeDistributed(k.RepeatVector(4)))


MOVERS = {mover.name: mover for mover in _table()}
# Where channels go that do not keep their place; None where they become one axis with others.
_MOVED: dict[str, int | None] = {
    "permute": 1,
    "time distributed permute": 2,
    "repeat": 2,
    "time distributed repeat": 3,
    "flatten": None,
    "flatten channels first": None,
    "reshape into one": None,
    "reshape apart": None,
    "time distributed flatten": None,
    "time distributed reshape": None,
}
ARRIVING = [mover for name, mover in MOVERS.items() if _MOVED.get(name, 0) is not None]


def arrival(mover: Mover, rank: int) -> int | None:
    """The axis of the mover's output that its input's channels arrive in."""
    if mover.name in _MOVED:
        return _MOVED[mover.name]
    return min(mover.axis if mover.axis > 0 else len(mover.shape), rank - 1)
