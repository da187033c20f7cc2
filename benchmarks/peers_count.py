"""What is left of BatchNormalization in an ONNX file: ``python -m benchmarks.peers_count FILE``, as JSON.

Counted over all scopes (subgraphs and functions too):

- ``batchnorms``: BatchNormalization nodes;
- ``affines``: Mul and Div with a constant that has one axis longer than 1, and Add and Sub with such a
  constant unless they directly follow a linear op, whose bias they are;
- ``nodes``: all nodes, constants apart.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
SCALES, SHIFTS = {"Mul", "Div"}, {"Add", "Sub"}


def scopes(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all graphs in attributes of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    yield from scopes(inner)


def per_channel(shape: Iterable[int]) -> bool:
    """One axis longer than 1."""
    return sum(size > 1 for size in shape) == 1


def vectors(graph: onnx.GraphProto) -> set[str]:
    """Names of the constants with one axis longer than 1."""
    found = {tensor.name for tensor in graph.initializer if per_channel(tensor.dims)}
    for node in graph.node:
        if node.op_type == "Constant":
            found |= {node.output[0] for a in node.attribute if a.name == "value" and per_channel(a.t.dims)}
    return found


def is_affine(node: onnx.NodeProto, constants: set[str], writers: dict[str, str]) -> bool:
    """Whether a node is a scale or a shift per channel that is no linear op's own bias."""
    if node.op_type not in SCALES | SHIFTS or not any(name in constants for name in node.input):
        return False
    data = [name for name in node.input if name not in constants]
    return node.op_type in SCALES or not any(writers.get(name) in LINEAR for name in data)


def left_over(model: onnx.ModelProto) -> dict[str, int]:
    """``batchnorms``, ``affines`` and ``nodes`` of a model."""
    counts = {"batchnorms": 0, "affines": 0, "nodes": 0}
    for graph in scopes(model.graph):
        constants = vectors(graph)
        writers = {name: node.op_type for node in graph.node for name in node.output}
        nodes = [node for node in graph.node if node.op_type != "Constant"]
        counts["nodes"] += len(nodes)
        counts["batchnorms"] += sum(node.op_type == "BatchNormalization" for node in nodes)
        counts["affines"] += sum(is_affine(node, constants, writers) for node in nodes)
    for function in model.functions:
        counts["nodes"] += len(function.node)
        counts["batchnorms"] += sum(node.op_type == "BatchNormalization" for node in function.node)
    return counts


if __name__ == "__main__":
    print(json.dumps(left_over(onnx.load(Path(sys.argv[1]), load_external_data=False))))
