"""A model as a caller gives it (path, bytes, file object, object), as a file for as long as it is needed.

What is given is never changed. What is no path lies in a temporary folder meanwhile, under a name that no
result and no error shows: they call it ``<onnx.ModelProto>``, ``<bytes>`` and the like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from msgspec import Struct

from bnfuse.errors import OutputError, UnreadableModel, UsageError
from bnfuse.formats.in_memory import kind_of
from bnfuse.results.renamed import renamed_errors

_CHUNK_BYTES = 1 << 20
_SUFFIXES = {b"PK\x03\x04": ".keras", b"\x89HDF": ".h5"}


class Given(Struct, frozen=True):
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
        OutputError: there is no room for it in the folder for temporary files.
    """
    if isinstance(model, str | PathLike):
        yield Given(Path(model), "", Path)
        return
    with ExitStack() as stack:
        try:
            given = _written(model, Path(stack.enter_context(TemporaryDirectory(prefix="bnfuse-"))))
        except OSError as error:
            raise OutputError.of(gettempdir(), error) from error
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
    with path.open("wb") as target:
        while chunk := _read(file):
            if isinstance(chunk, str):
                raise UsageError("the file is open for text: open it for bytes, open(path, 'rb')")
            target.write(chunk)
    return path


def _read(file: Any) -> Any:
    """Some more of it.

    Raises:
        UnreadableModel: it raised anything.
    """
    try:
        return file.read(_CHUNK_BYTES)
    except Exception as error:  # whatever stands behind it: a connection, a decoder, code of the caller's
        raise UnreadableModel(f"'<file>' cannot be read: {type(error).__name__}: {error}") from error
