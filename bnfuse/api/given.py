"""A model as a caller gives it (path, bytes, file object, object), as a file for as long as it is needed.

What is given is never changed. What is no path lies in a temporary folder meanwhile, under a name that no
result and no error shows: they call it ``<onnx.ModelProto>``, ``<bytes>`` and the like.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bnfuse.errors import UnreadableModel, UsageError
from bnfuse.formats.in_memory import kind_of
from bnfuse.results.renamed import renamed_errors

_SUFFIXES = {b"PK\x03\x04": ".keras", b"\x89HDF": ".h5"}


@dataclass(frozen=True, slots=True)
class Given:
    """A model as a file. ``name`` is what is said instead of ``path``, "" for a file of the caller's own.

    ``loaded`` makes of a file what is of the same kind as the model that was given.
    """

    path: Path
    name: str
    loaded: Callable[[Path], Any]


@contextmanager
def as_file(model: Any) -> Iterator[Given]:
    """The model as a file. Errors that name the file name the model instead.

    Raises:
        UsageError: it is nothing that could be a model.
        UnreadableModel: it cannot be written to a file, or read from where it is.
    """
    if isinstance(model, str | PathLike):
        yield Given(Path(model), "", Path)
        return
    with TemporaryDirectory(prefix="bnfuse-") as made:
        given = _written(model, Path(made))
        with renamed_errors({given.path: given.name}):
            yield given


def _written(model: Any, folder: Path) -> Given:
    if isinstance(model, bytes | bytearray | memoryview):
        path = folder / "model"
        path.write_bytes(model)
        return Given(_by_content(path), "<bytes>", Path.read_bytes)
    kind = kind_of(model)
    if kind is not None:
        return Given(kind.save(model, folder), kind.name(model), partial(kind.load, like=model))
    if callable(getattr(model, "read", None)):
        return Given(_by_content(_copied(model, folder)), "<file>", Path.read_bytes)
    raise UsageError(
        f"'{type(model).__name__}' is no kind of model: give a path, bytes, a file opened for reading bytes, "
        "an onnx.ModelProto or a Keras model"
    )


def _by_content(path: Path) -> Path:
    """The file under a name that a runtime takes it for; formats are found by content anyway."""
    with path.open("rb") as file:
        head = file.read(4)
    return path.rename(path.with_suffix(_SUFFIXES.get(head, ".onnx")))


def _copied(file: Any, folder: Path) -> Path:
    """The rest of a file object, from where it stands."""
    path = folder / "model"
    try:
        with path.open("wb") as target:
            shutil.copyfileobj(file, target)
    except TypeError:
        raise UsageError("the file is open for text: open it for bytes, open(path, 'rb')") from None
    except (OSError, ValueError) as error:
        raise UnreadableModel(f"the file cannot be read: {error}") from error
    return path
