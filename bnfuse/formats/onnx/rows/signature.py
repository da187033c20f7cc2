"""Does a node fit the operator it names? Asked before its attributes and inputs are believed.

Decides by onnx's own schema of the operator in the model's operator set: how many inputs and
outputs, which of them must be there, which attributes must be there and of which type. An attribute
of another version of the operator is a fault: what it would mean here is anybody's guess. One that
no version knows is none: it means nothing, and is kept. Operators without a schema (other domains)
are not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import onnx
from onnx import defs

from bnfuse.formats.table import Malformed

_AttributeType = defs.OpSchema.AttrType
_SINGLE = defs.OpSchema.FormalParameterOption.Single


def _number(kind: Any) -> int:
    """The ``AttributeProto.AttributeType`` of a schema's; onnx's stubs do not know it for an enum."""
    number: int = kind.value
    return number


@lru_cache(maxsize=1024)
def _schema(op: str, opset: int) -> tuple[int, int, int, int, int, dict[str, int], frozenset[str]] | None:
    """(inputs least, most, outputs least, most, bits of the inputs that must be given, types, required)."""
    found = _nearest(op, opset)
    if found is None:
        return None
    needed = sum(1 << i for i, formal in enumerate(found.inputs) if formal.option == _SINGLE)
    types = {name: _number(attribute.type) for name, attribute in found.attributes.items()}
    required = frozenset(name for name, attribute in found.attributes.items() if attribute.required)
    return found.min_input, found.max_input, found.min_output, found.max_output, needed, types, required


def _nearest(op: str, opset: int) -> defs.OpSchema | None:
    """The schema of a version; of an operator that some runtime had before its time, the first one."""
    try:
        return defs.get_schema(op, opset, "")
    except defs.SchemaError:
        history = (s for s in defs.get_all_schemas_with_history() if not s.domain and s.name == op)
        return min(history, key=lambda schema: schema.since_version, default=None)


@cache
def _attributes_of_all_versions() -> dict[str, set[str]]:
    """Attribute names by operator, over all operator sets. Takes some 25 ms: asked only in doubt."""
    names: dict[str, set[str]] = {}
    for schema in defs.get_all_schemas_with_history():
        if not schema.domain:
            names.setdefault(schema.name, set()).update(schema.attributes)
    return names


def checked(node: onnx.NodeProto, op: str, opset: int) -> dict[str, onnx.AttributeProto]:
    """A node's attributes by name, the node compared with the schema of its operator ``op``.

    Raises:
        Malformed: they do not fit.
    """
    schema = _schema(op, opset)
    if schema is None:
        return {a.name: a for a in node.attribute}
    least_in, most_in, least_out, most_out, needed, types, required = schema
    inputs = node.input[:]
    if not least_in <= len(inputs) <= most_in:
        raise Malformed(f"{len(inputs)} inputs")
    count = len(node.output)
    if not least_out <= count <= most_out or not node.output[0]:
        raise Malformed(f"{count} outputs, or the first without a name")
    if "" in inputs and any(not name and needed >> i & 1 for i, name in enumerate(inputs)):
        raise Malformed("an input that it needs is absent")
    given: dict[str, onnx.AttributeProto] = {}
    for attribute in node.attribute:
        name = attribute.name
        if name in given:
            raise Malformed("an attribute is given twice")
        given[name] = attribute
        if types.get(name) != attribute.type:
            _check_attribute(op, opset, attribute, types.get(name))
    if not required <= given.keys():
        raise Malformed(f"the attribute {min(required - given.keys())} is missing")
    return given


def _check_attribute(op: str, opset: int, attribute: onnx.AttributeProto, wanted: int | None) -> None:
    """Of another type than the one that is wanted."""
    if wanted is None and attribute.name in _attributes_of_all_versions().get(op, ()):
        raise Malformed(f"the attribute {attribute.name} is not one of operator set {opset}")
    if wanted is not None and not attribute.ref_attr_name:
        raise Malformed(f"the attribute {attribute.name} is of another type than it must be")


def of_types(node: onnx.NodeProto, types: Mapping[str, int]) -> dict[str, onnx.AttributeProto]:
    """A node's attributes by name, of an operator without a schema whose attributes are known.

    Raises:
        Malformed: one is unknown, given twice or of another type; or the first input or output is absent.
    """
    if not node.input or not node.input[0] or not node.output or not node.output[0]:
        raise Malformed("an input or output that it needs is absent")
    given: dict[str, onnx.AttributeProto] = {}
    for attribute in node.attribute:
        if types.get(attribute.name) != attribute.type or attribute.name in given:
            raise Malformed(f"the attribute {attribute.name} is unknown, of another type, or given twice")
        given[attribute.name] = attribute
    return given
