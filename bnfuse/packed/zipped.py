"""``model.zip``: a zip archive with exactly one model, and perhaps files beside it (a licence, labels).

A ``.keras`` archive is a zip file, too, and a model by itself: it is left to its format. The result has the
model under the same name, and everything else as it was.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from bnfuse.errors import UnreadableModel, UnsafeModel
from bnfuse.files.staging import default_output, output_errors
from bnfuse.formats.keras.file.archive import BLOCK_BYTES, CONFIG, ZIP_DAMAGE, check_members
from bnfuse.formats.keras.file.wording import short
from bnfuse.packed.base import OneFile, bounded_copy, most_bytes

_SUFFIX = ".zip"
_MODELS = (".onnx", ".keras", ".h5", ".hdf5")
_OF_THE_SYSTEM = ("__MACOSX/", ".DS_Store")
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Zipped(OneFile, frozen=True):
    """A zip archive; ``member`` is the name of the model in it."""

    suffix: ClassVar[str] = _SUFFIX

    member: str
    form: str = "a zip archive"

    def unpack(self, folder: Path) -> Path:
        """See ``Packing.unpack``."""
        plain = folder / PurePosixPath(self.member).name
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as source:
                bounded_copy(source, plain, self.path, ZIP_DAMAGE)
        except ZIP_DAMAGE as error:
            raise UnreadableModel(f"'{self.path}' is damaged ({error}); fetch or save it again") from error
        return plain

    def default_output(self) -> Path:
        """``m.zip`` → ``m.fused.zip``."""
        return default_output(self.path, self.path.suffix or _SUFFIX)

    def pack(self, plain: Path, target: Path, folder: Path) -> Sequence[Path]:
        """The same members in the same order, without times for the new one."""
        packed = folder / target.name
        with output_errors(target), zipfile.ZipFile(self.path) as old, zipfile.ZipFile(packed, "w") as new:
            for info in old.infolist():
                made = zipfile.ZipInfo(info.filename, _EPOCH)
                made.compress_type, made.external_attr = info.compress_type, info.external_attr
                blocks = _blocks(plain) if info.filename == self.member else self._member(old, info)
                with new.open(made, "w", force_zip64=True) as member:
                    for block in blocks:
                        member.write(block)
        return (packed,)

    def _member(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
        try:
            with archive.open(info) as source:
                while block := source.read(BLOCK_BYTES):
                    yield block
        except ZIP_DAMAGE as error:
            what = f"'{short(info.filename)}' in it is damaged ({short(error)})"
            raise UnreadableModel(f"'{self.path}': {what}; fetch or save it again") from error


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def opened(path: Path, weights: Path | None) -> Zipped | None:
    """A zip archive with one model in it; None for a Keras archive, and where there is no model.

    Raises:
        UnreadableModel: it holds several.
        UnsafeModel: it would grow out of proportion, or holds names that lead out of it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except ZIP_DAMAGE:
        return None  # told by the format of zip files
    if weights is not None or any(info.filename == CONFIG for info in infos):
        return None
    files = [i.filename for i in infos if not i.is_dir() and not i.filename.startswith(_OF_THE_SYSTEM)]
    models = [name for name in files if PurePosixPath(name).suffix.lower() in _MODELS]
    if not models:
        return None
    check_members(path, infos)
    if sum(info.file_size for info in infos) > most_bytes(path):
        raise UnsafeModel(
            f"'{path}' would grow a hundredfold when unpacked; unpack it yourself if that is right"
        )
    if len(models) > 1:
        raise UnreadableModel(
            f"'{path}' holds {len(models)} models ('{models[0]}', '{models[1]}'); unpack it and give one"
        )
    return Zipped(path, models[0])
