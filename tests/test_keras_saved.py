"""Files by Keras itself: every stored weight is bound to its layer, and a round trip stores the same.

The yardstick is Keras's own account of models it saved (``tests/keras_saved.py``):
which arrays each layer holds."""

from __future__ import annotations

import json
import time
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bnfuse.formats.keras.file.opening import open_container
from bnfuse.formats.keras.graph.network import walk
from bnfuse.formats.keras.rows.variables import refuses_edit
from tests.keras_files import REAL_MODELS, NamePath, as_hex, contents, held, opened, rewritten
from tests.keras_nets import both_containers
from tests.keras_saved_models import FILES


def account(saved: Path, name: str) -> dict[NamePath, list[tuple[str, Any]]]:
    """Keras's account of a file: (name, bytes) of each layer's weights."""
    layers = json.loads((saved / f"{name}.json").read_text())["layers"]
    return {tuple(path): list(zip(names, values, strict=True)) for path, names, values in layers}


# In an archive this is not what ``layer.weights`` says, by Keras's own making: the merged kernel.
OTHERWISE = {"keras3-lora.keras"}
# Classes whose slots are not known keep the file's order, which is not that of ``layer.weights``.
FILE_ORDER = {"keras3-lora.h5", "keras3-int8.keras", "keras3-int8.h5"}


def plain_path(path: NamePath) -> NamePath:
    """Whether a wrapper puts "backward_" before a given layer's name differs between versions."""
    return tuple(name.removeprefix("backward_") for name in path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [f for f in FILES if f not in OTHERWISE])
def test_binds_what_keras_says(saved: Path, name: str) -> None:
    """Bit for bit, layer by layer, in the order of ``layer.weights``."""
    if name in json.loads((saved / "failed").read_text()):
        pytest.skip("this Keras does not save it")
    truth = account(saved, name)
    container, network = opened(saved / name)
    with closing(container):
        layers = {plain_path(path): layer for path, layer in held(network).items()}
        truth = {plain_path(path): told for path, told in truth.items()}
        assert layers.keys() == truth.keys()
        for path, layer in layers.items():
            if name in FILE_ORDER:
                stored = [as_hex(v.read()) for v in layer.variables]
                assert sorted(stored, key=str) == sorted((value for _, value in truth[path]), key=str)
                continue
            assert [as_hex(v.read()) for v in layer.variables] == [value for _, value in truth[path]], path
            for variable, (told, _) in zip(layer.variables, truth[path], strict=True):
                assert variable.shape == variable.read().shape
                if variable.name:
                    kind = told.split(":")[0].rsplit("/", 1)[-1].removeprefix("depthwise_")
                    assert variable.name.rsplit("/", 1)[-1].removeprefix("depthwise_") == kind


@pytest.mark.slow
def test_lora_and_quantised_layers_are_not_to_be_edited(saved: Path) -> None:
    """Their layers say so; others do not."""
    for name, layer, word in (
        ("keras3-lora.h5", "tuned", "LoRA"),
        ("keras3-lora.keras", "tuned", "LoRA"),
        ("keras3-int8.keras", "small", "int8"),
        ("keras3-int8.h5", "small", "int8"),
    ):
        container, network = opened(saved / name)
        with closing(container):
            assert word in (refuses_edit(network.layer(layer)) or "")
    container, network = opened(saved / "keras3-sequential.keras")
    with closing(container):
        assert [refuses_edit(layer) for layer in network.layers] == [None] * len(network.layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_round_trip_stores_the_same(saved: Path, tmp_path: Path, name: str) -> None:
    """Same groups, arrays, attributes; the config as an equal object; the optimiser gone."""
    if name in json.loads((saved / "failed").read_text()):
        pytest.skip("this Keras does not save it")
    first = tmp_path / name
    rewritten(saved / name, first)
    before, after = contents(saved / name), contents(first)
    for side in (before, after):
        if "model_config" in side[""]:
            side[""]["model_config"] = json.loads(side[""]["model_config"])
    assert before == after
    with closing(open_container(saved / name)) as old, closing(open_container(first)) as new:
        assert new.config == old.config
        assert new.metadata == old.metadata
        assert old.has_optimizer == ("compiled" in name)
        assert not new.has_optimizer


TWICE = ("keras3-nested", "tf_keras-compiled")


@pytest.fixture(scope="module")
def twice(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with the same files, written seconds apart: a time stamp would show (a zip's counts two)."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    for folder in (first, second):
        for name in (f"{stem}{suffix}" for stem in TWICE for suffix in (".keras", ".h5")):
            rewritten(saved / name, folder / name)
        if folder is first:
            time.sleep(2.1)
    return first, second


@pytest.mark.slow
@both_containers
@pytest.mark.parametrize("stem", TWICE)
def test_two_writes_give_the_same_bytes(twice: tuple[Path, Path], stem: str, suffix: str) -> None:
    first, second = (folder / f"{stem}{suffix}" for folder in twice)
    assert second.stat().st_mtime - first.stat().st_mtime >= 2.0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.skipif(not REAL_MODELS.is_dir(), reason=f"no real models at {REAL_MODELS}")
@pytest.mark.parametrize(
    "name", sorted(p.name for p in REAL_MODELS.glob("*")) if REAL_MODELS.is_dir() else []
)
def test_real_files_bind_and_round_trip(name: str, tmp_path: Path) -> None:
    """Every stored weight belongs to one layer; written again, nothing is different."""
    path = REAL_MODELS / name
    container, network = opened(path)
    with closing(container):
        bound = [v.source for _, layer in walk(network) for v in layer.variables]
        assert len(bound) == len(set(bound))
        assert set(bound) == set(container.tree.datasets)
        with h5py.File(path) if container.kind == "hdf5" else h5py.File(zip_member(path)) as h5:
            root = h5["model_weights"] if container.kind == "hdf5" else h5["layers"]
            counted: list[str] = []
            root.visititems(lambda n, o: counted.append(n) if isinstance(o, h5py.Dataset) else None)
            assert len(counted) == len(bound)
            for variable in (v for _, layer in walk(network) for v in layer.variables):
                np.testing.assert_array_equal(h5[variable.source][()], variable.read())
    rewritten(path, tmp_path / name)
    before, after = contents(path), contents(tmp_path / name)
    assert before.keys() == after.keys()
    for key, value in before.items():
        if key:
            assert after[key] == value, key


def zip_member(path: Path) -> Any:
    import io

    return io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))
