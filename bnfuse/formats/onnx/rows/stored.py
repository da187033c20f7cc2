"""How an operator stores the scale and shift that it absorbed: one way for each rule that absorbs.

    LinearStore       y = W·x + b: a constant weight, and a bias wherever the operator has its bias
    AffineStore       y = a·x + c: γ and β of a norm
    BatchNormStore    the same around the statistics
    ArithmeticStore   the one constant of a Mul, Div, Add or Sub
    ClampStore        the bounds of a ReLU or Clip, which becomes a Max, a Min, or both
    TableStore        a table of constants, or a constant operand

When it does not act: rounding, names and what else reads a constant are the editor's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
from msgspec import Struct

from bnfuse.core.reparam import arithmetic_constant
from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.core.weights.tensor import Array, as_float64, size

if TYPE_CHECKING:
    from bnfuse.core.apply import NewAffine, NewClamp, NewLinear, NewSource
    from bnfuse.core.reparam import Vector
    from bnfuse.core.rules.linear_rule import Linear
    from bnfuse.formats.onnx.edit.apply_patch import ModelEditor
    from bnfuse.formats.onnx.rows.view import NodeHandle

# The attribute is a float32, and so is its default.
DEFAULT_EPSILON = float(np.float32(1e-5))


def epsilon_of(node: onnx.NodeProto) -> float:
    """ε of a BatchNormalization."""
    return next((a.f for a in node.attribute if a.name == "epsilon"), DEFAULT_EPSILON)


class Store(Struct, frozen=True):
    """Base of all ways."""


def bias_input(handle: NodeHandle, rule: Linear, bias: Array, out: ModelEditor, at: int = 2) -> None:
    """A bias as input 2 (Conv, ConvTranspose, Gemm), or 3 (DeformConv)."""
    if rule.bias is None:
        out.append(handle, at, bias)
    else:
        keeps = size(rule.bias) == bias.size
        out.pool.replace(handle, at, bias.reshape(rule.bias.shape) if keeps else bias)


class LinearStore(Store, frozen=True):
    """A constant weight, which is input 1, or input 0 where x is input 1.

    Attributes:
        bias: puts a bias where the operator has it.
        gains: attributes that the new weight and bias hold already.
    """

    bias: Callable[[NodeHandle, Linear, Array, ModelEditor], None] = bias_input
    gains: tuple[str, ...] = ()

    def store(self, handle: NodeHandle, new: NewLinear, out: ModelEditor) -> None:
        """The weight, then the bias."""
        self.scale(handle, new, out, self.gains)
        if new.makes_bias and not (self.bias is bias_input and out.round_bias(handle, new)):
            put = partial(self._put, handle, new.rule, out)
            out.deferred.vector(new.bias(), new.rule.weight.dtype, new.folded, put)

    def scale(self, handle: NodeHandle, new: NewLinear, out: ModelEditor, gains: tuple[str, ...]) -> None:
        """The weight; those gains become 1."""
        at = 0 if new.rule.in_port == 1 else 1
        if new.weight is not None and isinstance(new.weight.base, QuantisedTensor):
            out.requantised(handle, at, new.weight, new.weight.base)
        elif new.weight is not None:
            out.scaled(handle, at, new.weight)
        for attribute in handle.proto.attribute:
            if attribute.name in gains:
                attribute.f = 1.0

    def _put(self, handle: NodeHandle, rule: Linear, out: ModelEditor, bias: Array) -> None:
        self.bias(handle, rule, bias, out)


class AffineStore(Store, frozen=True):
    """γ as input 1 and β as input 2, which is made where there is none."""

    scale_at: ClassVar[int] = 1
    shift_at: ClassVar[int] = 2

    def dtype(self, handle: NodeHandle, x: int, out: ModelEditor) -> np.dtype[Any]:
        """Type of the constants of a node that reads x as input 0 or 1, and a constant as the other."""
        return out.constant(handle, 1 - x).dtype

    def store(self, handle: NodeHandle, new: NewAffine, out: ModelEditor) -> None:
        """As they are."""
        out.round_into(handle, self.scale_at, new.a)
        if handle.proto.input[self.shift_at :]:
            out.round_into(handle, self.shift_at, new.c)
        elif new.c.any():
            rounded = out.rounded(new.c, out.constant(handle, self.scale_at).dtype)
            out.append(handle, self.shift_at, rounded)


class BatchNormStore(AffineStore, frozen=True):
    """γ' = a·√(σ² + ε), β' = c + μ·a."""

    def store(self, handle: NodeHandle, new: NewAffine, out: ModelEditor) -> None:
        """Around all statistics."""
        self.keep(handle, new.a.ravel(), new.c.ravel(), slice(None), out)

    def keep(self, handle: NodeHandle, a: Vector, c: Vector, channels: slice, out: ModelEditor) -> None:
        """Around those of the channels that stay."""
        mean, variance = (as_float64(out.constant(handle, i)).ravel()[channels] for i in (3, 4))
        out.round_into(handle, 1, a * np.sqrt(variance + epsilon_of(handle.proto)))
        out.round_into(handle, 2, c + mean * a)
        for at, values in ((3, mean), (4, variance)):
            if values.size != size(out.constant(handle, at)):
                out.round_into(handle, at, values)

    def spell(self, handle: NodeHandle, new: NewAffine, out: ModelEditor) -> None:
        """A Mul and an Add by vectors in its place, or one of them."""
        rank, dtype = out.rank(handle, 0), out.constant(handle, 1).dtype
        assert rank is not None, "a value of unknown rank stays with its BatchNormalization (affine_ops)"
        a, c = (along(out.rounded(v, dtype), new.axes, rank) for v in (new.a, new.c))
        del handle.proto.output[1:]
        if not (new.a != 1.0).any():
            out.become(handle, "Add", {"shift": c})
            return
        if new.c.any():
            out.follow(handle, "Add", "scaled", {"shift": c})
        out.become(handle, "Mul", {"scale": a})


class ArithmeticStore(AffineStore, frozen=True):
    """The one constant of an operator, on either side."""

    op: str

    def store(self, handle: NodeHandle, new: NewAffine, out: ModelEditor) -> None:
        """A number becomes a vector where it must."""
        at = 1 - new.rule.in_port
        values = arithmetic_constant(self.op, new.a, new.c, first=at == 0)
        shape = out.constant(handle, at).shape
        if values.size != size(out.constant(handle, at)):
            shape = (values.size,) + (1,) * _axes_behind(handle, new, out)
        out.round_into(handle, at, values.reshape(shape))


def _axes_behind(handle: NodeHandle, new: NewAffine, out: ModelEditor) -> int:
    """How many axes of its input come after the one that a number becomes a vector along."""
    (axis,) = new.axes
    if axis < 0:
        return -1 - axis
    rank = out.rank(handle, new.rule.in_port)
    assert rank is not None, "a row that knows no rank takes no vector (affine_ops.NumberOnly)"
    return rank - 1 - axis


class ClampStore(Store, frozen=True):
    """max(x, low), min(x, high), or one behind the other; a Clip where it has one number for each."""

    def store(self, handle: NodeHandle, new: NewClamp, out: ModelEditor) -> None:
        """In place of the node, which keeps its name."""
        low, high = (self._rounded(bound, handle, new, out) for bound in (new.low, new.high))
        first, *others = new.rule.operators(new.low, new.high)
        for op in others:  # Min, behind Max
            out.follow(handle, op, "unbounded", {"high": high})
        if first == "Clip":
            out.become(handle, first, {"min": low.reshape(()), "max": high.reshape(())})
        else:
            out.become(handle, first, {"low": low} if first == "Max" else {"high": high})

    def _rounded(self, bound: Vector, handle: NodeHandle, new: NewClamp, out: ModelEditor) -> Array:
        """In the type of the value, as it broadcasts against it; infinite ones stay so."""
        finite = np.isfinite(bound)
        rounded = out.rounded(np.where(finite, bound, 0.0), new.rule.dtype)
        rounded = np.where(finite, rounded, bound.astype(new.rule.dtype))
        if not new.axes:
            return rounded
        rank = out.rank(handle, 0)
        assert rank is not None, "bounds of a value of unknown rank are numbers (Clamp.spreads)"
        return along(rounded, new.axes, rank)


def along(values: Array, axes: tuple[int, ...], rank: int) -> Array:
    """Values that lie along some axes, in a shape that broadcasts against a tensor of that many axes."""
    if not axes:  # a number
        return values
    sizes = dict(zip(axes, values.shape, strict=True))
    return values.reshape([sizes.get(axis, 1) for axis in range(axes[0], rank)])


class TableStore(Store, frozen=True):
    """A table of rows as input 0, or a constant operand where it is."""

    def store(self, handle: NodeHandle, new: NewSource, out: ModelEditor) -> None:
        """In place."""
        out.scaled(handle, handle.operand or 0, new.values)
