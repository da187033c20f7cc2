"""Where the bytes of a tensor are, and getting at them safely and piece by piece.

External data is the model's own (``contained``), has no range beyond the file's end, and exactly as many
bytes as shape and type ask for. A tensor says in one place what it holds: of two, runtimes take one or the
other. A file is opened once, and read through that descriptor to the end: what is put in its place meanwhile
is not read, and what is written into it is found out.
"""

from __future__ import annotations

import os
import re
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec import Struct, field

from bnfuse.core.weights.tensor import Array, ArrayTensor, Tensor
from bnfuse.errors import UnreadableModel
from bnfuse.files.stamps import Stamp, check_stamp, stamp_of
from bnfuse.formats.elsewhere import closed, opened
from bnfuse.formats.onnx.file.contained import open_contained
from bnfuse.formats.onnx.file.element_types import numpy_type
from bnfuse.formats.onnx.file.positioned import BINARY, read_into
from bnfuse.formats.onnx.file.protobuf import payload_number, two_values
from bnfuse.formats.onnx.file.wire import FileSlice

_MOST_AXES = 32  # more are nobody's, and numpy has none
_NUMBER = re.compile(r"[0-9]{1,18}")


class Files(Struct):
    """Open files of one model, and one buffer through which they are read."""

    model: Path
    slices: list[FileSlice] = field(default_factory=list)  # payloads of the model file itself
    _open: dict[Path, tuple[int, Stamp]] = field(default_factory=dict)
    _beside: dict[str, Path] = field(default_factory=dict)  # external files by location

    def fd(self, path: Path) -> int:
        """A descriptor that stays open as long as this object lives.

        Raises:
            OSError: it cannot be opened.
        """
        if path not in self._open:
            self._keep(path, os.open(path, os.O_RDONLY | BINARY | getattr(os, "O_NONBLOCK", 0)))
        return self._open[path][0]

    def size_bytes(self, path: Path) -> int:
        """Size of an open file, as it was when it was opened."""
        return self._open[path][1][0]

    def _keep(self, path: Path, descriptor: int) -> None:
        if path in self._open:  # under two locations
            os.close(descriptor)
        else:
            self._open[path] = descriptor, stamp_of(os.fstat(descriptor))
            opened(path, descriptor)

    def check_unchanged(self) -> None:
        """Whether all that was read is what lies there now.

        Raises:
            UnreadableModel: a file was changed or replaced since it was opened.
        """
        for path, (_, stamp) in self._open.items():
            check_stamp(path, stamp)

    def close(self) -> None:
        """Close all files."""
        for descriptor, _ in self._open.values():
            closed(descriptor)
            os.close(descriptor)
        self._open.clear()

    def __del__(self) -> None:
        self.close()

    def slice_of(self, tensor: onnx.TensorProto) -> FileSlice | None:
        """Where a tensor's bytes lie; None where they are in the proto.

        Raises:
            UnsafeModel: external data outside the model's folder.
            UnreadableModel: external data missing or of the wrong size.
        """
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return None
        entries = {e.key: e.value for e in tensor.external_data}
        if len(entries) < len(tensor.external_data) or tensor.raw_data or _lists(tensor):
            raise self._two_values(tensor)
        if any(isinstance(word, bytes) for entry in entries.items() for word in entry):  # as protobuf has it
            raise UnreadableModel(f"{self.model}: external data of tensor '{tensor.name}' is no text")
        place = entries.get("location", "")
        number = payload_number(place)
        if number is not None:
            return self.slices[number]
        if place not in self._beside:
            self._beside[place], descriptor = open_contained(self.model, place, tensor.name)
            self._keep(self._beside[place], descriptor)
        path = self._beside[place]
        size = self.size_bytes(path)
        needed = nbytes(tensor)
        offset = self._number(tensor, entries.get("offset", "0"))
        length = self._number(tensor, entries.get("length", str(needed)))
        if length != needed:
            raise UnreadableModel(
                f"{self.model}: tensor '{tensor.name}' needs {needed} bytes by its shape and type, "
                f"but its external data has {length}"
            )
        if offset + length > size:
            raise UnreadableModel(
                f"{self.model}: tensor '{tensor.name}' ends at byte {offset + length} of '{place}', "
                f"which has only {size}; the file is incomplete"
            )
        return FileSlice(path, offset, length)

    def _number(self, tensor: onnx.TensorProto, text: str) -> int:
        """A number of bytes, as runtimes read it: Python takes spaces, underscores and other digits, too."""
        if not _NUMBER.fullmatch(text):
            raise UnreadableModel(f"{self.model}: tensor '{tensor.name}' has a malformed external offset")
        return int(text)

    def _two_values(self, tensor: onnx.TensorProto) -> UnreadableModel:
        return two_values(self.model, f"tensor '{tensor.name}'")

    def side_files(self) -> tuple[Path, ...]:
        """The external files that tensors point to, by real path."""
        return tuple(dict.fromkeys(self._beside.values()))

    def total_bytes(self) -> int:
        """The model file and every external file its tensors point to, in bytes."""
        return sum(map(self.size_bytes, {self.model, *self._beside.values()}))

    def tensor(self, proto: onnx.TensorProto) -> Tensor:
        """A constant to read from, wherever it lies.

        Raises:
            UnreadableModel: shape, type and bytes do not fit together.
        """
        dims = tuple(proto.dims)
        if len(dims) > _MOST_AXES:
            raise UnreadableModel(f"{self.model}: tensor '{proto.name}' has {len(dims)} axes")
        dtype, packed = _stored(proto.data_type)
        raw_bytes = len(proto.raw_data)
        if bool(raw_bytes) + _lists(proto) > 1:
            raise self._two_values(proto)
        fits = raw_bytes == prod(dims) * dtype.itemsize and not packed
        if raw_bytes and fits and (not dims or min(dims) > 0):
            return RawTensor(proto, dims, dtype)
        where = self.slice_of(proto)
        if where is not None:
            if where.length != nbytes(proto):
                raise UnreadableModel(f"{self.model}: tensor '{proto.name}' has the wrong number of bytes")
            return FileTensor(self, where, dims, dtype)
        if proto.HasField("raw_data") and raw_bytes != nbytes(proto):
            raise UnreadableModel(f"{self.model}: tensor '{proto.name}' has the wrong number of bytes")
        try:
            return ArrayTensor(onnx.numpy_helper.to_array(proto))
        except (ValueError, TypeError) as e:
            raise UnreadableModel(f"{self.model}: tensor '{proto.name}' is malformed: {e}") from e


def _lists(tensor: onnx.TensorProto) -> int:
    """How many of a tensor's lists hold values of its own; its raw bytes would be copied to be seen."""
    return (
        bool(tensor.float_data)
        + bool(tensor.int32_data)
        + bool(tensor.int64_data)
        + bool(tensor.double_data)
        + bool(tensor.uint64_data)
        + bool(tensor.string_data)
    )


class RawTensor(Struct, frozen=True, eq=False):
    """A tensor whose bytes are in the parsed model: fetched when asked for, not kept twice."""

    proto: onnx.TensorProto
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop)."""
        found = np.frombuffer(self.proto.raw_data, self.dtype)
        return found if not start and stop == len(found) else found[start:stop]


class FileTensor(Struct, frozen=True, eq=False):
    """A tensor whose bytes lie in a file."""

    files: Files
    where: FileSlice
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop), in a buffer of their own."""
        n = self.dtype.itemsize
        if not 0 <= start <= stop <= self.where.length // n:
            raise ValueError(f"elements {start}..{stop} of {self.where.length // n}")
        buffer = np.empty(stop - start, self.dtype)
        view = memoryview(buffer.view(np.uint8).data).cast("B")
        position, done = self.where.offset + start * n, 0
        while done < len(view):
            got = read_into(self.files.fd(self.where.path), view[done:], position + done)
            if not got:
                raise UnreadableModel(
                    f"{self.where.path} ended while it was read; it must not change meanwhile"
                )
            done += got
        return buffer


@cache
def numpy_dtype(data_type: int) -> np.dtype[Any]:
    """The numpy (or ml_dtypes) type of a TensorProto.DataType."""
    try:
        return numpy_type(data_type)
    except KeyError as e:
        raise UnreadableModel(f"a tensor has the unknown type {data_type}") from e


@cache
def _stored(data_type: int) -> tuple[np.dtype[Any], bool]:
    """The numpy type, and whether elements are smaller than it (several to a byte)."""
    dtype = numpy_dtype(data_type)
    return dtype, element_bits(data_type) != dtype.itemsize * 8


@cache
def element_bits(data_type: int) -> int:
    """Stored bits of one element of a TensorProto.DataType.

    Raises:
        UnreadableModel: no such type.
    """
    whole_bits = numpy_dtype(data_type).itemsize * 8
    names = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
    return names.get(onnx.TensorProto.DataType.Name(data_type), whole_bits)


def nbytes(proto: onnx.TensorProto) -> int:
    """Bytes that shape and type ask for."""
    dims = tuple(proto.dims)
    if len(dims) > _MOST_AXES:  # whose product takes the square of them, and no sentence holds it
        raise UnreadableModel(f"tensor '{proto.name}' has {len(dims)} axes")
    if any(d < 0 for d in dims):
        raise UnreadableModel(f"tensor '{proto.name}' has a negative size")
    return (prod(dims) * element_bits(proto.data_type) + 7) // 8
