"""Calls of the model's own functions, written out so that what they are given counts as what it is.

Exporters put a module into a function and hand it the weights: inside, they are formal names, and nothing
folds. A call is written out where it gives a constant or attributes, or is the function's only one. All that
is decided later sees plain nodes; a call whose nodes did not change is a call again in the result
(``inlined``), and a function that nobody calls any more leaves.

When it does not act: functions of domains that runtimes have operators of their own for; a node that means
another thing in the operator sets of the caller; recursion; more nodes than ``_MOST_NODES`` and
``_MOST_TIMES`` those of the file, or constants of more than ``_MOST_COPIED_BYTES`` written twice; what
``function_copies`` refuses. And once all that was looked at for copies takes more than ``_MOST_LOOKED_AT``
times the file: a function may hold large graphs, be called with long names, and turn out unfit at its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

import onnx
from msgspec import Struct, field
from onnx import defs

from bnfuse.formats.onnx.file.storage import nbytes
from bnfuse.formats.onnx.graph.function_copies import Unfit, copies, uses_all
from bnfuse.formats.onnx.graph.functions import (
    DEEPEST,
    Key,
    all_nodes,
    called,
    key_at,
    key_of,
    reachable,
    stored,
    values,
)
from bnfuse.formats.onnx.graph.inlined import InlinedCall, InlinedCalls, digest
from bnfuse.formats.onnx.graph.order import in_order
from bnfuse.formats.onnx.graph.scope import ONNX_DOMAINS, bodies

Path = tuple[int | str, ...]  # as in ``Scope.path``
Known = tuple[set[str], ...]  # names of constants, by graph, from the outermost one inward

_MOST_NODES, _MOST_TIMES = 4_000, 4
_MOST_COPIED_BYTES = 1 << 20
_MOST_LABEL = 256  # of the call that names of copies begin with
_LEAST_LOOKED_AT_BYTES, _MOST_LOOKED_AT = 1 << 22, 16


class Inlined(Struct, eq=False):
    """What became of a model's calls.

    Attributes:
        calls: those written out, by the path of the graph that they are in.
        live: positions of the functions that are still to be read: some call is left, or nobody called them.
        made: names of the main graph's values that the file does not have.
        operators: nodes of the file by type.
    """

    calls: dict[Path, InlinedCalls] = field(default_factory=dict)
    live: set[int] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    operators: dict[str, int] = field(default_factory=dict)
    _called: set[Key] = field(default_factory=set)

    def settle(self, model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
        """Take out the functions that nodes of the main graph do not need any more."""
        if not self.calls:
            return
        needed = reachable({key_of(f): f for f in model.functions}, nodes)
        left = [f for f in model.functions if key_of(f) in needed or key_of(f) not in self._called]
        if len(left) < len(model.functions):
            del model.functions[:]
            model.functions.extend(left)


def inline(model: onnx.ModelProto) -> Inlined:
    """Write out, in place, the calls that may let something fold."""
    work = _Inliner(model)
    work.host((), model.graph.node, _imports(model.opset_import), (stored(model.graph),))
    at = {key_of(function): k for k, function in enumerate(model.functions)}
    pending = [k for key, k in at.items() if not work.sites[key]]
    pending += [at[key] for key in called(at, model.graph.node)]
    while pending:
        k = pending.pop()
        if k in work.found.live:
            continue
        work.found.live.add(k)
        function = model.functions[k]
        work.host(("functions", k), function.node, _imports(function.opset_import), ())
        pending += [at[key] for key in called(at, function.node)]
    return work.found


class _Inliner:
    """Writes out the calls of one model; functions are copied as the file has them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.found = Inlined()
        self.functions: dict[Key, onnx.FunctionProto] = {}
        for function in model.functions:
            mine = onnx.FunctionProto()
            mine.CopyFrom(function)
            if key_of(function) in self.functions:
                mine.Clear()  # of two under one name, none
            self.functions[key_of(function)] = mine
        self.sites: Counter[Key] = Counter()
        operators: Counter[str] = Counter()
        for body in (model.graph.node, *(f.node for f in model.functions)):
            for node in all_nodes(body):
                operators[node.op_type] += 1
                if key_at(node) in self.functions:
                    self.sites[key_at(node)] += 1
        self.found.operators = dict(operators)
        self.found._called = set(self.sites)
        self._taken = values(model.graph).union(*map(values, model.functions))
        self._labels: set[str] = set()
        self._last: dict[str, int] = {}
        self._nodes = max(_MOST_NODES, _MOST_TIMES * sum(operators.values()))
        self._copied_bytes = _MOST_COPIED_BYTES
        self._left_bytes = max(_LEAST_LOOKED_AT_BYTES, _MOST_LOOKED_AT * model.ByteSize())
        self._imports = {key: _imports(f.opset_import) for key, f in self.functions.items()}
        self._named = {key[:2] for key in self.functions}  # whatever the overload
        self._weights = {
            key: sum(nbytes(a.t) for n in all_nodes(f.node) for a in n.attribute if a.t.dims)
            for key, f in self.functions.items()
        }
        self._sizes = {
            key: (sum(1 for _ in all_nodes(f.node)), f.ByteSize()) for key, f in self.functions.items()
        }

    def host(self, path: Path, nodes: Any, imports: dict[str, int], known: Known) -> None:
        """Write out the calls in one graph and in the graphs inside it."""
        at = _Host(imports, (*known, set()))
        for k in in_order(nodes):
            at.learn(nodes[k])
        for node in nodes:
            self._emit(node, at, ())
        if at.calls:
            self.found.calls[path] = at.calls
            del nodes[:]
            nodes.extend(at.nodes)
        for k, node in enumerate(nodes):
            for attribute, which, graph in bodies(node):
                inner = (*at.known, stored(graph))
                self.host((*path, k, attribute, which), graph.node, imports, inner)

    def _emit(self, node: onnx.NodeProto, at: _Host, stack: tuple[Key, ...]) -> bool:
        """The node, or what its function holds; whether that names all that the node names."""
        call, start = InlinedCall(node), len(at.nodes)
        key = key_at(node)
        try:
            made = self._copies(key, node, at, stack)
        except Unfit:
            at.nodes.append(node)
            at.learn(node)
            return True
        at.calls.setdefault(start, []).append(call)
        names_all = [self._emit(inner, at, (*stack, key)) for inner in made]
        whole = all(names_all) and uses_all(self.functions[key], node)
        call.stop = len(at.nodes)
        call.said = digest(at.nodes[start:]) if whole else b""
        return whole

    def _copies(
        self, key: Key, call: onnx.NodeProto, at: _Host, stack: tuple[Key, ...]
    ) -> list[onnx.NodeProto]:
        function = self.functions.get(key)
        if function is None or key in stack or len(stack) > DEEPEST or not function.node:
            raise Unfit("no function, or one within itself")
        once, asked = self.sites[key] == 1, bool(function.attribute or function.attribute_proto)
        if not (once or asked or any(at.knows(name) for name in call.input)):
            raise Unfit("nothing is given that it does not know already")
        copied_bytes = 0 if once and not stack else self._weights[key]
        if len(function.node) > self._nodes or copied_bytes > self._copied_bytes:
            raise Unfit("too much to be written twice")
        self._left_bytes -= self._looked_at(key, call)
        if self._left_bytes < 0:
            raise Unfit("too much was looked at")
        self._same_operators(key, at.imports)
        label = self._unique((call.name or function.name)[:_MOST_LABEL], self._labels)
        made = copies(function, call, label, self._fresh)
        self._nodes -= len(function.node)
        self._copied_bytes -= copied_bytes
        return made

    def _looked_at(self, key: Key, call: onnx.NodeProto) -> int:
        """Bytes of the function, and of the call in place of what each of its nodes may name."""
        nodes, body_bytes = self._sizes[key]
        return body_bytes + nodes * call.ByteSize()

    def _same_operators(self, key: Key, host: dict[str, int]) -> None:
        """Refuses a function with a node that means another thing in the operator sets of the host.

        So does a call of an overload that there is not: a runtime may take another, but only in a function.
        """
        own = self._imports[key]
        for node in all_nodes(self.functions[key].node):
            domain, called_ = _domain(node.domain), key_at(node)
            if called_[:2] in self._named and called_ not in self.functions:
                raise Unfit(f"an overload of {node.op_type} that there is not")
            if own.get(domain) == host.get(domain) is not None or (
                called_ in self.functions and domain in host
            ):
                continue
            since = {_since(node.op_type, imports.get(domain)) for imports in (own, host)}
            if domain or None in since or len(since) > 1:
                raise Unfit(f"{node.op_type} of another operator set")

    def _fresh(self, wanted: str) -> str:
        name = self._unique(wanted, self._taken)
        self.found.made.add(name)
        return name

    def _unique(self, wanted: str, taken: set[str]) -> str:
        name, n = wanted, self._last.get(wanted, 1)
        while name in taken:
            n += 1
            name = f"{wanted}_{n}"
        self._last[wanted] = n  # where to look on: many calls have one label
        taken.add(name)
        return name


class _Host:
    """A graph that calls are written out into."""

    def __init__(self, imports: dict[str, int], known: Known) -> None:
        self.imports, self.known = imports, known
        self.nodes: list[onnx.NodeProto] = []
        self.calls: InlinedCalls = {}

    def knows(self, name: str) -> bool:
        """Whether a name may be that of a constant."""
        return bool(name) and any(name in names for names in self.known)

    def learn(self, node: onnx.NodeProto) -> None:
        """What it computes from constants is one, as far as the inputs tell."""
        if all(self.knows(name) for name in node.input if name):
            self.known[-1].update(node.output)


@cache
def _since(op: str, version: int | None) -> int | None:
    """The version of the operator set in which an operator became what it is in this one."""
    try:
        return None if version is None else int(defs.get_schema(op, version, "").since_version)
    except defs.SchemaError:
        return None


def _domain(domain: str) -> str:
    return "" if domain in ONNX_DOMAINS else domain


def _imports(listed: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_domain(each.domain): each.version for each in listed}
