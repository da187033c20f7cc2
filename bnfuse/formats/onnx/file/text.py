"""Whether all strings of a file are text: protobuf's Python takes any bytes for a string of ONNX's schema.

A schema of the newer syntax is strict. The same schema in that syntax is asked to read the same bytes, which
takes no time; a walk through all names in Python would take longer than all else.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError


def is_text(model: bytes) -> bool:
    """Whether every string of a serialized ModelProto is UTF-8."""
    try:
        _strict().FromString(model)
    except (DecodeError, UnicodeDecodeError):
        return False
    return True


@cache
def _strict() -> Any:
    schema = descriptor_pb2.FileDescriptorProto()
    onnx.ModelProto.DESCRIPTOR.file.CopyToProto(schema)
    schema.name, schema.syntax = "strict.proto", "proto3"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(schema.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(onnx.ModelProto.DESCRIPTOR.full_name))
