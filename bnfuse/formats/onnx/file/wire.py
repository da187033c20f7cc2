"""ONNX files as protobuf wire format: take large tensors out on reading, put them in on writing.

A single-file model is its own external data. ``skim`` walks the wire format and copies everything
but the bytes of large tensors; in their place each such TensorProto says "external", with a
location that is a secret of this process (no file can forge it) and a number into a table of
payloads. ``splice`` does the reverse on a serialized model: it yields the bytes and the payload
numbers of the final file, with every enclosing length recomputed.

Field numbers are those of onnx.proto3; wire types those of the protobuf encoding specification.
"""

from __future__ import annotations

import os
import secrets
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bnfuse.errors import UnreadableModel

# Tensors of at least this many bytes stay in the file.
LARGE_BYTES = 1 << 14
_WINDOW_BYTES = 1 << 16

TOKEN = f"bnfuse:{secrets.token_hex(16)}:"

# Which fields of which message may hold a tensor, however deep: (message, field) -> message.
_NESTED = {
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
# TensorProto: raw_data, and the packed float_data and double_data, which are raw little-endian too.
_DATA_FIELDS = {9, 4, 10}
_EXTERNAL_FIELDS = {13, 14}


@dataclass(frozen=True, slots=True)
class FileSlice:
    """``length`` bytes at ``offset`` of a file."""

    path: Path
    offset: int
    length: int


@dataclass(slots=True)
class Window:
    """Bytes of an open file by position, through one small buffer."""

    fd: int
    size: int
    _start: int = 0
    _data: bytes = b""

    def at(self, position: int) -> tuple[bytes, int]:
        """A buffer and the index in it of ``position``, with at least 20 bytes after it if there are any."""
        index = position - self._start
        if index < 0 or index + 20 > len(self._data):
            self._data = os.pread(self.fd, _WINDOW_BYTES, position)
            self._start, index = position, 0
        return self._data, index


@dataclass(slots=True)
class _Skim:
    window: Window
    path: Path
    slices: list[FileSlice] = field(default_factory=list)

    def message(self, kind: str, start: int, end: int, depth: int = 0) -> list[bytes]:
        """The message [start, end) without its large tensors, as pieces."""
        if depth > 100:
            raise UnreadableModel(f"{self.path}: graphs are nested more than 100 deep")
        pieces: list[bytes] = []
        large: FileSlice | None = None
        copied = position = start
        while position < end:
            position = self._skip_small(position, end)
            if position == end:
                break
            number, wire, body, stop = self._field(position, end)
            length = stop - body
            nested = _NESTED.get((kind, number)) if wire == 2 and length >= LARGE_BYTES else None
            takes = kind == "Tensor" and wire == 2 and number in _DATA_FIELDS and length >= LARGE_BYTES
            if nested is not None or takes:
                pieces.append(self._bytes(copied, position))
                copied = stop
            if nested is not None:
                inner = self.message(nested, body, stop, depth + 1)
                pieces.append(tag(number, 2) + varint(sum(map(len, inner))))
                pieces += inner
            elif takes:
                large = FileSlice(self.path, body, length)
            position = stop
        pieces.append(self._bytes(copied, end))
        if large is not None:
            pieces.append(_external(len(self.slices)))
            self.slices.append(large)
        return pieces

    def _skip_small(self, position: int, end: int) -> int:
        """Past the fields from ``position`` on that are copied whatever they are, as far as the buffer goes.

        A large graph is mostly these: keys of one byte, lengths below 16 KiB in one or two bytes.
        """
        data, index = self.window.at(position)
        first = index
        last = min(len(data), index + end - position) - 3
        while index < last:
            key, length = data[index], data[index + 1]
            if key & 7 != 2 or key > 0x7F or key < 8:
                break
            start = index + 2
            if length > 0x7F:
                if data[start] > 0x7F:
                    break
                length += (data[start] << 7) - 0x80
                start += 1
            if start + length > last + 3:
                break
            index = start + length
        return position + index - first

    def _field(self, position: int, end: int) -> tuple[int, int, int, int]:
        """(field number, wire type, where its body starts, where it stops)."""
        data, index = self.window.at(position)
        key, after = _read_varint(data, index, self.path)
        wire = key & 7
        body = position + after - index
        if wire == 2:
            length, begin = _read_varint(data, after, self.path)
            body = position + begin - index
            stop = body + length
        elif wire == 0:
            _, begin = _read_varint(data, after, self.path)
            stop = position + begin - index
        elif wire in (1, 5):
            stop = body + (8 if wire == 1 else 4)
        else:
            raise UnreadableModel(f"{self.path} is not an ONNX model: no protobuf message at byte {position}")
        if stop > end or key >> 3 == 0:
            raise UnreadableModel(
                f"{self.path} is truncated or not an ONNX model: the field at byte {position} "
                f"ends at byte {stop}, beyond {end}; fetch or export it again"
            )
        return key >> 3, wire, body, stop

    def _bytes(self, start: int, stop: int) -> bytes:
        return os.pread(self.window.fd, stop - start, start) if stop > start else b""


def skim(path: Path, fd: int, size_bytes: int) -> tuple[bytes, list[FileSlice]]:
    """A serialized ModelProto without its large tensors, and where those lie in the file.

    Args:
        path: named in errors and in the slices.
        fd: the open file.
        size_bytes: its size.

    Raises:
        UnreadableModel: not protobuf, or truncated.
    """
    job = _Skim(Window(fd, size_bytes), path)
    return b"".join(job.message("Model", 0, size_bytes)), job.slices


def location(number: int) -> str:
    """The external-data location that stands for payload ``number``."""
    return f"{TOKEN}{number}"


def payload_number(place: str) -> int | None:
    """Which payload a location stands for; None for a real file name."""
    return int(place[len(TOKEN) :]) if place.startswith(TOKEN) else None


def splice(model: bytes | bytearray, length_of: Callable[[int], int]) -> Iterator[bytes | bytearray | int]:
    """The final file of a serialized ModelProto: pieces of bytes, and payload numbers in between.

    Args:
        model: serialized, with ``location(n)`` in tensors whose bytes are payload n.
        length_of: bytes of payload n.
    """
    hits = list(_find_all(model, TOKEN.encode()))
    if not hits:
        return iter((model,))
    parts, _ = _Splice(model, hits, length_of).message("Model", 0, len(model))
    return iter(parts)


@dataclass(slots=True)
class _Splice:
    data: bytes | bytearray
    hits: list[int]
    length_of: Callable[[int], int]

    def message(self, kind: str, start: int, end: int) -> tuple[list[bytes | bytearray | int], int]:
        """The message's parts with payloads in place, and their total length."""
        if kind == "Tensor":
            return self._tensor(start, end)
        parts: list[bytes | bytearray | int] = []
        total = 0
        copied = position = start
        while position < end:
            key, after = _read_varint(self.data, position, Path())
            stop, body = self._stop(key & 7, after)
            nested = _NESTED.get((kind, key >> 3)) if key & 7 == 2 and self._hit(body, stop) else None
            if nested is not None:
                inner, length = self.message(nested, body, stop)
                head = self.data[copied:position] + tag(key >> 3, 2) + varint(length)
                parts += [head, *inner]
                total += len(head) + length
                copied = stop
            position = stop
        rest = self.data[copied:end]
        parts.append(rest)
        return parts, total + len(rest)

    def _tensor(self, start: int, end: int) -> tuple[list[bytes | bytearray | int], int]:
        """The tensor's own fields without its external ones, then raw_data."""
        kept = b""
        number = -1
        position = start
        while position < end:
            key, after = _read_varint(self.data, position, Path())
            stop, body = self._stop(key & 7, after)
            if key >> 3 not in _EXTERNAL_FIELDS:
                kept += self.data[position:stop]
            elif key >> 3 == 13 and self._hit(body, stop):
                number = self._number(body, stop)
            position = stop
        length = self.length_of(number)
        head = kept + tag(9, 2) + varint(length)
        return [head, number], len(head) + length

    def _number(self, start: int, stop: int) -> int:
        text = self.data[self.data.index(TOKEN.encode(), start) + len(TOKEN) : stop]
        return int(text)

    def _stop(self, wire: int, after: int) -> tuple[int, int]:
        """(where the field stops, where its body starts)."""
        if wire == 2:
            length, body = _read_varint(self.data, after, Path())
            return body + length, body
        if wire == 0:
            return _read_varint(self.data, after, Path())[1], after
        return after + (8 if wire == 1 else 4), after

    def _hit(self, start: int, stop: int) -> bool:
        at = bisect_left(self.hits, start)
        return at < len(self.hits) and self.hits[at] < stop


def _find_all(data: bytes | bytearray, needle: bytes) -> Iterator[int]:
    at = data.find(needle)
    while at >= 0:
        yield at
        at = data.find(needle, at + len(needle))


def _external(number: int) -> bytes:
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


def _read_varint(data: bytes | bytearray, index: int, path: Path) -> tuple[int, int]:
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
