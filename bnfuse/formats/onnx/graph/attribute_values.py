"""What an attribute of a node holds, by the type that it says it has."""

from __future__ import annotations

from typing import Any

from onnx import AttributeProto

_ONE: dict[int, str] = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.GRAPH: "g",
    AttributeProto.TYPE_PROTO: "tp",
}
_LIST: dict[int, str] = {
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    AttributeProto.GRAPHS: "graphs",
    AttributeProto.TYPE_PROTOS: "type_protos",
}


def attribute_value(attribute: AttributeProto) -> Any:
    """Its value, a list where it has several; None where it has no type.

    As ``onnx.helper.get_attribute_value``, for which all of onnx's element types would be imported.

    Raises:
        ValueError: it refers to what a function's caller gives, or is of a type that there is not.
    """
    kind = attribute.type
    if attribute.ref_attr_name:
        raise ValueError(f"'{attribute.name}' is what a caller gives as '{attribute.ref_attr_name}'")
    if (single := _ONE.get(kind)) is not None:
        return getattr(attribute, single)
    if (several := _LIST.get(kind)) is not None:
        return list(getattr(attribute, several))
    if kind == AttributeProto.UNDEFINED:
        return None
    raise ValueError(f"'{attribute.name}' is of the unknown type {kind}")
