"""Weights behind a DequantizeLinear of constants (onnx/defs/quantization): read as data, and written back.

A Quant of constants is another way to say the same (``qonnx``).

Scales are one number, one for each place along ``axis`` (operator set 13 and later), or one for each block
along it (21 and later). What else a DequantizeLinear may be (float8, another output type, scales or zero
points that are computed at run time) is no weight of this kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from msgspec import Struct

from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.core.weights.tensor import Array, Tensor, size, whole
from bnfuse.formats.onnx.file.element_types import onnx_type
from bnfuse.formats.onnx.graph import qonnx
from bnfuse.formats.onnx.graph.scope import ONNX_DOMAINS, Scope

if TYPE_CHECKING:
    from bnfuse.formats.onnx.graph.constants import Constants

_LIMITS = {
    "int2": (-2, 1), "uint2": (0, 3), "int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127),
    "uint8": (0, 255), "int16": (-(2**15), 2**15 - 1), "uint16": (0, 2**16 - 1),
}  # fmt: skip
_PER_AXIS, _BLOCKED = 13, 21
_FLOATS = ("float32", "float16")


class Unpacking(Struct, frozen=True, eq=False):
    """A DequantizeLinear or Quant of constants: the node, where it is, and what it makes."""

    node: onnx.NodeProto
    scope: Scope
    tensor: QuantisedTensor


def unpacking(constants: Constants, scope: Scope, name: str) -> Unpacking | None:
    """What stands behind a name that is such a weight; None for everything else."""
    owner = scope.owner(name)
    node = owner.constants.get(name) if owner is not None else None
    if owner is None or node is None:
        return None
    if qonnx.is_quantiser(node):
        given = [constants.get(owner, each) if each else None for each in node.input]
        made = qonnx.quantised(node, given)
        return None if made is None else Unpacking(node, owner, made)
    if node.op_type != "DequantizeLinear" or node.domain not in ONNX_DOMAINS:
        return None
    given = [constants.get(owner, each) if each else None for each in (*node.input, "")[:3]]
    stored, scale, zero = given[0], given[1], given[2]
    if stored is None or scale is None or (zero is None and len(node.input) > 2 and node.input[2]):
        return None
    tensor = _tensor(node, owner.opset, stored, scale, zero)
    return None if tensor is None else Unpacking(node, owner, tensor)


def _tensor(
    node: onnx.NodeProto, opset: int, stored: Tensor, scale: Tensor, zero: Tensor | None
) -> QuantisedTensor | None:
    attributes = {a.name: a.i for a in node.attribute}
    limits, rank = _LIMITS.get(stored.dtype.name), len(stored.shape)
    if limits is None or scale.dtype.name not in _FLOATS or rank == 0 or 0 in stored.shape:
        return None
    if zero is not None and (zero.dtype != stored.dtype or size(zero) != size(scale)):
        return None
    if attributes.get("output_dtype", 0) not in (0, onnx_type(scale.dtype)):
        return None
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    shape = _laid(scale.shape, stored.shape, axis, block)
    if shape is None or (opset < _PER_AXIS and size(scale) != 1) or (block and opset < _BLOCKED):
        return None
    points = np.zeros(shape, np.int32) if zero is None else whole(zero).astype(np.int32).reshape(shape)
    several = opset >= _PER_AXIS and not block
    return QuantisedTensor(stored, whole(scale).reshape(shape), points, *limits, several)


def _laid(scale: tuple[int, ...], stored: tuple[int, ...], axis: int, block: int) -> tuple[int, ...] | None:
    """The shape of the scales with one size for each axis of the weight; None where they do not fit it."""
    rank = len(stored)
    if block:
        if not -rank <= axis < rank or block < 1 or stored[axis] % block:
            return None
        axis %= rank
        wanted = (*stored[:axis], stored[axis] // block, *stored[axis + 1 :])
        return wanted if scale == wanted else None
    if scale in ((), (1,)):
        return (1,) * rank
    if len(scale) != 1 or not -rank <= axis < rank or scale[0] != stored[axis]:
        return None
    return tuple(scale[0] if k == axis % rank else 1 for k in range(rank))


def flat(values: Array) -> tuple[Array, int | None]:
    """Scales or zero points as they are stored without blocks: a number, or a vector and its axis."""
    long = [axis for axis, n in enumerate(values.shape) if n > 1]
    if not long:
        return values.reshape(()), None
    (axis,) = long
    return values.reshape(-1), axis
