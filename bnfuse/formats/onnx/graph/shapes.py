"""Shapes and element types of values, as far as the file or onnx's inference knows them.

First what the file itself says (inputs, outputs, value_info). Only when something that is needed is
missing, onnx's shape inference runs once over the model without its large tensors. Where that gives
up too (custom operators), an op beside the value may still tell its rank.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

import onnx

from bnfuse.core.axes import Shape
from bnfuse.formats.onnx.graph import qonnx
from bnfuse.formats.onnx.graph.inference import infer
from bnfuse.formats.onnx.graph.order import in_order, ordered
from bnfuse.formats.onnx.graph.scope import bodies

# Beyond this, inference would cost more than all the rest; such models usually carry value_info.
_MAX_NODES = 300_000
# What onnx has no inference for.
_STAND_INS = {
    ("ai.onnx.ml", "Scaler"): "Cast",
    ("com.microsoft", "FusedConv"): "Conv",
    ("com.microsoft", "FusedGemm"): "Gemm",
    ("com.microsoft", "FusedMatMul"): "MatMul",
    ("com.microsoft", "MatMulNBits"): "MatMul",
    **{(domain, op): "Cast" for domain in qonnx.DOMAINS for op in qonnx.OPERATORS},
}


class ValueShapes:
    """Looks up by core value (prefix + name); ``prefixes`` are those of the model's functions.

    ``whole`` is asked for the model with its ``count`` nodes, which ``model`` may lack, before inference.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        count: int,
        whole: Callable[[], onnx.ModelProto],
        prefixes: Iterable[str] = (),
        sorts: bool = False,
    ) -> None:
        self._count, self._whole = count, whole
        self._sorts = sorts  # inference follows the nodes as they are listed
        self._shapes: dict[str, Shape] = {}
        self._types: dict[str, int] = {}
        self._inferred = False
        self._functions = {(function.domain, function.name) for function in model.functions}
        self.ranks: dict[str, int] = {}  # hints from neighbouring ops
        self._collect(model.graph, model.graph, "")
        for prefix, function in zip(prefixes, model.functions, strict=True):
            self._add(function.value_info, prefix)

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

    def defines(self, domain: str, operator: str) -> bool:
        """Whether the model itself says what an operator does, by a function of its own."""
        return (domain, operator) in self._functions

    def _infer(self) -> None:
        if self._inferred:
            return
        self._inferred = True
        if self._count > _MAX_NODES:
            return
        whole = self._whole()
        if whole.functions:
            from bnfuse.formats.onnx.graph.functions import written_out

            if written_out(whole) > _MAX_NODES:  # inference goes into every call
                return
        inferred = self._inferred_model(whole)
        if inferred is not None:
            self._collect(inferred.graph, whole.graph, "")

    def _inferred_model(self, whole: onnx.ModelProto) -> onnx.ModelProto | None:
        """The model with the shapes that onnx finds.

        Below IR 4 inference knows of no initializer that is not listed as an input, though runtimes do: it
        is told another version.
        """
        model = ordered(whole) if self._sorts else whole
        computes = any(node.op_type == "Shape" for node in model.graph.node)
        said = model.ir_version
        model.ir_version = max(said, 4)
        try:
            with _as_standard(model, self._functions):
                inferred = infer(model, follows_values=computes)
            # A model that inference cannot digest still has what the file says.
            return None if inferred is None else onnx.ModelProto.FromString(inferred)
        finally:
            model.ir_version = said

    def _collect(self, graph: onnx.GraphProto, listed: onnx.GraphProto, prefix: str) -> None:
        """Shapes of a graph and the bodies in it; ``listed`` is the same graph as the file has it."""
        for infos in (graph.value_info, graph.input, graph.output):
            self._add(infos, prefix)
        moved = graph is not listed and self._sorts
        places = in_order(listed.node) if moved else range(len(graph.node))
        for index, node in zip(places, graph.node, strict=True):
            if node.op_type in ("If", "Loop", "Scan", "SequenceMap"):
                both = zip(bodies(node), bodies(listed.node[index]), strict=True)
                for (attribute, which, body), (_, _, inner) in both:
                    self._collect(body, inner, body_prefix(prefix, index, attribute, which))

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


@contextmanager
def _as_standard(model: onnx.ModelProto, functions: Collection[tuple[str, str]]) -> Iterator[None]:
    """Operators of other domains under the names of standard ones that make the same shapes, for a while."""
    disguised, own_inputs, mark = [], len(model.graph.input), _unused_mark(model.graph)
    for node in model.graph.node:
        known = _STAND_INS.get((node.domain, node.op_type)) if node.domain else None
        if known is None or (node.domain, node.op_type) in functions:
            continue
        original = onnx.NodeProto()
        original.CopyFrom(node)
        if known == "Cast":
            del node.input[1:], node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT))
        elif node.op_type == "MatMulNBits":
            _read_matrix(node, model.graph, mark)
        elif known == "MatMul" and any(a.name.startswith("trans") and a.i for a in node.attribute):
            continue
        node.domain, node.op_type = "", known
        disguised.append((node, original))
    try:
        yield
    finally:
        for node, original in disguised:
            node.CopyFrom(original)
        del model.graph.input[own_inputs:]


def _unused_mark(graph: onnx.GraphProto) -> str:
    """What no name of an input, a constant or an output begins with, where a name of ours is needed."""
    if not any(node.op_type == "MatMulNBits" for node in graph.node):
        return ""
    named = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    named |= {name for node in graph.node for name in node.output}
    mark = ":matrix"
    while any(name.startswith(mark) for name in named):
        mark += ":"
    return mark


def _read_matrix(node: onnx.NodeProto, graph: onnx.GraphProto, mark: str) -> None:
    """A weight of few bits as the matrix that it stands for: an input of the graph, (K, N)."""
    sizes = {a.name: a.i for a in node.attribute}
    shape = [sizes.get("K", 0), sizes.get("N", 0)]
    name = f"{mark}{len(graph.input)}"
    graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    del node.input[1:], node.attribute[:]
    node.input.append(name)


def body_prefix(prefix: str, node: int, attribute: int, which: int) -> str:
    """How names defined in a body are told from those around it."""
    return f"{prefix}{node}.{attribute}.{which}/"
