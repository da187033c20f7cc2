"""Which format is this file? Decided by its content, never by its name.

A format is a row in ``_MODULES``; its module is imported only when a file is asked about. A file
that no format accepts is described by what its first bytes say it is, so that the sentence helps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bnfuse.errors import UnreadableModel
from bnfuse.formats import foreign

if TYPE_CHECKING:
    from bnfuse.formats.base import Format, Runner, RunSettings

# Keras first: it tells its files by their first bytes, and asking it imports nothing.
_MODULES = {"Keras": "bnfuse.formats.keras", "ONNX": "bnfuse.formats.onnx"}
_HEAD_BYTES = 64
_PATTERN = frozenset("*?[")


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
    if what := foreign.never_a_model(head, path):
        raise UnreadableModel(f"'{path}' {what}")
    for candidate in formats():
        if candidate.accepts(head, path):
            return candidate
    expected = " or ".join(_MODULES)
    found = foreign.another_format(head, path) or "is not a model bnfuse can read"
    raise UnreadableModel(f"'{path}' {found}: expected {expected}")


def load(path: Path, settings: RunSettings) -> Runner:
    """Load any model into the runtime of its format.

    Raises:
        UnreadableModel: not a model, or its runtime refuses it.
        RuntimeMissing: the runtime or the device is not there.
    """
    return detect(path).load(path, settings)


@contextmanager
def keeping_models() -> Iterator[None]:
    """Models stay loaded meanwhile, as far as there is room, for whoever loads the same file again."""
    from bnfuse.formats.child.pool import keeping_models

    with keeping_models():
        yield


def _head(path: Path) -> bytes:
    """The first bytes of a regular file, never empty."""
    try:
        if path.is_dir():
            raise UnreadableModel(f"'{path}' {foreign.folder(entry.name for entry in path.iterdir())}")
        if path.exists() and not path.is_file():
            # Opening a pipe would wait for ever, and a device has no end.
            raise UnreadableModel(f"'{path}' is not a regular file: give a model file")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        if _PATTERN & {*str(path)}:
            raise UnreadableModel(f"no file matches '{path}': check the pattern, or the path") from None
        raise UnreadableModel(f"'{path}' does not exist: check the path to the model") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or error
        raise UnreadableModel(f"'{path}' cannot be read: {why}") from error
    if not head:
        raise UnreadableModel(f"'{path}' is empty: it was probably never downloaded or written to the end")
    return head
