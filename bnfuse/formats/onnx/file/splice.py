"""ONNX files as protobuf wire format: put large tensors back in on writing (see ``wire``)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from bnfuse.formats.onnx.file.protobuf import NESTED, TOKEN, read_varint, tag, varint

_EXTERNAL_FIELDS = {13, 14}


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


class _Splice(Struct):
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
            key, after = read_varint(self.data, position, Path())
            stop, body = self._stop(key & 7, after)
            nested = NESTED.get((kind, key >> 3)) if key & 7 == 2 and self._hit(body, stop) else None
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
            key, after = read_varint(self.data, position, Path())
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
            length, body = read_varint(self.data, after, Path())
            return body + length, body
        if wire == 0:
            return read_varint(self.data, after, Path())[1], after
        return after + (8 if wire == 1 else 4), after

    def _hit(self, start: int, stop: int) -> bool:
        at = bisect_left(self.hits, start)
        return at < len(self.hits) and self.hits[at] < stop


def _find_all(data: bytes | bytearray, needle: bytes) -> Iterator[int]:
    at = data.find(needle)
    while at >= 0:
        yield at
        at = data.find(needle, at + len(needle))
