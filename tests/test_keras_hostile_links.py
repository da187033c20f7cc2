"""Links of HDF5 that lead elsewhere, among many that do not: each is found, at whatever place it stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest

from bnfuse.errors import BnfuseError, UnsafeModel
from tests.command import call
from tests.keras_damage import in_weights
from tests.keras_files import opened
from tests.keras_handmade import dense, legacy, make_archive, norm

_LAYERS = [dense("d0"), norm("n"), dense("d1")]
_NAMES = {"d0": ("kernel", "bias"), "n": ("gamma", "beta", "moving_mean", "moving_variance")}
_NAMES["d1"] = _NAMES["d0"]
_GROUPS = {"d0": "dense", "n": "batch_normalization", "d1": "dense_1"}
# What stands where: groups as well as arrays, first, last and in between.
_ARCHIVE = [f"layers/{_GROUPS[n]}/vars/{k}" for n, names in _NAMES.items() for k in range(len(names))]
_HDF5 = [f"model_weights/{n}/{n}/{name}:0" for n, names in _NAMES.items() for name in names]
PLACES = {
    "archive": ["layers", *(f"layers/{g}" for g in _GROUPS.values()), "layers/dense/vars", *_ARCHIVE, "vars"],
    "hdf5": ["model_weights", *(f"model_weights/{n}" for n in _NAMES), "model_weights/n/n", *_HDF5],
}
LINKS: dict[str, Callable[[str], object]] = {
    "soft": lambda _: h5py.SoftLink("/elsewhere"),
    "external": lambda _: h5py.ExternalLink("outside.h5", "/elsewhere"),
    "external, to its own place": lambda place: h5py.ExternalLink("outside.h5", f"/{place}"),
}


def _array(layer: str, name: str) -> np.ndarray:
    rng = np.random.default_rng(len(layer + name))
    values = rng.uniform(0.5, 2, (3, 3) if name == "kernel" else 3)
    return values.astype("f4")


def _model(kind: str, folder: Path) -> Path:
    arrays = {layer: {name: _array(layer, name) for name in names} for layer, names in _NAMES.items()}
    if kind == "archive":
        flat = [array for layer in arrays.values() for array in layer.values()]
        return make_archive(folder / "m.keras", _LAYERS, dict(zip(_ARCHIVE, flat, strict=True)))
    named = {layer: {f"{layer}/{n}:0": a for n, a in own.items()} for layer, own in arrays.items()}
    return legacy(folder / "m.h5", _LAYERS, named)


def _change(kind: str, path: Path, change: Callable[[h5py.File], None]) -> None:
    if kind == "archive":
        in_weights(change)(path)
        return
    with h5py.File(path, "a") as h5:
        change(h5)


def _replaced(h5: h5py.File, place: str, link: object) -> None:
    """What stood there is kept under another name, where a link that is followed would find it."""
    if "elsewhere" not in h5:
        h5["elsewhere"] = h5[place]
    del h5[place]
    h5[place] = link


@pytest.mark.parametrize("kind", PLACES)
def test_the_model_itself_is_read(kind: str, tmp_path: Path) -> None:
    """Otherwise what follows would prove nothing."""
    container, network = opened(_model(kind, tmp_path))
    with closing(container):
        wanted = _ARCHIVE if kind == "archive" else _HDF5
        assert [v.source for layer in network.layers for v in layer.variables] == wanted


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(("kind", "place"), [(kind, place) for kind in PLACES for place in PLACES[kind]])
def test_one_link_among_many(kind: str, place: str, link: str, tmp_path: Path) -> None:
    path = _model(kind, tmp_path)
    (tmp_path / "outside.h5").write_bytes(b"never opened")
    _change(kind, path, lambda h5: _replaced(h5, place, LINKS[link](place)))
    with pytest.raises(UnsafeModel, match=f"'{re.escape(place)}' is an? {link.partition(',')[0]} link"):
        opened(path)


@pytest.mark.parametrize("kind", PLACES)
def test_links_of_both_kinds_between_hard_ones(kind: str, tmp_path: Path) -> None:
    """Also where the last link of the file, which decides for a reader that mixes them up, is a hard one."""
    path = _model(kind, tmp_path)
    places = PLACES[kind]

    def change(h5: h5py.File) -> None:
        _replaced(h5, places[-4], h5py.SoftLink("/elsewhere"))
        _replaced(h5, places[-3], h5py.ExternalLink("outside.h5", "/x"))
        h5[f"{places[-3].rpartition('/')[0]}/zz"] = np.zeros(3)

    _change(kind, path, change)
    done = call("optimize", path, "--no-verify", "--no-bench", "-o", tmp_path / f"out{path.suffix}")
    assert done.exit_code == 3
    assert "link, which bnfuse does not follow" in done.stderr
    assert not list(tmp_path.glob("*out.*"))


@pytest.mark.parametrize("kind", PLACES)
def test_a_group_inside_itself(kind: str, tmp_path: Path) -> None:
    path, place = _model(kind, tmp_path), PLACES[kind][1]
    _change(kind, path, lambda h5: h5.__setitem__(f"{place}/again", h5[place]))
    with pytest.raises(UnsafeModel, match="has several names"):
        opened(path)


def test_a_slash_in_a_name_is_a_way_through_other_links(tmp_path: Path) -> None:
    """The state of an optimiser is never looked at; a name in the root may not lead into it all the same."""
    path = _model("hdf5", tmp_path)
    with h5py.File(path, "a") as h5:
        h5["optimizer_weights"] = h5py.ExternalLink("outside.h5", "/")
        h5["optimizer_weightsXa"] = np.zeros(3)
    path.write_bytes(path.read_bytes().replace(b"optimizer_weightsXa", b"optimizer_weights/a"))
    with pytest.raises(BnfuseError, match="'optimizer_weights/a' is an odd link"):
        opened(path)


def test_an_array_in_the_root_is_nobodys(tmp_path: Path) -> None:
    """Old files keep counts of the training there, of any type."""
    path = _model("hdf5", tmp_path)
    with h5py.File(path, "a") as h5:
        h5["iterations"] = b"text"
    container, _ = opened(path)
    with closing(container):
        assert sorted(container.tree.datasets) == sorted(_HDF5)
