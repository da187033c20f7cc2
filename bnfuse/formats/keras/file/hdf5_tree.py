"""An HDF5 file as a flat list of groups and arrays, read without following anything out of it.

Every link is looked at before it is used: only hard links count. Soft and external links, external
storage, virtual datasets and filters that need a plug-in (HDF5 loads those from shared libraries)
are refused as unsafe (CVE-2026-1669 and its kin); arrays that declare far more than is stored are
refused as bombs (``hdf5_sizes``). The file is read through ``GuardedFile``, a part of a file, so that the
HDF5 inside a ``.keras`` archive needs no unpacking: only what is asked for is read.

When it does not act: nothing is checked below a group that the caller leaves out (the optimiser's state
is never read, so it is neither checked nor copied).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from msgspec import Struct, field

from bnfuse.errors import UnreadableModel, UnsafeModel
from bnfuse.formats.keras.file.guarded_file import GuardedFile
from bnfuse.formats.keras.file.hdf5_attributes import below, plain_attributes, sorted_once
from bnfuse.formats.keras.file.hdf5_sizes import Budget
from bnfuse.formats.keras.file.hdf5_texts import TextSizes

# What h5py raises on damaged files, by its low-level calls, its type mapping and its name decoding.
DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    NotImplementedError,
    OverflowError,
    MemoryError,
)
# Filters that are part of HDF5 or h5py: deflate, shuffle, fletcher32, szip, nbit, scaleoffset, lzf.
_BUILT_IN_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})
_NO_LINK = -1
_WORTH_BYTES, _RECENT_BYTES = 1 << 16, 1 << 22  # of arrays that are remembered, and of all together
_MAX_DEPTH = 100  # A nested model takes two groups.
_NUMBER_KINDS = "fiub"
# h5py maps other classes too, but crashes on some of them when they are damaged.
_ARRAY_CLASSES = frozenset({h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.OPAQUE, h5py.h5t.ENUM})


class StoredDataset(Struct, eq=False):
    """One dataset: ``path`` from the root, shape and type as stored (bfloat16 is ml_dtypes').

    ``raw`` is the type as h5py maps it: bfloat16 is opaque there.
    """

    tree: Hdf5Tree
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    raw: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The whole array, the caller's own.

        Raises:
            UnreadableModel: the stored bytes are damaged.
        """
        array = self.tree.recent.get(self.path)
        if array is None:
            with self.tree.reading(self.path):
                array = np.empty(self.shape, self.raw)
                if array.size:
                    dataset = h5py.h5d.open(self.tree.file.id, self.path.encode())
                    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
            self.tree.keep(self.path, array)
        own: np.ndarray = array.copy()
        return own.view(self.dtype) if self.raw != self.dtype else own

    def attributes(self) -> dict[str, Any]:
        """Its attributes, read now."""
        return self.tree.attributes(self.path)


class Hdf5Tree(Struct, eq=False):
    """An open HDF5 file. ``scan`` fills ``datasets`` and ``groups``; paths have no leading slash."""

    origin: Path
    file: h5py.File
    length: int
    texts: TextSizes
    _budget: Budget
    datasets: dict[str, StoredDataset] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    recent: dict[str, np.ndarray] = field(default_factory=dict)
    _order: dict[str, list[str]] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)  # addresses of groups

    @classmethod
    def open(cls, origin: Path, file: BinaryIO, start: int, length: int) -> Hdf5Tree:
        """The HDF5 file in a part of an open file.

        Raises:
            UnreadableModel: no whole HDF5 file is there.
        """
        try:
            h5 = h5py.File(GuardedFile(file, start, length), "r")
        except DAMAGE as e:
            raise UnreadableModel(
                f"{origin}: its weights (HDF5) are damaged or cut off ({_short(e)}); "
                "fetch or save the file again"
            ) from e
        return cls(origin, h5, length, TextSizes(file, start, length), Budget(origin, length))

    def close(self) -> None:
        """Close the HDF5 file; arrays cannot be read any more."""
        self.texts.close()
        self.file.close()

    def keep(self, path: str, array: np.ndarray) -> None:
        """Remember an array that took unpacking, until as many bytes came after it."""
        if _WORTH_BYTES < array.nbytes <= _RECENT_BYTES:
            self.recent[path] = array
            while sum(kept.nbytes for kept in self.recent.values()) > _RECENT_BYTES:
                del self.recent[next(iter(self.recent))]

    @contextmanager
    def reading(self, where: str) -> Iterator[None]:
        """Turn what h5py raises on damaged files into one sentence that says where.

        Raises:
            UnreadableModel: for any of these.
        """
        try:
            yield
        except DAMAGE as e:
            raise UnreadableModel(
                f"{self.origin}: '{where}' is damaged ({_short(e)}); fetch or save the file again"
            ) from e

    def children(self, group: str = "") -> list[str]:
        """Names of the links directly in a group.

        Raises:
            UnreadableModel: the group is missing or damaged.
        """
        with self.reading(group or "/"):
            return [name.decode() for name in h5py.h5g.open(self.file.id, (group or "/").encode())]

    def scan(self, roots: Iterable[str]) -> None:
        """Look at everything below these groups (names directly in the root) and keep it in mind.

        Raises:
            UnreadableModel: damaged, or arrays of a type that cannot be weights.
            UnsafeModel: something leads out of the file, or declares far more than is stored.
        """
        self._order.clear()
        top = self.file.id
        for root in roots:
            with self.reading(root):
                kind = _NO_LINK if "/" in root else top.links.get_info(root.encode()).type
                self._check_link(root, root, kind)
                found = h5py.h5o.open(top, root.encode())
                if isinstance(found, h5py.h5g.GroupID):  # an array there is nobody's, and may be anything
                    self._enter(root, found)

    def _see_below(self, path: str, group: Any) -> None:
        """See everything directly in a group, and so on down.

        Not by HDF5's own visit, which takes a file's word for which groups have several names, and so
        recurses for ever in one that holds itself.
        """
        links: list[tuple[bytes, int]] = []

        def keep(name: bytes, info: Any) -> None:  # None tells HDF5 to go on; nothing may be raised here
            links.append((name, info.type))  # h5py reuses ``info``

        group.links.iterate(keep, info=True)
        named = [(name.decode(), kind) for name, kind in links]
        for name, _ in named:
            self._budget.name(f"{path}/{name}")
        for name, kind in named:
            self._see(f"{path}/{name}", name, group, kind)

    def groups_below(self, top: str) -> list[str]:
        """The groups below ``top``, itself left out, parents first."""
        return below(sorted_once(self.groups, self._order, "groups"), top)

    def datasets_below(self, top: str) -> list[str]:
        """The paths of the datasets below ``top``, sorted."""
        return below(sorted_once(self.datasets, self._order, "datasets"), top)

    def _see(self, path: str, name: str, parent: Any, kind: int) -> None:
        """Look at one link of a group, and keep what it leads to."""
        self._check_link(path, name, kind)
        found = h5py.h5o.open(parent, name.encode())
        if isinstance(found, h5py.h5d.DatasetID):
            self.datasets[path] = self._stored(path, found)
        elif isinstance(found, h5py.h5g.GroupID):
            self._enter(path, found)

    def _enter(self, path: str, group: Any) -> None:
        """Keep a group, and look at what is below it."""
        where = h5py.h5o.get_info(group).addr
        if where in self._seen or path.count("/") > _MAX_DEPTH:
            raise UnsafeModel(
                f"{self.origin}: the group '{path}' has several names or lies too deep; save the model anew"
            )
        self._seen.add(where)
        self.groups.add(path)
        self._see_below(path, group)

    def _check_link(self, path: str, name: str, kind: int) -> None:
        if kind != h5py.h5l.TYPE_HARD or "/" in name:  # a slash in it is a way through other links
            what = {h5py.h5l.TYPE_EXTERNAL: "an external link", h5py.h5l.TYPE_SOFT: "a soft link"}
            raise UnsafeModel(
                f"{self.origin}: '{path}' is {what.get(kind, 'an odd link')}, which bnfuse does not follow; "
                "save the model anew"
            )

    def _stored(self, path: str, dataset: Any) -> StoredDataset:
        """Check one dataset and describe it."""
        creation = dataset.get_create_plist()
        layout = creation.get_layout()
        if layout == h5py.h5d.VIRTUAL or creation.get_external_count():
            raise UnsafeModel(
                f"{self.origin}: '{path}' keeps its data in another file, which bnfuse does not open; "
                "save the model anew"
            )
        for number in range(creation.get_nfilters()):
            if creation.get_filter(number)[0] not in _BUILT_IN_FILTERS:
                raise UnsafeModel(
                    f"{self.origin}: '{path}' is compressed with a filter that needs a plug-in; "
                    "save the model anew"
                )
        if dataset.get_type().get_class() not in _ARRAY_CLASSES:
            raise UnreadableModel(f"{self.origin}: '{path}' does not hold numbers, so it cannot be weights")
        raw = dataset.dtype
        dtype = self._number_type(path, raw)
        shape = dataset.shape
        if shape is None:
            raise UnreadableModel(f"{self.origin}: '{path}' holds no array; save the model anew")
        stored = StoredDataset(self, path, tuple(int(n) for n in shape), dtype, raw)
        self._budget.array(path, dataset, creation, stored.nbytes)
        return stored

    def _number_type(self, path: str, raw: np.dtype[Any]) -> np.dtype[Any]:
        """The numpy type of a stored type; bfloat16 and 8-bit floats are opaque in HDF5."""
        if raw.kind in _NUMBER_KINDS and raw.metadata is None and raw.subdtype is None:
            return raw
        if raw.kind == "V" and raw.names is None and raw.subdtype is None and raw.itemsize in (1, 2):
            if raw.itemsize == 1:
                return raw
            import ml_dtypes  # few files have need of it

            bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
            return bfloat16
        if raw.kind == "b":  # HDF5 has no truth values: an enumeration, with metadata
            return raw
        raise UnreadableModel(f"{self.origin}: '{path}' holds values of type {raw}, which cannot be weights")

    def attributes(self, path: str = "") -> dict[str, Any]:
        """The attributes of a group or dataset that are texts or numbers; there is no use for others.

        Raises:
            UnreadableModel: they are damaged.
        """
        with self.reading(path or "/"):
            found = h5py.h5o.open(self.file.id, (path or "/").encode())
            return {
                name: _value(attribute)
                for name, attribute in plain_attributes(found, path or "/", self.texts)
            }


def _value(attribute: Any) -> Any:
    """An attribute's value: text as ``str``, a scalar as a numpy scalar, else an array."""
    if attribute.shape is None:
        return None
    values = np.zeros(attribute.shape, attribute.dtype)
    attribute.read(values)
    if values.dtype.kind == "O":
        texts = [v.decode("utf-8", "surrogateescape") if isinstance(v, bytes) else v for v in values.flat]
        values = np.array(texts, object).reshape(values.shape)
    return values if values.shape else values[()]


def _short(error: BaseException) -> str:
    """The first line of what a library says, at most 120 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120]
