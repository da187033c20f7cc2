"""Damaged and hostile ``.h5`` files: one clear sentence each, no traceback, no hang, nothing read outside."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from bnfuse.errors import UnreadableModel, UnsafeModel
from tests.keras_damage import Case, assert_refused, attribute, cut, linked, removed, replaced
from tests.keras_files import opened


def _only_weights(path: Path) -> None:
    with h5py.File(path, "w") as h5:
        h5.attrs["layer_names"] = [b"a"]
        h5["a/kernel"] = np.ones(3)


WEIGHTS = "model_weights/a"
HDF5: dict[str, Case] = {
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
    assert_refused(hdf5, HDF5[name])


def test_heap_that_never_ends(hdf5: Path) -> None:
    """A text of size zero in HDF5's heap of texts: HDF5 by itself loops for ever."""
    data = bytearray(hdf5.read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 16 : heap + 32] = bytes(16)
    hdf5.write_bytes(data)
    with pytest.raises(UnreadableModel, match="heap of texts"):
        opened(hdf5)
