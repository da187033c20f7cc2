"""Calls of the model's own functions, written out so that what they are given counts as what it is.

Exporters put a module into a function and hand it the weights: inside, they are formal names, and nothing
folds. A call is written out where it gives a constant or attributes, or is the function's only one. All that
is decided later sees plain nodes; a call whose nodes did not change is a call again in the result
(``inlined``), and a function that nobody calls any more leaves.

When it does not act: functions of domains that runtimes have operators of their own for; a node that means
another thing in the operator sets of the caller; recursion; more copies than ``_MOST_NODES`` or constants of
more than ``_MOST_COPIED_BYTES`` written twice; what ``function_copies`` refuses.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import onnx
from onnx import defs

from bnfuse.formats.onnx.file.storage import nbytes
from bnfuse.formats.onnx.graph.function_copies import Unfit, all_nodes, copies, uses_all
from bnfuse.formats.onnx.graph.inlined import InlinedCall, InlinedCalls, digest
from bnfuse.formats.onnx.graph.order import in_order
from bnfuse.formats.onnx.graph.scope import ONNX_DOMAINS, bodies

Key = tuple[str, str, str]  # domain, name, overload
Path = tuple[int | str, ...]  # as in ``Scope.path``
Known = tuple[set[str], ...]  # names of constants, by graph, from the outermost one inward

_MOST_NODES = 200_000
_MOST_COPIED_BYTES = 1 << 20
_DEEPEST = 64
# The runtime takes its own operator, not the model's function of that name.
_OPERATORS_OF_RUNTIMES = ("ai.onnx", "com.microsoft", "com.ms.")


@dataclass(eq=False)
class Inlined:
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
        needed = _reachable({_key_of(f): f for f in model.functions}, nodes)
        left = [f for f in model.functions if _key_of(f) in needed or _key_of(f) not in self._called]
        if len(left) < len(model.functions):
            del model.functions[:]
            model.functions.extend(left)


def inline(model: onnx.ModelProto) -> Inlined:
    """Write out, in place, the calls that may let something fold."""
    work = _Inliner(model)
    work.host((), model.graph.node, _imports(model.opset_import), (_stored(model.graph),))
    at = {_key_of(function): k for k, function in enumerate(model.functions)}
    pending = [k for key, k in at.items() if not work.sites[key]]
    pending += [at[key] for key in _called(at, model.graph.node)]
    while pending:
        k = pending.pop()
        if k in work.found.live:
            continue
        work.found.live.add(k)
        function = model.functions[k]
        work.host(("functions", k), function.node, _imports(function.opset_import), ())
        pending += [at[key] for key in _called(at, function.node)]
    return work.found


def prefixes(model: onnx.ModelProto) -> list[str]:
    """What names in each function begin with in the flat graph: like nothing else in the model."""
    if not model.functions:
        return []
    names = sorted(_values(model.graph))
    found: list[str] = []
    for function in model.functions:
        prefix, n = f"{function.name}/", 1
        while prefix in found or _begins(names, prefix):
            n += 1
            prefix = f"{function.name}_{n}/"
        found.append(prefix)
    return found


def _begins(names: Sequence[str], prefix: str) -> bool:
    at = bisect_left(names, prefix)
    return at < len(names) and names[at].startswith(prefix)


class _Inliner:
    """Writes out the calls of one model; functions are copied as the file has them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.found = Inlined()
        self.functions: dict[Key, onnx.FunctionProto] = {}
        for function in model.functions:
            mine = onnx.FunctionProto()
            mine.CopyFrom(function)
            if _key_of(function) in self.functions:
                mine.Clear()  # of two under one name, none
            self.functions[_key_of(function)] = mine
        self.sites: Counter[Key] = Counter()
        operators: Counter[str] = Counter()
        for body in (model.graph.node, *(f.node for f in model.functions)):
            for node in all_nodes(body):
                operators[node.op_type] += 1
                if _key(node) in self.functions:
                    self.sites[_key(node)] += 1
        self.found.operators = dict(operators)
        self.found._called = set(self.sites)
        self._taken = _values(model.graph).union(*map(_values, model.functions))
        self._labels: set[str] = set()
        self._nodes, self._copied_bytes = _MOST_NODES, _MOST_COPIED_BYTES
        self._weights = {
            key: sum(nbytes(a.t) for n in all_nodes(f.node) for a in n.attribute if a.t.dims)
            for key, f in self.functions.items()
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
                inner = (*at.known, _stored(graph))
                self.host((*path, k, attribute, which), graph.node, imports, inner)

    def _emit(self, node: onnx.NodeProto, at: _Host, stack: tuple[Key, ...]) -> bool:
        """The node, or what its function holds; whether that names all that the node names."""
        call, start = InlinedCall(node), len(at.nodes)
        key = _key(node)
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
        if function is None or key in stack or len(stack) > _DEEPEST or not function.node:
            raise Unfit("no function, or one within itself")
        once, asked = self.sites[key] == 1, bool(function.attribute or function.attribute_proto)
        if not (once or asked or any(at.knows(name) for name in call.input)):
            raise Unfit("nothing is given that it does not know already")
        copied_bytes = 0 if once and not stack else self._weights[key]
        if len(function.node) > self._nodes or copied_bytes > self._copied_bytes:
            raise Unfit("too much to be written twice")
        _same_operators(function, at.imports, self.functions)
        label = self._unique(call.name or function.name, self._labels)
        made = copies(function, call, label, self._fresh)
        self._nodes -= len(function.node)
        self._copied_bytes -= copied_bytes
        return made

    def _fresh(self, wanted: str) -> str:
        name = self._unique(wanted, self._taken)
        self.found.made.add(name)
        return name

    @staticmethod
    def _unique(wanted: str, taken: set[str]) -> str:
        name, n = wanted, 1
        while name in taken:
            n += 1
            name = f"{wanted}_{n}"
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


def _same_operators(
    function: onnx.FunctionProto, host: dict[str, int], functions: dict[Key, onnx.FunctionProto]
) -> None:
    """Refuses a function with a node that means another thing in the operator sets of the host."""
    own = _imports(function.opset_import)
    for node in all_nodes(function.node):
        domain = _domain(node.domain)
        if own.get(domain) == host.get(domain) is not None or (_key(node) in functions and domain in host):
            continue
        since = {_since(node.op_type, imports.get(domain)) for imports in (own, host)}
        if domain or None in since or len(since) > 1:
            raise Unfit(f"{node.op_type} of another operator set")


@cache
def _since(op: str, version: int | None) -> int | None:
    """The version of the operator set in which an operator became what it is in this one."""
    try:
        return None if version is None else int(defs.get_schema(op, version, "").since_version)
    except defs.SchemaError:
        return None


def _called(functions: Collection[Key], nodes: Iterable[onnx.NodeProto]) -> set[Key]:
    return {key for key in map(_key, all_nodes(nodes)) if key in functions}


def _reachable(functions: dict[Key, onnx.FunctionProto], nodes: Iterable[onnx.NodeProto]) -> set[Key]:
    """What is called by nodes, or by what they call."""
    found: set[Key] = set()
    pending = [nodes]
    while pending:
        called = _called(functions, pending.pop()) - found
        found |= called
        pending += [functions[key].node for key in called]
    return found


def _domain(domain: str) -> str:
    return "" if domain in ONNX_DOMAINS else domain


def _key(node: onnx.NodeProto) -> Key:
    domain = node.domain
    if not domain or domain.startswith(_OPERATORS_OF_RUNTIMES):
        return "", "", ""  # nobody's
    return domain, node.op_type, getattr(node, "overload", "")


def _key_of(function: onnx.FunctionProto) -> Key:
    return function.domain, function.name, getattr(function, "overload", "")


def _imports(listed: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_domain(each.domain): each.version for each in listed}


def _stored(graph: onnx.GraphProto) -> set[str]:
    return {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}


def _values(body: onnx.GraphProto | onnx.FunctionProto) -> set[str]:
    """All names of values in a graph or function and the graphs inside it."""
    found: set[str] = set()
    if isinstance(body, onnx.GraphProto):
        found = _stored(body) | {v.name for v in (*body.input, *body.output)}
    else:
        found.update(body.input)
    for node in body.node:
        found.update(node.input)
        found.update(node.output)
        for _, _, inner in bodies(node):
            found |= _values(inner)
    return found
