"""From an edited proto to files: small things in one piece, large tensors streamed.

Decides where every large tensor goes; ``stream_writer`` puts it there. What was external stays external, in
one side file named after the output; what was inline stays inline, unless protobuf's limit of 2 GiB
forbids. The same input gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from msgspec import Struct, field

from bnfuse.core.weights.tensor import size
from bnfuse.errors import OutputError
from bnfuse.files.side_files import side_file_name
from bnfuse.formats.base import Written
from bnfuse.formats.onnx.edit.assemble import EditedModel
from bnfuse.formats.onnx.file.protobuf import payload_number
from bnfuse.formats.onnx.file.splice import splice
from bnfuse.formats.onnx.file.storage import Files, nbytes
from bnfuse.formats.onnx.file.stream_writer import Large, Payload, Pouring
from bnfuse.formats.onnx.file.wire import FileSlice

# protobuf cannot hold more in one message; external tensors start on pages so that they can be mapped.
_MAX_INLINE_BYTES = (1 << 31) - (1 << 20)
_PAGE_BYTES = 4096


class _Job(Struct, eq=False):
    """Where every payload goes: inline by number, external as a list in order."""

    files: Files
    edited: EditedModel
    external: list[tuple[int, Payload]] = field(default_factory=list)  # (offset, payload)
    outside: list[onnx.TensorProto] = field(default_factory=list)  # whose bytes these are
    end: int = 0
    used: bool = False  # whether any tensor's bytes are outside the proto

    def payload(self, number: int) -> Large:
        """What a number stands for."""
        slices = self.files.slices
        return slices[number] if number < len(slices) else self.edited.payloads[number]

    def length(self, number: int) -> int:
        """Bytes of a payload."""
        found = self.payload(number)
        if isinstance(found, FileSlice):
            return found.length
        return size(found.base) * found.dtype.itemsize

    def put_outside(self, tensor: onnx.TensorProto, payload: Large, length: int) -> None:
        """Give a tensor a place in the side file, whose name is not known yet."""
        offset = -(-self.end // _PAGE_BYTES) * _PAGE_BYTES if length >= _PAGE_BYTES else self.end
        self.external.append((offset, payload))
        self.outside.append(tensor)
        self.end = offset + length
        del tensor.external_data[:]
        for key, value in (("location", ""), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")


def write_model(files: Files, edited: EditedModel, was_external: set[str], path: Path) -> Written:
    """Write an edited model and its side file.

    Args:
        files: the input's files.
        edited: the edited proto; its large tensors point to payloads.
        was_external: names of constants whose data was outside the model file.
        path: where to; the side file is beside it.

    Raises:
        OutputError: no space left, no permission.
        OverflowingFold: a new weight does not fit its type.
    """
    job = _Job(files, edited)
    _place(job, was_external)
    if not (job.used or files.slices):
        _write_chunks(path, edited)
        return Written(path, (), edited.flushed, edited.rounded)
    side, flushed = _side_file(job, path)
    data = edited.serialized()
    inline: list[tuple[int, Payload]] = []
    end = 0
    for part in splice(data, job.length):
        inline.append((end, job.payload(part) if isinstance(part, int) else part))
        end += job.length(part) if isinstance(part, int) else len(part)
    flushed += edited.flushed + _pour(files, path, inline, end)
    return Written(path, side, flushed, edited.rounded)


def _side_file(job: _Job, path: Path) -> tuple[tuple[Path, ...], int]:
    """Write what lies outside, and tell the tensors the file's name; the file, and subnormals flushed.

    Its name says what it holds (``bnfuse.files.side_files``), so it comes first.
    """
    if not job.external:
        return (), 0
    unnamed = path.with_name(path.name + ".data")
    flushed = _pour(job.files, unnamed, job.external, job.end, path)
    try:
        side = unnamed.rename(path.with_name(side_file_name(path.name, unnamed)))
    except OSError as e:
        raise OutputError.of(path.name, e) from e
    for tensor in job.outside:
        tensor.external_data[0].value = side.name
    return (side,), flushed


def copy_model(files: Files, path: Path) -> Written:
    """The input as it is, for a patch that changes nothing.

    Raises:
        OutputError: no space left, no permission.
    """
    size_bytes = files.size_bytes(files.model)
    _pour(files, path, [(0, FileSlice(files.model, 0, size_bytes))], size_bytes)
    return Written(path, (), 0)


def _write_chunks(path: Path, edited: EditedModel) -> None:
    """A model that is all small things."""
    try:
        with path.open("wb") as out:
            for chunk in edited.chunks():
                out.write(chunk)
    except OSError as e:
        raise OutputError.of(path.name, e) from e


def _pour(
    files: Files, path: Path, pieces: list[tuple[int, Payload]], size_bytes: int, told: Path | None = None
) -> int:
    """Write (offset, payload) pieces to a new file, ``told`` as another; how many subnormals were flushed."""
    try:
        with path.open("wb") as out:
            pouring = Pouring(files, out.fileno())
            for offset, payload in pieces:
                pouring.add(offset, payload)
            pouring.run(size_bytes)
    except OSError as e:
        raise OutputError.of((told or path).name, e) from e
    return pouring.flushed


def _place(job: _Job, was_external: set[str]) -> None:
    """Decide for every tensor that is not in the proto whether it goes inline or outside."""
    inline: list[tuple[onnx.TensorProto, int]] = []
    for tensor in job.edited.outside():
        job.used = True
        place = next((e.value for e in tensor.external_data if e.key == "location"), "")
        number = payload_number(place)
        if number is None:
            where = job.files.slice_of(tensor)
            assert where is not None
            job.put_outside(tensor, where, where.length)
        elif tensor.name in was_external:
            job.put_outside(tensor, job.payload(number), job.length(number))
        else:
            inline.append((tensor, number))
    total = sum(job.length(n) for _, n in inline)
    if total > _MAX_INLINE_BYTES // 2:
        total += len(job.edited.serialized())
    if total > _MAX_INLINE_BYTES:
        for tensor, number in inline:
            job.put_outside(tensor, job.payload(number), nbytes(tensor))
