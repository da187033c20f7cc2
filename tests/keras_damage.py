"""Ways to damage a Keras file, one thing at a time."""

from __future__ import annotations

import io
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from bnfuse.errors import BnfuseError
from tests.keras_files import opened

Damage = Callable[[Path], None]
Case = tuple[Damage, type[BnfuseError], str]  # what is done, the error, a pattern of its sentence


def assert_refused(path: Path, case: Case) -> None:
    """A file damaged in this way is refused with one sentence that says what and where."""
    damage, kind, says = case
    damage(path)
    with pytest.raises(kind) as caught:
        opened(path)
    assert re.search(says, str(caught.value)), str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repack(path: Path, contents: list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in contents:
            archive.writestr(name, data)


def with_members(**changes: bytes | None) -> Damage:
    """Replace, add or (None) drop members; "__" stands for a dot."""

    def damage(path: Path) -> None:
        changed = {name.replace("__", "."): data for name, data in changes.items()}
        merged = {**members(path), **changed}
        repack(path, [(name, data) for name, data in merged.items() if data is not None])

    return damage


def with_name(name: str) -> Damage:
    return lambda path: repack(path, [*members(path).items(), (name, b"x")])


def with_double(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        repack(path, [*members(path).items(), ("config.json", b"{}")])


def with_flag(path: Path) -> None:
    """Mark every member as encrypted, in the local headers and the central directory."""
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(re.escape(signature), bytes(data)):
            data[found.start() + offset] |= 1
    path.write_bytes(data)


def with_bomb(path: Path) -> None:
    zeros = b"\0" * (1 << 20)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("assets/bomb", "w") as bomb,
    ):
        for _ in range(300):
            bomb.write(zeros)


def cut(fraction: float) -> Damage:
    def damage(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])

    return damage


def replaced(data: bytes) -> Damage:
    def damage(path: Path) -> None:
        path.write_bytes(data)

    return damage


def in_weights(change: Callable[[h5py.File], None]) -> Damage:
    """Change the HDF5 inside an archive."""

    def damage(path: Path) -> None:
        contents = members(path)
        inner = io.BytesIO(contents["model.weights.h5"])
        with h5py.File(inner, "a") as h5:
            change(h5)
        contents["model.weights.h5"] = inner.getvalue()
        repack(path, list(contents.items()))

    return damage


def instead(name: str, make: Callable[[h5py.File], None]) -> Damage:
    """Put something else where an array was."""

    def change(h5: h5py.File) -> None:
        del h5[name]
        make(h5)

    return in_weights(change)


def put(h5: h5py.File, name: str, value: Any) -> None:
    h5[name] = value


def attribute(name: str, value: Any, group: str = "/") -> Damage:
    def damage(path: Path) -> None:
        with h5py.File(path, "a") as h5:
            if value is None:
                del h5[group].attrs[name]
            else:
                h5[group].attrs[name] = value

    return damage


def removed(name: str) -> Damage:
    def damage(path: Path) -> None:
        with h5py.File(path, "a") as h5:
            del h5[name]

    return damage


def linked(name: str, link: Any) -> Damage:
    def damage(path: Path) -> None:
        with h5py.File(path, "a") as h5:
            del h5[name]
            h5[name] = link

    return damage


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut off, with a hole, or with some bytes changed, half of them where HDF5 keeps its structure."""
    mutable, way = bytearray(data), rng.random()
    if way < 0.15:
        return data[: rng.randrange(len(data))]
    if way < 0.25:
        start = rng.randrange(len(data))
        del mutable[start : start + rng.randrange(1, 3000)]
        return bytes(mutable)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at = rng.randrange(min(len(data), 3000) if rng.random() < 0.5 else len(data))
        mutable[at] = rng.choice((0, 255, rng.randrange(256), mutable[at] ^ (1 << rng.randrange(8))))
    return bytes(mutable)
