"""The file around a Keras model: a ``.keras`` archive (zip) or HDF5, told apart by its first bytes.

A container hands out the config as data and the weights as a ``Tree``; it decides whether the file is
whole and safe, and knows nothing of layers. The archive's HDF5 is read where it lies (the zip stores it
uncompressed); only a compressed one is unpacked, into a temporary file and within its declared size.

When it does not act: the weights are not opened before somebody asks, so that a bad config costs
nothing; the archive's checksum is compared only by ``check_sum`` (it needs every byte).
"""

from __future__ import annotations

import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import h5py
import numpy as np

from bnfuse.errors import UnreadableModel, UnsafeModel
from bnfuse.formats.keras.documents import MAX_BYTES, parse_json
from bnfuse.formats.keras.places import Dialect
from bnfuse.formats.keras.tree import DAMAGE, Tree

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30
_BOMB_FLOOR_BYTES = 1 << 28
_BOMB_RATIO = 100  # Weights hardly compress; Keras draws the line there too.
_MAX_MEMBERS = 100_000
_BLOCK_BYTES = 1 << 20
_ZIP_DAMAGE = (*DAMAGE, zipfile.BadZipFile, zlib.error, struct.error, EOFError)
# Groups of no use in a model that is only run; what is in them is neither checked nor copied.
OPTIMIZER_GROUPS = ("optimizer", "optimizer_weights")
_FULL_FILE = "load them into the model and save that whole: model.save('model.keras')"


@dataclass(frozen=True, slots=True)
class Found:
    """Where a layer's weights were found: its group ("" if the file has none for it).

    ``interleaved``: layer by layer, rather than all trainable ones first.
    """

    group: str
    interleaved: bool = False


@dataclass(slots=True, eq=False)
class Container:
    """An opened model file. Use as a context manager, or ``close`` it.

    Attributes:
        kind: "archive" (``.keras`` zip) or "hdf5".
        config: the parsed config object: of an archive the whole of ``config.json``, of HDF5 the
            attribute ``model_config``.
        metadata: the archive's ``metadata.json``, {} for HDF5.
        keras_version: of the Keras that wrote the file, "" where it does not say.
        backend: "tensorflow" etc. where the file says so.
        training_config: how the model was compiled, None where it was not.
        side: names of the archive's other members (``assets/…``), in their order.
    """

    path: Path
    kind: Literal["archive", "hdf5"]
    config: dict[str, Any]
    metadata: dict[str, Any]
    keras_version: str
    backend: str
    training_config: Any
    side: tuple[str, ...]
    zip: zipfile.ZipFile | None
    _raw: BinaryIO
    _tree: Tree | None = None
    _spool: BinaryIO | None = None
    # What bind finds out and write needs: how groups are named (archives), and by the names that lead to
    # a layer, where it is.
    dialect: Dialect | None = None
    found: dict[tuple[str, ...], Found] = field(default_factory=dict)

    @property
    def tree(self) -> Tree:
        """The weights: opened and scanned when first asked for, the optimiser's state left out.

        Raises:
            UnreadableModel, UnsafeModel: see ``Tree``.
        """
        if self._tree is None:
            self._tree = self._open_weights()
            self._tree.scan(name for name in self._tree.children() if name not in OPTIMIZER_GROUPS)
        return self._tree

    @property
    def file(self) -> h5py.File:
        """The weights as h5py sees them."""
        return self.tree.file

    @property
    def has_optimizer(self) -> bool:
        """Whether the file holds an optimiser's state."""
        return any(name in OPTIMIZER_GROUPS for name in self.tree.children())

    def _open_weights(self) -> Tree:
        if self.zip is None:
            raise AssertionError("an HDF5 container opens its tree at once")
        info = self.zip.getinfo(_WEIGHTS)
        if info.compress_type == zipfile.ZIP_STORED:
            return Tree.open(self.path, self._raw, _data_offset(self.path, self._raw, info), info.file_size)
        self._spool = _unpack(self.path, self.zip, info)
        return Tree.open(self.path, self._spool, 0, info.file_size)

    @property
    def has_metadata(self) -> bool:
        """Whether the archive holds a ``metadata.json``."""
        return self.zip is not None and _METADATA in self.zip.namelist()

    def member(self, name: str) -> Iterator[bytes]:
        """The archive's member ``name``, block by block.

        Raises:
            UnreadableModel: it is damaged.
        """
        assert self.zip is not None, "HDF5 has no members"
        try:
            with self.zip.open(name) as source:
                while block := source.read(_BLOCK_BYTES):
                    yield block
        except _ZIP_DAMAGE as e:
            raise UnreadableModel(
                f"{self.path}: '{name}' inside it is damaged; fetch or save the file again"
            ) from e

    def check_sum(self) -> None:
        """Compare the weights with the archive's checksum; HDF5 by itself has none.

        Raises:
            UnreadableModel: they differ.
        """
        if self.zip is not None:
            for _ in self.member(_WEIGHTS):
                pass

    def close(self) -> None:
        """Close everything; arrays cannot be read any more."""
        if self._tree is not None:
            self._tree.close()
        if self.zip is not None:
            self.zip.close()
        if self._spool is not None:
            self._spool.close()
        self._raw.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_hdf5(file: BinaryIO) -> bool:
    """Whether HDF5's signature is where the standard allows it: at 0, 512, 1024, 2048 and so on."""
    size, at = file.seek(0, 2), 0
    while at < size:
        file.seek(at)
        if file.read(len(_HDF5)) == _HDF5:
            return True
        at = max(512, 2 * at)
    return False


def open_container(path: Path) -> Container:
    """Open a saved Keras model. Nothing of it is run.

    Raises:
        UnreadableModel: not a whole model with its config and its weights.
        UnsafeModel: it reaches out of the file, or would fill memory or disk.
    """
    try:
        raw: BinaryIO = path.open("rb", buffering=0)
    except OSError as e:
        raise UnreadableModel(f"{path}: {e.strerror or 'cannot be opened'}") from e
    try:
        head = raw.read(64)
        if head.startswith(_ZIP):
            return _open_archive(path, raw)
        if is_hdf5(raw):
            return _open_hdf5(path, raw)
        raise UnreadableModel(f"{path} {_not_a_model(head)}")
    except BaseException:
        raw.close()
        raise


def _not_a_model(head: bytes) -> str:
    """What a file is that is neither zip nor HDF5, and what to do."""
    if not head:
        return "is empty; fetch or save it again"
    if head.startswith(b"version https://git-lfs"):
        return "is only a Git LFS pointer to the model; run 'git lfs pull' to fetch the model itself"
    if head.startswith(b"PK"):
        return "is a zip file without content or its first part is missing; fetch or save it again"
    return "is neither a Keras archive (zip) nor HDF5; save the model as .keras or .h5"


# Archives


def _open_archive(path: Path, raw: BinaryIO) -> Container:
    try:
        archive = zipfile.ZipFile(path)
        infos = archive.infolist()
    except _ZIP_DAMAGE as e:
        raise UnreadableModel(
            f"{path} is cut off or damaged: its table of contents cannot be read; fetch or save it again"
        ) from e
    try:
        _check_members(path, infos)
        names = [info.filename for info in infos]
        _require_model(path, names)
        config = parse_json(_small_member(path, archive, _CONFIG), path, _CONFIG)
        metadata: Any = {}
        if _METADATA in names:
            metadata = parse_json(_small_member(path, archive, _METADATA), path, _METADATA)
        config = _require_config(config, path, _CONFIG)
        if not isinstance(metadata, dict):
            raise UnreadableModel(f"{path}: {_METADATA} is not a JSON object; save the model again")
        own = (_CONFIG, _METADATA, _WEIGHTS)
        return Container(
            path=path,
            kind="archive",
            config=config,
            metadata=metadata,
            keras_version=_text(metadata.get("keras_version")),
            backend="",
            training_config=config.get("compile_config"),
            side=tuple(name for name in names if name not in own),
            zip=archive,
            _raw=raw,
        )
    except BaseException:
        archive.close()
        raise


def _check_members(path: Path, infos: list[zipfile.ZipInfo]) -> None:
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
        if info.file_size > _BOMB_FLOOR_BYTES and info.file_size > _BOMB_RATIO * info.compress_size:
            raise UnsafeModel(
                f"{path}: '{name}' would grow from {info.compress_size} to {info.file_size} bytes "
                "when unpacked; save the model again"
            )


def _require_model(path: Path, names: list[str]) -> None:
    """Say what is missing and what to do."""
    weights = [name for name in names if re.search(r"weights\.(json|npz)$|_\d{5}\.weights\.h5$", name)]
    if _CONFIG not in names:
        if _WEIGHTS in names or weights:
            raise UnreadableModel(f"{path} holds only weights, without {_CONFIG}: {_FULL_FILE}")
        raise UnreadableModel(f"{path} is a zip file, but no Keras model: it has no {_CONFIG}")
    if _WEIGHTS not in names:
        kind = f"its weights are in '{weights[0]}'" if weights else "it has no weights"
        raise UnreadableModel(
            f"{path} lacks {_WEIGHTS} ({kind}): load the model with Keras and save it as one file: "
            "model.save('model.keras')"
        )


def _small_member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """A member that is read at once, within a limit."""
    if archive.getinfo(name).file_size > MAX_BYTES:
        raise UnsafeModel(f"{path}: {name} is larger than {MAX_BYTES >> 20} MiB, which no model needs")
    try:
        return archive.read(name)
    except _ZIP_DAMAGE as e:
        raise UnreadableModel(f"{path}: {name} inside it is damaged; fetch or save the file again") from e


def _data_offset(path: Path, raw: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin, in the archive."""
    raw.seek(info.header_offset)
    header = raw.read(_LOCAL_HEADER_BYTES)
    size = raw.seek(0, 2)
    if len(header) == _LOCAL_HEADER_BYTES and header.startswith(_ZIP):
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        offset = int(info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes)
        if offset + info.file_size <= size and info.file_size == info.compress_size:
            return offset
    raise UnreadableModel(f"{path}: {_WEIGHTS} inside it is cut off or damaged; fetch or save the file again")


def _unpack(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    """A compressed member as a temporary file; zipfile never gives more than the declared size."""
    spool: BinaryIO = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the container
    try:
        with archive.open(info) as source:
            while block := source.read(_BLOCK_BYTES):
                spool.write(block)
    except _ZIP_DAMAGE as e:
        spool.close()
        raise UnreadableModel(
            f"{path}: {_WEIGHTS} inside it cannot be unpacked ({str(e)[:120]}); fetch or save the file again"
        ) from e
    return spool


# HDF5


def _open_hdf5(path: Path, raw: BinaryIO) -> Container:
    tree = Tree.open(path, raw, 0, raw.seek(0, 2))
    try:
        attributes = tree.attributes()
        names = tree.children()
        if "model_config" not in attributes:
            raise UnreadableModel(f"{path} {_no_config(names, attributes)}")
        if "model_weights" not in names:
            raise UnreadableModel(
                f"{path} holds a model's config but no weights; "
                "save the whole model: model.save('model.keras')"
            )
        config = parse_json(_text(attributes["model_config"]).encode(), path, "its model_config")
        training = attributes.get("training_config")
        weights = tree.attributes("model_weights")
        container = Container(
            path=path,
            kind="hdf5",
            config=_require_config(config, path, "its model_config"),
            metadata={},
            keras_version=_text(attributes.get("keras_version", weights.get("keras_version"))),
            backend=_text(attributes.get("backend", weights.get("backend"))),
            training_config=None
            if training is None
            else parse_json(_text(training).encode(), path, "its training_config"),
            side=(),
            zip=None,
            _raw=raw,
            _tree=tree,
        )
        tree.scan(name for name in names if name not in OPTIMIZER_GROUPS)
    except BaseException:
        tree.close()
        raise
    return container


def _no_config(names: list[str], attributes: dict[str, Any]) -> str:
    """What an HDF5 file without a model config is, and what to do."""
    if "layer_names" in attributes or {"layers", "vars", "_layer_checkpoint_dependencies"} & set(names):
        return f"holds only weights, not the model's architecture: {_FULL_FILE}"
    return "is HDF5, but no Keras model: it has no model_config; save the model as .keras or .h5"


def _require_config(config: Any, path: Path, what: str) -> dict[str, Any]:
    if (
        not isinstance(config, dict)
        or not isinstance(config.get("class_name"), str)
        or "config" not in config
    ):
        raise UnreadableModel(f"{path}: {what} does not describe a model; save the model again")
    return config


def _text(value: Any) -> str:
    """A string attribute as str; "" for anything else."""
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
