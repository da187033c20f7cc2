"""Does a node fit the operator it names? Asked before its attributes and inputs are believed.

Decides by onnx's own schema of the operator in the model's operator set: how many inputs and
outputs, which of them must be there, which attributes must be there and of which type. An attribute
of another version of the operator is a fault: what it would mean here is anybody's guess. One that
no version knows is none: it means nothing, and is kept. Operators without a schema (other domains,
newer sets) are not judged.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import onnx
from onnx import defs

_AttributeType = defs.OpSchema.AttrType
_SINGLE = defs.OpSchema.FormalParameterOption.Single


class Misfit(ValueError):
    """A node that is no valid use of its operator; the message says what is wrong with it."""


def _number(kind: Any) -> int:
    """The ``AttributeProto.AttributeType`` of a schema's; onnx's stubs do not know it for an enum."""
    number: int = kind.value
    return number


@lru_cache(maxsize=1024)
def _schema(op: str, opset: int) -> tuple[int, int, int, int, int, dict[str, int], frozenset[str]] | None:
    """(inputs least, most, outputs least, most, bits of the inputs that must be given, types, required)."""
    try:
        found = defs.get_schema(op, opset, "")
    except defs.SchemaError:
        return None
    needed = sum(1 << i for i, formal in enumerate(found.inputs) if formal.option == _SINGLE)
    types = {name: _number(attribute.type) for name, attribute in found.attributes.items()}
    required = frozenset(name for name, attribute in found.attributes.items() if attribute.required)
    return found.min_input, found.max_input, found.min_output, found.max_output, needed, types, required


@cache
def _attributes_of_all_versions() -> dict[str, set[str]]:
    """Attribute names by operator, over all operator sets. Takes some 25 ms: asked only in doubt."""
    names: dict[str, set[str]] = {}
    for schema in defs.get_all_schemas_with_history():
        if not schema.domain:
            names.setdefault(schema.name, set()).update(schema.attributes)
    return names


def check(node: onnx.NodeProto, opset: int) -> None:
    """Compare a node with its operator's schema.

    Raises:
        Misfit: they do not fit.
    """
    schema = _schema(node.op_type, opset)
    if schema is None:
        return
    least_in, most_in, least_out, most_out, needed, types, required = schema
    if not least_in <= len(node.input) <= most_in:
        raise Misfit(f"{len(node.input)} inputs")
    if not least_out <= len(node.output) <= most_out or not node.output[0]:
        raise Misfit(f"{len(node.output)} outputs, or the first without a name")
    for i, name in enumerate(node.input):
        if not name and needed >> i & 1:
            raise Misfit(f"input {i} is absent")
    given: set[str] = set()
    for attribute in node.attribute:
        if attribute.name in given:
            raise Misfit(f"the attribute {attribute.name} is given twice")
        given.add(attribute.name)
        wanted = types.get(attribute.name)
        if wanted is None and attribute.name in _attributes_of_all_versions().get(node.op_type, ()):
            raise Misfit(f"the attribute {attribute.name} is not one of operator set {opset}")
        if wanted is not None and attribute.type != wanted and not attribute.ref_attr_name:
            raise Misfit(f"the attribute {attribute.name} is of another type than it must be")
    if not required <= given:
        raise Misfit(f"the attribute {min(required - given)} is missing")
