"""The protobuf wire format as far as ONNX files need it, and the names that large tensors leave behind."""

from __future__ import annotations

import os
from pathlib import Path

from bnfuse.errors import UnreadableModel

TOKEN = f"bnfuse:{os.urandom(16).hex()}:"
# Which fields of which message may hold a tensor, however deep: (message, field) -> message.
NESTED = {
    ("Model", 7): "Graph",
    ("Model", 25): "Function",
    ("Graph", 1): "Node",
    ("Graph", 5): "Tensor",
    ("Function", 7): "Node",
    ("Node", 5): "Attribute",
    ("Attribute", 5): "Tensor",
    ("Attribute", 6): "Graph",
    ("Attribute", 10): "Tensor",
    ("Attribute", 11): "Graph",
}


def location(number: int) -> str:
    """The external-data location that stands for payload ``number``."""
    return f"{TOKEN}{number}"


def payload_number(place: str) -> int | None:
    """Which payload a location stands for; None for a real file name."""
    return int(place[len(TOKEN) :]) if place.startswith(TOKEN) else None


def external(number: int) -> bytes:
    """TensorProto fields external_data {location} and data_location = EXTERNAL."""
    entry = _string(1, b"location") + _string(2, location(number).encode())
    return _string(13, entry) + tag(14, 0) + varint(1)


def _string(number: int, text: bytes) -> bytes:
    return tag(number, 2) + varint(len(text)) + text


def tag(number: int, wire: int) -> bytes:
    """The key before a field: its number and wire type."""
    return varint(number << 3 | wire)


def varint(value: int) -> bytes:
    """A non-negative integer in base 128, low digits first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def two_values(path: Path, tensor: str) -> UnreadableModel:
    """The refusal of a tensor whose elements are in more than one of its fields."""
    return UnreadableModel(
        f"{path}: {tensor} says in two places what it holds, and readers do not agree on which one counts; "
        "export it again"
    )


def read_varint(data: bytes | bytearray, index: int, path: Path) -> tuple[int, int]:
    """(value, index after it)."""
    value = shift = 0
    while True:
        if index >= len(data) or shift > 63:
            raise UnreadableModel(f"{path} is truncated or not an ONNX model; fetch or export it again")
        byte = data[index]
        index += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index
        shift += 7
