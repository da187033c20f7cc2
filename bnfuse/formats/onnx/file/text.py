"""Whether all strings of a file are text: protobuf's Python takes any bytes for a string of ONNX's schema.

A schema of the newer syntax is strict. The same schema in that syntax is asked to read the same bytes, which
takes no time; a walk through all names in Python would take longer than all else.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError

# Fields 1 and 12 of a FileDescriptorProto: of what is given twice the last counts.
_NAME, _SYNTAX = b"\x0a\x0cstrict.proto", b"\x62\x06proto3"


def is_text(model: bytes) -> bool:
    """Whether every string of a serialized ModelProto is UTF-8."""
    try:
        _strict().FromString(model)
    except (DecodeError, UnicodeDecodeError):
        return False
    return True


@cache
def _strict() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(onnx.ModelProto.DESCRIPTOR.file.serialized_pb + _NAME + _SYNTAX)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(onnx.ModelProto.DESCRIPTOR.full_name))
