"""From an ONNX file to core's graph, without running or loading anything it does not need.

All scopes (main graph, bodies, functions) become one flat graph (see ``builder``); formal inputs and
outputs of bodies, and values that a body captures, are pinned. Decides which initializers are
constants and which a caller may override.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from msgspec import Struct, field

from bnfuse.core.graph import Graph
from bnfuse.core.reasons import Reason
from bnfuse.errors import UnreadableModel, UnsafeModel
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx.file.nodes import ChangedNodes, StoredNodes
from bnfuse.formats.onnx.file.parse import parse_file
from bnfuse.formats.onnx.file.storage import Files
from bnfuse.formats.onnx.graph.builder import GraphBuilder
from bnfuse.formats.onnx.graph.constants import Constants, sparse_constants
from bnfuse.formats.onnx.graph.initializers import check_shadow, positions
from bnfuse.formats.onnx.graph.names import check_names
from bnfuse.formats.onnx.graph.order import in_order
from bnfuse.formats.onnx.graph.scope import Scope, bodies, opset_of
from bnfuse.formats.onnx.graph.shapes import ValueShapes, body_prefix
from bnfuse.formats.table import Malformed

if TYPE_CHECKING:
    from bnfuse.formats.onnx.graph.inline import Inlined

_LEAST_COMPUTED_BYTES, _MOST_COMPUTED = 1 << 27, 4
_LEAST_LOOKED_AT, _MOST_LOOKED_AT = 1 << 28, 32  # elements: a second or two; a byte of the file


class ModelFile(Struct, eq=False):
    """A parsed ONNX file: the skeleton, its scopes, and where its tensors lie.

    ``outline`` is the model, but for the nodes of its main graph where ``stored`` holds them.
    """

    path: Path
    outline: onnx.ModelProto
    files: Files
    notes: list[str]
    scopes: list[Scope] = field(default_factory=list)
    uses: dict[str, int] = field(default_factory=dict)  # readers of each value, over all scopes
    external: set[str] = field(default_factory=set)  # names of tensors with data in other files
    inlined: Inlined | None = None  # calls of functions that are written out in ``proto``
    is_text: bool = True  # whether all strings are
    stored: StoredNodes | None = None

    @property
    def proto(self) -> onnx.ModelProto:
        """The model as one message, which may be changed; a copy of what it was once some nodes were."""
        if self.stored is None:
            return self.outline
        if self.scopes and isinstance(self.scopes[0].nodes, ChangedNodes):
            whole = onnx.ModelProto()
            whole.CopyFrom(self.outline)
            self.stored.join(whole.graph)
            return whole
        self.stored.join(self.outline.graph)
        self.stored = None
        if self.scopes:
            self.scopes[0].nodes = list(self.outline.graph.node)
        return self.outline

    def open_for_changes(self) -> None:
        """From now on nodes are changed where they lie."""
        if self.stored is not None:
            self.scopes[0].nodes = ChangedNodes(self.stored)

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """The nodes of the main graph."""
        return list(self.outline.graph.node) if self.stored is None else self.stored

    def forget(self) -> None:
        """All that reading found, to read anew."""
        self.notes.clear()
        self.scopes.clear()
        self.uses.clear()
        self.external.clear()


def parse(path: Path, *, outline: bool = False) -> ModelFile:
    """Open a file as far as needed; ``outline``: see ``parse_file``.

    Raises:
        UnreadableModel: missing, empty, truncated or not ONNX.
    """
    parsed = parse_file(path, outline=outline)
    return ModelFile(path, parsed.proto, parsed.files, [], is_text=parsed.is_text, stored=parsed.nodes)


class ReadGraph(Struct, frozen=True, eq=False):
    """Core's graph of a file, and what its rules were made from."""

    graph: Graph
    constants: Constants
    shapes: ValueShapes
    operators: dict[str, int]


def read_graph(source: ModelFile, options: ReadOptions) -> ReadGraph:
    """Build core's graph of a parsed file.

    Raises:
        UnreadableModel, UnsafeModel: see ``parse``; also malformed or uncontained tensors.
    """
    try:
        if not source.is_text:
            check_names(source.proto)
        if source.outline.functions:
            from bnfuse.formats.onnx.graph.functions import check_functions
            from bnfuse.formats.onnx.graph.inline import inline

            check_functions(source.proto)
            source.inlined = inline(source.proto)
        drafts = _drafted(source, options, sorts=False)
        if source.stored is not None and (drafts.unordered or drafts.has_bodies):
            source.forget()
            _ = source.proto  # nodes in another order, or with graphs in them, are looked at again and again
            drafts = _drafted(source, options, sorts=False)
        if drafts.unordered:  # in another order than they are listed in, or never written
            source.forget()
            drafts = _drafted(source, options, sorts=True)
        operators = drafts.operators if source.inlined is None else source.inlined.operators
        graph = drafts.graph(options)
        return ReadGraph(graph, drafts.constants, drafts.shapes, operators)
    except Malformed as e:
        raise damaged(source.path, str(e)) from e


def _drafted(source: ModelFile, options: ReadOptions, sorts: bool) -> GraphBuilder:
    """All nodes of all scopes: as they are listed, or so that none reads what is written later."""
    starts: list[str] = []
    if source.outline.functions:
        from bnfuse.formats.onnx.graph.functions import prefixes

        starts = prefixes(source.proto)
    nodes = source.nodes
    shapes = ValueShapes(source.outline, len(nodes), lambda: source.proto, starts, sorts)
    drafts = GraphBuilder(source.uses, shapes, _constants(source, options))
    builder = _Builder(source, options, drafts, sorts)
    builder.scope(builder.main_scope(nodes))
    for i, function in enumerate(source.outline.functions):
        if source.inlined is None or i in source.inlined.live:
            builder.scope(builder.function_scope(i, function, starts[i]))
    return drafts


def _constants(source: ModelFile, options: ReadOptions) -> Constants:
    """What nodes compute from constants may take no more room and time than a file of its size could."""
    if options.allow_growth:
        return Constants(source.files)
    held = source.files.total_bytes()
    return Constants(
        source.files,
        max(_LEAST_COMPUTED_BYTES, _MOST_COMPUTED * held),
        max(_LEAST_LOOKED_AT, _MOST_LOOKED_AT * held),
    )


def damaged(path: Path, what: str) -> UnreadableModel:
    """The refusal of a file that parses and makes no sense."""
    return UnreadableModel(
        f"{path} is damaged: its graph does not hold together ({what}); fetch or export it again"
    )


class _Builder(Struct, eq=False):
    source: ModelFile
    options: ReadOptions
    drafts: GraphBuilder
    sorts: bool

    def main_scope(self, nodes: Sequence[onnx.NodeProto]) -> Scope:
        """The main graph's scope, with initializers told from inputs (TRAPS: overridable)."""
        proto = self.source.outline
        graph = proto.graph
        scope = Scope(graph, "", (), None, opset_of(proto), nodes)
        scope.initializers = positions(graph, self.source.files)
        for tensor in graph.initializer:
            name = tensor.name
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                where = self.source.files.slice_of(tensor)  # contained and complete, or refused now
                if where is not None and where.path != self.source.path:
                    self.source.external.add(name)
        inputs = [v.name for v in graph.input]
        listed = set(inputs) & scope.initializers.keys()
        if listed and proto.ir_version >= 4:
            self._overridable(scope, listed)
        scope.define(inputs)
        self.source.uses.update(dict.fromkeys(scope.initializers, 0))
        self._sparse(scope, graph)
        pinned = self.drafts.pinned
        pinned |= {name: Reason.GRAPH_INPUT for name in inputs if name not in scope.initializers}
        pinned |= {v.name: Reason.GRAPH_OUTPUT for v in graph.output}
        return scope

    def _sparse(self, scope: Scope, graph: onnx.GraphProto) -> None:
        scope.define(t.values.name for t in graph.sparse_initializer)
        scope.constants |= sparse_constants(graph)

    def _overridable(self, scope: Scope, listed: set[str]) -> None:
        every = len(listed) == len(scope.initializers)
        if every and self.options.strict_inputs:
            raise UnsafeModel(
                f"{self.source.path}: all {len(listed)} initializers are also inputs, so a caller could "
                "override them; without --strict-inputs they are treated as constants"
            )
        if every or self.options.freeze_inputs:
            self.source.notes.append(
                f"{len(listed)} initializers are also listed as inputs; they are treated as constants "
                "and leave the inputs of a folded model"
            )
            return
        self.source.notes.append(
            f"{len(listed)} of {len(scope.initializers)} initializers are also inputs, which a caller may "
            "override: what depends on them stays (--freeze-inputs treats them as constants)"
        )
        scope.overridable = listed
        for name in listed:
            del scope.initializers[name]
            self.drafts.pinned[name] = Reason.GRAPH_INPUT

    def function_scope(self, i: int, function: onnx.FunctionProto, prefix: str) -> Scope:
        """A model-local function: formal inputs are unknown, constants are nodes."""
        opset, nodes = opset_of(function), list(function.node)
        scope = Scope(function, prefix, ("functions", i), None, opset, nodes)
        scope.define(function.input)
        self._pin_boundary(scope, [*function.input, *function.output])
        return scope

    def _pin_boundary(self, scope: Scope, names: list[str]) -> None:
        for name in names:
            self.drafts.pinned[scope.prefix + name] = Reason.BODY_BOUNDARY

    def _body_scope(
        self, outer: Scope, node: int, attribute: int, which: int, body: onnx.GraphProto
    ) -> Scope:
        prefix = body_prefix(outer.prefix, node, attribute, which)
        path, nodes = (*outer.path, node, attribute, which), list(body.node)
        scope = Scope(body, prefix, path, outer, outer.opset, nodes)
        scope.initializers = positions(body, self.source.files)
        for name, at in scope.initializers.items():
            owner = outer.owner(name)
            around = None if owner is None else owner.initializer(name)
            if owner is not None and around is not None:
                check_shadow(around, body.initializer[at], self.source.files)
                # Which one a runtime takes must not matter afterwards either: both stay as they are.
                for one in (owner, scope):
                    self.source.uses[one.prefix + name] = self.source.uses.get(one.prefix + name, 0) + 1
        scope.define(v.name for v in body.input)
        self._sparse(scope, body)
        self._pin_boundary(scope, [v.name for v in (*body.input, *body.output)])
        return scope

    def _nodes(self, nodes: Sequence[onnx.NodeProto]) -> Iterable[tuple[int, onnx.NodeProto]]:
        """Nodes with their positions, writers before readers."""
        return ((at, nodes[at]) for at in in_order(nodes)) if self.sorts else enumerate(nodes)

    def scope(self, scope: Scope) -> None:
        """Draft all nodes of a scope and of the bodies in it."""
        self.source.scopes.append(scope)
        if self.source.inlined is not None:
            scope.inlined = self.source.inlined.calls.get(scope.path, {})
        uses = self.source.uses
        for output in scope.body.output:
            key = scope.prefix + (output if isinstance(output, str) else output.name)
            uses[key] = uses.get(key, 0) + 1
        start, add = len(self.drafts), self.drafts.add
        for index, node in self._nodes(scope.nodes):
            if add(scope, index, node):
                inner = list(bodies(node))
                if inner and self.source.stored is not None:
                    self.drafts.has_bodies = True
                    return
                for name in node.output:  # a body does not see what its own node writes
                    scope.defined.pop(name, None)
                for attribute, which, body in inner:
                    self.scope(self._body_scope(scope, index, attribute, which, body))
                scope.define(node.output)
        scope.defined.pop("", None)
        self.drafts.join_biases(scope, start)
