"""One ONNX node as the rules of extents see it (``rules``, ``layout``, ``numbers``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from msgspec import Struct

from bnfuse.formats.extents import Extent, Shape, Sizes
from bnfuse.formats.onnx.graph.attribute_values import attribute_value

Elements = tuple[Any, ...]  # of a small tensor, flat: extents, or floats


class ExtentCall(Struct, eq=False):
    """One node as its rule sees it: the shapes of its inputs, and the numbers in those that are known."""

    node: onnx.NodeProto
    opset: int
    sizes: Sizes
    shapes: list[Shape | None]
    numbers: list[Elements | None]

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return attribute_value(attribute)
        return default

    def shape(self, at: int) -> Shape:
        """Of an input.

        Raises:
            LookupError: it is not known.
        """
        shape = self.shapes[at]
        if shape is None:
            raise LookupError("unknown shape")
        return shape

    def given(self, at: int, attribute: str) -> Elements | None:
        """What newer opsets give as an input and older ones as an attribute; None where there is neither.

        Raises:
            LookupError: there is such an input, but its numbers are not known.
        """
        if at < len(self.node.input) and self.node.input[at]:
            return self.known(at)
        value = self.attribute(attribute)
        return None if value is None else tuple(value) if isinstance(value, list) else (value,)

    def known(self, at: int) -> Elements:
        """The numbers in an input.

        Raises:
            LookupError: they are not known.
        """
        numbers = self.numbers[at]
        if numbers is None:
            raise LookupError("unknown numbers")
        return numbers


Rule = Callable[[ExtentCall], "Shape | None"]


def together(sizes: Sizes, a: Extent, b: Extent) -> Extent:
    """One axis of two operands that are broadcast."""
    if a is None or b is None or a is b:
        return a if b is None or a is b else b
    if isinstance(a, int) and a == 1:
        return b
    if isinstance(b, int) and b == 1:
        return a
    sizes.must((np.equal(a, 1)) | (np.equal(b, 1)) | np.equal(a, b))
    return a if isinstance(b, np.ndarray) else b
