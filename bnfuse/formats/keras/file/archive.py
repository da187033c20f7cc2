"""The zip around a ``.keras`` model: which archives are whole and safe, and where the weights lie in them.

Refused: names that lead out of the archive, doubles, encryption, unusual compression, members that would
grow out of proportion; archives without a config or without weights, saying what to do.
"""

from __future__ import annotations

import re
import struct
import tempfile
import zipfile
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from bnfuse.errors import OutputError, UnreadableModel, UnsafeModel
from bnfuse.formats import foreign
from bnfuse.formats.keras.file.hdf5_tree import DAMAGE
from bnfuse.formats.keras.file.json_documents import check_size
from bnfuse.formats.keras.file.wording import short

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
ZIP = b"PK\x03\x04"
ZIP_DAMAGE = (*DAMAGE, zipfile.BadZipFile, zlib.error, struct.error, EOFError)
BLOCK_BYTES = 1 << 20
FULL_FILE = "load them into the model and save that whole: model.save('model.keras')"
_LOCAL_HEADER_BYTES = 30
_BOMB_FLOOR_BYTES = 1 << 28
_TEXT_BOMB_FLOOR_BYTES = 1 << 22  # of the documents that are held whole
_BOMB_RATIO = 100  # Weights hardly compress; Keras draws the line there too.
_MAX_MEMBERS = 100_000


def check_members(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Refuse names that lead out of the archive, doubles, encryption, and bombs."""
    seen: set[str] = set()
    if len(infos) > _MAX_MEMBERS:
        raise UnsafeModel(f"{path} holds {len(infos)} files, which no model does; save the model again")
    for info in infos:
        name = info.orig_filename
        parts = name.split("/")
        if not name or name.startswith("/") or ".." in parts or re.search(r"[\\\x00:]", name):
            raise UnsafeModel(f"{path} holds a file with the unsafe name {name!r}; save the model again")
        if info.filename in seen:
            raise UnsafeModel(
                f"{path} holds '{name}' twice, so it is not clear which one counts; save it again"
            )
        seen.add(info.filename)
        if info.flag_bits & 0x1:
            raise UnreadableModel(
                f"{path}: '{name}' inside it is encrypted; save the model without a password"
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnreadableModel(f"{path}: '{name}' is compressed in an unusual way; pack it with plain zip")
        floor = _TEXT_BOMB_FLOOR_BYTES if info.filename in (CONFIG, METADATA) else _BOMB_FLOOR_BYTES
        if info.file_size > floor and info.file_size > _BOMB_RATIO * info.compress_size:
            raise UnsafeModel(
                f"{path}: '{name}' would grow from {info.compress_size} to {info.file_size} bytes "
                "when unpacked; save the model again"
            )


def require_model(path: Path, names: list[str]) -> None:
    """Say what is missing and what to do."""
    weights = [name for name in names if re.search(r"weights\.(json|npz)$|_\d{5}\.weights\.h5$", name)]
    if CONFIG not in names:
        if WEIGHTS in names or weights:
            raise UnreadableModel(f"{path} holds only weights, without {CONFIG}: {FULL_FILE}")
        what = foreign.zip_archive(names) or f"is a zip file, but no Keras model: it has no {CONFIG}"
        raise UnreadableModel(f"{path} {what}")
    if WEIGHTS not in names:
        kind = f"its weights are in '{weights[0]}'" if weights else "it has no weights"
        raise UnreadableModel(
            f"{path} lacks {WEIGHTS} ({kind}): load the model with Keras and save it as one file: "
            "model.save('model.keras')"
        )


def small_member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """A member that is read at once, within a limit."""
    check_size(archive.getinfo(name).file_size, path, name)
    try:
        return archive.read(name)
    except ZIP_DAMAGE as e:
        raise UnreadableModel(f"{path}: {name} inside it is damaged; fetch or save the file again") from e


def data_offset(path: Path, raw: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin, in the archive."""
    raw.seek(info.header_offset)
    header = raw.read(_LOCAL_HEADER_BYTES)
    size = raw.seek(0, 2)
    if len(header) == _LOCAL_HEADER_BYTES and header.startswith(ZIP):
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        offset = int(info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes)
        if offset + info.file_size <= size and info.file_size == info.compress_size:
            return offset
    raise UnreadableModel(f"{path}: {WEIGHTS} inside it is cut off or damaged; fetch or save the file again")


def unpack(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    """A compressed member as a temporary file; zipfile never gives more than the declared size.

    Raises:
        OutputError: there is no room for it.
        UnreadableModel: it is damaged.
    """
    spool: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the container
    try:
        with archive.open(info) as source:
            for block in iter(partial(_next_block, path, source), b""):
                spool.write(block)
        spool.flush()
    except OSError as e:
        _drop(spool)
        raise OutputError(
            f"the weights of '{path}' cannot be unpacked into {tempfile.gettempdir()} "
            f"({e.strerror}): free some space, or set TMPDIR to another folder"
        ) from e
    except BaseException:
        _drop(spool)
        raise
    return spool


def _drop(spool: BinaryIO) -> None:
    with suppress(OSError):  # what is buffered cannot be written either
        spool.close()


def _next_block(path: Path, source: IO[bytes]) -> bytes:
    try:
        return source.read(BLOCK_BYTES)
    except ZIP_DAMAGE as e:
        raise UnreadableModel(
            f"{path}: {WEIGHTS} inside it cannot be unpacked ({short(e)}); fetch or save the file again"
        ) from e
