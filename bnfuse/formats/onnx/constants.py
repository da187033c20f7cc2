"""Values that are known before the model runs: initializers, and nodes that compute from them alone.

Exporters write weights as Constant nodes, behind Identity or Unsqueeze, or as ConstantOfShape. Only
operators that are exact and deterministic count (`FOLDABLE`); dequantisation does not, since then
the stored weight is not the layer's constant. What has no entry here is computed by onnx's own
reference implementation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from bnfuse.core.tensor import Array, ArrayTensor, FilledTensor, Tensor, size, whole
from bnfuse.formats.onnx.scope import Scope
from bnfuse.formats.onnx.storage import Files

# Larger results are not computed: the weight then counts as not constant.
_MAX_ELEMENTS = 1 << 27

_SHAPE_ONLY = {"Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten"}
FOLDABLE = _SHAPE_ONLY | {
    "Constant", "ConstantOfShape", "Transpose", "Cast", "Concat", "Slice", "Gather", "Expand", "Shape",
    "Size", "Range", "Tile", "Mul", "Add", "Sub", "Div", "Sqrt", "Reciprocal", "Neg", "Pow", "Exp", "Log",
    "Abs", "Floor", "Ceil", "Max", "Min", "Where", "Equal", "Split", "ReduceProd", "ReduceSum", "Pad",
}  # fmt: skip


def is_float(tensor: Tensor) -> bool:
    """Whether a constant is of a type that weights are computed in: 16, 32 or 64 bits, bfloat16 too."""
    return tensor.dtype.kind in "fV" and tensor.dtype.itemsize >= 2


class Constants:
    """Resolves names to tensors; what must be computed is computed once."""

    def __init__(self, files: Files) -> None:
        self._files = files
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
        if proto is not None:
            return self._files.tensor(proto)
        key = owner.prefix + name
        if key not in self._known:
            self._known[key] = self._resolve(owner, name)
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
            node = scope.constants.get(pending[-1])
            if node is None:
                return None
            missing = [
                i for i in node.input if i and self._owned(scope, i) and scope.prefix + i not in self._known
            ]
            if missing:
                pending += missing
                continue
            current = pending.pop()
            for output in node.output:
                self._known.setdefault(scope.prefix + output, None)
            for output, value in self._compute(scope, node).items():
                self._known[scope.prefix + output] = value
            if not pending:
                return self._known.get(scope.prefix + current)
        return None

    def _owned(self, scope: Scope, name: str) -> bool:
        return name in scope.constants

    def _compute(self, scope: Scope, node: onnx.NodeProto) -> dict[str, Tensor]:
        if node.op_type == "Constant":
            return {node.output[0]: self._constant(node)}
        inputs = [self.get(scope, i) if i else None for i in node.input]
        if any(i and t is None for i, t in zip(node.input, inputs, strict=True)):
            return {}
        if node.op_type == "ConstantOfShape" and inputs[0] is not None:
            return {node.output[0]: self._filled(node, whole(inputs[0]))}
        first = inputs[0]
        if node.op_type == "Identity" and first is not None:
            return {node.output[0]: first}
        if sum(size(t) for t in inputs if t is not None) > _MAX_ELEMENTS:
            return {}
        if isinstance(first, FilledTensor) and node.op_type not in _SHAPE_ONLY and size(first) > 1 << 20:
            return {}
        return self._by_reference(scope, node, inputs)

    def _constant(self, node: onnx.NodeProto) -> Tensor:
        attribute = node.attribute[0]
        if attribute.type == onnx.AttributeProto.TENSOR:
            return self._files.tensor(attribute.t)
        value = onnx.helper.get_attribute_value(attribute)
        kind: Any = np.float32 if attribute.name in ("value_float", "value_floats") else np.int64
        if attribute.name in ("value_string", "value_strings", "sparse_value"):
            return ArrayTensor(np.array([], dtype=object))
        return ArrayTensor(np.asarray(value, kind))

    def _filled(self, node: onnx.NodeProto, shape: Array) -> Tensor:
        fill: Array = np.zeros((), np.float32)
        for attribute in node.attribute:
            if attribute.name == "value":
                fill = whole(self._files.tensor(attribute.t)).reshape(-1)[0]
        return FilledTensor(tuple(int(n) for n in shape.reshape(-1)), np.asarray(fill))

    def _by_reference(
        self, scope: Scope, node: onnx.NodeProto, inputs: list[Tensor | None]
    ) -> dict[str, Tensor]:
        """onnx's reference evaluator on this one node."""
        from onnx.reference import ReferenceEvaluator

        feeds = {name: whole(t) for name, t in zip(node.input, inputs, strict=True) if t is not None}
        graph = onnx.helper.make_graph(
            [node],
            "constant",
            [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for n, v in feeds.items()],
            [onnx.ValueInfoProto(name=o) for o in node.output if o],
        )  # fmt: skip
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", scope.opset)])
        try:
            results = ReferenceEvaluator(model).run(None, feeds)
        except Exception:  # noqa: BLE001 - any failure of the library means "not known", nothing is lost
            return {}
        names = [o for o in node.output if o]
        return {o: ArrayTensor(np.asarray(r)) for o, r in zip(names, results, strict=False) if r is not None}
