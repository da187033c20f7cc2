"""Bringing a model from a store: whole, or only what is read of it.

A model comes with the files beside it that hold its weights; only names below its own folder are asked for.
What is brought is bounded (``BNFUSE_DOWNLOAD_LIMIT`` in GB, 16 by default), counted as it arrives.

In part are large files that nothing runs, where a store gives ranges and the reader of the format takes its
bytes through ``formats.elsewhere``. The files that stand for them are sparse.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct

from bnfuse.errors import UnreadableModel, UnsafeModel, UsageError
from bnfuse.formats import detect
from bnfuse.formats.elsewhere import stands_for
from bnfuse.formats.spread import Spread
from bnfuse.packed import packing_of
from bnfuse.use_cases.many.addresses import is_web, name_of, store, store_errors

LIMIT_VARIABLE = "BNFUSE_DOWNLOAD_LIMIT"
_LIMIT_GB = 16.0
_CHUNK_BYTES = 1 << 23
_RANGES_BYTES = 1 << 24  # smaller files are sooner here than a few ranges of them
_BLOCK_BYTES = 1 << 20
_MOST_BLOCKS = 32
_HEAD_BYTES = 64


class _Budget(Struct):
    """Bytes that may still be brought for one model."""

    address: str
    left: int

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise UnreadableModel(
                f"{self.address} and the files beside it are larger than {_limit_gb():g} GB, which may be "
                f"brought here ({LIMIT_VARIABLE} in the environment is this limit in GB)"
            )


class Bringing:
    """One model on its way into a folder; files that it leaves open are closed by the stack."""

    def __init__(self, address: str, folder: Path, stack: ExitStack, *, in_part: bool) -> None:
        self._address, self._folder, self._stack = address, folder, stack
        self._in_part = in_part
        self._budget = _Budget(address, int(_limit_gb() * 1e9))
        self._names: list[str] = []
        self._partial = False

    def model(self) -> Path:
        """The model's path; all that it needs is here, too.

        Raises:
            UnreadableModel: something is not there, cannot be read, or is too large.
            UnsafeModel: it asks for data outside its folder.
        """
        path = self._folder / name_of(self._address)
        self._bring(self._address, path)
        for place in self._asked_for(path):
            beside = self._folder / place
            if not beside.resolve().is_relative_to(self._folder.resolve()):
                raise UnsafeModel(
                    f"{self._address} asks for data at '{place}', outside its folder; "
                    "bnfuse does not follow it"
                )
            beside.parent.mkdir(parents=True, exist_ok=True)
            self._bring(f"{self._address.rpartition('/')[0]}/{place}", beside)
        return path

    def _asked_for(self, path: Path) -> tuple[str, ...]:
        """The files beside it; what is packed is whole."""
        if not self._partial and packing_of(path) is not None:
            return ()
        form = detect(path)
        return form.asks_for(path) if isinstance(form, Spread) else ()

    def parts(self) -> tuple[str, ...]:
        """The names of all of them, where one is here in part; else none."""
        return tuple(dict.fromkeys(self._names)) if self._partial else ()

    def _bring(self, address: str, path: Path) -> None:
        self._names.append(str(path.relative_to(self._folder)))
        fs, place = store(address)
        with store_errors(address):
            size = int(fs.info(place).get("size") or 0) if self._in_part else 0
            if size < _RANGES_BYTES or not self._stand(address, path, size):
                self._fetch(fs, place, path, in_one=is_web(address))

    def _fetch(self, fs: Any, place: str, path: Path, *, in_one: bool) -> None:
        """The whole file. The web is read ``in_one``: not every server knows of ranges."""
        source = fs.open(place, "rb", block_size=0) if in_one else fs.open(place, "rb")
        with source, path.open("wb") as sink:
            while chunk := source.read(_CHUNK_BYTES):
                self._budget.take(len(chunk))
                sink.write(chunk)

    def _stand(self, address: str, path: Path, size: int) -> bool:
        """Have a sparse file stand for it; False without ranges, or where its format is read otherwise."""
        fs, place = store(address)
        blocks = {"maxblocks": _MOST_BLOCKS}
        source = fs.open(place, "rb", block_size=_BLOCK_BYTES, cache_type="blockcache", cache_options=blocks)
        self._stack.enter_context(source)
        if not hasattr(source, "seek") or not _gives_ranges(source, size):
            return False

        def fetch(start: int, length: int) -> bytes:
            with store_errors(address):
                self._budget.take(length)
                source.seek(start)
                data = bytes(source.read(length))
            if len(data) != length:
                raise UnreadableModel(
                    f"{address} changed while it was read: run again when nothing writes to it"
                )
            return data

        path.write_bytes(fetch(0, _HEAD_BYTES))
        os.truncate(path, size)
        if address == self._address and not _reads_by_ranges(path):
            self._in_part = False
            return False
        self._stack.enter_context(stands_for(path, fetch))
        self._partial = True
        return True


def _reads_by_ranges(path: Path) -> bool:
    """Whether the format that begins so takes its bytes through ``formats.elsewhere``."""
    try:
        return isinstance(detect(path), Spread)
    except UnreadableModel:  # packed, or no model: that is told of the whole
        return False


def _gives_ranges(source: Any, size: int) -> bool:
    """Whether a part from the middle is to be had; a server of the web may know no other than the whole."""
    try:
        source.seek(size - _HEAD_BYTES)
        return len(source.read(_HEAD_BYTES)) == _HEAD_BYTES
    except ValueError:
        return False


def _limit_gb() -> float:
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit = float(text) if text else _LIMIT_GB
    except ValueError:
        limit = 0.0
    if not 0.0 < limit < float("inf"):
        raise UsageError(f"{LIMIT_VARIABLE} is '{text}', which is not a number of GB")
    return limit
