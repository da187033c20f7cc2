"""Shapes and element types of values, as far as the file or onnx's inference knows them.

First what the file itself says (inputs, outputs, value_info). Only when something that is needed is
missing, onnx's shape inference runs once over the model without its large tensors. Where that gives
up too (custom operators), an op beside the value may still tell its rank.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from bnfuse.core.axes import Shape
from bnfuse.formats.onnx.scope import bodies

# Beyond this, inference would cost more than all the rest; such models usually carry value_info.
_MAX_NODES = 300_000


class Shapes:
    """Looks up by core value (prefix + name)."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._shapes: dict[str, Shape] = {}
        self._types: dict[str, int] = {}
        self._inferred = False
        self.ranks: dict[str, int] = {}  # hints from neighbouring ops
        self._collect(model.graph, "")

    def shape(self, value: str) -> Shape | None:
        """Sizes, symbols or None per axis; None where even the rank is unknown."""
        if value not in self._shapes:
            self._infer()
        found = self._shapes.get(value)
        if found is None and value in self.ranks:
            return (None,) * self.ranks[value]
        return found

    def rank(self, value: str) -> int | None:
        """Number of axes."""
        if value in self.ranks:
            return self.ranks[value]
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def dtype(self, value: str) -> int | None:
        """TensorProto.DataType of a value."""
        if value not in self._types:
            self._infer()
        return self._types.get(value)

    def _infer(self) -> None:
        if self._inferred:
            return
        self._inferred = True
        if len(self._model.graph.node) > _MAX_NODES:
            return
        # Following the values of shape arithmetic costs half as much again.
        computes = any(node.op_type == "Shape" for node in self._model.graph.node)
        try:
            inferred = onnx.shape_inference.infer_shapes(self._model, strict_mode=False, data_prop=computes)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            return  # a model that inference cannot digest still has what the file says
        self._collect(inferred.graph, "")

    def _collect(self, graph: onnx.GraphProto, prefix: str) -> None:
        for infos in (graph.value_info, graph.input, graph.output):
            self._add(infos, prefix)
        for index, node in enumerate(graph.node):
            if node.op_type in ("If", "Loop", "Scan", "SequenceMap"):
                for attribute, which, body in bodies(node):
                    self._collect(body, body_prefix(prefix, index, attribute, which))

    def _add(self, infos: Iterable[onnx.ValueInfoProto], prefix: str) -> None:
        for info in infos:
            if not info.type.HasField("tensor_type"):
                continue
            tensor = info.type.tensor_type
            if tensor.elem_type:
                self._types[prefix + info.name] = tensor.elem_type
            if tensor.HasField("shape"):
                self._shapes[prefix + info.name] = tuple(
                    d.dim_value if d.dim_value > 0 else (d.dim_param or None) for d in tensor.shape.dim
                )


def body_prefix(prefix: str, node: int, attribute: int, which: int) -> str:
    """How names defined in a body are told from those around it."""
    return f"{prefix}{node}.{attribute}.{which}/"
