"""What an ONNX file says in words: declared inputs and outputs, facts about the model, settings of nodes.

An operator's own default counts as given, so an attribute that spells it out is the same as one that is
absent. Strings that are not UTF-8 are shown with escapes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from msgspec import Struct

from bnfuse.formats.base import TensorSpec
from bnfuse.formats.contents import NodeItem, Setting
from bnfuse.formats.onnx.file.storage import numpy_dtype
from bnfuse.formats.onnx.graph.attribute_values import attribute_value
from bnfuse.formats.onnx.graph.scope import ONNX_DOMAINS, text_of

_Kind = onnx.AttributeProto
TENSORS = (_Kind.TENSOR, _Kind.TENSORS)
GRAPHS = (_Kind.GRAPH, _Kind.GRAPHS)


class SettingsKey(Struct, eq=False):
    """What settings are looked up by."""

    proto: onnx.NodeProto
    opset: int


@cache
def dtype_name(data_type: int) -> str:
    """numpy's or ml_dtypes' name of an element type."""
    return "string" if data_type == onnx.TensorProto.STRING else numpy_dtype(data_type).name


def declared(info: onnx.ValueInfoProto) -> TensorSpec:
    """What the file says of one input or output.

    Raises:
        UnreadableModel: an element type that does not exist.
    """
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return TensorSpec(text_of(info.name), _other_type(info.type), None)
    tensor = info.type.tensor_type
    dtype = dtype_name(tensor.elem_type) if tensor.elem_type else ""
    if not tensor.HasField("shape"):
        return TensorSpec(text_of(info.name), dtype, None)
    return TensorSpec(text_of(info.name), dtype, tuple(map(_axis, tensor.shape.dim)))


def _axis(dim: Any) -> int | str | None:
    return int(dim.dim_value) if dim.HasField("dim_value") else (text_of(dim.dim_param) or None)


def _other_type(kind: onnx.TypeProto, depth: int = 0) -> str:
    """A type that is no tensor, in words: "sequence(float32)"."""
    which = kind.WhichOneof("value")
    if which is None or depth > 8:
        return ""
    inner = getattr(kind, which)
    word = which.removesuffix("_type")
    if which in ("tensor_type", "sparse_tensor_type"):
        dtype = dtype_name(inner.elem_type) if inner.elem_type else ""
        return dtype if which == "tensor_type" else f"sparse({dtype})"
    if which == "map_type":
        return f"map({dtype_name(inner.key_type)}, {_other_type(inner.value_type, depth + 1)})"
    return f"{word}({_other_type(inner.elem_type, depth + 1)})" if hasattr(inner, "elem_type") else word


def facts_of(proto: onnx.ModelProto, overridable: int) -> dict[str, str]:
    """What the file says of the model besides its graph, empty entries left out."""
    opsets = {text_of(entry.domain): entry.version for entry in proto.opset_import}
    found = {
        "IR version": str(proto.ir_version),
        **{f"opset {name or 'ai.onnx'}": str(version) for name, version in sorted(opsets.items())},
        "producer": f"{text_of(proto.producer_name)} {text_of(proto.producer_version)}".strip(),
        "domain": text_of(proto.domain),
        "model version": str(proto.model_version or ""),
        "description": text_of(proto.doc_string),
        "graph": text_of(proto.graph.name),
        "graph description": text_of(proto.graph.doc_string),
        "functions": str(len(proto.functions) or ""),
        "training graphs": str(len(proto.training_info) or ""),
        # Below IR 4 every initializer had to be listed, which says nothing.
        "initializers that are also inputs": str(overridable or "") if proto.ir_version >= 4 else "",
        **{f"metadata '{text_of(entry.key)}'": text_of(entry.value) for entry in proto.metadata_props},
    }
    return {label: value for label, value in found.items() if value}


def settings_of(item: NodeItem) -> dict[str, Setting]:
    """A node's attributes but its tensors and graphs, the operator's own defaults filled in."""
    handle = item.handle
    assert isinstance(handle, SettingsKey)
    node = handle.proto
    found = dict(_defaults(text_of(node.op_type), handle.opset, text_of(node.domain)))
    for attribute in node.attribute:
        if attribute.type not in TENSORS and attribute.type not in GRAPHS:
            found[text_of(attribute.name)] = _value(attribute)
    return found


def _value(attribute: onnx.AttributeProto) -> Setting:
    if attribute.ref_attr_name:
        return f"the function's '{text_of(attribute.ref_attr_name)}'"
    try:
        return _plain(attribute_value(attribute), attribute.type)
    except ValueError:  # of a type that this onnx does not know
        return "?"


def _plain(value: Any, kind: int) -> Setting:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return float(str(np.float32(value)))  # as it was written: 1e-05, not 9.999999747378752e-06
    if kind in (_Kind.INTS, _Kind.FLOATS, _Kind.STRINGS):
        return [_plain(each, kind) for each in value]
    return str(value).strip()  # types and sparse tensors, as protobuf prints them


@cache
def _defaults(operator: str, opset: int, domain: str) -> dict[str, Setting]:
    try:
        schema = onnx.defs.get_schema(operator, opset, "" if domain in ONNX_DOMAINS else domain)
    except onnx.defs.SchemaError:
        return {}
    given = (attribute.default_value for attribute in schema.attributes.values())
    return {attribute.name: _value(attribute) for attribute in given if attribute.name}
