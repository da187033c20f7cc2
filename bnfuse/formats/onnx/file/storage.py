"""Where the bytes of a tensor are, and getting at them safely and piece by piece.

External data is contained: a location must be a relative name that leads, by real path, into the
model's own folder; no symbolic link out of it, no hard link (which could alias a file elsewhere),
no range beyond the file's end, and exactly as many bytes as shape and type ask for
(CVE-2022-25882, -2024-27318, -2025-51480 and later ones of the same kind).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx

from bnfuse.core.tensor import Array, ArrayTensor, Tensor
from bnfuse.errors import UnreadableModel, UnsafeModel
from bnfuse.formats.onnx.file.protobuf import payload_number
from bnfuse.formats.onnx.file.wire import FileSlice


@dataclass(slots=True)
class Files:
    """Open files of one model, and one buffer through which they are read."""

    model: Path
    slices: list[FileSlice] = field(default_factory=list)  # payloads of the model file itself
    _open: dict[Path, int] = field(default_factory=dict)
    _checked: dict[str, tuple[Path, int]] = field(default_factory=dict)

    def fd(self, path: Path) -> int:
        """A descriptor that stays open as long as this object lives."""
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDONLY)
        return self._open[path]

    def close(self) -> None:
        """Close all files."""
        for fd in self._open.values():
            os.close(fd)
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
        place = entries.get("location", "")
        number = payload_number(place)
        if number is not None:
            return self.slices[number]
        path, size = self._contained(place, tensor.name)
        needed = nbytes(tensor)
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries.get("length") or needed)
        except ValueError as e:
            raise UnreadableModel(
                f"{self.model}: tensor '{tensor.name}' has a malformed external offset"
            ) from e
        if length != needed:
            raise UnreadableModel(
                f"{self.model}: tensor '{tensor.name}' needs {needed} bytes by its shape and type, "
                f"but its external data has {length}"
            )
        if offset < 0 or offset + length > size:
            raise UnreadableModel(
                f"{self.model}: tensor '{tensor.name}' ends at byte {offset + length} of '{place}', "
                f"which has only {size}; the file is incomplete"
            )
        return FileSlice(path, offset, length)

    def _contained(self, place: str, tensor: str) -> tuple[Path, int]:
        """The real path and size of an external file, checked once."""
        if place in self._checked:
            return self._checked[place]
        name = PurePosixPath(place)
        escape = (
            not place
            or "\0" in place
            or name.is_absolute()
            or ".." in name.parts
            or PureWindowsPath(place).drive
            or "\\" in place
        )
        folder = self.model.parent
        if escape:
            raise UnsafeModel(
                f"{self.model}: tensor '{tensor}' asks for data at '{place}', outside the model's folder; "
                "bnfuse does not follow it"
            )
        path = Path(os.path.realpath(folder / place))
        homes = {os.path.realpath(folder), str(Path(os.path.realpath(self.model)).parent)}
        if not any(path.is_relative_to(home) for home in homes):
            raise UnsafeModel(
                f"{self.model}: external data '{place}' leads to {path}, outside the model's folder; "
                "put the data beside the model"
            )
        try:
            info = path.stat()
        except OSError as e:
            raise UnreadableModel(
                f"{self.model}: its weights are in '{place}', which is missing; put it beside the model"
            ) from e
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
            raise UnsafeModel(
                f"{self.model}: external data '{place}' is "
                f"{'hard-linked from elsewhere' if stat.S_ISREG(info.st_mode) else 'not a regular file'}; "
                "copy it to a file of its own"
            )
        self._checked[place] = path, info.st_size
        return self._checked[place]

    def side_files(self) -> tuple[Path, ...]:
        """The external files that tensors point to, by real path."""
        return tuple(path for path, _ in self._checked.values())

    def total_bytes(self, proto: onnx.ModelProto) -> int:
        """The model file and every external file its tensors point to, in bytes."""
        return self.model.stat().st_size + sum(size for _, size in self._checked.values())

    def tensor(self, proto: onnx.TensorProto) -> Tensor:
        """A constant to read from, wherever it lies.

        Raises:
            UnreadableModel: shape, type and bytes do not fit together.
        """
        dims = tuple(proto.dims)
        dtype, packed = _stored(proto.data_type)
        raw_bytes = len(proto.raw_data)
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


@dataclass(frozen=True, slots=True, eq=False)
class RawTensor:
    """A tensor whose bytes are in the parsed model: fetched when asked for, not kept twice."""

    proto: onnx.TensorProto
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop)."""
        found = np.frombuffer(self.proto.raw_data, self.dtype)
        return found if not start and stop == len(found) else found[start:stop]


@dataclass(frozen=True, slots=True, eq=False)
class FileTensor:
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
            got = os.preadv(self.files.fd(self.where.path), [view[done:]], position + done)
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
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))
    except KeyError as e:
        raise UnreadableModel(f"a tensor has the unknown type {data_type}") from e


@cache
def _stored(data_type: int) -> tuple[np.dtype[Any], bool]:
    """The numpy type, and whether elements are smaller than it (several to a byte)."""
    dtype = numpy_dtype(data_type)
    return dtype, _bits(data_type) != dtype.itemsize * 8


@cache
def _bits(data_type: int) -> int:
    names = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
    name = onnx.TensorProto.DataType.Name(data_type)
    return names.get(name, numpy_dtype(data_type).itemsize * 8)


def nbytes(proto: onnx.TensorProto) -> int:
    """Bytes that shape and type ask for."""
    dims = tuple(proto.dims)
    if any(d < 0 for d in dims):
        raise UnreadableModel(f"tensor '{proto.name}' has a negative size")
    return (prod(dims) * _bits(proto.data_type) + 7) // 8
