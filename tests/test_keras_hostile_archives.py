"""Damaged and hostile ``.keras`` files: one clear sentence each, no traceback, nothing read outside."""

from __future__ import annotations

import json
import random
import zipfile
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest

from bnfuse.errors import UnreadableModel, UnsafeModel
from bnfuse.formats.keras.edit.write import write
from tests.keras_damage import (
    Case,
    assert_refused,
    cut,
    in_weights,
    instead,
    members,
    put,
    repack,
    replaced,
    with_bomb,
    with_double,
    with_flag,
    with_members,
    with_name,
)
from tests.keras_files import edited, opened
from tests.keras_handmade import BIAS, KERNEL


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
ARCHIVES: dict[str, Case] = {
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
        instead(BIAS, lambda h5: put(h5, BIAS, h5py.SoftLink(f"/{KERNEL}"))),
        UnsafeModel,
        "is a soft link",
    ),
    "external link": (
        instead(BIAS, lambda h5: put(h5, BIAS, h5py.ExternalLink("/etc/x.h5", "/x"))),
        UnsafeModel,
        "is an external link",
    ),
    "linked group": (
        instead("layers", lambda h5: put(h5, "layers", h5py.ExternalLink("other.h5", "/layers"))),
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
        instead(BIAS, lambda h5: put(h5, BIAS, [b"a", b"b", b"c"])),
        UnreadableModel,
        "does not hold numbers",
    ),
    "records": (
        instead(BIAS, lambda h5: put(h5, BIAS, np.zeros(3, [("a", "f4"), ("b", "i4")]))),
        UnreadableModel,
        "does not hold numbers",
    ),
    "references": (
        instead(BIAS, lambda h5: put(h5, BIAS, h5["layers"].ref)),
        UnreadableModel,
        "does not hold numbers",
    ),
    "no array": (
        instead(BIAS, lambda h5: put(h5, BIAS, h5py.Empty("f4"))),
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
    assert_refused(archive, ARCHIVES[name])


def test_not_a_number_in_json_is_fine(archive: Path, tmp_path: Path) -> None:
    """Keras writes NaN and Infinity: they are read as what they are, and written again."""
    config = json.loads(members(archive)["config.json"])
    config["config"]["extra"] = [float("nan"), float("inf"), float("-inf")]
    with_members(config__json=json.dumps(config).encode())(archive)
    container, network = opened(archive)
    with closing(container):
        extra = container.config["config"]["extra"]
        np.testing.assert_array_equal(extra, [np.nan, np.inf, -np.inf])
        assert [v.name for v in network.layer("a").variables] == ["kernel", "bias"]
        write(container, container.config, edited(network, container.config), tmp_path / "out.keras")
    written = json.loads(members(tmp_path / "out.keras")["config.json"])
    np.testing.assert_array_equal(written["config"]["extra"], extra)
    assert written["config"]["layers"] == config["config"]["layers"]


def test_optimizer_state_is_never_looked_at(archive: Path) -> None:
    """Whatever is in it, it is neither followed nor copied."""
    in_weights(lambda h5: put(h5, "optimizer/vars/0", h5py.ExternalLink("/etc/x.h5", "/x")))(archive)
    container, _ = opened(archive)
    with closing(container):
        assert container.has_optimizer
        assert not any(path.startswith("optimizer") for path in container.tree.datasets)


@pytest.mark.parametrize("shared", [{}, [1], "1", None, 1.5, True])
def test_an_id_that_is_none_is_nobodys(archive: Path, shared: object) -> None:
    """Of what a config says is shared only whole numbers are looked at."""
    contents = members(archive)
    config = json.loads(contents["config.json"])
    for layer in config["config"]["layers"]:
        layer["shared_object_id"] = shared
    contents["config.json"] = json.dumps(config).encode()
    repack(archive, list(contents.items()))
    container, network = opened(archive)
    with closing(container):
        assert len(network.layer("a").variables) == 2
