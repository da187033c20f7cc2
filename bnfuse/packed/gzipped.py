"""``model.onnx.gz``, ``model.h5.gz``: a gzip file around one model."""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bnfuse.errors import UnreadableModel
from bnfuse.files.staging import default_output, output_errors
from bnfuse.packed.base import OneFile, bounded_copy

_DAMAGE = (gzip.BadGzipFile, zlib.error, EOFError)
_TAR_AT, _TAR = 257, b"ustar"
_SUFFIX = ".gz"
_LEVEL = 6  # as gzip itself


class Gzipped(OneFile, frozen=True):
    """A gzip file."""

    suffix: ClassVar[str] = _SUFFIX

    form: str = "a gzip file"

    def unpack(self, folder: Path) -> Path:
        """See ``Packing.unpack``."""
        plain = folder / (_inner(self.path.name) or "model")
        with gzip.open(self.path, "rb") as source:
            bounded_copy(source, plain, self.path, _DAMAGE)  # type: ignore[arg-type]
        with plain.open("rb") as file:
            file.seek(_TAR_AT)
            if file.read(len(_TAR)) == _TAR:
                raise UnreadableModel(f"'{self.path}' is a tar archive; unpack it and give the model in it")
        return plain

    def default_output(self) -> Path:
        """``m.onnx.gz`` → ``m.fused.onnx.gz``."""
        inner = _inner(self.path.name)
        own = self.path.name[len(inner) :] or _SUFFIX  # as it is spelt
        return default_output(self.path, f"{Path(inner).suffix}{own}")

    def pack(self, plain: Path, target: Path, folder: Path) -> Sequence[Path]:
        """Without name and time, so that the same result gives the same bytes."""
        packed = folder / target.name
        with (
            output_errors(target),
            packed.open("wb") as file,
            gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as made,
            plain.open("rb") as source,
        ):
            shutil.copyfileobj(source, made)
        return (packed,)


def _inner(name: str) -> str:
    """``m.onnx.gz`` → ``m.onnx``; a name without the suffix as it is."""
    return name[: -len(_SUFFIX)] if name.lower().endswith(_SUFFIX) else name


def opened(path: Path, weights: Path | None) -> Gzipped | None:
    """Every gzip file; what is in it is found out when it is unpacked."""
    return Gzipped(path) if weights is None else None
