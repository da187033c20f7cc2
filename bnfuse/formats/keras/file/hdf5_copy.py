"""Writing HDF5 so that the same content gives the same bytes, one array in memory at a time.

Attributes and arrays are copied with their stored types; chunking and compression are not kept (Keras
writes neither). No times are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bnfuse.errors import OutputError
from bnfuse.formats.keras.file.hdf5_attributes import plain_attributes
from bnfuse.formats.keras.file.hdf5_tree import Hdf5Tree, StoredDataset
from bnfuse.formats.keras.file.wording import short

# Keras's own limit (HDF5 holds 64 KiB in an object's header), beyond which it splits a list of names.
_HEADER_LIMIT_BYTES = 64512


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn what HDF5 and the operating system say about a failed write into one sentence.

    Raises:
        OutputError: for any OSError or RuntimeError inside.
    """
    try:
        yield
    except (OSError, RuntimeError) as e:
        raise OutputError.of(short(path.name), e) from e


def copy_attributes(
    tree: Hdf5Tree, source: str, target: h5py.Group | h5py.Dataset, skip: Sequence[str] = ()
) -> None:
    """The attributes of ``source`` ("" for the root) with their stored types, except those in ``skip``."""
    with tree.reading(source or "/"):
        found = h5py.h5o.open(tree.file.id, (source or "/").encode())
        for name, attribute in plain_attributes(found, source or "/", tree.texts):
            if name in skip:
                continue
            values = None
            if attribute.shape is not None:
                values = np.zeros(attribute.shape, attribute.dtype)
                attribute.read(values)
            copied = h5py.h5a.create(target.id, name.encode(), attribute.get_type(), attribute.get_space())
            if values is not None:
                copied.write(values)


def group_at(target: h5py.File, name: str) -> h5py.Group:
    """A group, made if need be. To look first takes as long as to make it, and most are not there."""
    try:
        return target.create_group(name)
    except ValueError:
        return target.require_group(name)


def copy_array(stored: StoredDataset, target: h5py.Group, name: str) -> None:
    """An array as it is, with its attributes."""
    array = stored.read().view(stored.raw)
    copied = target.create_dataset(name, data=array, dtype=stored.raw, track_times=False)
    copy_attributes(stored.tree, stored.path, copied)


def put_array(array: np.ndarray, target: h5py.Group, name: str, mark: bool) -> None:
    """A new array; ``mark`` says in an attribute that it is bfloat16, as archives do."""
    made = target.create_dataset(name, data=array, track_times=False)
    if mark and array.dtype.name == "bfloat16":
        made.attrs["dtype"] = "bfloat16"


def copy_tree(tree: Hdf5Tree, root: str, target: h5py.File) -> None:
    """A group with all that is in it."""
    inside = f"{root}/"
    for group in sorted(g for g in tree.groups if g == root or g.startswith(inside)):
        copy_attributes(tree, group, target.require_group(group))
    for path in sorted(d for d in tree.datasets if d.startswith(inside)):
        copy_array(tree.datasets[path], target, path)


def put_names(target: h5py.Group, attribute: str, names: Sequence[str], fixed: bool) -> None:
    """A list of names as Keras keeps it: one attribute, or numbered ones if it is long.

    ``fixed`` stores texts of one length each (numpy's ``S``) rather than of variable length.
    """
    data = [name.encode() for name in names]
    whole = np.asarray(data)
    parts: list[Any] = [whole]
    while any(part.nbytes > _HEADER_LIMIT_BYTES for part in parts):
        parts = np.array_split(whole, len(parts) + 1)
    if len(parts) == 1:
        target.attrs[attribute] = whole if fixed else data
        return
    for number, part in enumerate(parts):
        target.attrs[f"{attribute}{number}"] = part
