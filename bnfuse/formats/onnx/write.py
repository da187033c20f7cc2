"""From an edited proto to files: small things in one piece, large tensors streamed.

Untouched tensors go from file to file inside the kernel (``copy_file_range``, else read and write);
touched ones are scaled in blocks of one mebibyte. What was external stays external, in one side file
named after the output; what was inline stays inline, unless protobuf's limit of 2 GiB forbids.
The same input gives the same bytes.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from bnfuse.core.apply import OverflowingFold
from bnfuse.core.linear import ScaledTensor
from bnfuse.core.tensor import size
from bnfuse.errors import OutputError
from bnfuse.formats.base import Written
from bnfuse.formats.onnx.assemble import Edited
from bnfuse.formats.onnx.storage import Files, nbytes
from bnfuse.formats.onnx.wire import FileSlice, payload_number, splice

# protobuf cannot hold more in one message; external tensors start on pages so that they can be mapped.
_MAX_INLINE_BYTES = (1 << 31) - (1 << 20)
_PAGE_BYTES = 4096

Payload = FileSlice | ScaledTensor


@dataclass(eq=False)
class _Job:
    """Where every payload goes: inline by number, external as a list in order."""

    files: Files
    edited: Edited
    external: list[tuple[int, Payload]] = field(default_factory=list)  # (offset, payload)
    end: int = 0
    flushed: int = 0

    def payload(self, number: int) -> Payload:
        """What a number stands for."""
        slices = self.files.slices
        return slices[number] if number < len(slices) else self.edited.payloads[number]

    def length(self, number: int) -> int:
        """Bytes of a payload."""
        found = self.payload(number)
        if isinstance(found, FileSlice):
            return found.length
        return size(found.base) * found.dtype.itemsize

    def put_outside(self, tensor: onnx.TensorProto, payload: Payload, length: int, side: str) -> None:
        """Give a tensor a place in the side file."""
        offset = -(-self.end // _PAGE_BYTES) * _PAGE_BYTES if length >= _PAGE_BYTES else self.end
        self.external.append((offset, payload))
        self.end = offset + length
        del tensor.external_data[:]
        for key, value in (("location", side), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")


def write_model(files: Files, edited: Edited, was_external: set[str], path: Path) -> Written:
    """Write an edited model and its side file.

    Args:
        files: the input's files.
        edited: the edited proto; its large tensors point to payloads.
        was_external: names of constants whose data was outside the model file.
        path: where to; the side file is ``path`` + ``.data``, beside it.

    Raises:
        OutputError: no space left, no permission.
        OverflowingFold: a new weight does not fit its type.
    """
    job = _Job(files, edited)
    side = path.with_name(path.name + ".data")
    _place(job, was_external, side.name)
    data = edited.serialized()
    try:
        with path.open("wb") as out:
            for part in splice(data, job.length):
                if isinstance(part, int):
                    _pour(job, job.payload(part), out.fileno())
                else:
                    _write_all(out.fileno(), part)
        if job.external:
            with side.open("wb") as out:
                for offset, payload in job.external:
                    _write_all(out.fileno(), bytes(offset - os.lseek(out.fileno(), 0, os.SEEK_CUR)))
                    _pour(job, payload, out.fileno())
    except OSError as e:
        raise _not_written(path, e) from e
    return Written(path, (side,) if job.external else (), edited.flushed + job.flushed)


def copy_model(files: Files, path: Path) -> Written:
    """The input as it is, for a patch that changes nothing.

    Raises:
        OutputError: no space left, no permission.
    """
    source = files.fd(files.model)
    try:
        with path.open("wb") as out:
            _copy(source, FileSlice(files.model, 0, os.fstat(source).st_size), out.fileno())
    except OSError as e:
        raise _not_written(path, e) from e
    return Written(path, (), 0)


def _not_written(path: Path, error: OSError) -> OutputError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else error.strerror
    return OutputError(f"{path.name} cannot be written to {path.parent}: {what}")


def _place(job: _Job, was_external: set[str], side: str) -> None:
    """Decide for every tensor that is not in the proto whether it goes inline or outside."""
    inline: list[tuple[onnx.TensorProto, int]] = []
    for tensor in job.edited.outside():
        place = next((e.value for e in tensor.external_data if e.key == "location"), "")
        number = payload_number(place)
        if number is None:
            where = job.files.slice_of(tensor)
            assert where is not None
            job.put_outside(tensor, where, where.length, side)
        elif tensor.name in was_external:
            job.put_outside(tensor, job.payload(number), job.length(number), side)
        else:
            inline.append((tensor, number))
    total = sum(job.length(n) for _, n in inline)
    if total > _MAX_INLINE_BYTES // 2:
        total += len(job.edited.serialized())
    if total > _MAX_INLINE_BYTES:
        for tensor, number in inline:
            job.put_outside(tensor, job.payload(number), nbytes(tensor), side)


def _pour(job: _Job, payload: Payload, out: int) -> None:
    """Append a payload to an open file."""
    if isinstance(payload, FileSlice):
        _copy(job.files.fd(payload.path), payload, out)
        return
    try:
        for _, block, flushed in payload.blocks():
            job.flushed += flushed
            _write_all(out, memoryview(block.view("u1").data).cast("B"))
    except FloatingPointError as e:
        raise OverflowingFold(payload.folded) from e


def _copy(source: int, where: FileSlice, out: int) -> None:
    """Bytes from file to file without passing through this process, where the system can."""
    done = 0
    while done < where.length:
        try:
            got = os.copy_file_range(source, out, where.length - done, where.offset + done)
        except OSError as e:
            if e.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF):
                raise
            got = 0
        if not got:
            break
        done += got
    while done < where.length:
        block = os.pread(source, min(1 << 20, where.length - done), where.offset + done)
        if not block:
            raise OSError(errno.EIO, f"{where.path} ended while it was copied")
        _write_all(out, block)
        done += len(block)


def _write_all(out: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]
