"""Names after nodes went: a removed node's input and output are one tensor, under one name.

A name that the outside world knows lives on. Else, where the removed node is the only reader of its
input, the output's name does: the tensor now holds what the output held. Else the input's name does.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx

from bnfuse.core.graph import Graph, Node
from bnfuse.formats.onnx.edit.pending import Pool
from bnfuse.formats.onnx.graph.scope import Scope
from bnfuse.formats.onnx.rows.view import NodeHandle, handle_of


class Names:
    """Renames through a pool of pending changes."""

    def __init__(self, graph: Graph, pool: Pool) -> None:
        self._graph = graph
        self._pool = pool
        self._survivor: dict[str, str] = {}

    def merge(self, removed: Collection[Node]) -> None:
        """Make each removed node's input and output one name."""
        for node in self._graph.nodes:
            if node not in removed:
                continue
            handle = handle_of(node)
            x = self.name_of(node.value(getattr(self._graph.rule(node), "in_port", 0)))
            y = node.outputs[0]
            y_may_go = y not in self._graph.pinned
            x_may_go = x not in self._graph.pinned and self._same_scope(x, handle)
            if y_may_go and not (x_may_go and len(self._graph.adjacent(x)) == 2):
                self._survivor[y] = x
            elif x_may_go:
                self._survivor[x] = y
            else:
                self._keep_as_identity(handle, x)
        self._rename()

    def name_of(self, value: str) -> str:
        """The value that stands for this one now (itself, or the one that it is a tensor with)."""
        while value in self._survivor:
            value = self._survivor[value]
        return value

    def _same_scope(self, value: str, handle: NodeHandle) -> bool:
        """Whether a value is written in the node's own scope (and so can be renamed there)."""
        writer = self._graph.writer(value)
        return writer is not None and handle_of(writer).scope is handle.scope

    def _keep_as_identity(self, handle: NodeHandle, x: str) -> None:
        """Both names must live on: an Identity joins them."""
        proto = handle.proto
        inner = x[len(handle.scope.prefix) :] if x.startswith(handle.scope.prefix) else x
        name, output = proto.name, proto.output[0]
        proto.Clear()
        proto.CopyFrom(onnx.helper.make_node("Identity", [inner], [output], name=name))
        self._pool.of(handle.scope).dead.discard(handle.index)

    def _rename(self) -> None:
        for value in self._survivor:
            final = self.name_of(value)
            for node, port in self._graph.adjacent(value):
                handle = handle_of(node)
                if handle.operand is not None or handle.index in self._pool.of(handle.scope).dead:
                    continue
                name = _local(handle.scope, final)
                if port >= 0:
                    handle.proto.input[port] = name
                else:
                    self._set_output(handle, ~port, name)

    def _set_output(self, handle: NodeHandle, j: int, name: str) -> None:
        """The written name: of the bias's Add where there is one, of a new Add where one was made."""
        added = self._pool.of(handle.scope).after.get(handle.index)
        if added:
            added[-1].output[0] = name
        elif handle.bias_index is not None:
            handle.scope.nodes[handle.bias_index].output[0] = name
        else:
            handle.proto.output[j] = name


def _local(scope: Scope, value: str) -> str:
    """What a value is called in a scope."""
    at: Scope | None = scope
    while at is not None:
        if value.startswith(at.prefix) and at.defines(value[len(at.prefix) :]):
            return value[len(at.prefix) :]
        at = at.parent
    raise AssertionError(f"{value} is not seen from its reader")
