"""Which format is this file? Decided by its content, never by its name.

A format is a row in ``_MODULES``; its module is imported only when a file is asked about. A file
that no format accepts is described by what its first bytes say it is, so that the sentence helps.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bnfuse.errors import UnreadableModel

if TYPE_CHECKING:
    from bnfuse.formats.base import Format, Runner, RunSettings

# Keras first: it tells its files by their first bytes, and asking it imports nothing.
_MODULES = {"Keras": "bnfuse.formats.keras", "ONNX": "bnfuse.formats.onnx"}
_HEAD_BYTES = 64
_WEB_PAGE = "is a web page, probably an error page saved in place of the model; download it again"

# What a file that starts so is, and what to do about it. These are never a model of any format.
_NEVER_MODELS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the model itself; fetch it with `git lfs pull`"),
    (b"<!doctype html", _WEB_PAGE),
    (b"<html", _WEB_PAGE),
    (b"<?xml", "is an XML file, not a model"),
)

# These could be models of formats that are not among _MODULES: asked only when none accepts.
_OTHER_CONTENT = (
    (b"\x1f\x8b", "is a gzip archive; unpack it first"),
    (b"ORTM", "is an onnxruntime .ort file; give the .onnx it was made from"),
    (b"TFL3", "is a TensorFlow Lite model"),
    (b"\x93NUMPY", "is a NumPy array"),
    (b"\x80\x02", "is a Python pickle"),
    (b"{", "looks like JSON"),
)


def formats() -> Iterator[Format]:
    """Every format bnfuse knows, imported one at a time."""
    for module in _MODULES.values():
        yield import_module(module).FORMAT


def detect(path: Path) -> Format:
    """The format of the file at ``path``.

    Raises:
        UnreadableModel: it is missing, cannot be opened, is empty or is of no known format.
    """
    head = _head(path)
    _refuse(path, _described(head, _NEVER_MODELS))
    for candidate in formats():
        if candidate.accepts(head, path):
            return candidate
    expected = " or ".join(_MODULES)
    found = _described(head, _OTHER_CONTENT) or "is not a model bnfuse can read"
    raise UnreadableModel(f"'{path}' {found}: expected {expected}")


def load(path: Path, settings: RunSettings) -> Runner:
    """Load any model into the runtime of its format.

    Raises:
        UnreadableModel: not a model, or its runtime refuses it.
        RuntimeMissing: the runtime or the device is not there.
    """
    return detect(path).load(path, settings)


def _head(path: Path) -> bytes:
    """The first bytes of a regular file, never empty."""
    try:
        if path.is_dir():
            raise UnreadableModel(f"'{path}' is a folder: give the model file itself")
        if path.exists() and not path.is_file():
            # Opening a pipe would wait for ever, and a device has no end.
            raise UnreadableModel(f"'{path}' is not a regular file: give a model file")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise UnreadableModel(f"'{path}' does not exist: check the path to the model") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or error
        raise UnreadableModel(f"'{path}' cannot be read: {why}") from error
    if not head:
        raise UnreadableModel(f"'{path}' is empty: it was probably never downloaded or written to the end")
    return head


def _described(head: bytes, table: tuple[tuple[bytes, str], ...]) -> str:
    """What the table says of a file that starts with ``head``; "" if nothing."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower() if table is _NEVER_MODELS else head
    return next((what for magic, what in table if _starts(start, magic)), "")


def _starts(head: bytes, magic: bytes) -> bool:
    if magic == b"TFL3":  # a flatbuffer carries its identifier behind a 4-byte offset
        return head[4:8] == magic
    return head.startswith(magic)


def _refuse(path: Path, what: str) -> None:
    if what:
        raise UnreadableModel(f"'{path}' {what}")
