"""Values that are known before the model runs: initializers, and nodes that compute from them alone.

Exporters write weights as Constant nodes, behind Identity or Unsqueeze, as ConstantOfShape, or as whole
subgraphs (weight normalisation, low-rank updates, dequantised vectors). ``evaluate`` works them out; what it
does not work out is no constant, quantised weights among it. A sparse initializer is read as the
Constant node that would say the same. What a file of some hundred bytes can ask for has no end: all results
together take no more than a multiple of the file, and so do all elements that are read or made on the way.
"""

from __future__ import annotations

from math import inf, prod
from typing import Any

import numpy as np
import onnx

from bnfuse.core.weights.tensor import Array, ArrayTensor, FilledTensor, Tensor, size, whole
from bnfuse.formats.onnx.file.storage import Files
from bnfuse.formats.onnx.graph.attribute_values import attribute_value
from bnfuse.formats.onnx.graph.evaluate import evaluate
from bnfuse.formats.onnx.graph.evaluate.call import MOST_ELEMENTS, Allowance, Unknown
from bnfuse.formats.onnx.graph.scope import Scope

# Of the widest element type that is worked out.
_MOST_ITEM_BYTES = 8


def is_float(tensor: Tensor) -> bool:
    """Whether a constant is of a type that weights are computed in: 16, 32 or 64 bits, bfloat16 too."""
    return tensor.dtype.kind in "fV" and tensor.dtype.itemsize >= 2


def sparse_constants(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The sparse initializers of a graph that no caller may override, each as a node that is in no graph."""
    inputs = {v.name for v in graph.input} if graph.sparse_initializer else set()
    return {
        sparse.values.name: onnx.helper.make_node("Constant", [], [sparse.values.name], sparse_value=sparse)
        for sparse in graph.sparse_initializer
        if sparse.values.name not in inputs
    }


class Constants:
    """Resolves names to tensors; what must be computed is computed once."""

    def __init__(self, files: Files, left_bytes: float = inf, left_elements: float = inf) -> None:
        self.files = files
        self._left_bytes = left_bytes  # that results may still take, all together
        self._allowed = Allowance(elements=left_elements)
        self._known: dict[str, Tensor | None] = {}

    def get(self, scope: Scope, name: str) -> Tensor | None:
        """The constant a name stands for, or None.

        Raises:
            UnreadableModel: the tensor is malformed or its external data is missing.
        """
        owner = scope.owner(name)
        if owner is None or not name:
            return None
        proto = owner.initializer(name)
        if proto is not None and proto.raw_data:
            return self.files.tensor(proto)
        key = owner.prefix + name
        if key not in self._known:  # lists of numbers take long to read
            self._known[key] = self._resolve(owner, name) if proto is None else self.files.tensor(proto)
        return self._known[key]

    def ints(self, scope: Scope, name: str) -> list[int] | None:
        """A small integer constant as a flat list."""
        tensor = self.get(scope, name)
        if tensor is None or tensor.dtype.kind not in "iu" or size(tensor) > 4096:
            return None
        return [int(v) for v in whole(tensor).reshape(-1)]

    def _resolve(self, scope: Scope, name: str) -> Tensor | None:
        pending = [name]
        while pending:  # not recursive: chains of constants can be long
            if scope.prefix + pending[-1] in self._known:  # by another way
                pending.pop()
                continue
            node = scope.constants.get(pending[-1])
            if node is None:
                return None
            missing = [
                i for i in node.input if i and i in scope.constants and scope.prefix + i not in self._known
            ]
            if missing:
                pending += missing
                continue
            pending.pop()
            for output in node.output:
                self._known.setdefault(scope.prefix + output, None)
            for output, value in zip(node.output, self._compute(scope, node), strict=False):
                self._known[scope.prefix + output] = value
                if isinstance(value, (ArrayTensor, FilledTensor)) and node.op_type != "Constant":
                    self._left_bytes -= size(value) * value.dtype.itemsize
        return self._known.get(scope.prefix + name)

    def _compute(self, scope: Scope, node: onnx.NodeProto) -> list[Tensor]:
        """The results of a node; none where they are not worked out."""
        try:
            if node.op_type == "Constant":
                return [self._constant(node)]
            inputs = [self.get(scope, i) if i else None for i in node.input]
            if any(i and t is None for i, t in zip(node.input, inputs, strict=True)):
                return []
            self._allowed.most_elements = int(min(MOST_ELEMENTS, self._left_bytes // _MOST_ITEM_BYTES))
            return evaluate(node, scope.opset, inputs, self._allowed)
        except Unknown:
            return []

    def _constant(self, node: onnx.NodeProto) -> Tensor:
        """What a Constant node says: its one attribute.

        Raises:
            Unknown: text, or not one attribute.
        """
        if len(node.attribute) != 1:
            raise Unknown(f"{len(node.attribute)} values")
        attribute = node.attribute[0]
        match attribute.name:
            case "value" if attribute.type == onnx.AttributeProto.TENSOR:
                return self.files.tensor(attribute.t)
            case "sparse_value" if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                return self._dense(attribute.sparse_tensor)
            case "value_float" | "value_floats" | "value_int" | "value_ints":
                value = attribute_value(attribute)
                kind: Any = np.float32 if attribute.name.startswith("value_f") else np.int64
                return ArrayTensor(np.asarray(value, kind))
            case _:
                raise Unknown(f"a value of the kind {attribute.name}")

    def _dense(self, sparse: onnx.SparseTensorProto) -> Tensor:
        """The stored elements at their places (positions in C order or rows of indices), else zeros."""
        shape = tuple(sparse.dims)
        values, indices = (whole(self.files.tensor(t)) for t in (sparse.values, sparse.indices))
        if (
            not 0 <= prod(shape) * values.dtype.itemsize <= min(self._left_bytes, MOST_ELEMENTS)
            or any(n < 0 for n in shape)
            or values.ndim != 1
            or indices.dtype != np.int64
        ):
            raise Unknown("no sparse tensor")
        if indices.ndim == 2 and indices.shape == (values.size, len(shape)):
            inside = ((indices >= 0) & (indices < np.array(shape))).all()
            indices = indices @ np.array([prod(shape[k + 1 :]) for k in range(len(shape))], np.int64)
        else:
            inside = ((indices >= 0) & (indices < prod(shape))).all()
        if not inside or indices.shape != values.shape:
            raise Unknown("elements that lie nowhere")
        dense: Array = np.zeros(prod(shape), values.dtype)
        dense[indices] = values
        return ArrayTensor(dense.reshape(shape))
