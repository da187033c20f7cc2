"""The file around a Keras model: a ``.keras`` archive (zip) or HDF5, told apart by its first bytes.

A container hands out the config as data and the weights as a ``Hdf5Tree``; it decides whether the file is
whole and safe, and knows nothing of layers. The archive's HDF5 is read where it lies (the zip stores it
uncompressed); only a compressed one is unpacked, into a temporary file and within its declared size.

When it does not act: the weights are not opened before somebody asks, so that a bad config costs
nothing; the archive's checksum is compared only by ``check_sum`` (it needs every byte), and those of assets
when they are copied.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import h5py
from msgspec import Struct, field

from bnfuse.errors import BnfuseError, UnreadableModel
from bnfuse.formats.keras.file.archive import (
    BLOCK_BYTES,
    METADATA,
    WEIGHTS,
    ZIP_DAMAGE,
    data_offset,
    unpack,
)
from bnfuse.formats.keras.file.hdf5_sizes import Budget
from bnfuse.formats.keras.file.hdf5_tree import Hdf5Tree

if TYPE_CHECKING:
    from bnfuse.formats.keras.file.weight_groups import Dialect

_HDF5 = b"\x89HDF\r\n\x1a\n"
# Groups of no use in a model that is only run; what is in them is neither checked nor copied.
OPTIMIZER_GROUPS = ("optimizer", "optimizer_weights", "iterations")


class WeightPlace(Struct, frozen=True):
    """Where a layer's weights were found: its group ("" if the file has none for it).

    ``interleaved``: layer by layer, rather than all trainable ones first.
    """

    group: str
    interleaved: bool = False


class Container(Struct, eq=False):
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
    _checked: bool = False
    # What bind finds out and write needs: how groups are named (archives), and by the names that lead to
    # a layer, where it is.
    dialect: Dialect | None = None
    found: dict[tuple[str, ...], WeightPlace] = field(default_factory=dict)

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

    def optimizer_bytes(self) -> int:
        """Size of the optimiser's state; 0 where it is not what it should be, for it is of no use here."""
        tree = self.tree
        state = Hdf5Tree(self.path, tree.file, tree.length, tree.texts, Budget(self.path, tree.length))
        try:
            state.scan(name for name in state.children() if name in OPTIMIZER_GROUPS)
        except BnfuseError:
            return 0
        return sum(dataset.nbytes for dataset in state.datasets.values())

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
        """Compare the weights with the archive's checksum, once; HDF5 by itself has none.

        Raises:
            UnreadableModel: they differ.
        """
        if self.zip is not None and not self._checked:
            for _ in self.member(WEIGHTS):
                pass
            self._checked = True

    def close(self) -> None:
        """Close everything; arrays cannot be read any more."""
        if self._tree is not None:
            self._tree.close()
        if self.zip is not None:
            self.zip.close()
        if self._spool is not None:
            self._spool.close()
        self._raw.close()


def is_hdf5(file: BinaryIO) -> bool:
    """Whether HDF5's signature is where the standard allows it: at 0, 512, 1024, 2048 and so on."""
    size, at = file.seek(0, 2), 0
    while at < size:
        file.seek(at)
        if file.read(len(_HDF5)) == _HDF5:
            return True
        at = max(512, 2 * at)
    return False
