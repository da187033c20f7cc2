"""One flat graph out of the nodes of all scopes.

Nodes that compute from constants alone are constants, not operations. A constant operand of a sum, product
or Concat becomes a node of its own, which can absorb. Large graphs have many nodes and few kinds of them: a
name that occurs often is one string here, nothing is asked of a node twice, and no message is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import onnx
from msgspec import Struct, field

from bnfuse.core.graph import Graph, Node, Port, unique_names
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, Rule
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx.file.outside import WITH_BODIES
from bnfuse.formats.onnx.graph import qonnx
from bnfuse.formats.onnx.graph.constants import Constants
from bnfuse.formats.onnx.graph.evaluate import operators
from bnfuse.formats.onnx.graph.initializers import ambiguous
from bnfuse.formats.onnx.graph.scope import ONNX_DOMAINS, Scope
from bnfuse.formats.onnx.graph.shapes import ValueShapes
from bnfuse.formats.onnx.rows.affine_ops import spelled
from bnfuse.formats.onnx.rows.ops import ROWS, constant_through, rule_of, takes_channel
from bnfuse.formats.onnx.rows.statistics import Statistics, most_numbers
from bnfuse.formats.onnx.rows.view import NodeHandle, View, handle_of
from bnfuse.formats.table import Malformed, ShapeUnknown

_BATCHNORM = "BatchNormalization"
_OPERANDS = {op: kind.operands for op, kind in ROWS.items() if kind.operands}
_REMOVABLE = frozenset(op.rpartition(".")[2] for op, kind in ROWS.items() if kind.removable)


class Operator(Struct, eq=False):
    """What is asked of every node of a type.

    Attributes:
        name: the type.
        operands: how many of its inputs become values where they are constants; None where none does.
        has_bodies: whether it is one of those that carry graphs.
        count: nodes that were met.
    """

    name: str
    operands: int | None
    has_bodies: bool
    count: int = 0


class GraphBuilder(Struct, eq=False):
    """Nodes to be, in an order in which values are written before they are read.

    Attributes:
        uses: readers of each value, over all scopes; counted here.
        pinned: values that must stay as they are, and why.
        has_bodies: whether a node with graphs was met where its graphs cannot be read.
    """

    uses: dict[str, int]
    shapes: ValueShapes
    constants: Constants
    pinned: dict[str, Reason] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=Statistics)
    has_bodies: bool = False
    _operators: dict[str, Operator] = field(default_factory=dict)
    _nodes: list[Node] = field(default_factory=list)
    _left_numbers: float = 0.0  # that scales, shifts and bounds may still have
    _unwritten: dict[str, None] = field(default_factory=dict)  # read where nothing had written them yet

    @property
    def unordered(self) -> bool:
        """Whether something was read where nothing had written it yet."""
        return bool(self._unwritten)

    def __post_init__(self) -> None:
        self._left_numbers = most_numbers(self.constants.files.total_bytes())
        self.statistics.most_numbers = self._left_numbers

    @property
    def operators(self) -> dict[str, int]:
        """Nodes by type, constants included."""
        return {name: operator.count for name, operator in self._operators.items()}

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, scope: Scope, index: int, node: onnx.NodeProto) -> bool:
        """Draft one node; whether it may carry graphs that are to follow."""
        operator = self._operators.get(node.op_type) or self._operator(node.op_type)
        operator.count += 1
        op = operator.name
        names = node.input[:]
        inputs = self._inputs(scope, names)
        outputs = tuple(node.output[:])
        defined, prefix = scope.defined, scope.prefix
        for output in outputs:
            if output in defined or output in scope.initializers:
                self._refuse_second(scope, outputs)
        for output in outputs:
            defined[output] = prefix + output
        standard = node.domain in ONNX_DOMAINS
        known = not (inputs and inputs[0]) and not any(inputs)  # mostly the first one tells
        if known and self._is_worked_out(scope, node, standard) and _plain(node):
            for output in outputs:
                scope.constants[output] = node
            if op != _BATCHNORM:  # one that is known beforehand is still to be accounted for
                return False
            # Who reads it is no matter of the graph, and may read a weight: it stays what it is.
            self.pinned.update((scope.prefix + o, Reason.KNOWN_BEFOREHAND) for o in outputs if o)
        handle = NodeHandle(scope, index)
        batchnorm = op == _BATCHNORM and standard
        if batchnorm:
            self.statistics.expect(handle)
        count = operator.operands
        if count is not None and not all(inputs[:count]):
            read = zip(names[:count], inputs, strict=False)
            given = [v or self._operand(scope, handle, i, n) for i, (n, v) in enumerate(read)]
            inputs = (*given, *inputs[len(given) :])
        name = node.name or (outputs[0] if outputs else op)
        if prefix:
            name = prefix + name
            outputs = tuple([defined[o] if o else "" for o in outputs])
        if op == "Transpose":
            self._rank_hint(scope, node)
        self._nodes.append(Node(name, op, inputs, outputs, batchnorm, handle))
        return operator.has_bodies or not standard

    def _operator(self, name: str) -> Operator:
        self._operators[name] = made = Operator(sys.intern(name), _OPERANDS.get(name), name in WITH_BODIES)
        return made

    def _is_worked_out(self, scope: Scope, node: onnx.NodeProto, standard: bool) -> bool:
        """Whether what a node makes of constants alone is known before the model runs."""
        if standard:
            return node.op_type in operators(scope.opset)
        return qonnx.is_quantiser(node) and not self.shapes.defines(node.domain, node.op_type)

    def _refuse_second(self, scope: Scope, outputs: tuple[str, ...]) -> None:
        """Values that already have a meaning: of the file's many readers each takes another one."""
        twice = next((name for name in outputs if name and scope.defines(name)), None)
        if twice is not None:
            raise ambiguous(self.constants.files, twice, "two values, of which one is written by a node")

    def _inputs(self, scope: Scope, names: Sequence[str]) -> tuple[str, ...]:
        """``_read`` of each; most of them are what a node has written, of which there may be a million."""
        defined, initializers, constants, uses = scope.defined, scope.initializers, scope.constants, self.uses
        inputs = []
        for name in names:
            key = defined.get(name)
            if not key or name in initializers or name in constants:
                key = self._read(scope, name)
            else:
                uses[key] = uses.get(key, 0) + 1
            inputs.append(key)
        return tuple(inputs)

    def _read(self, scope: Scope, name: str) -> str:
        """Count a reader; the core value, "" where it is known before the model runs or absent."""
        if not name:
            return ""
        key = scope.defined.get(name)
        if key is None:
            if name not in scope.initializers:
                return self._read_outside(scope, name)
            key = scope.prefix + name
        self.uses[key] = self.uses.get(key, 0) + 1
        return "" if name in scope.initializers or name in scope.constants else key

    def _read_outside(self, scope: Scope, name: str) -> str:
        """The same of what no node of the scope itself has written."""
        owner = scope.owner(name)
        if owner is not None:
            self.pinned.setdefault(owner.prefix + name, Reason.CAPTURED)
        at = owner or scope
        key = at.defined.get(name) or at.prefix + name
        self.uses[key] = self.uses.get(key, 0) + 1
        if owner is None:  # written later, or never
            self.pinned.setdefault(key, Reason.UNREACHABLE)
            self._unwritten.setdefault(key)
        if owner is not None and (name in owner.initializers or name in owner.constants):
            return ""
        return key

    def _operand(self, scope: Scope, handle: NodeHandle, i: int, name: str) -> str:
        """A joint op's constant input as a value of its own."""
        if not name:
            return ""
        value = f"{scope.prefix}{handle.index}:{i}={name}"
        operand = NodeHandle(scope, handle.index, operand=i)
        self._nodes.append(Node(scope.prefix + name, "Constant", (), (value,), False, operand))
        return value

    def _rank_hint(self, scope: Scope, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == "perm" and node.input and node.output:
                self.shapes.ranks[scope.key(node.input[0])] = len(attribute.ints)
                self.shapes.ranks[scope.prefix + node.output[0]] = len(attribute.ints)

    def join_biases(self, scope: Scope, start: int) -> None:
        """Make each Add that is a MatMul's bias part of the MatMul (nodes of this scope from ``start``)."""
        if "MatMul" in self._operators and "Add" in self._operators:
            from bnfuse.formats.onnx.graph.product_biases import with_biases

            self._nodes[start:] = with_biases(self._nodes[start:], scope, self.uses)

    def graph(self, options: ReadOptions) -> Graph:
        """Names, rules and candidates."""
        nodes, self._nodes = self._nodes, []
        for node, name in zip(nodes, unique_names(node.name for node in nodes), strict=True):
            node.name = name
            if node.is_batchnorm and len(node.outputs) > 1:  # statistics that nobody reads are no outputs
                read = (o for k, o in enumerate(node.outputs) if o and (k == 0 or self.uses.get(o)))
                node.outputs = tuple(read)
        graph = Graph(nodes, self.pinned, [], self._rule_of)
        graph.movable, graph.stored_bytes = _movable, self.constants.files.total_bytes()
        graph.arithmetic = lambda node, pair: spelled(self._view(node), pair)
        graph.no_batchnorms = options.target == "no-bn"
        graph.moves_bounds = options.activations == "move" or graph.no_batchnorms
        graph.constant_through = self._constant_through
        graph.takes_channel = lambda node, letter: takes_channel(handle_of(node), letter)
        lost = next((value for value in self._unwritten if graph.writer(value) is None), None)
        if lost is not None:
            raise Malformed(f"'{lost}' is read, but nothing writes it")
        for node in graph.nodes:
            if node.is_batchnorm or (_has_one_input(node) and (_is_affine(graph, node) or self._is_full)):
                graph.candidates.append(node)
        return graph

    @property
    def _is_full(self) -> bool:
        return self._left_numbers < 0

    def _constant_through(self, node: Node, value: float) -> float | None:
        try:
            return constant_through(self._view(node), value)
        except Malformed:
            return None

    def _view(self, node: Node) -> View:
        return View(node, handle_of(node), self.constants, self.shapes, self.statistics)

    def _rule_of(self, node: Node) -> Rule:
        if self._is_full and (node.is_batchnorm or _has_one_input(node)):
            return Opaque(Reason.TOO_LARGE)
        try:
            rule = rule_of(self._view(node))
            self._left_numbers -= rule.numbers[0].size if rule.has_numbers else 0
            return Opaque(Reason.TOO_LARGE) if rule.has_numbers and self._is_full else rule
        except Malformed as e:  # attributes or inputs that make no sense: nothing may be concluded
            return Opaque(Reason.BAD_PARAMETERS, f"{e}")
        except ShapeUnknown:
            return Opaque(Reason.SHAPE_UNKNOWN)


def _plain(node: onnx.NodeProto) -> bool:
    """Whether a node's result follows from its inputs: no graphs, no attributes of a function's caller."""
    return not any(a.type == onnx.AttributeProto.GRAPH or a.ref_attr_name for a in node.attribute)


def _movable(graph: Graph, node: Node, joint: Node, port: Port) -> bool:
    """Both in one scope; what the node would read is no constant, and no part of a folded-in bias."""
    ours, theirs = handle_of(node), handle_of(joint)
    writer = graph.writer(joint.value(port))
    constant = writer is not None and handle_of(writer).operand is not None
    return ours.scope is theirs.scope and theirs.operand is None and not constant


def _has_one_input(node: Node) -> bool:
    """Whether it may be removed, and computes with constants beside one value."""
    if node.op not in _REMOVABLE:
        return False
    handle = handle_of(node)
    return [handle.scope.is_constant(name) for name in handle.proto.input].count(False) == 1


def _is_affine(graph: Graph, node: Node) -> bool:
    return isinstance(graph.rule(node), Affine)
