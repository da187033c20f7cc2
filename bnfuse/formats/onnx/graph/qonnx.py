"""Weights behind a Quant of constants (QONNX, Brevitas), read as the integers and scales that they stand for.

    q = round(clip(x/scale + zero, lowest, highest))        y = (q − zero)·scale

with lowest and highest by ``bitwidth``, ``signed`` and ``narrow``, all in float32. Source: qonnx,
docs/qonnx-custom-ops/intquant_v1.md; an IntQuant is a Quant under its newer name. A BipolarQuant:

    q = 1 where x ≥ 0, else −1                              y = q·scale

It has no integer for a zero, but divides by no scale: its scale becomes zero then.

It is no weight of this kind where scale, zero point or bit width are computed at run time, where the zero
point is no integer of the grid, the bit width not one whole number from 2 to 16 (of signed 1-bit ones the
definition and its implementation say different things), or where x holds what is not finite.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from msgspec import Struct

from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.core.weights.tensor import Array, Based, Tensor, size, whole
from bnfuse.formats.onnx.rows.signature import of_types
from bnfuse.formats.table import Malformed

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
BIPOLAR = "BipolarQuant"
OPERATORS = ("Quant", "IntQuant", BIPOLAR)
# What is written is rounded so: x lies on the grid then, up to its last place.
NEAREST = b"ROUND"

_ATTRIBUTES = {
    "signed": onnx.AttributeProto.INT,
    "narrow": onnx.AttributeProto.INT,
    "rounding_mode": onnx.AttributeProto.STRING,
}
_LEAST_BITS, _MOST_BITS = 2, 16
_BLOCK_ELEMENTS = 1 << 18
_Round = Callable[[Array], Array]


def _outward(by: _Round) -> _Round:
    """Rounding of the magnitude."""
    return lambda x: np.copysign(by(np.abs(x)), x)


_ROUNDINGS: dict[bytes, _Round] = {
    b"ROUND": np.rint, b"HALF_EVEN": np.rint, b"CEIL": np.ceil, b"FLOOR": np.floor, b"UP": _outward(np.ceil),
    b"DOWN": np.trunc, b"ROUND_TO_ZERO": np.trunc, b"HALF_UP": _outward(lambda x: np.floor(x + 0.5)),
    b"HALF_DOWN": _outward(lambda x: np.ceil(x - 0.5)),
}  # fmt: skip


def is_quantiser(node: onnx.NodeProto) -> bool:
    """Whether a node is such an operator, by its name."""
    return node.op_type in OPERATORS and node.domain in DOMAINS


class _Integers(Struct, Based, frozen=True, eq=False):
    """Integers in the shape of what they stand for, worked out where they are read."""

    base: Tensor

    @property
    def dtype(self) -> np.dtype[np.int32]:
        """Of the integers."""
        return np.dtype(np.int32)


class QuantIntegers(_Integers, frozen=True, eq=False):
    """q of the module's formula; scale and zero broadcast against x."""

    scale: Array
    zero: Array
    lowest: int
    highest: int
    rounded: _Round

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop) in C order."""
        at = np.unravel_index(np.arange(start, stop), self.shape)
        scale, zero = (
            values[tuple(index if n > 1 else 0 for index, n in zip(at, values.shape, strict=True))]
            for values in (self.scale, self.zero)
        )
        on_grid = np.clip(self.base.read(start, stop) / scale + zero, self.lowest, self.highest)
        return self.rounded(on_grid).astype(np.int32)


def quantised(node: onnx.NodeProto, inputs: list[Tensor | None]) -> QuantisedTensor | None:
    """What a Quant of these constants stands for; None where that is not looked into."""
    if node.op_type == BIPOLAR:
        return None if node.attribute else _bipolar(inputs)
    try:
        given = of_types(node, _ATTRIBUTES)
    except Malformed:
        return None
    rounded = _ROUNDINGS.get(given["rounding_mode"].s.upper() if "rounding_mode" in given else NEAREST)
    if len(inputs) != 4 or rounded is None:
        return None
    x, scale, zero, bits = inputs
    if x is None or scale is None or zero is None or bits is None:
        return None
    flags = {"signed": 1, "narrow": 0, **{name: attribute.i for name, attribute in given.items()}}
    limits = _limits(bits, flags["signed"], flags["narrow"])
    if limits is None or any(each.dtype != np.float32 for each in (x, scale, zero)):
        return None
    laid = [_laid(each, x.shape) for each in (scale, zero)]
    s, z = laid
    if s is None or z is None or not (np.isfinite(s) & (s > 0.0)).all() or not _is_finite(x):
        return None
    if (z != np.rint(z)).any() or (z < limits[0]).any() or (z > limits[1]).any():
        return None
    points = np.broadcast_to(z, np.broadcast_shapes(z.shape, s.shape)).astype(np.int32)
    if points.shape != s.shape:  # several zero points around one scale
        return None
    return QuantisedTensor(QuantIntegers(x, s, z, *limits, rounded), s, points, *limits)


class BipolarIntegers(_Integers, frozen=True, eq=False):
    """1 where x ≥ 0, else −1."""

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop) in C order."""
        return np.where(self.base.read(start, stop) >= 0.0, 1, -1).astype(np.int32)


def _bipolar(inputs: list[Tensor | None]) -> QuantisedTensor | None:
    x, scale = inputs if len(inputs) == 2 else (None, None)
    if x is None or scale is None or x.dtype != np.float32 or scale.dtype != np.float32:
        return None
    s = _laid(scale, x.shape)
    if s is None or not (np.isfinite(s) & (s >= 0.0)).all() or not _is_finite(x):
        return None
    return QuantisedTensor(BipolarIntegers(x), s, np.zeros(s.shape, np.int32), -1, 1, zero_scales=True)


def _limits(bits: Tensor, signed: int, narrow: int) -> tuple[int, int] | None:
    """(lowest, highest) integer of the grid."""
    width = float(whole(bits).reshape(-1)[0]) if size(bits) == 1 and bits.dtype.kind in "fiu" else 0.0
    if not width.is_integer() or not _LEAST_BITS <= width <= _MOST_BITS:
        return None
    half = 1 << (int(width) - 1)
    return (int(bool(narrow)) - half, half - 1) if signed else (0, 2 * half - 1 - int(bool(narrow)))


def _laid(values: Tensor, shape: tuple[int, ...]) -> Array | None:
    """Scales or zero points with one size for each axis of x; None where they do not fit it."""
    if not shape or 0 in shape:
        return None
    if size(values) == 1:
        return whole(values).reshape((1,) * len(shape))
    if len(values.shape) != len(shape) or any(
        n not in (1, m) for n, m in zip(values.shape, shape, strict=True)
    ):
        return None
    return whole(values)


def _is_finite(x: Tensor) -> bool:
    count = size(x)
    starts = range(0, count, _BLOCK_ELEMENTS)
    return all(np.isfinite(x.read(at, min(count, at + _BLOCK_ELEMENTS))).all() for at in starts)
