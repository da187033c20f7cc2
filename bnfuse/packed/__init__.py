"""Is this a model that has to be unpacked before a format can read it? Decided by content.

A packing is a row in ``_PACKINGS``; it opens a model into one plain file in a temporary folder, and packs the
result again. What is no packed model is left to ``bnfuse.formats``, which says what it is.
"""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from bnfuse.errors import UsageError

if TYPE_CHECKING:
    from bnfuse.packed.base import Packing

_HEAD_BYTES = 64
_JSON = b"{"
# By what the first bytes are; None stands for a folder. Imported only when such a thing is asked about.
_PACKINGS: tuple[tuple[bytes | None, str], ...] = (
    (None, "bnfuse.packed.keras_folder"),
    (b"\x1f\x8b", "bnfuse.packed.gzipped"),
    (b"PK\x03\x04", "bnfuse.packed.zipped"),
    (_JSON, "bnfuse.packed.keras_parts"),
)


def packing_of(path: Path, weights: str | PathLike[str] | None = None) -> Packing | None:
    """How the model at ``path`` is packed, None where it is a plain file or nothing that is known here.

    ``weights`` is the file that belongs to an architecture in JSON; without it one of a like name is taken.

    Raises:
        UsageError: ``weights`` for what is no such architecture.
        UnreadableModel, UnsafeModel: it is packed, and damaged, or holds no model or several.
    """
    head = _head(path)
    for start, module in _PACKINGS:
        if head is None if start is None else head is not None and head.lstrip(_BLANK).startswith(start):
            given = None if weights is None else Path(weights)
            found: Packing | None = import_module(module).opened(path, given)
            if found is not None:
                return found
    if weights is not None:
        raise UsageError(f"--weights belong to an architecture in JSON, which '{path}' is not")
    return None


def takes_weights(path: Path) -> bool:
    """Whether a file of weights may belong to the model at ``path``: it begins as JSON does."""
    return (_head(path) or b"").lstrip(_BLANK).startswith(_JSON)


def lacks_weights(path: Path) -> bool:
    """Whether it takes weights, and none of a like name are beside it.

    Raises:
        UnreadableModel, UnsafeModel: it is damaged, or larger than any architecture.
    """
    if not takes_weights(path):
        return False
    from bnfuse.packed.keras_parts import lacks_weights

    return lacks_weights(path)


_BLANK = b"\xef\xbb\xbf \t\r\n"  # before a JSON text


def _head(path: Path) -> bytes | None:
    """The first bytes of a file, b"" where it cannot be read (that is told elsewhere); None for a folder."""
    try:
        if path.is_dir():
            return None
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return b""
