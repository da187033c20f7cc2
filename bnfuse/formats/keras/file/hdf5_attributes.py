"""Attributes of HDF5 as plain values, and paths in order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

import h5py

from bnfuse.formats.keras.file.hdf5_texts import TextSizes

_MAX_ATTRIBUTE_BYTES = 1 << 28
_ATTRIBUTE_CLASSES = frozenset({h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM})


def plain_attributes(found: Any, path: str, texts: TextSizes) -> Iterator[tuple[str, Any]]:
    """Names and low-level handles of an object's attributes of plain types and sane size.

    Raises:
        OSError: texts would take far more memory than their file.
    """
    for number in range(h5py.h5a.get_num_attrs(found)):
        attribute = h5py.h5a.open(found, index=number)
        kind, space = attribute.get_type(), attribute.get_space()
        points = 0 if space.get_simple_extent_type() == h5py.h5s.NULL else space.get_simple_extent_npoints()
        if kind.get_class() in _ATTRIBUTE_CLASSES and points * kind.get_size() <= _MAX_ATTRIBUTE_BYTES:
            if points and kind.get_class() == h5py.h5t.STRING and kind.is_variable_str():
                texts.check(path, attribute.name, points)
            yield attribute.name.decode(), attribute


def sorted_once(paths: Iterable[str], kept: dict[str, list[str]], key: str) -> list[str]:
    """Sort paths when first asked for."""
    if key not in kept:
        kept[key] = sorted(paths)
    return kept[key]


def below(ordered: list[str], top: str) -> list[str]:
    """Those of sorted paths that lie below ``top``; Keras 2 on Windows joins with a backslash."""
    found: list[str] = []
    for start in (f"{top}/", f"{top}\\"):
        at = bisect_left(ordered, start)
        while at < len(ordered) and ordered[at].startswith(start):
            found.append(ordered[at])
            at += 1
    return found
