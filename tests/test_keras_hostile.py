"""Damaged and hostile Keras files: one clear sentence each, no traceback, no hang, nothing read outside.

First tables of files made by hand, each with one thing wrong; then real layouts with random damage, in a
process of its own, since HDF5's C library might crash on some and that must be seen as a failure.
"""

from __future__ import annotations

import io
import json
import random
import re
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bnfuse.errors import BnfuseError, UnreadableModel, UnsafeModel
from bnfuse.formats.keras.container import open_container
from tests.test_keras_storage import dense, edited, legacy, make_archive, opened

KERNEL, BIAS = "layers/dense/vars/0", "layers/dense/vars/1"
Damage = Callable[[Path], None]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {KERNEL: rng.normal(size=(3, 3)), BIAS: rng.normal(size=3)}
    return make_archive(tmp_path / "m.keras", [dense("a")], arrays)


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {"a/kernel:0": rng.normal(size=(3, 3)), "a/bias:0": rng.normal(size=3)}
    return legacy(tmp_path / "m.h5", [dense("a")], {"a": arrays})


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


def _set(h5: h5py.File, name: str, value: Any) -> None:
    h5[name] = value


def _external_storage(h5: h5py.File) -> None:
    h5.create_dataset(BIAS, (3,), "f8", external=[("/etc/hostname", 0, 24)])


def _virtual(h5: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (3,))
    h5.create_virtual_dataset(BIAS, layout)


def _unallocated(h5: h5py.File) -> None:
    """A contiguous array that was never written: HDF5 would make it of zeros."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    space = h5py.h5s.create_simple((1 << 20, 1 << 20))
    h5py.h5d.create(h5["layers/dense/vars"].id, b"1", h5py.h5t.IEEE_F64LE, space, plist)


def _chunk_bomb(h5: h5py.File) -> None:
    h5.create_dataset(BIAS, (1 << 20, 1 << 20), "f8", chunks=(1024, 1024), compression="gzip")


def _plugin(h5: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((3,))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((3,))
    h5py.h5d.create(h5["layers/dense/vars"].id, b"1", h5py.h5t.IEEE_F64LE, space, plist)


DEEP = b"[" * 100_000 + b"]" * 100_000
ARCHIVES: dict[str, tuple[Damage, type[BnfuseError], str]] = {
    "empty": (replaced(b""), UnreadableModel, "is empty"),
    "garbage": (replaced(random.Random(1).randbytes(5000)), UnreadableModel, "neither a Keras archive"),
    "only the zip's head": (replaced(b"PK\x03\x04" + bytes(100)), UnreadableModel, "cut off or damaged"),
    "an empty zip": (lambda p: repack(p, []), UnreadableModel, "zip file without content"),
    "git lfs": (replaced(b"version https://git-lfs.github.com/spec/v1\n"), UnreadableModel, "git lfs pull"),
    "cut off": (cut(0.7), UnreadableModel, "cut off or damaged"),
    "no config": (with_members(config__json=None), UnreadableModel, "holds only weights"),
    "another zip": (lambda p: repack(p, [("a.txt", b"x")]), UnreadableModel, "no Keras model"),
    "no weights": (with_members(model__weights__h5=None), UnreadableModel, "it has no weights"),
    "sharded": (
        with_members(model__weights__h5=None, model__weights__json=b"{}"),
        UnreadableModel,
        r"its weights are in 'model.weights.json'.*model\.save",
    ),
    "not json": (with_members(config__json=b"{]"), UnreadableModel, "config.json is not valid JSON"),
    "not utf-8": (with_members(config__json=b'{"a": "\xff\xfe\xfa"}'), UnreadableModel, "not valid JSON"),
    "json bomb": (with_members(config__json=DEEP), UnreadableModel, "nested too deep"),
    "json bomb of objects": (
        with_members(config__json=b'{"a":' * 5000 + b"1" + b"}" * 5000),
        UnreadableModel,
        "nested too deep",
    ),
    "a number of 10000 digits": (
        with_members(config__json=b"[" + b"9" * 10_000 + b"]"),
        UnreadableModel,
        "not valid",
    ),
    "half a surrogate": (
        with_members(config__json=b'{"class_name": "\\ud800", "config": {}}'),
        UnreadableModel,
        "not valid Unicode",
    ),
    "a list": (with_members(config__json=b"[]"), UnreadableModel, "does not describe a model"),
    "metadata is a list": (with_members(metadata__json=b"[]"), UnreadableModel, "not a JSON object"),
    "absolute name": (with_name("/etc/passwd"), UnsafeModel, "unsafe name"),
    "parent's name": (with_name("assets/../../x"), UnsafeModel, "unsafe name"),
    "backslash": (with_name("assets\\x"), UnsafeModel, "unsafe name"),
    "drive": (with_name("c:x"), UnsafeModel, "unsafe name"),
    "double name": (with_double, UnsafeModel, "holds 'config.json' twice"),
    "encrypted": (with_flag, UnreadableModel, "encrypted"),
    "odd compression": (
        lambda p: repack(p, list(members(p).items()), zipfile.ZIP_BZIP2),
        UnreadableModel,
        "unusual way",
    ),
    "zip bomb": (with_bomb, UnsafeModel, "would grow from"),
    "weights are text": (with_members(model__weights__h5=b"hello" * 999), UnreadableModel, "HDF5.*damaged"),
    "soft link": (
        instead(BIAS, lambda h5: _set(h5, BIAS, h5py.SoftLink(f"/{KERNEL}"))),
        UnsafeModel,
        "is a soft link",
    ),
    "external link": (
        instead(BIAS, lambda h5: _set(h5, BIAS, h5py.ExternalLink("/etc/x.h5", "/x"))),
        UnsafeModel,
        "is an external link",
    ),
    "linked group": (
        instead("layers", lambda h5: _set(h5, "layers", h5py.ExternalLink("other.h5", "/layers"))),
        UnsafeModel,
        "'layers' is an external link",
    ),
    "external storage": (instead(BIAS, _external_storage), UnsafeModel, "in another file"),
    "virtual": (instead(BIAS, _virtual), UnsafeModel, "in another file"),
    "never written": (
        instead(BIAS, _unallocated),
        UnsafeModel,
        "declares 8796093022208 bytes but stores only 0",
    ),
    "chunk bomb": (instead(BIAS, _chunk_bomb), UnsafeModel, "declares 8796093022208 bytes but stores only 0"),
    "plug-in": (instead(BIAS, _plugin), UnsafeModel, "needs a plug-in"),
    "texts": (
        instead(BIAS, lambda h5: _set(h5, BIAS, [b"a", b"b", b"c"])),
        UnreadableModel,
        "does not hold numbers",
    ),
    "records": (
        instead(BIAS, lambda h5: _set(h5, BIAS, np.zeros(3, [("a", "f4"), ("b", "i4")]))),
        UnreadableModel,
        "does not hold numbers",
    ),
    "references": (
        instead(BIAS, lambda h5: _set(h5, BIAS, h5["layers"].ref)),
        UnreadableModel,
        "does not hold numbers",
    ),
    "no array": (
        instead(BIAS, lambda h5: _set(h5, BIAS, h5py.Empty("f4"))),
        UnreadableModel,
        "holds no array",
    ),
    "group for an array": (
        instead(BIAS, lambda h5: h5.create_group(BIAS) and None),
        UnreadableModel,
        "no 'bias'",
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(archive: Path, name: str) -> None:
    """Each is refused with a sentence that says what and where."""
    damage, kind, says = ARCHIVES[name]
    damage(archive)
    with pytest.raises(kind) as caught:
        opened(archive)
    assert re.search(says, str(caught.value)), str(caught.value)
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)


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


def _only_weights(path: Path) -> None:
    with h5py.File(path, "w") as h5:
        h5.attrs["layer_names"] = [b"a"]
        h5["a/kernel"] = np.ones(3)


WEIGHTS = "model_weights/a"
HDF5: dict[str, tuple[Damage, type[BnfuseError], str]] = {
    "only its head": (replaced(b"\x89HDF\r\n\x1a\n" + bytes(2000)), UnreadableModel, "damaged or cut off"),
    "cut off": (cut(0.6), UnreadableModel, "damaged or cut off"),
    "weights only": (_only_weights, UnreadableModel, "only weights.*model.save"),
    "no config": (attribute("model_config", None), UnreadableModel, "no model_config"),
    "config is a number": (attribute("model_config", 3), UnreadableModel, "not valid JSON"),
    "config is bytes": (
        attribute("model_config", np.void(b"\xff\0\xff")),
        UnreadableModel,
        "no model_config",
    ),
    "config is a bomb": (attribute("model_config", "[" * 60_000), UnreadableModel, "nested too deep"),
    "no weights": (removed("model_weights"), UnreadableModel, "config but no weights"),
    "names are a number": (attribute("layer_names", 3, "model_weights"), UnreadableModel, "no list of names"),
    "names are one text": (
        attribute("layer_names", "a", "model_weights"),
        UnreadableModel,
        "no list of names",
    ),
    "a name nobody has": (
        attribute("layer_names", [b"zz"], "model_weights"),
        UnreadableModel,
        "'zz' whose weights",
    ),
    "a name twice": (attribute("layer_names", [b"a", b"a"], "model_weights"), UnreadableModel, "same name"),
    "leads upwards": (
        attribute("weight_names", [b"../a/a/kernel:0", b"a/bias:0"], WEIGHTS),
        UnreadableModel,
        "is missing",
    ),
    "absolute": (
        attribute("weight_names", [b"/model_weights/a/a/kernel:0"], WEIGHTS),
        UnreadableModel,
        "is missing",
    ),
    "the same twice": (attribute("weight_names", [b"a/bias:0"] * 2, WEIGHTS), UnreadableModel, "is missing"),
    "external": (linked(WEIGHTS, h5py.ExternalLink("/etc/x.h5", "/a")), UnsafeModel, "external link"),
    "soft": (linked(WEIGHTS, h5py.SoftLink("/model_weights/b")), UnsafeModel, "soft link"),
}


@pytest.mark.parametrize("name", HDF5)
def test_hdf5(hdf5: Path, name: str) -> None:
    """The same for HDF5."""
    damage, kind, says = HDF5[name]
    damage(hdf5)
    with pytest.raises(kind) as caught:
        opened(hdf5)
    assert re.search(says, str(caught.value)), str(caught.value)
    assert str(hdf5) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_undamaged_files_open(archive: Path, hdf5: Path) -> None:
    """Otherwise the tables above would prove nothing."""
    for path in (archive, hdf5):
        container, network = opened(path)
        with container:
            assert [v.name for v in network.layer("a").variables] == ["kernel", "bias"]


def test_missing_and_folder(tmp_path: Path) -> None:
    """No such file; a SavedModel's folder."""
    for path in (tmp_path / "none.keras", tmp_path):
        with pytest.raises(UnreadableModel, match=re.escape(str(path))):
            open_container(path)


def test_not_a_number_in_json_is_fine(archive: Path) -> None:
    """Keras writes NaN and Infinity."""
    config = json.loads(members(archive)["config.json"])
    config["config"]["extra"] = [float("nan"), float("inf")]
    with_members(config__json=json.dumps(config).encode())(archive)
    container, _ = opened(archive)
    container.close()


def test_a_damaged_archive_is_noticed_before_it_is_written(archive: Path, tmp_path: Path) -> None:
    """One flipped bit in the weights: the checksum tells, and nothing is left behind."""
    from bnfuse.formats.keras.write import write

    data = bytearray(archive.read_bytes())
    kernel = h5py.File(io.BytesIO(members(archive)["model.weights.h5"]))[KERNEL][()].tobytes()
    data[bytes(data).index(kernel) + 3] ^= 1
    archive.write_bytes(data)
    container, network = opened(archive)
    with container, pytest.raises(UnreadableModel, match=r"'model.weights.h5' inside it is damaged"):
        write(container, container.config, edited(network, container.config), tmp_path / "out.keras")
    assert not list(tmp_path.glob("out*"))


def test_optimizer_state_is_never_looked_at(archive: Path) -> None:
    """Whatever is in it, it is neither followed nor copied."""
    in_weights(lambda h5: _set(h5, "optimizer/vars/0", h5py.ExternalLink("/etc/x.h5", "/x")))(archive)
    container, _ = opened(archive)
    with container:
        assert container.has_optimizer
        assert not any(path.startswith("optimizer") for path in container.tree.datasets)


def test_heap_that_never_ends(hdf5: Path) -> None:
    """A text of size zero in HDF5's heap of texts: HDF5 by itself loops for ever."""
    data = bytearray(hdf5.read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 16 : heap + 32] = bytes(16)
    hdf5.write_bytes(data)
    with pytest.raises(UnreadableModel, match="heap of texts"):
        opened(hdf5)


FUZZ = """
import random, resource, sys, time
from pathlib import Path
from bnfuse.errors import BnfuseError
from bnfuse.formats.keras.write import write
from bnfuse.formats.keras.network import walk
from tests.test_keras_hostile import damaged
from tests.test_keras_storage import edited, opened
whole, rounds, target = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
rng, ok, refused, slowest = random.Random(int(sys.argv[4])), 0, 0, 0.0
for _ in range(rounds):
    target.write_bytes(damaged(whole.read_bytes(), rng))
    start = time.perf_counter()
    try:
        container, network = opened(target)
        with container:
            for _, layer in walk(network):
                for variable in layer.variables:
                    variable.read()
            write(container, container.config, edited(network, container.config), target.with_name("out"))
        ok += 1
    except BnfuseError as error:
        assert "\\n" not in str(error), error
        refused += 1
    slowest = max(slowest, time.perf_counter() - start)
print(ok, refused, slowest)
"""


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["archive", "hdf5"])
@pytest.mark.parametrize("seed", [1, 2])
def test_random_damage(kind: str, seed: int, archive: Path, hdf5: Path, tmp_path: Path) -> None:
    """A result or a sentence, always, and soon; a crash of HDF5 would end the process."""
    whole = archive if kind == "archive" else hdf5
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-c",
            FUZZ,
            whole,
            "500",
            tmp_path / f"x{whole.suffix}",
            str(seed),
        ],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ok, refused, slowest = (float(text) for text in done.stdout.split())
    assert ok > 20, "every damage was noticed: the fuzz is too coarse"
    assert refused > 100
    assert slowest < 20


def test_truncation_anywhere_is_noticed(archive: Path, hdf5: Path) -> None:
    """No prefix of a file passes for the whole."""
    for path in (archive, hdf5):
        data = path.read_bytes()
        for length in [*range(0, len(data), 97), len(data) - 1]:
            path.write_bytes(data[:length])
            with pytest.raises(UnreadableModel):
                opened(path)


def test_directory_that_points_elsewhere(archive: Path) -> None:
    """The central directory may claim any offset."""
    data = bytearray(archive.read_bytes())
    at = bytes(data).rindex(b"PK\x01\x02")
    for offset in (0, 7, len(data) - 10, 0xFFFFFFF0):
        data[at + 42 : at + 46] = struct.pack("<I", offset)
        archive.write_bytes(data)
        with pytest.raises((UnreadableModel, UnsafeModel)):
            opened(archive)
