"""Puts pieces of known length at their places in a file.

Untouched tensors go from file to file inside the kernel (``copy_file_range``, else read and write),
touched ones are scaled in blocks. This thread scales; a second one copies and a third one writes what was
scaled. Those two spend their time in the kernel, so they do not hold up this one (a second thread that
scales would). The places are fixed beforehand: the result does not depend on who comes first.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from queue import Queue

from msgspec import Struct, field

from bnfuse.core.apply import OverflowingFold
from bnfuse.core.weights.scaled import ScaledTensor
from bnfuse.formats.onnx.file.positioned import read_at, write_at
from bnfuse.formats.onnx.file.storage import Files
from bnfuse.formats.onnx.file.wire import FileSlice

Large = FileSlice | ScaledTensor
Payload = Large | bytes | bytearray

# Large copies are cut so that both threads have their share and an interruption is noticed.
_COPY_BYTES = 1 << 23
# Scaled blocks that may wait to be written.
_WAITING = 8
_NOT_SO = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF}


class Pouring(Struct, eq=False):
    """One file that is being written.

    Attributes:
        files: the input's files.
        out: descriptor of the file to write.
        flushed: subnormals flushed so far.
    """

    files: Files
    out: int
    flushed: int = 0
    _copies: list[tuple[int, int, FileSlice]] = field(default_factory=list)
    _others: list[tuple[int, ScaledTensor | bytes | bytearray]] = field(default_factory=list)
    _failures: list[BaseException] = field(default_factory=list)
    _blocks: Queue[tuple[int, memoryview] | None] = field(default_factory=lambda: Queue(_WAITING))

    def add(self, offset: int, payload: Payload) -> None:
        """Something to put at an offset, in bytes.

        Raises:
            OSError: the file to copy from cannot be opened.
        """
        if not isinstance(payload, FileSlice):
            self._others.append((offset, payload))
            return
        source = self.files.fd(payload.path)
        for done in range(0, payload.length, _COPY_BYTES):
            length = min(_COPY_BYTES, payload.length - done)
            piece = FileSlice(payload.path, payload.offset + done, length)
            self._copies.append((offset + done, source, piece))

    def run(self, size_bytes: int) -> None:
        """Do all of it; the file is ``size_bytes`` long then.

        Raises:
            OSError: no space, no permission.
            OverflowingFold: a new weight does not fit its type.
        """
        os.ftruncate(self.out, size_bytes)
        self._copies.reverse()  # taken from the end
        helpers = []
        if len(self._copies) > 1:
            helpers.append(threading.Thread(target=self._copy_all))
        if any(isinstance(payload, ScaledTensor) for _, payload in self._others):
            helpers.append(threading.Thread(target=self._write_all))
        for helper in helpers:
            helper.start()
        try:
            for offset, payload in self._others:
                if self._failures:
                    break
                if isinstance(payload, ScaledTensor):
                    self._scale(offset, payload)
                else:
                    _write(self.out, payload, offset)
            self._copy_all()
        finally:
            self._copies.clear()  # on an error or interruption: the others stop after what they are at
            self._blocks.put(None)
            for helper in helpers:
                helper.join()
        if self._failures:
            raise self._failures[0]

    def _write_all(self) -> None:
        """Write scaled blocks as they come; after a failure only take them, so that nobody waits."""
        while (block := self._blocks.get()) is not None:
            if not self._failures:
                offset, data = block
                self._attempt(partial(_write, self.out, data, offset))

    def _attempt(self, step: Callable[[], None]) -> None:
        """Do a step in another thread; whatever it raises is kept, and ``run`` raises it."""
        try:
            step()
        except BaseException as failure:  # noqa: BLE001 - a thread that dies of it would leave a hole in the file
            self._failures.append(failure)
            self._copies.clear()

    def _copy_all(self) -> None:
        """Copy what is left to copy, until another one has taken the last."""
        while self._copies:
            try:
                offset, source, where = self._copies.pop()
            except IndexError:
                return
            self._attempt(partial(_copy, source, where, self.out, offset))

    def _scale(self, offset: int, payload: ScaledTensor) -> None:
        flushed = 0
        try:
            for start, block, small in payload.blocks():
                flushed += small
                data = memoryview(block.view("u1").data).cast("B")
                self._blocks.put((offset + start * payload.dtype.itemsize, data))
        except FloatingPointError as e:
            raise OverflowingFold(payload.folded) from e
        self.flushed += flushed


def _copy(source: int, where: FileSlice, out: int, offset: int) -> None:
    """Bytes from file to file without passing through this process, where the system can."""
    done = 0
    in_kernel: Callable[[int, int, int, int, int], int] | None = getattr(os, "copy_file_range", None)
    while in_kernel is not None and done < where.length:
        try:
            got = in_kernel(source, out, where.length - done, where.offset + done, offset + done)
        except OSError as e:
            if e.errno not in _NOT_SO:
                raise
            break
        if not got:
            break
        done += got
    while done < where.length:
        block = read_at(source, min(1 << 20, where.length - done), where.offset + done)
        if not block:
            raise OSError(errno.EIO, f"{where.path} ended while it was copied")
        _write(out, block, offset + done)
        done += len(block)


def _write(out: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = write_at(out, view, offset)
        view, offset = view[done:], offset + done
