"""Looks at every tensor whose data lies in another file, whether anybody reads it or not.

The file that it names must be the model's own, and it must be one that can be written again: an initializer
of a graph, or what a Constant node holds. Runtimes read no others from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from bnfuse.errors import UnreadableModel
from bnfuse.formats.onnx.file.protobuf import payload_number
from bnfuse.formats.onnx.file.storage import Files

# Whose graphs are read, and written anew.
WITH_BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def check_outside(proto: onnx.ModelProto, files: Files) -> None:
    """Open all external data of a model.

    Raises:
        UnsafeModel, UnreadableModel: as ``Files.slice_of``; or a tensor of another kind is outside.
    """
    for tensor, may_be in _of_model(proto):
        if files.slice_of(tensor) is not None and not may_be and not _in_model(tensor, files):
            raise UnreadableModel(
                f"{files.model}: tensor '{tensor.name}' has external data, which only initializers and "
                "Constant nodes may have; export it again"
            )


def named_locations(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Every location of external data that is no place in the model file itself, once; none is looked at."""
    found: dict[str, None] = {}
    for tensor, _ in _of_model(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            places = [str(entry.value) for entry in tensor.external_data if entry.key == "location"]
            found.update(dict.fromkeys(place for place in places if payload_number(place) is None))
    return tuple(found)


def _in_model(tensor: onnx.TensorProto, files: Files) -> bool:
    """Whether it is a large tensor of the model file itself."""
    where = files.slice_of(tensor)
    return where is not None and where.path == files.model


def _of_model(proto: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, bool]]:
    """(tensor, whether its data may lie outside) of all that a model holds."""
    graphs = [(proto.graph, True)]
    for training in proto.training_info:
        graphs += [(training.initialization, False), (training.algorithm, False)]
    for function in proto.functions:
        for node in function.node:
            yield from _of_node(node, True)
            graphs += _graphs(node, True)
    while graphs:
        graph, writable = graphs.pop()
        yield from ((tensor, writable) for tensor in graph.initializer)
        for sparse in graph.sparse_initializer:
            yield from _of_sparse(sparse)
        for node in graph.node:
            yield from _of_node(node, writable)
            graphs += _graphs(node, writable)


def _graphs(node: onnx.NodeProto, writable: bool) -> Iterator[tuple[onnx.GraphProto, bool]]:
    """The graphs that a node carries; those of operators that we do not know are not written anew."""
    for attribute in node.attribute:
        for graph in (attribute.g,) if attribute.HasField("g") else attribute.graphs:
            yield graph, writable and node.op_type in WITH_BODIES


def _of_node(node: onnx.NodeProto, writable: bool) -> Iterator[tuple[onnx.TensorProto, bool]]:
    for attribute in node.attribute:
        yield attribute.t, writable and node.op_type == "Constant"
        yield from ((tensor, False) for tensor in attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from _of_sparse(sparse)


def _of_sparse(sparse: onnx.SparseTensorProto) -> Iterator[tuple[onnx.TensorProto, bool]]:
    yield sparse.values, False
    yield sparse.indices, False
