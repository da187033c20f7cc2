"""ONNX files as protobuf wire format: take large tensors out on reading, put them in on writing.

A single-file model is its own external data. ``skim`` walks the wire format and copies everything
but the bytes of large tensors; in their place each such TensorProto says "external", with a
location that is a secret of this process (no file can forge it) and a number into a table of
payloads. ``splice`` does the reverse on a serialized model: it yields the bytes and the payload
numbers of the final file, with every enclosing length recomputed.

Field numbers are those of onnx.proto3; wire types those of the protobuf encoding specification.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from bnfuse.errors import UnreadableModel
from bnfuse.formats.onnx.file.positioned import read_at
from bnfuse.formats.onnx.file.protobuf import NESTED, external, read_varint, tag, two_values, varint

# Tensors of at least this many bytes stay in the file.
LARGE_BYTES = 1 << 14
_WINDOW_BYTES = 1 << 16


# TensorProto: raw_data, and the packed float_data and double_data, which are raw little-endian too.
_DATA_FIELDS = {9, 4, 10}


class FileSlice(Struct, frozen=True):
    """``length`` bytes at ``offset`` of a file."""

    path: Path
    offset: int
    length: int


class ReadAhead(Struct):
    """Bytes of an open file by position, through one small buffer."""

    fd: int
    size: int
    _start: int = 0
    _data: bytes = b""

    def at(self, position: int) -> tuple[bytes, int]:
        """A buffer and the index in it of ``position``, with at least 20 bytes after it if there are any."""
        index = position - self._start
        if index < 0 or index + 20 > len(self._data):
            self._data = read_at(self.fd, _WINDOW_BYTES, position)
            self._start, index = position, 0
        return self._data, index


class _Skim(Struct):
    window: ReadAhead
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
            nested = NESTED.get((kind, number)) if wire == 2 and length >= LARGE_BYTES else None
            takes = kind == "Tensor" and wire == 2 and number in _DATA_FIELDS and length >= LARGE_BYTES
            if nested is not None or takes:
                pieces.append(self._bytes(copied, position))
                copied = stop
            if nested is not None:
                inner = self.message(nested, body, stop, depth + 1)
                pieces.append(tag(number, 2) + varint(sum(map(len, inner))))
                pieces += inner
            elif takes:
                if large is not None:
                    raise two_values(self.path, "a tensor")
                large = FileSlice(self.path, body, length)
            position = stop
        pieces.append(self._bytes(copied, end))
        if large is not None:
            pieces.append(external(len(self.slices)))
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
        key, after = read_varint(data, index, self.path)
        wire = key & 7
        body = position + after - index
        if wire == 2:
            length, begin = read_varint(data, after, self.path)
            body = position + begin - index
            stop = body + length
        elif wire == 0:
            _, begin = read_varint(data, after, self.path)
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
        return read_at(self.window.fd, stop - start, start) if stop > start else b""


def skim(path: Path, fd: int, size_bytes: int) -> tuple[bytes, list[FileSlice]]:
    """A serialized ModelProto without its large tensors, and where those lie in the file.

    Args:
        path: named in errors and in the slices.
        fd: the open file.
        size_bytes: its size.

    Raises:
        UnreadableModel: not protobuf, or truncated.
    """
    job = _Skim(ReadAhead(fd, size_bytes), path)
    return b"".join(job.message("Model", 0, size_bytes)), job.slices
