"""A model's own functions: who calls which, and what their names mean in the flat graph."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from math import inf

import onnx

from bnfuse.formats.onnx.graph.scope import bodies, text_of
from bnfuse.formats.table import Malformed

Key = tuple[str, str, str]  # domain, name, overload

# Deeper calls are not followed.
DEEPEST = 64
# Of a function's name, which all names in it begin with.
_MOST_PREFIX = 256
# The runtime takes its own operator, not the model's function of that name.
_OPERATORS_OF_RUNTIMES = ("ai.onnx", "com.microsoft", "com.ms.")


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those of the graphs that they carry."""
    for node in nodes:
        yield node
        for _, _, graph in bodies(node):
            yield from all_nodes(graph.node)


def key_at(node: onnx.NodeProto) -> Key:
    """Of the function that a node calls, if there is one; of an operator that is no function's, nobody's."""
    domain = node.domain
    if not domain or domain.startswith(_OPERATORS_OF_RUNTIMES):
        return "", "", ""
    return domain, node.op_type, getattr(node, "overload", "")


def key_of(function: onnx.FunctionProto) -> Key:
    """Of a function."""
    return function.domain, function.name, getattr(function, "overload", "")


def check_functions(model: onnx.ModelProto) -> None:
    """Refuse functions that mean nothing, which runtimes refuse, too.

    Raises:
        Malformed: two of one name, or one that calls itself, be it by way of others; an attribute that is
            there twice; a default whose graph reads what the function does not define (onnxruntime then looks
            around the call).
    """
    functions = {key_of(function): function for function in model.functions}
    if len(functions) < len(model.functions):
        twice = Counter(map(key_of, model.functions)).most_common(1)[0][0]
        raise Malformed(f"the function '{text_of(twice[1])}' is there twice")
    for function in model.functions:
        _check_attributes(function)
    calls = {key: called(functions, function.node) for key, function in functions.items()}
    try:
        TopologicalSorter(calls).prepare()
    except CycleError as error:
        raise Malformed(f"the function '{text_of(error.args[1][0][1])}' calls itself") from error


def _check_attributes(function: onnx.FunctionProto) -> None:
    for node in all_nodes(function.node):
        if len({attribute.name for attribute in node.attribute}) < len(node.attribute):
            what = f"the function '{text_of(function.name)}'"
            raise Malformed(
                f"{what} has a node of {text_of(node.op_type)} with an attribute that is there twice"
            )
    defaults = function.attribute_proto
    if len({default.name for default in defaults}) < len(defaults):
        raise Malformed(f"the function '{text_of(function.name)}' has two defaults for one attribute")
    known = {*function.input, *(output for node in function.node for output in node.output)}
    for default in defaults:
        lost = min(_captured([default]) - known, default=None)
        if lost is not None:
            what = f"the function '{text_of(function.name)}' has a graph as a default"
            raise Malformed(f"{what}, which reads '{text_of(lost)}', and nothing there writes it")


def _captured(attributes: Iterable[onnx.AttributeProto]) -> set[str]:
    """Names that the graphs in attributes read, and do not define."""
    found: set[str] = set()
    for attribute in attributes:
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            read = {v.name for v in graph.output}
            for node in graph.node:
                read |= {*node.input} | _captured(node.attribute)
            made = {output for node in graph.node for output in node.output}
            found |= read - made - stored(graph) - {v.name for v in graph.input} - {""}
    return found


def written_out(model: onnx.ModelProto) -> float:
    """How many nodes there would be without functions: a few nested ones make billions."""
    functions = {key_of(f): f for f in model.functions}
    known: dict[Key, float] = {}

    def count(nodes: Iterable[onnx.NodeProto], depth: int) -> float:
        total = 0.0
        for node in all_nodes(nodes):
            key = key_at(node)
            if key in functions and key not in known:
                known[key] = inf  # as long as it is not known: a function within itself
                known[key] = inf if depth > DEEPEST else count(functions[key].node, depth + 1)
            total += known.get(key, 1)
        return total

    return count(model.graph.node, 0)


def prefixes(model: onnx.ModelProto) -> list[str]:
    """What names in each function begin with in the flat graph: like nothing else in the model."""
    if not model.functions:
        return []
    names = sorted(values(model.graph))
    found: dict[str, None] = {}
    last: dict[str, int] = {}  # where to look on: many functions have one name
    for function in model.functions:
        name = function.name[:_MOST_PREFIX]
        n = last.get(name, 1)
        prefix = f"{name}/" if n == 1 else f"{name}_{n}/"
        while prefix in found or _begins(names, prefix):
            n += 1
            prefix = f"{name}_{n}/"
        last[name] = n
        found[prefix] = None
    return list(found)


def _begins(names: Sequence[str], prefix: str) -> bool:
    at = bisect_left(names, prefix)
    return at < len(names) and names[at].startswith(prefix)


def called(functions: Collection[Key], nodes: Iterable[onnx.NodeProto]) -> set[Key]:
    """Which of these functions nodes call."""
    return {key for key in map(key_at, all_nodes(nodes)) if key in functions}


def reachable(functions: dict[Key, onnx.FunctionProto], nodes: Iterable[onnx.NodeProto]) -> set[Key]:
    """What is called by nodes, or by what they call."""
    found: set[Key] = set()
    pending = [nodes]
    while pending:
        fresh = called(functions.keys(), pending.pop()) - found
        found |= fresh
        pending += [functions[key].node for key in fresh]
    return found


def stored(graph: onnx.GraphProto) -> set[str]:
    """Names of a graph's initializers."""
    return {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}


def values(body: onnx.GraphProto | onnx.FunctionProto) -> set[str]:
    """All names of values in a graph or function and the graphs inside it."""
    found: set[str] = set()
    if isinstance(body, onnx.GraphProto):
        found = stored(body) | {v.name for v in (*body.input, *body.output)}
    else:
        found.update(body.input)
    for node in body.node:
        found.update(node.input)
        found.update(node.output)
        for _, _, inner in bodies(node):
            found |= values(inner)
    return found
