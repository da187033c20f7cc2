"""The nodes of a function as they read where it is called, by the rules of the ONNX specification.

Formal inputs and outputs become the call's own names, an input that the call leaves out becomes "". All
other names are made new, in the graphs that nodes carry too, so that they meet nothing around the call. An
attribute that the caller gives takes the call's value, else the function's default, else it is left out.
Node names say which call they came from.

When it does not act (``Unfit``): names that the function does not define (a function sees nothing of what is
around its calls), an attribute of another type, a formal output that no node writes; graphs as attributes,
whose names onnxruntime looks up in the function first, and then around the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx

from bnfuse.formats.onnx.graph.functions import all_nodes
from bnfuse.formats.onnx.graph.scope import ONNX_DOMAINS, bodies

Fresh = Callable[[str], str]
_REFERENCE = onnx.AttributeProto.UNDEFINED


class Unfit(Exception):
    """The call is to stay one."""


def copies(
    function: onnx.FunctionProto, call: onnx.NodeProto, label: str, fresh: Fresh
) -> list[onnx.NodeProto]:
    """The function's nodes in place of a call.

    Args:
        function: as the file has it.
        call: a node of its domain and name.
        label: what the names of the copies begin with.
        fresh: makes a name that no value has, much like the one it is given.

    Raises:
        Unfit: see above.
    """
    attributes = (*call.attribute, *function.attribute_proto)
    if any(a.HasField("g") or a.graphs for a in attributes):
        raise Unfit("a graph as an attribute")
    names = _border(function, call)
    for node in function.node:
        for output in filter(None, node.output):
            if output not in names:
                names[output] = fresh(f"{label}/{output}")
    given = {a.name: a for a in call.attribute}
    defaults = {a.name: a for a in function.attribute_proto}
    return [_copy(node, names, _Caller(given, defaults, label, fresh)) for node in function.node]


def uses_all(function: onnx.FunctionProto, call: onnx.NodeProto) -> bool:
    """Whether all that a call gives is read by the function."""
    read = {name for node in all_nodes(function.node) for name in node.input}
    return all(not actual or name in read for name, actual in zip(function.input, call.input, strict=False))


def _border(function: onnx.FunctionProto, call: onnx.NodeProto) -> dict[str, str]:
    """Formal names by what the call has in their places; an output that it leaves out is missing."""
    if len(call.input) > len(function.input) or len(call.output) > len(function.output):
        raise Unfit("more inputs or outputs than the function has")
    formal, written = list(function.input), [o for node in function.node for o in node.output if o]
    results = [o for o in call.output if o]
    once = all(len(set(names)) == len(names) for names in (formal, list(function.output), written, results))
    if not once or not set(function.output) <= set(written) or set(formal) & set(written):
        raise Unfit("a name with two meanings, or an output that no node writes")
    names = dict.fromkeys(formal, "") | dict(zip(formal, call.input, strict=False))
    return names | {f: actual for f, actual in zip(function.output, call.output, strict=False) if actual}


class _Caller:
    """What one call gives: attributes, and names to make."""

    def __init__(
        self,
        given: Mapping[str, onnx.AttributeProto],
        defaults: Mapping[str, onnx.AttributeProto],
        label: str,
        fresh: Fresh,
    ) -> None:
        self._given, self._defaults = given, defaults
        self.label, self.fresh = label, fresh

    def attribute(self, reference: onnx.AttributeProto) -> onnx.AttributeProto | None:
        """What an attribute that refers to the caller's becomes; None where nobody gives it."""
        wanted = reference.ref_attr_name
        found, default = self._given.get(wanted), self._defaults.get(wanted)
        if found is not None and found.ref_attr_name and default is not None:
            raise Unfit("an attribute that a caller of the caller may leave out")
        found = default if found is None else found
        if found is None:
            return None
        if reference.type not in (found.type, _REFERENCE):
            raise Unfit(f"the attribute {wanted} is of another type")
        made = onnx.AttributeProto()
        made.CopyFrom(found)
        made.name = reference.name
        return made


def _copy(node: onnx.NodeProto, names: Mapping[str, str], caller: _Caller) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    output = next((o for o in node.output if o), "")
    told = node.name or (output if node.domain in ONNX_DOMAINS else "") or node.op_type
    made.name = f"{caller.label}/{told}"
    _rename(made, names, caller)
    return made


def _rename(node: onnx.NodeProto, names: Mapping[str, str], caller: _Caller) -> None:
    """Names and attributes of a node, and of the graphs it carries."""
    for listed in (node.input, node.output):
        for k, name in enumerate(listed):
            if name:
                listed[k] = _named(names, name)
    for _, _, graph in bodies(node):  # before the caller's own graphs join, whose names are the caller's
        _rename_body(graph, names, caller)
    if any(a.ref_attr_name for a in node.attribute):
        kept = [caller.attribute(a) if a.ref_attr_name else a for a in node.attribute]
        attributes = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept if a is not None]
        del node.attribute[:]
        node.attribute.extend(attributes)


def _rename_body(graph: onnx.GraphProto, names: Mapping[str, str], caller: _Caller) -> None:
    if graph.quantization_annotation:
        raise Unfit("names in annotations")
    sparse = [t.values for t in graph.sparse_initializer]
    own = [v.name for v in graph.input] + [t.name for t in (*graph.initializer, *sparse)]
    own += [o for node in graph.node for o in node.output if o]
    inner = {**names, **{name: caller.fresh(f"{caller.label}/{name}") for name in dict.fromkeys(own)}}
    everything: list[Any] = [*graph.input, *graph.output, *graph.initializer, *sparse]
    for named in everything:
        named.name = _named(inner, named.name)
    del graph.value_info[:]  # what inference finds again
    for node in graph.node:
        _rename(node, inner, caller)


def _named(names: Mapping[str, str], name: str) -> str:
    if name not in names:
        raise Unfit(f"the function does not define '{name}'")
    return names[name]
