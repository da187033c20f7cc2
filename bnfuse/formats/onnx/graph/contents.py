"""The contents of an ONNX file as data: nodes, weights, interface and facts, without running it.

Weights are initializers, the halves of sparse ones, and every tensor that an attribute holds (Constant
nodes are how many exporters write a weight); the attribute is then no setting. Bodies of If, Loop and Scan
and the model's functions are scopes of their own, named by what leads to them.

When it does not act: an operator's own default counts as given, so an attribute that spells it out is no
difference; documentation strings of nodes and stored shapes of inner values are not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import onnx

from bnfuse.core.weights.tensor import ArrayTensor, Tensor
from bnfuse.errors import UnreadableModel
from bnfuse.formats.contents import Contents, NodeItem, Slot, WeightItem
from bnfuse.formats.onnx.file.storage import Files, element_bits, nbytes, numpy_dtype
from bnfuse.formats.onnx.file.unpack import PackedTensor
from bnfuse.formats.onnx.graph.description import (
    GRAPHS,
    TENSORS,
    SettingsKey,
    declared,
    dtype_name,
    facts_of,
    settings_of,
)
from bnfuse.formats.onnx.graph.initializers import positions
from bnfuse.formats.onnx.graph.read import ModelFile, damaged, parse
from bnfuse.formats.onnx.graph.scope import ONNX_DOMAINS, Scope, opset_of, text_of
from bnfuse.formats.table import Malformed

_Kind = onnx.AttributeProto


def read_contents(path: Path) -> Contents:
    """Everything in an ONNX file; weights are read when asked for.

    Raises:
        UnreadableModel: not a whole, valid model, or a part of its weights is missing.
        UnsafeModel: its external data lies outside its folder.
    """
    source = parse(path)
    try:
        return _Reader(source).contents()
    except Malformed as e:
        raise damaged(path, str(e)) from e


class _Reader:
    def __init__(self, source: ModelFile) -> None:
        self._source = source
        self._nodes: list[NodeItem] = []
        self._weights: dict[str, WeightItem] = {}
        self._operators: dict[str, Counter[str]] = {}
        self._external: set[str] = set()

    def contents(self) -> Contents:
        proto = self._source.proto
        self._graph(proto.graph, self._scope(Scope(proto.graph, "", (), None, opset_of(proto))))
        for function in proto.functions:
            scope = self._scope(Scope(function, f"{text_of(function.name)}/", (), None, opset_of(function)))
            scope.define(map(text_of, function.input))
            self._body(list(function.node), scope)
        held = {tensor.name for tensor in proto.graph.initializer}
        inputs = [info for info in proto.graph.input if info.name not in held]
        return Contents(
            form="onnx",
            total_bytes=self._source.files.total_bytes(),
            inputs=tuple(map(declared, inputs)),
            outputs=tuple(map(declared, proto.graph.output)),
            sources=tuple(text_of(info.name) for info in inputs),
            results=tuple(text_of(info.name) for info in proto.graph.output),
            nodes=self._nodes,
            operators=self._operators,
            weights=self._weights,
            facts=facts_of(proto, len(proto.graph.input) - len(inputs)),
            storage={"external data": ", ".join(sorted(self._external))} if self._external else {},
            settings=settings_of,
            close=self._source.files.close,
        )

    def _scope(self, scope: Scope) -> Scope:
        """One of its own; the second of one name gets a number."""
        prefix, number = scope.prefix, 1
        while scope.prefix in self._operators:
            number += 1
            scope.prefix = f"{prefix[:-1]}#{number}/"
        self._operators[scope.prefix] = Counter()
        return scope

    def _graph(self, graph: onnx.GraphProto, scope: Scope) -> tuple[str, ...]:
        """Read a graph; the values it results in."""
        scope.define(text_of(info.name) for info in graph.input)
        positions(graph, self._source.files)
        for tensor in graph.initializer:
            name = text_of(tensor.name)
            scope.define((name,))
            self._keep(scope.prefix + name, tensor)
        for sparse in graph.sparse_initializer:
            name = text_of(sparse.values.name)
            scope.define((name,))
            self._keep(scope.prefix + name, sparse.values)
            self._keep(f"{scope.prefix}{name} (indices)", sparse.indices)
        self._body(list(graph.node), scope)
        return tuple(scope.key(text_of(info.name)) for info in graph.output)

    def _body(self, nodes: list[onnx.NodeProto], scope: Scope) -> None:
        count = self._operators[scope.prefix]
        for node in nodes:
            scope.define(map(text_of, node.output))
        for at, node in enumerate(nodes):
            item = self._node(node, at, scope)
            count[item.operator] += 1
            self._nodes.append(item)

    def _node(self, node: onnx.NodeProto, at: int, scope: Scope) -> NodeItem:
        prefix, known = scope.prefix, self._weights
        outputs = tuple(map(text_of, node.output))
        if prefix:
            inputs = tuple(name and scope.key(text_of(name)) for name in node.input)
            outputs = tuple(prefix + name if name else "" for name in outputs)
        else:
            inputs = tuple(map(text_of, node.input))
        weights: list[tuple[Slot, str]] = [(i, value) for i, value in enumerate(inputs) if value in known]
        settings: list[bytes] = []
        domain, operator, name = text_of(node.domain), text_of(node.op_type), text_of(node.name)
        for attribute in node.attribute:
            if attribute.type in TENSORS:
                weights += self._held(attribute, name, operator, outputs, scope)
            elif attribute.type in GRAPHS:
                label = f"{prefix}{name}" if name else next(filter(None, outputs), f"{prefix}{operator} {at}")
                inputs += self._bodies(attribute, label, scope)
            else:
                settings.append(attribute.SerializeToString())
        settings.sort()
        return NodeItem(
            name,
            operator if domain in ONNX_DOMAINS else f"{domain}.{operator}",
            prefix,
            inputs,
            outputs,
            tuple(weights),
            b"".join(settings),
            SettingsKey(node, scope.opset),
        )

    def _held(
        self,
        attribute: onnx.AttributeProto,
        name: str,
        operator: str,
        outputs: tuple[str, ...],
        scope: Scope,
    ) -> Iterator[tuple[Slot, str]]:
        """Tensors among a node's attributes; a Constant's is called what the node writes."""
        tensors = [attribute.t] if attribute.type == _Kind.TENSOR else list(attribute.tensors)
        written = next(filter(None, outputs), scope.prefix)
        for number, tensor in enumerate(tensors):
            slot = text_of(attribute.name) if len(tensors) == 1 else f"{text_of(attribute.name)}[{number}]"
            weight = f"{scope.prefix}{name}.{slot}" if name else f"{written}.{slot}"
            if operator == "Constant" and len(tensors) == 1:
                weight = written
            self._keep(weight, tensor)
            yield slot, weight

    def _bodies(self, attribute: onnx.AttributeProto, label: str, outer: Scope) -> tuple[str, ...]:
        """Read the graphs of an attribute; what they result in counts among what the node reads."""
        results: tuple[str, ...] = ()
        graphs = [attribute.g] if attribute.type == _Kind.GRAPH else list(attribute.graphs)
        for number, graph in enumerate(graphs):
            which = text_of(attribute.name) + ("" if len(graphs) == 1 else f"[{number}]")
            results += self._graph(
                graph, self._scope(Scope(graph, f"{label}.{which}/", (), outer, outer.opset))
            )
        return results

    def _keep(self, name: str, tensor: onnx.TensorProto) -> None:
        files = self._source.files
        place = None
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            where = files.slice_of(tensor)  # contained and complete, or refused now
            assert where is not None
            place = str(where.path), where.offset, where.length
            if where.path != self._source.path:
                self._external.add(where.path.name)
        dims = tuple(tensor.dims)
        self._weights[name] = WeightItem(
            name,
            dims,
            dtype_name(tensor.data_type),
            _size_bytes(tensor, dims),
            place,
            partial(_open, files, tensor),
        )


def _open(files: Files, tensor: onnx.TensorProto) -> Tensor:
    """A tensor to read from; one of less than a byte per element is unpacked block by block.

    Raises:
        UnreadableModel: shape, type and bytes do not fit together.
    """
    bits = element_bits(tensor.data_type)
    where = files.slice_of(tensor) if bits < 8 else None
    if where is not None:
        if where.length != nbytes(tensor):
            raise UnreadableModel(f"{files.model}: tensor '{tensor.name}' has the wrong number of bytes")
        return PackedTensor(files, where, tuple(tensor.dims), numpy_dtype(tensor.data_type), bits)
    if tensor.data_type == onnx.TensorProto.STRING:
        texts = np.array(list(tensor.string_data), object)
        if texts.size != prod(tensor.dims):
            raise UnreadableModel(f"{files.model}: tensor '{tensor.name}' has the wrong number of texts")
        return ArrayTensor(texts.reshape(tuple(tensor.dims)))
    return files.tensor(tensor)


def _size_bytes(tensor: onnx.TensorProto, dims: tuple[int, ...]) -> int:
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    return (prod(dims) * element_bits(tensor.data_type) + 7) // 8
