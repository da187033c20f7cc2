"""One ONNX node as the op table sees it: attributes, constants, shapes, with defaults resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from msgspec import Struct

from bnfuse.core.axes import Shape
from bnfuse.core.graph import Node
from bnfuse.core.weights.tensor import Tensor, size, whole
from bnfuse.formats.onnx.file.element_types import numpy_type, onnx_type
from bnfuse.formats.onnx.graph.attribute_values import attribute_value
from bnfuse.formats.onnx.graph.constants import Constants
from bnfuse.formats.onnx.graph.origin import Origin, origin
from bnfuse.formats.onnx.graph.quantised import unpacking
from bnfuse.formats.onnx.graph.scope import Scope
from bnfuse.formats.onnx.graph.shapes import ValueShapes
from bnfuse.formats.table import Malformed, known

if TYPE_CHECKING:
    from bnfuse.formats.onnx.rows.statistics import Statistics


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


class NodeHandle(Struct, eq=False, gc=False):
    """What the ONNX format remembers of a core node.

    Attributes:
        scope: where the node is; ``index`` its position there.
        bias_index: position of the Add that holds a MatMul's bias, where there is one.
        operand: for a constant operand: which input of ``proto`` it is.
        made: a node that is not in the file, and is to come in front of the one there.
    """

    scope: Scope
    index: int
    bias_index: int | None = None
    operand: int | None = None
    made: onnx.NodeProto | None = None

    @property
    def proto(self) -> onnx.NodeProto:
        """The node."""
        return self.scope.nodes[self.index] if self.made is None else self.made


def handle_of(node: Node) -> NodeHandle:
    """The handle that the reader gave a node."""
    handle = node.handle
    assert isinstance(handle, NodeHandle)
    return handle


class View(Struct, eq=False):
    """Access to one node during rule making. Axes come out non-negative where the rank is known."""

    node: Node
    handle: NodeHandle
    constants: Constants
    shapes: ValueShapes
    statistics: Statistics
    attributes: dict[str, onnx.AttributeProto] | None = None  # by name, once somebody looked

    @property
    def proto(self) -> onnx.NodeProto:
        """The NodeProto."""
        return self.handle.proto

    @property
    def opset(self) -> int:
        """Version of the operator set."""
        return self.handle.scope.opset

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default."""
        if self.attributes is None:
            self.attributes = {a.name: a for a in self.proto.attribute}
        found = self.attributes.get(name)
        try:
            return default if found is None else attribute_value(found)
        except ValueError as e:  # a reference to what a function's caller gives, where there is none
            raise Malformed(f"the attribute {name} has no value") from e

    def has_input(self, i: int) -> bool:
        """Whether input i is given."""
        names = self.handle.proto.input
        return i < len(names) and names[i] != ""

    def const(self, i: int) -> Tensor | None:
        """Input i as a constant, or None."""
        names = self.handle.proto.input
        return self.constants.get(self.handle.scope, names[i]) if i < len(names) else None

    def quantised(self, i: int) -> Tensor | None:
        """Input i as a weight that is stored quantised, or None."""
        found = (
            unpacking(self.constants, self.handle.scope, self.proto.input[i]) if self.has_input(i) else None
        )
        return None if found is None else found.tensor

    def is_const(self, i: int) -> bool:
        """Whether input i is known before the model runs (without reading it)."""
        return self.has_input(i) and self.handle.scope.is_constant(self.proto.input[i])

    def ints(self, i: int) -> list[int] | None:
        """Input i as a small integer constant."""
        return self.constants.ints(self.handle.scope, self.proto.input[i]) if self.has_input(i) else None

    def given_ints(self, i: int) -> list[int] | None:
        """The same, None where it is not given; one that is computed at run time is not known."""
        return known(self.ints(i)) if self.has_input(i) else None

    def scalar(self, i: int) -> float | None:
        """Input i as one number."""
        tensor = self.const(i)
        if tensor is None or size(tensor) != 1:
            return None
        return float(whole(tensor).reshape(-1)[0])

    def shape(self, i: int) -> Shape | None:
        """Shape of input i."""
        tensor = self.const(i) if self.is_const(i) else None
        if tensor is not None:
            return tensor.shape
        return self.shapes.shape(self.handle.scope.key(self.proto.input[i])) if self.has_input(i) else None

    def rank(self, i: int) -> int | None:
        """Rank of input i."""
        tensor = self.const(i) if self.is_const(i) else None
        if tensor is not None:
            return len(tensor.shape)
        return self.shapes.rank(self.handle.scope.key(self.proto.input[i])) if self.has_input(i) else None

    def out_shape(self, j: int = 0) -> Shape | None:
        """Shape of output j."""
        return self.shapes.shape(self.handle.scope.key(self.proto.output[j]))

    def dtype(self, i: int) -> int | None:
        """TensorProto.DataType of input i."""
        tensor = self.const(i) if self.is_const(i) else None
        if tensor is not None:
            return onnx_type(tensor.dtype)
        return self.shapes.dtype(self.handle.scope.key(self.proto.input[i]))

    def float_type(self, i: int) -> np.dtype[Any] | None:
        """The type of input i where it is one of floats that all arithmetic is defined for."""
        kind = self.dtype(i)
        return None if kind not in _FLOATS else numpy_type(kind)

    def axis(self, axis: int, i: int = 0) -> int:
        """An axis of input i counted from zero where the rank is known, else as it is."""
        if axis >= 0:
            return axis
        rank = self.rank(i)
        return axis if rank is None else axis + rank

    def axes_argument(self, i: int) -> list[int] | None:
        """``axes`` as attribute (older opsets) or as input i; None where neither is there."""
        given = self.attr("axes")
        return list(given) if given is not None else self.given_ints(i)

    def origin(self, i: int) -> Origin:
        """Where input i comes from, which is no constant; absent ones are computed by nobody."""
        return origin(self.handle.scope, self.proto.input[i]) if self.has_input(i) else Origin.RUN_TIME

    def overridable(self, i: int) -> str | None:
        """The name of input i if a caller may override it."""
        scope = self.handle.scope
        if scope.parent is None and not scope.overridable:
            return None
        name = self.proto.input[i] if self.has_input(i) else ""
        owner = self.handle.scope.owner(name) if name else None
        return name if owner is not None and name in owner.overridable else None
