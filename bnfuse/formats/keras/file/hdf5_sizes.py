"""Which declared sizes of an HDF5 file are backed by what it stores (CVE-2026-0897): no memory before that.

An array of a few bytes may declare terabytes, a chunk of gigabytes, or so many chunks that HDF5's own table
of them (some 4 KB each while an array is read) fills the memory. Names, too: HDF5 lets many of them lead to
one array, and a long one stand before each of those below it.

    in one piece    declared ≤ stored, inside the file
    in chunks       declared ≤ 100 × stored, but for 16 MiB of all;
                    a chunk ≤ 16 MiB or the array; chunks × 4 KB ≤ 16 MiB or the array
    together        stored ≤ the file; one name for 128 bytes of it; all paths ≤ 1 MiB or the file

When it does not act: it reads no array, and says nothing of what is in one.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import h5py
from msgspec import Struct

from bnfuse.errors import BnfuseError, UnreadableModel, UnsafeModel

_BOMB_FLOOR_BYTES = 1 << 24
_BOMB_EXPANSION = 100  # Weights hardly compress; Keras draws the line there for its archives.
_CHUNK_FLOOR_BYTES = 1 << 24
_CHUNK_COST_BYTES = 4096  # of memory that HDF5 takes for each chunk of an array it reads
_NAMES_FLOOR = 1000
_BYTES_A_NAME = 128  # The header, link and data of a small array take more.
_PATHS_FLOOR_CHARACTERS = 1 << 20


class Budget(Struct):
    """What a file of ``length`` bytes may declare in all; counts down while the file is looked at."""

    origin: Path
    length: int
    names: int = 0
    characters: int = 0
    stored: int = 0
    unbacked: int = 0

    def name(self, path: str) -> None:
        """One more group or array.

        Raises:
            UnsafeModel: more than a file of this size can hold.
        """
        self.names += 1
        self.characters += len(path)
        if (
            self.names > _NAMES_FLOOR + self.length // _BYTES_A_NAME
            or self.characters > _PATHS_FLOOR_CHARACTERS + self.length
        ):
            raise UnsafeModel(
                f"{self.origin}: it has more names than {self.length} bytes can hold, which would fill the "
                "memory; save the model anew"
            )

    def array(self, path: str, dataset: Any, creation: Any, needed: int) -> None:
        """One more array, which declares ``needed`` bytes; ``creation`` are HDF5's properties of it.

        Raises:
            UnreadableModel: it is cut off.
            UnsafeModel: what is stored cannot back it.
        """
        chunked = creation.get_layout() == h5py.h5d.CHUNKED
        if chunked:
            self._chunks(path, dataset.shape, creation.get_chunk(), needed)
        held = int(dataset.get_storage_size())
        self.stored += held
        self.unbacked += max(0, needed - _BOMB_EXPANSION * held)
        if self.stored > self.length:
            raise UnreadableModel(
                f"{self.origin}: '{path}' has {held} bytes, all arrays up to it {self.stored}, in a file of "
                f"{self.length}; the file is cut off or damaged"
            )
        if chunked:
            if self.unbacked > _BOMB_FLOOR_BYTES:
                raise self._bomb(path, needed, held)
            return
        if held < needed:
            raise self._bomb(path, needed, held)
        offset = dataset.get_offset()
        if offset is not None and needed and offset + needed > self.length:
            raise UnreadableModel(
                f"{self.origin}: '{path}' ends beyond the end of the file, which is cut off; "
                "fetch or save it again"
            )

    def _bomb(self, path: str, needed: int, held: int) -> BnfuseError:
        return UnsafeModel(
            f"{self.origin}: '{path}' declares {needed} bytes but stores only {held}, "
            "which would fill the memory; save the model anew"
        )

    def _chunks(self, path: str, shape: tuple[int, ...], chunk: tuple[int, ...], needed: int) -> None:
        """Chunks that are too large, or too many."""
        count, elements = prod(-(-n // c) for n, c in zip(shape, chunk, strict=True)), prod(shape)
        most = max(_CHUNK_FLOOR_BYTES, needed)
        chunk_bytes = prod(chunk) * (needed // elements if elements else 1)
        if chunk_bytes > most:
            raise UnsafeModel(
                f"{self.origin}: '{path}' declares {needed} bytes in chunks of {chunk_bytes}, which would "
                "fill the memory; save the model anew"
            )
        if count * _CHUNK_COST_BYTES > most:
            raise UnsafeModel(
                f"{self.origin}: '{path}' is cut into {count} chunks, whose table would fill the memory; "
                "save the model anew"
            )
