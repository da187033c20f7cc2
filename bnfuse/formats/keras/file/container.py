"""The file around a Keras model: a ``.keras`` archive (zip) or HDF5, told apart by its first bytes.

A container hands out the config as data and the weights as a ``Hdf5Tree``; it decides whether the file is
whole and safe, and knows nothing of layers. The archive's HDF5 is read where it lies (the zip stores it
uncompressed); only a compressed one is unpacked, into a temporary file and within its declared size.

When it does not act: the weights are not opened before somebody asks, so that a bad config costs
nothing; the archive's checksum is compared only by ``check_sum`` (it needs every byte).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import h5py
import numpy as np

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.file.archive import (
    BLOCK_BYTES,
    CONFIG,
    FULL_FILE,
    METADATA,
    WEIGHTS,
    ZIP,
    ZIP_DAMAGE,
    check_members,
    data_offset,
    require_model,
    small_member,
    unpack,
)
from bnfuse.formats.keras.file.hdf5_tree import Hdf5Tree
from bnfuse.formats.keras.file.json_documents import parse_json

if TYPE_CHECKING:
    from bnfuse.formats.keras.file.weight_groups import Dialect

_HDF5 = b"\x89HDF\r\n\x1a\n"
# Groups of no use in a model that is only run; what is in them is neither checked nor copied.
OPTIMIZER_GROUPS = ("optimizer", "optimizer_weights")


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
    _tree: Hdf5Tree | None = None
    _spool: BinaryIO | None = None
    # What bind finds out and write needs: how groups are named (archives), and by the names that lead to
    # a layer, where it is.
    dialect: Dialect | None = None
    found: dict[tuple[str, ...], Found] = field(default_factory=dict)

    @property
    def tree(self) -> Hdf5Tree:
        """The weights: opened and scanned when first asked for, the optimiser's state left out.

        Raises:
            UnreadableModel, UnsafeModel: see ``Hdf5Tree``.
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

    def _open_weights(self) -> Hdf5Tree:
        if self.zip is None:
            raise AssertionError("an HDF5 container opens its tree at once")
        info = self.zip.getinfo(WEIGHTS)
        if info.compress_type == zipfile.ZIP_STORED:
            return Hdf5Tree.open(
                self.path, self._raw, data_offset(self.path, self._raw, info), info.file_size
            )
        self._spool = unpack(self.path, self.zip, info)
        return Hdf5Tree.open(self.path, self._spool, 0, info.file_size)

    @property
    def has_metadata(self) -> bool:
        """Whether the archive holds a ``metadata.json``."""
        return self.zip is not None and METADATA in self.zip.namelist()

    def member(self, name: str) -> Iterator[bytes]:
        """The archive's member ``name``, block by block.

        Raises:
            UnreadableModel: it is damaged.
        """
        assert self.zip is not None, "HDF5 has no members"
        try:
            with self.zip.open(name) as source:
                while block := source.read(BLOCK_BYTES):
                    yield block
        except ZIP_DAMAGE as e:
            raise UnreadableModel(
                f"{self.path}: '{name}' inside it is damaged; fetch or save the file again"
            ) from e

    def check_sum(self) -> None:
        """Compare the weights with the archive's checksum; HDF5 by itself has none.

        Raises:
            UnreadableModel: they differ.
        """
        if self.zip is not None:
            for _ in self.member(WEIGHTS):
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
        if head.startswith(ZIP):
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
    except ZIP_DAMAGE as e:
        raise UnreadableModel(
            f"{path} is cut off or damaged: its table of contents cannot be read; fetch or save it again"
        ) from e
    try:
        check_members(path, infos)
        names = [info.filename for info in infos]
        require_model(path, names)
        config = parse_json(small_member(path, archive, CONFIG), path, CONFIG)
        metadata: Any = {}
        if METADATA in names:
            metadata = parse_json(small_member(path, archive, METADATA), path, METADATA)
        config = _require_config(config, path, CONFIG)
        if not isinstance(metadata, dict):
            raise UnreadableModel(f"{path}: {METADATA} is not a JSON object; save the model again")
        own = (CONFIG, METADATA, WEIGHTS)
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


# HDF5


def _open_hdf5(path: Path, raw: BinaryIO) -> Container:
    tree = Hdf5Tree.open(path, raw, 0, raw.seek(0, 2))
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
        config = parse_json(_bytes(attributes["model_config"]), path, "its model_config")
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
            else parse_json(_bytes(training), path, "its training_config"),
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
        return f"holds only weights, not the model's architecture: {FULL_FILE}"
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
    return str(value) if isinstance(value, str) else ""


def _bytes(value: Any) -> bytes:
    """A text attribute as it is stored, for the JSON parser to judge."""
    return value if isinstance(value, bytes) else _text(value).encode("utf-8", "surrogateescape")
