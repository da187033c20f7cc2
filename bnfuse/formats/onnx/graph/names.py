"""Names that are text: protobuf hands out bytes for a string that is not UTF-8, and all else counts on text.

Descriptions and metadata are nobody's names, and may be anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx

from bnfuse.formats.onnx.graph.scope import bodies
from bnfuse.formats.table import Malformed


def check_names(model: onnx.ModelProto) -> None:
    """Refuse names that are no text.

    Raises:
        Malformed: there is one.
    """
    try:
        for names in _names(model):
            "".join(names)
    except TypeError as e:
        raise Malformed("a name in it is not text") from e


def _names(model: onnx.ModelProto) -> Iterator[Iterable[Any]]:
    yield (entry.domain for entry in model.opset_import)
    pending: list[Iterable[onnx.NodeProto]] = []
    graphs = [model.graph]
    for function in model.functions:
        yield (function.name, function.domain, *function.input, *function.output, *function.attribute)
        yield (attribute.name for attribute in function.attribute_proto)
        yield (entry.domain for entry in function.opset_import)
        yield from map(_of_value, function.value_info)
        pending.append(function.node)
    while graphs or pending:
        for graph in graphs:
            yield from _of_tensors(graph)
            for values in (graph.input, graph.output, graph.value_info):
                yield from map(_of_value, values)
            pending.append(graph.node)
        graphs = []
        for node in (node for nodes in pending for node in nodes):
            yield node.name, node.op_type, node.domain, *node.input, *node.output
            for attribute in node.attribute:
                yield attribute.name, attribute.ref_attr_name
            graphs += [graph for _, _, graph in bodies(node)]
        pending = []


def _of_tensors(graph: onnx.GraphProto) -> Iterator[Iterable[Any]]:
    for tensor in graph.initializer:
        yield (tensor.name,)
        for entry in tensor.external_data:
            yield entry.key, entry.value
    yield (sparse.values.name for sparse in graph.sparse_initializer)
    for annotation in graph.quantization_annotation:
        yield (annotation.tensor_name,)


def _of_value(info: onnx.ValueInfoProto) -> Iterable[Any]:
    yield info.name
    if info.type.HasField("tensor_type"):
        yield from (dim.dim_param for dim in info.type.tensor_type.shape.dim)
