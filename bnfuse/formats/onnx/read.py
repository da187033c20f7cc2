"""From an ONNX file to core's graph, without running or loading anything it does not need.

Files below `_WHOLE_BYTES` are parsed as they are; of larger ones only a skeleton is (see ``wire``).
All scopes (main graph, bodies, functions) become one flat graph; formal inputs and outputs of
bodies, and values that a body captures, are pinned. Nodes that compute from constants alone are
constants, not operations. An Add of a per-channel constant right after a MatMul is that MatMul's bias.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from bnfuse.core.graph import Graph, Node, unique_names
from bnfuse.core.ops import Affine, Rule
from bnfuse.core.reasons import Reason
from bnfuse.errors import UnreadableModel, UnsafeModel
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx.constants import FOLDABLE, Constants
from bnfuse.formats.onnx.ops import rule_of
from bnfuse.formats.onnx.scope import ONNX_DOMAINS, Scope, bodies
from bnfuse.formats.onnx.shapes import Shapes, body_prefix
from bnfuse.formats.onnx.storage import Files
from bnfuse.formats.onnx.view import Handle, View
from bnfuse.formats.onnx.wire import skim

_WHOLE_BYTES = 1 << 24
# What protobuf messages that parse but make no sense lead to: text that is not UTF-8 comes as bytes,
# attributes have another type than their name says, indices point nowhere.
_MALFORMED = (TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError)
_ARITHMETIC = {"Mul", "Add", "Sub", "Div"}
_JOINT = _ARITHMETIC | {"Sum", "Concat"}


@dataclass(eq=False)
class Source:
    """A parsed ONNX file: the skeleton, its scopes, and where its tensors lie."""

    path: Path
    proto: onnx.ModelProto
    files: Files
    notes: list[str]
    scopes: list[Scope] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)  # readers of each value, over all scopes
    external: set[str] = field(default_factory=set)  # names of tensors with data in other files


def parse(path: Path) -> Source:
    """Open a file as far as needed.

    Raises:
        UnreadableModel: missing, empty, truncated or not ONNX.
    """
    try:
        size = path.stat().st_size
        files = Files(path)
        fd = files.fd(path)
        if size < _WHOLE_BYTES:
            data = os.pread(fd, size, 0)
        else:
            data, files.slices = skim(path, fd, size)
    except OSError as e:
        raise UnreadableModel(f"{path} cannot be read: {e.strerror}") from e
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as e:
        raise UnreadableModel(f"{path} is truncated or not an ONNX model; fetch or export it again") from e
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise UnreadableModel(f"{path} holds no graph: it is empty or not an ONNX model")
    return Source(path, proto, files, [])


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """Core's graph of a file, and what its rules were made from."""

    graph: Graph
    constants: Constants
    shapes: Shapes


def read_graph(source: Source, options: ReadOptions) -> Loaded:
    """Build core's graph of a parsed file.

    Raises:
        UnreadableModel, UnsafeModel: see ``parse``; also malformed or uncontained tensors.
    """
    builder = _Builder(source, options)
    try:
        main = builder.main_scope()
        builder.scope(main)
        for i, function in enumerate(source.proto.functions):
            builder.scope(builder.function_scope(i, function))
        return Loaded(builder.finish(), builder.constants, builder.shapes)
    except _MALFORMED as e:
        raise UnreadableModel(
            f"{source.path} is damaged: its graph does not hold together ({e}); fetch or export it again"
        ) from e


def _opset(imports: Iterator[onnx.OperatorSetIdProto]) -> int:
    return next((o.version for o in imports if o.domain in ONNX_DOMAINS), 1)


@dataclass(eq=False)
class _Builder:
    source: Source
    options: ReadOptions
    drafts: list[tuple[str, str, list[str], list[str], Handle]] = field(default_factory=list)
    pinned: dict[str, Reason] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes = Shapes(self.source.proto)
        self.constants = Constants(self.source.files)

    def main_scope(self) -> Scope:
        """The main graph's scope, with initializers told from inputs (TRAPS: overridable)."""
        proto = self.source.proto
        graph = proto.graph
        scope = Scope(graph, "", (), None, _opset(iter(proto.opset_import)))
        scope.initializers = {t.name: t for t in graph.initializer}
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                where = self.source.files.slice_of(tensor)  # contained and complete, or refused now
                if where is not None and where.path != self.source.path:
                    self.source.external.add(tensor.name)
        listed = {v.name for v in graph.input} & scope.initializers.keys()
        if listed and proto.ir_version >= 4:
            self._overridable(scope, listed)
        scope.defined |= {v.name for v in graph.input} | scope.initializers.keys()
        scope.defined |= {t.values.name for t in graph.sparse_initializer}
        self.pinned |= {v.name: Reason.GRAPH_INPUT for v in graph.input if v.name not in scope.initializers}
        self.pinned |= {v.name: Reason.GRAPH_OUTPUT for v in graph.output}
        return scope

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
            self.pinned[name] = Reason.GRAPH_INPUT

    def function_scope(self, i: int, function: onnx.FunctionProto) -> Scope:
        """A model-local function: formal inputs are unknown, constants are nodes."""
        scope = Scope(
            function, f"{function.name}/", ("functions", i), None, _opset(iter(function.opset_import))
        )
        scope.defined |= set(function.input)
        self._pin_boundary(scope, [*function.input, *function.output])
        return scope

    def _pin_boundary(self, scope: Scope, names: list[str]) -> None:
        for name in names:
            self.pinned[scope.prefix + name] = Reason.BODY_BOUNDARY

    def _body_scope(
        self, outer: Scope, node: int, attribute: int, which: int, body: onnx.GraphProto
    ) -> Scope:
        prefix = body_prefix(outer.prefix, node, attribute, which)
        scope = Scope(body, prefix, (*outer.path, node, attribute, which), outer, outer.opset)
        scope.initializers = {t.name: t for t in body.initializer}
        scope.defined |= {v.name for v in body.input} | scope.initializers.keys()
        self._pin_boundary(scope, [v.name for v in (*body.input, *body.output)])
        return scope

    def scope(self, scope: Scope) -> None:
        """Draft all nodes of a scope and of the bodies in it."""
        self.source.scopes.append(scope)
        uses = self.source.uses
        outputs = [v if isinstance(v, str) else v.name for v in scope.body.output]
        for name in outputs:
            uses[scope.prefix + name] += 1
        owned: list[tuple[int, onnx.NodeProto]] = []
        for index, node in enumerate(scope.body.node):
            names = list(node.input)
            constant = (
                node.op_type in FOLDABLE
                and node.domain in ONNX_DOMAINS
                and all(not n or scope.is_constant(n) for n in names)
                and not any(a.type == onnx.AttributeProto.GRAPH or a.ref_attr_name for a in node.attribute)
            )
            for name in names:
                if name:
                    key = scope.key(name)
                    uses[key] += 1
                    owner = scope.owner(name)
                    if owner is not scope and owner is not None:
                        self.pinned.setdefault(key, Reason.CAPTURED)
            scope.defined.update(o for o in node.output if o)
            if constant:
                for output in node.output:
                    scope.constants[output] = node
                continue
            owned.append((index, node))
            if node.op_type in ("If", "Loop", "Scan", "SequenceMap") or node.domain not in ONNX_DOMAINS:
                for attribute, which, body in bodies(node):
                    self.scope(self._body_scope(scope, index, attribute, which, body))
        self._draft(scope, owned)

    def _draft(self, scope: Scope, owned: list[tuple[int, onnx.NodeProto]]) -> None:
        biases = _bias_adds(scope, owned, self.source.uses)
        for index, node in owned:
            if index in biases.values():
                continue
            add = biases.get(index)
            handle = Handle(scope, index, node, add)
            outputs = list(scope.body.node[add].output) if add is not None else list(node.output)
            inputs = [self._input(scope, handle, i, n) for i, n in enumerate(node.input)]
            if node.op_type == "Transpose":
                self._rank_hint(scope, node)
            self.drafts.append(
                (node.op_type, node.name, inputs, [scope.prefix + o if o else "" for o in outputs], handle)
            )

    def _rank_hint(self, scope: Scope, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == "perm":
                self.shapes.ranks[scope.key(node.input[0])] = len(attribute.ints)
                self.shapes.ranks[scope.prefix + node.output[0]] = len(attribute.ints)

    def _input(self, scope: Scope, handle: Handle, i: int, name: str) -> str:
        """The core value of an input: "" for constants, a value of its own for constant operands."""
        if not name:
            return ""
        if not scope.is_constant(name):
            return scope.key(name)
        if handle.proto.op_type not in _JOINT:
            return ""
        value = f"{scope.prefix}{handle.index}:{i}={name}"
        operand = Handle(scope, handle.index, handle.proto, operand=i)
        self.drafts.append(("Constant", name, [], [value], operand))
        return value

    def finish(self) -> Graph:
        """Names, rules and candidates."""
        names = unique_names(
            f"{h.scope.prefix}{name or (h.proto.output[0] if h.proto.output else op)}"
            for op, name, _, _, h in self.drafts
        )
        uses = self.source.uses
        nodes = []
        for unique, (op, _, inputs, outputs, handle) in zip(names, self.drafts, strict=True):
            batchnorm = op == "BatchNormalization" and handle.proto.domain in ONNX_DOMAINS
            if batchnorm:  # statistics that nobody reads are no outputs
                outputs = [o for k, o in enumerate(outputs) if o and (k == 0 or uses[o])]
            nodes.append(Node(unique, op, tuple(inputs), tuple(outputs), batchnorm, handle))
        self.drafts.clear()
        graph = Graph(nodes, self.pinned, [], self._rule_of)
        for node in nodes:
            if node.is_batchnorm or (node.op in _ARITHMETIC and _is_affine(graph, node)):
                graph.candidates.append(node)
        return graph

    def _rule_of(self, node: Node) -> Rule:
        handle = node.handle
        assert isinstance(handle, Handle)
        return rule_of(View(node, handle, self.constants, self.shapes))


def _is_affine(graph: Graph, node: Node) -> bool:
    handle = node.handle
    assert isinstance(handle, Handle)
    constant = [handle.scope.is_constant(n) for n in handle.proto.input]
    return constant.count(True) == 1 and isinstance(graph.rule(node), Affine)


def _bias_adds(scope: Scope, owned: list[tuple[int, onnx.NodeProto]], uses: Counter[str]) -> dict[int, int]:
    """Which MatMul (by index) has its bias in which Add: the Add is the product's only reader."""
    products = {
        node.output[0]: (index, node)
        for index, node in owned
        if node.op_type == "MatMul"
        and [scope.is_constant(n) for n in node.input].count(True) == 1
        and uses[scope.prefix + node.output[0]] == 1
    }
    found: dict[int, int] = {}
    if not products:
        return found
    for index, node in owned:
        if node.op_type != "Add" or node.domain not in ONNX_DOMAINS:
            continue
        for x, b in (node.input, reversed(node.input)):
            if x in products and scope.is_constant(b) and _fits(scope, products[x][1], b):
                found[products[x][0]] = index
    return found


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
    if name in owner.initializers:
        return tuple(owner.initializers[name].dims)
    node = owner.constants.get(name)
    if (
        node is not None
        and node.op_type == "Constant"
        and node.attribute
        and node.attribute[0].name == "value"
    ):
        return tuple(node.attribute[0].t.dims)
    return None
