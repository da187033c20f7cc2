"""Where a result may go, beyond what ``staging`` asks: a file of the model's own kind; its folder is made.

Refuses a name that stands for a stream, and the suffix of another format, by which everybody would take the
file for what it is not; any other suffix, or none, is the caller's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bnfuse.errors import OutputError, UsageError
from bnfuse.files.staging import output_errors

_ARCHIVE, _HDF5, _ONNX = "a Keras archive", "a Keras HDF5 file", "an ONNX file"
_PACKED = (".gz", ".zip")  # names of what is packed, which comes of what was packed alone
_KINDS = {".keras": _ARCHIVE, ".h5": _HDF5, ".hdf5": _HDF5, ".onnx": _ONNX}


def check_name(target: Path, model: Path, form: str) -> None:
    """Refuse a target that is no name for a file of the model's kind; ``form`` is the model's format.

    Raises:
        UsageError: it is ``-``, or has the suffix of another kind, or of a packed file.
    """
    if str(target) == "-":
        raise UsageError(
            "the result is a file, which cannot be written to a stream: give --output a file name"
        )
    suffix = target.suffix.lower()
    named = _KINDS.get(suffix)
    if (named is None and suffix not in _PACKED) or suffix == model.suffix.lower():
        return
    kind = _ONNX if form == "onnx" else _kind_of_keras(model)
    if suffix in _PACKED and (kind, suffix) != (_ARCHIVE, ".zip"):  # an archive is a zip file
        raise UsageError(
            f"'{target}' is the name of a packed file, but only what came packed so is packed again: "
            f"end its name in {' or '.join(s for s, known in _KINDS.items() if known == kind)}"
        )
    if named is None:
        return
    if named != kind:
        raise UsageError(
            f"'{target}' has the suffix of another format, but the result is {kind} as '{model}' is: "
            f"end its name in {' or '.join(s for s, known in _KINDS.items() if known == kind)}"
        )


def _kind_of_keras(model: Path) -> str:
    with model.open("rb") as file:
        return _ARCHIVE if file.read(2) == b"PK" else _HDF5


@contextmanager
def made_folder(target: Path) -> Iterator[None]:
    """The folder of ``target`` is there; one that was missing goes again if nothing was written into it.

    Raises:
        OutputError: it cannot be made.
    """
    missing = [folder for folder in target.parents if not folder.exists()]
    for folder in target.parents:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"'{target}' would lie in '{folder}', which is a file: choose another folder")
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in missing:  # the innermost first; those that hold something stay
            with suppress(OSError):
                folder.rmdir()
