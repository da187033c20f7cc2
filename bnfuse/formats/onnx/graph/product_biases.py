"""An Add of a constant per channel right after a MatMul is that MatMul's bias: one node to the planner."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from bnfuse.core.graph import Node
from bnfuse.formats.onnx.graph.scope import ONNX_DOMAINS, Scope
from bnfuse.formats.onnx.rows.view import handle_of


def with_biases(nodes: list[Node], scope: Scope, uses: Mapping[str, int]) -> list[Node]:
    """The same nodes, where Adds of this scope that are biases have become part of their MatMuls.

    Args:
        nodes: those of the scope and of the bodies in it, each constant operand just before who reads it.
        scope: whose Adds and MatMuls are meant; others are left alone.
        uses: readers of each value.
    """
    products = {
        node.outputs[0]: node
        for node in nodes
        if node.op == "MatMul"
        and handle_of(node).scope is scope
        and len(node.outputs) == 1
        and "" in node.inputs
        and uses.get(node.outputs[0]) == 1
    }
    if not products:
        return nodes
    gone: set[int] = set()
    for at, node in enumerate(nodes):
        if node.op == "Add" and handle_of(node).scope is scope and _joined(node, products):
            gone |= {at, at - 1}  # the Add, and its constant operand
    return [node for at, node in enumerate(nodes) if at not in gone]


def _joined(node: Node, products: Mapping[str, Node]) -> bool:
    """Join an Add to the MatMul it reads; whether it could be."""
    inputs, add = node.inputs, handle_of(node)
    if len(inputs) != 2 or add.proto.domain not in ONNX_DOMAINS:
        return False
    for x, b in ((0, 1), (1, 0)):
        product = products.get(inputs[x])
        name = add.proto.input[b]
        if product is None or not add.scope.is_constant(name):
            continue
        if _fits(add.scope, handle_of(product).proto, name):
            handle_of(product).bias_index = add.index
            product.outputs = node.outputs
            return True
    return False


def _fits(scope: Scope, matmul: onnx.NodeProto, bias: str) -> bool:
    """Whether a constant is one number per output channel of ``x @ W``."""
    shapes = [_stored_shape(scope, n) for n in (matmul.input[1], bias)]
    if shapes[0] is None or shapes[1] is None or len(shapes[0]) != 2:
        return False
    n = shapes[0][1]
    return shapes[1] == (n,)


def _stored_shape(scope: Scope, name: str) -> tuple[int, ...] | None:
    owner = scope.owner(name)
    if owner is None:
        return None
    stored = owner.initializer(name)
    if stored is not None:
        return tuple(stored.dims)
    node = owner.constants.get(name)
    if (
        node is not None
        and node.op_type == "Constant"
        and node.attribute
        and node.attribute[0].name == "value"
    ):
        return tuple(node.attribute[0].t.dims)
    return None
