"""Names of the files that hold a model's weights beside it: each name says what the file holds.

A model and its weights are two files, and no system renames two at once. So the weights are never replaced:
``out.onnx.<12 hexadecimal digits of their SHA-256>.data`` is another name for other weights, the model says
which one it means, and to rename the model is to change both. What no model means any more can go then.
"""

from __future__ import annotations

import mmap
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_DIGITS = 12
_CHUNK_BYTES = 1 << 20
_MODELS = ".onnx"


def side_file_name(model: str, content: Path) -> str:
    """What a file with this content is called beside a model of this name.

    Raises:
        OSError: it cannot be read.
    """
    return f"{model}.{_digest(content)}.data"


def superseded(model: Path) -> Iterator[Path]:
    """Weights that bnfuse once wrote for a model of this name, and that no model in the folder means now.

    Bnfuse wrote what is called by its own content. Files that cannot be read are left alone.
    """
    pattern = re.compile(re.escape(model.name) + rf"\.([0-9a-f]{{{_DIGITS}}})\.data")
    named = [(path, found[1]) for path in model.parent.iterdir() if (found := pattern.fullmatch(path.name))]
    for path, digest in named:
        with suppress(OSError, ValueError):
            if stat.S_ISREG(path.lstat().st_mode) and not _meant(path) and _digest(path) == digest:
                yield path


def _meant(side: Path) -> bool:
    """Whether a model in the folder holds the name, be it by chance.

    Raises:
        OSError, ValueError: one of them cannot be looked at.
    """
    models = (path for path in side.parent.iterdir() if path.name.lower().endswith(_MODELS))
    return any(_holds(path, side.name.encode()) for path in models if path.is_file() and path.stat().st_size)


def _holds(path: Path, text: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0


def _digest(path: Path) -> str:
    import hashlib  # loads OpenSSL, which most commands have no use for

    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()[:_DIGITS]
