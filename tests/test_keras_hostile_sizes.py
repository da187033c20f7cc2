"""Sizes that an HDF5 file declares and does not back: refused before any memory is taken for them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest

from bnfuse.errors import BnfuseError, UnreadableModel, UnsafeModel
from bnfuse.formats.keras.file.hdf5_texts import TextSizes
from bnfuse.formats.keras.file.hdf5_tree import Hdf5Tree
from tests.keras_damage import in_weights
from tests.keras_files import opened
from tests.keras_handmade import BIAS, KERNEL

Make = Callable[[h5py.File], None]


def _array(name: str = BIAS, shape: tuple[int, ...] = (3,), **how: object) -> Make:
    def make(h5: h5py.File) -> None:
        del h5[name]
        h5.create_dataset(name, data=np.ones(shape, "f4"), **how)

    return make


def _unwritten(elements: int) -> Make:
    """Arrays that exist in name alone: no chunk of them was written."""

    def make(h5: h5py.File) -> None:
        for k in range(8):
            h5.create_dataset(f"layers/dense/more/{k}", (elements // 8,), "f4", chunks=(8192,))

    return make


def _names(count: int, length: int = 1) -> Make:
    def make(h5: h5py.File) -> None:
        group = h5.create_group(f"layers/{'g' * length}")
        for k in range(count):
            group[f"{k}"] = h5[BIAS]

    return make


def _deep(h5: h5py.File) -> None:
    h5.create_group("layers/dense/" + "/".join("g" * 110))


def _overlapping(h5: h5py.File) -> None:
    """Two names of one array, which together are more than the file."""
    h5["layers/dense/vars/9"] = np.ones(100_000, "f4")
    h5["layers/dense/vars/8"] = h5["layers/dense/vars/9"]


# 16 MiB = 4096 chunks of 4 KiB in HDF5's table, and 4 Mi elements of float32.
REFUSED: dict[str, tuple[Make, str]] = {
    "chunks of one element": (_array(shape=(4100,), chunks=(1,)), "cut into 4100 chunks"),
    "chunks along two axes": (_array(KERNEL, (70, 70), chunks=(1, 1)), "cut into 4900 chunks"),
    "a chunk beyond the array": (
        _array(shape=(3,), chunks=(5 << 20,), maxshape=(None,), compression="gzip"),
        "declares 12 bytes in chunks of 20971520",
    ),
    "arrays that were never written": (_unwritten(5 << 20), "declares 2621440 bytes but stores only 0"),
    "an array of zeros": (
        _array(shape=(6 << 20,), chunks=(1 << 20,), compression="gzip"),
        "declares 25165824 bytes but stores only",
    ),
    "more names than bytes": (_names(6000), "more names than"),
    "long names before short ones": (_names(900, 3000), "more names than"),
    "groups in groups": (_deep, "lies too deep"),
    "arrays that overlap": (_overlapping, "cut off or damaged"),
}
KEPT: dict[str, Make] = {
    "h5py's own chunks, compressed": _array(chunks=True, compression="gzip"),
    "chunks that may grow": _array(chunks=(1024,), maxshape=(None,), compression="gzip"),
    "a chunk for each row": _array(KERNEL, (3, 3), chunks=(1, 3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, archive: Path) -> None:
    make, says = REFUSED[name]
    in_weights(make)(archive)
    with pytest.raises(BnfuseError) as caught:
        opened(archive)
    assert re.search(says, str(caught.value)), caught.value
    assert isinstance(caught.value, UnsafeModel) or name == "arrays that overlap"


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str, archive: Path) -> None:
    """What people's tools write is read as ever."""
    in_weights(KEPT[name])(archive)
    container, network = opened(archive)
    with closing(container):
        shapes = [v.read().shape for v in network.layer("a").variables]
    assert shapes == [(3, 3), (3,)]


def _shared_texts(path: Path, texts: int, size: int) -> None:
    """A list of texts of which each is the same long one: references to short ones, redirected."""
    with h5py.File(path, "a") as h5:
        group, kind = h5["model_weights"], h5py.string_dtype()
        del group.attrs["layer_names"]
        group.attrs.create("layer_names", np.array([b"%06d" % k for k in range(texts)], object), dtype=kind)
        group.attrs.create("long", b"y" * size, dtype=kind)
    data = path.read_bytes()
    made, short, long = bytearray(data), _references(data, 6), _references(data, size)[0]
    for at in short:
        made[at : at + 16] = data[long : long + 16]
    assert len(short) >= texts
    path.write_bytes(made)


def _references(data: bytes, size: int) -> list[int]:
    """Where references to texts of this size stand: size, address of a heap, number."""
    found = [match.start() for match in re.finditer(re.escape(struct.pack("<I", size)), data)]
    heaps = [(at, int.from_bytes(data[at + 4 : at + 12], "little")) for at in found]
    return [at for at, heap in heaps if data[heap : heap + 4] == b"GCOL"]


@pytest.mark.parametrize(("texts", "size", "refused"), [(400, 30_000, True), (100, 30_000, False)])
def test_texts_that_are_one(hdf5: Path, texts: int, size: int, refused: bool) -> None:
    """HDF5 copies a text for each reference: 12 MB of 46 KB. Up to 8 MiB that is let be."""
    _shared_texts(hdf5, texts, size)
    says = f"list of {texts} texts takes {texts * size} bytes" if refused else "lists a layer|same name"
    with pytest.raises(BnfuseError, match=says):
        opened(hdf5)


def test_lists_of_a_large_file_may_be_asked_for_in_any_order(tmp_path: Path) -> None:
    """HDF5 keeps the headers that it has read: a group that was seen before is told all the same."""
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as h5:
        h5.create_dataset("weights", data=np.zeros(1 << 20))
        for group in ("a", "a/b", "c"):
            names = np.array([f"{group}_{k}".encode() for k in range(200)], object)
            h5.create_group(group).attrs.create("names", names, dtype=h5py.string_dtype())
    length = path.stat().st_size
    assert 200 * length > 1 << 30  # what references that are not found could mean
    with path.open("rb") as file:
        sizes = TextSizes(file, 0, length)
        for group in ("a/b", "a", "c", "a", "a/b", "a/b"):
            sizes.check(group, b"names", 200)
        sizes.close()


@pytest.mark.parametrize("texts", [1, 3])
def test_a_text_that_is_said_to_be_larger_than_its_file(hdf5: Path, texts: int) -> None:
    """HDF5 makes room for what a reference says before it looks at the text: some 16 MiB here."""
    with h5py.File(hdf5, "a") as h5:
        names = [b"y" * 77] * texts
        h5["model_weights"].attrs.create("note", np.array(names, object), dtype=h5py.string_dtype())
    data = bytearray(hdf5.read_bytes())
    at = _references(bytes(data), 77)[-1]
    data[at : at + 4] = struct.pack("<I", 1 << 24)
    hdf5.write_bytes(data)
    with pytest.raises(BnfuseError, match="a text is larger than the file"):
        opened(hdf5)


def test_a_text_of_an_object_that_was_passed_on_the_way_to_another(tmp_path: Path) -> None:
    """HDF5 has read its header by then, and reads it no more."""
    path = tmp_path / "small.h5"
    with h5py.File(path, "w") as h5:
        h5.create_group("a/b").attrs["inner"] = "x" * 20
        h5["a"].attrs["outer"] = "y" * 77
    data = bytearray(path.read_bytes())
    (at,) = _references(bytes(data), 77)
    data[at : at + 4] = struct.pack("<I", 1 << 24)
    path.write_bytes(data)
    with path.open("rb") as file:
        sizes = TextSizes(file, 0, len(data))
        sizes.check("a/b", b"inner", 1)
        with pytest.raises(OSError, match="a text is larger than the file"):
            sizes.check("a", b"outer", 1)
        sizes.close()


@pytest.mark.parametrize("number", [0, 30, 59])
def test_a_text_in_any_block_of_an_object_with_many(tmp_path: Path, number: int) -> None:
    """HDF5 keeps more than a few attributes in a heap of several blocks, each with a checksum."""
    path = tmp_path / "many.h5"
    with h5py.File(path, "w", libver="latest") as h5:
        attributes = h5.create_group("a").attrs
        for k in range(60):
            attributes.create(f"n{k:02d}", f"{k:03}" + "y" * (100 + k), dtype=h5py.string_dtype())
    data = bytearray(path.read_bytes())
    at = _references(bytes(data), 103 + number)[-1]
    data[at : at + 4] = struct.pack("<I", 1 << 24)
    start = bytes(data).rindex(b"FHDB", 0, at)
    summed = start + 18  # behind a signature, a version, an address and an offset of five bytes
    data[summed : summed + 4] = bytes(4)
    data[summed : summed + 4] = struct.pack("<I", _lookup3(bytes(data[start : start + 1024])))
    path.write_bytes(data)
    with (
        path.open("rb") as file,
        closing(Hdf5Tree.open(path, file, 0, len(data))) as tree,
        pytest.raises(UnreadableModel, match="larger than the file"),
    ):
        tree.attributes("a")


_MIX = (("a", "c", 4, "b"), ("b", "a", 6, "c"), ("c", "b", 8, "a"), ("a", "c", 16, "b"), ("b", "a", 19, "c"),
        ("c", "b", 4, "a"))  # fmt: skip
_END = (
    ("c", "b", 14),
    ("a", "c", 11),
    ("b", "a", 25),
    ("c", "b", 16),
    ("a", "c", 4),
    ("b", "a", 14),
    ("c", "b", 24),
)


def _lookup3(data: bytes) -> int:
    """HDF5's checksum: Bob Jenkins, lookup3.c, public domain (2006)."""
    whole = (1 << 32) - 1

    def turned(x: int, by: int) -> int:
        return (x << by | x >> (32 - by)) & whole

    state = dict.fromkeys("abc", 0xDEADBEEF + len(data) & whole)
    for at in range(0, len(data), 12):
        for name, word in zip("abc", struct.unpack("<III", data[at : at + 12].ljust(12, b"\0")), strict=True):
            state[name] = state[name] + word & whole
        if at + 12 < len(data):
            for x, y, by, z in _MIX:
                state[x] = (state[x] - state[y] & whole) ^ turned(state[y], by)
                state[y] = state[y] + state[z] & whole
    for x, y, by in _END:
        state[x] = (state[x] ^ state[y]) - turned(state[y], by) & whole
    return state["c"]
