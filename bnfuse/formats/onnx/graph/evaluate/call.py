"""One node whose inputs are all known, as the functions that work it out see it.

Attributes and inputs come with their defaults resolved; a tensor's elements are read when they are asked
for, so that what goes by shapes alone reads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from math import inf, prod
from typing import Any

import numpy as np
import onnx
from msgspec import Struct

from bnfuse.core.weights.tensor import Array, Tensor, size, whole
from bnfuse.formats.onnx.graph.attribute_values import attribute_value

# Larger results are not worked out: the value then counts as not constant.
MOST_ELEMENTS = 1 << 27
# numpy has no more than 64, and before its version 2 no more than 32.
_MOST_AXES = 32
# Lists of axes, bounds and sizes are shorter than this in any model.
_MOST_INTS = 4096


class Unknown(Exception):
    """The value is not worked out: inputs that do not fit, numbers that no standard defines, or too many."""


class Allowance(Struct):
    """What may still be worked out for a file.

    Attributes:
        most_elements: of one result.
        elements: of operands and results, all together: a node of some bytes can read, or make, millions.
    """

    most_elements: int = MOST_ELEMENTS
    elements: float = inf

    def take(self, elements: float) -> None:
        """Count elements.

        Raises:
            Unknown: so many are not left.
        """
        if elements > self.elements:
            raise Unknown("more than a file of its size may ask for")
        self.elements -= elements


# For the node that is being worked out.
allowance: ContextVar[Allowance] = ContextVar("allowance")


class KnownCall(Struct, frozen=True):
    """A node with its constants.

    Attributes:
        version: of the operator set.
        attributes: by name, checked against the operator's schema.
        inputs: None where one is absent.
        outputs: how many the node has.
    """

    version: int
    attributes: dict[str, onnx.AttributeProto]
    inputs: Sequence[Tensor | None]
    outputs: int

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default."""
        found = self.attributes.get(name)
        return default if found is None else attribute_value(found)

    def tensor(self, i: int = 0) -> Tensor:
        """Input i.

        Raises:
            Unknown: there is none.
        """
        found = self.optional(i)
        if found is None:
            raise Unknown(f"input {i} is absent")
        return found

    def optional(self, i: int) -> Tensor | None:
        """Input i, or None."""
        return self.inputs[i] if i < len(self.inputs) else None

    def array(self, i: int = 0) -> Array:
        """All elements of input i, in its shape."""
        return whole(self.tensor(i))

    def arrays(self) -> list[Array]:
        """All inputs, none of which may be absent."""
        return [self.array(i) for i in range(len(self.inputs))]

    def ints(self, i: int, name: str = "") -> list[int] | None:
        """A list of integers: input i, or the attribute ``name`` of older versions; None where absent.

        Raises:
            Unknown: it is no list of integers.
        """
        given = self.attr(name) if name else None
        if given is not None:
            return [int(v) for v in given]
        tensor = self.optional(i)
        if tensor is None:
            return None
        if tensor.dtype.kind not in "iu" or size(tensor) > _MOST_INTS or len(tensor.shape) > 1:
            raise Unknown("no list of integers")
        return [int(v) for v in whole(tensor).reshape(-1)]


def bounded(shape: Sequence[int]) -> tuple[int, ...]:
    """A result's shape.

    Raises:
        Unknown: it would have too many elements or axes, or a negative size.
    """
    allowed = allowance.get()
    if len(shape) > _MOST_AXES or any(n < 0 for n in shape) or prod(shape) > allowed.most_elements:
        raise Unknown(f"a result of {len(shape)} axes, too large or of a negative size")
    allowed.take(prod(shape))
    return tuple(shape)


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that operands take together, by numpy's rules, which are ONNX's from opset 7 on.

    Raises:
        Unknown: they do not fit, or are too large together.
    """
    try:
        return bounded(np.broadcast_shapes(*map(tuple, shapes)))
    except ValueError as e:
        raise Unknown(str(e)) from e
