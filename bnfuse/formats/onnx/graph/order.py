"""An order in which values are written before they are read, where a file lists its nodes in another.

onnxruntime takes nodes in any order that has no cycle, in bodies and functions too. The order found keeps
to the file's as far as it can: a node comes where it is listed, or, if an earlier one reads it, just
before that one. What a node reads includes what the graphs that it carries take from around them. It
takes time in proportion to the nodes and their inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from bnfuse.formats.onnx.graph.scope import bodies, text_of
from bnfuse.formats.order import depth_first
from bnfuse.formats.table import Malformed


def in_order(nodes: Sequence[onnx.NodeProto]) -> list[int]:
    """Positions of the nodes, writers before readers.

    Raises:
        Malformed: they form a cycle.
    """
    writers = {name: at for at, node in enumerate(nodes) for name in node.output if name}

    def refusal(at: int) -> Malformed:
        return Malformed(f"its nodes form a cycle through '{text_of(nodes[at].output[0])}'")

    def reads(at: int) -> Iterator[int]:
        return (writers[name] for name in _reads(nodes[at]) if name in writers)

    return depth_first(range(len(nodes)), reads, refusal)[0]


def ordered(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model with the nodes of all its graphs in order.

    Raises:
        Malformed: they form a cycle.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [copy.graph, *copy.functions]
    while pending:
        body = pending.pop()
        nodes = [body.node[at] for at in in_order(body.node)]
        moved = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del body.node[:]
        body.node.extend(moved)
        pending += [graph for node in body.node for _, _, graph in bodies(node)]
    return copy


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads, those that its graphs take from around them among them."""
    yield from node.input
    for _, _, graph in bodies(node):
        yield from _free(graph)


def _free(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that a graph reads and does not define."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in _reads(node) if name not in own)
    yield from (value.name for value in graph.output if value.name not in own)
