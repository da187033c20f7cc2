"""A folder that Keras 3 wrote with ``model.save(folder, zipped=False)``: the members of an archive as files.

It becomes an archive to be read, and the result becomes a folder again. What is hidden in it (``.DS_Store``)
is left out; a link in it is refused, wherever it leads.
"""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import islice
from operator import or_
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from bnfuse.errors import UnsafeModel
from bnfuse.files.staging import output_errors
from bnfuse.formats.keras.file.archive import CONFIG, METADATA, WEIGHTS

_EPOCH = (1980, 1, 1, 0, 0, 0)
_ARCHIVE = ".keras"
_FIRST = (METADATA, CONFIG, WEIGHTS)  # as Keras orders an archive
_MOST_FILES, _DEEPEST = 100_000, 100


class KerasFolder(Struct, frozen=True):
    """A folder with a model; ``names`` are its files from there."""

    path: Path
    names: tuple[str, ...]
    form: str = "a folder of Keras 3"

    @property
    def files(self) -> Sequence[Path]:
        """All files of the model."""
        return tuple(self.path / name for name in self.names)

    @property
    def weights(self) -> None:
        """They are in it."""

    def unpack(self, folder: Path) -> Path:
        """The archive that Keras would have written."""
        plain = folder / f"{self.path.name or 'model'}{_ARCHIVE}"
        with output_errors(plain), zipfile.ZipFile(plain, "w", zipfile.ZIP_STORED) as archive:
            for name in self.names:
                info = zipfile.ZipInfo(name, _EPOCH)
                with (
                    _regular(self.path / name) as source,
                    archive.open(info, "w", force_zip64=True) as member,
                ):
                    shutil.copyfileobj(source, member)
        return plain

    def default_output(self) -> Path:
        """``net`` → ``net.fused``, a folder, too."""
        resolved = self.path if self.path.name else self.path.resolve()
        return resolved.with_name(f"{resolved.name}.fused")

    def packs(self, target: Path) -> bool:
        """Keras itself takes a name in .keras for an archive."""
        return target.suffix.lower() != _ARCHIVE

    def beside(self, target: Path) -> Sequence[Path]:
        """None."""
        return ()

    def pack(self, plain: Path, target: Path, folder: Path) -> Sequence[Path]:
        """The members of the result, which bnfuse wrote, as files."""
        packed = folder / target.name
        with output_errors(target), zipfile.ZipFile(plain) as archive:
            packed.mkdir()
            archive.extractall(packed)
        return (packed,)


def _regular(path: Path) -> BinaryIO:
    """A file, if it still is one: no link, and no pipe, which would be waited for."""
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))  # as far as there
    descriptor = os.open(path, reduce(or_, flags, os.O_RDONLY))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafeModel(f"'{path}' is not a regular file: give a folder as Keras wrote it")
    return os.fdopen(descriptor, "rb")


def opened(path: Path, weights: Path | None) -> KerasFolder | None:
    """A folder with a config and weights directly in it.

    Raises:
        UnsafeModel: a link is among its files, or what is no regular file.
    """
    if weights is not None or not (path / CONFIG).is_file():
        return None
    if not ((path / METADATA).is_file() or (path / WEIGHTS).exists()):
        return None
    found = sorted(_names(path, "", 0))
    first = [name for name in _FIRST if name in found]
    return KerasFolder(path, (*first, *(name for name in found if name not in first)))


def _names(folder: Path, before: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise UnsafeModel(f"'{folder}' is nested deeper than any model")
    with os.scandir(folder) as entries:
        listed = list(islice(entries, _MOST_FILES + 1))
    if len(listed) > _MOST_FILES:
        raise UnsafeModel(f"'{folder}' holds more than {_MOST_FILES} files, which no model does")
    for entry in listed:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _names(folder / entry.name, f"{before}{entry.name}/", depth + 1)
        elif entry.is_file(follow_symlinks=False):
            yield f"{before}{entry.name}"
        else:
            raise UnsafeModel(
                f"'{folder / entry.name}' is a link or no regular file: give a folder as Keras wrote it"
            )


def is_model_folder(path: Path) -> bool:
    """Whether a folder holds a Keras model and nothing else, so that another may take its place."""
    own = {CONFIG, METADATA, WEIGHTS, "assets"}
    return (path / CONFIG).is_file() and {entry.name for entry in path.iterdir()} <= own
