"""What differs between two Keras files, in both containers; no Keras is needed for it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bnfuse.difference.result import Changed, Difference, NodeName
from bnfuse.errors import BnfuseError, UnreadableModel
from bnfuse.formats import detect
from bnfuse.formats.keras.file import stored_array as slabs
from bnfuse.use_cases.diff import diff
from tests.diff_nets import mlp
from tests.keras_handmade import BIAS, KERNEL, dense, legacy, make_archive, norm

ROOT = Path(__file__).resolve().parents[1]
Arrays = dict[str, np.ndarray]


def arrays(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {KERNEL: rng.normal(size=(3, 3)), BIAS: rng.normal(size=3)}


def archive(path: Path, layer: dict[str, Any] | None = None, values: Arrays | None = None) -> Path:
    return make_archive(path, [layer or dense("a")], values or arrays())


def hdf5(path: Path, layer: dict[str, Any] | None = None, values: Arrays | None = None) -> Path:
    held = values or arrays()
    stored = {"a/kernel:0": held[KERNEL], "a/bias:0": held[BIAS]}
    return legacy(path, [layer or dense("a")], {"a": stored})


Make = Callable[..., Path]
CONTAINERS = [(archive, archive), (hdf5, hdf5), (archive, hdf5), (hdf5, archive)]
SUFFIX = {archive: ".keras", hdf5: ".h5"}


def pair(folder: Path, makes: tuple[Make, Make], **after: Any) -> Difference:
    first, second = makes
    return diff(first(folder / f"1{SUFFIX[first]}"), second(folder / f"2{SUFFIX[second]}", **after))


def facts(found: Difference) -> set[str]:
    return {fact.label for fact in found.facts}


@pytest.mark.parametrize("makes", CONTAINERS)
def test_the_same_network(makes: tuple[Make, Make], tmp_path: Path) -> None:
    found = pair(tmp_path, makes)
    assert facts(found) == ({"Keras version"} if makes[0] is not makes[1] else set())
    assert (found.nodes_same, found.weights_same) == (1, 2)
    assert not (found.interface or found.nodes_changed or found.weights_changed or found.weights_renamed)
    assert found.before.parameters == 12 and found.before.totals == {"Dense": 1}


@pytest.mark.parametrize("makes", CONTAINERS)
def test_another_kernel(makes: tuple[Make, Make], tmp_path: Path) -> None:
    values = arrays()
    values[KERNEL] = values[KERNEL].copy()
    values[KERNEL][1, 2] += 4
    found = pair(tmp_path, makes, values=values)
    (change,) = found.weights_changed
    assert change.before.name == change.after.name == "a/kernel"
    assert (change.before.reader, change.before.slot) == (NodeName("a", "Dense"), "kernel")
    figures = change.figures
    assert figures is not None and (figures.changed, figures.elements) == (1, 9)
    assert figures.max_rel == pytest.approx(4 / np.abs(arrays()[KERNEL]).max(), rel=1e-12)
    assert figures.rms == pytest.approx(4 / 3, rel=1e-12)
    assert found.weights_same == 1


@pytest.mark.parametrize("makes", CONTAINERS)
def test_settings(makes: tuple[Make, Make], tmp_path: Path) -> None:
    layer = dense("a", activation="relu", kernel_initializer={"class_name": "Zeros", "config": {"x": 1}})
    found = pair(tmp_path, makes, layer=layer)
    (change,) = found.nodes_changed
    assert change.settings == (
        Changed("activation", None, "relu"),
        Changed("kernel_initializer.class_name", None, "Zeros"),
        Changed("kernel_initializer.config.x", None, 1),
    )
    assert found.weights_same == 2


def test_settings_of_a_layer_in_a_layer(tmp_path: Path) -> None:
    """A step of a TimeDistributed is told apart; what others wrap is a part of their settings."""
    for wrapper, node in (("TimeDistributed", "a/b"), ("Wrapper", "a")):
        stored = [
            hdf5(tmp_path / f"{units}.h5", {"class_name": wrapper, "config": {"name": "a", "layer": inner}})
            for units, inner in ((3, dense("b")), (4, dense("b", activation="relu")))
        ]
        (change,) = diff(*stored).nodes_changed
        assert change.after.name == node
        key = "activation" if node == "a/b" else "layer.config.activation"
        assert change.settings == (Changed(key, None, "relu"),)


def test_a_dtype_policy_is_its_name(tmp_path: Path) -> None:
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
    one = archive(tmp_path / "1.keras", dense("a", dtype=policy))
    assert not diff(one, archive(tmp_path / "2.keras", dense("a", dtype="float32"))).differs
    other = diff(one, archive(tmp_path / "3.keras", dense("a", dtype="float16")))
    assert other.nodes_changed[0].settings == (Changed("dtype", "float32", "float16"),)


def test_a_removed_layer(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    statistics = {f"layers/batch_normalization/vars/{i}": rng.uniform(1, 2, 3) for i in range(4)}
    two = {"layers/dense_1/vars/0": rng.normal(size=(3, 3)), "layers/dense_1/vars/1": rng.normal(size=3)}
    layers = [dense("a"), norm("bn"), dense("b")]
    before = make_archive(tmp_path / "1.keras", layers, {**arrays(), **statistics, **two})
    after = make_archive(tmp_path / "2.keras", [layers[0], layers[2]], {**arrays(), **two})
    found = diff(before, after)
    assert found.nodes_removed == (NodeName("bn", "BatchNormalization"),)
    assert {w.name for w in found.weights_removed} == {
        f"bn/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    assert not found.nodes_changed  # that b now reads a is what removing bn means
    assert (found.nodes_same, found.weights_same) == (2, 4)


def test_layers_under_other_names(tmp_path: Path) -> None:
    values = {KERNEL: arrays()[KERNEL], BIAS: arrays()[BIAS]}
    found = diff(archive(tmp_path / "1.keras"), archive(tmp_path / "2.keras", dense("z"), values))
    assert found.nodes_renamed == (("a", "z"),)
    assert set(found.weights_renamed) == {("a/kernel", "z/kernel"), ("a/bias", "z/bias")}
    assert found.weights_same == 2


@pytest.mark.parametrize("name", ["digits_a", "digits_b"])
def test_both_containers_of_one_model(name: str) -> None:
    """As Keras itself saved them: not one difference."""
    found = diff(ROOT / "fixtures" / f"{name}.keras", ROOT / "fixtures" / f"{name}.h5")
    assert not found.differs
    assert found.weights_same == found.before.weights == found.after.weights > 0
    assert (found.before.storage["container"], found.after.storage["container"]) == ("zip archive", "HDF5")


def test_two_formats(tmp_path: Path) -> None:
    path = tmp_path / "b.onnx"
    path.write_bytes(mlp().SerializeToString())
    found = diff(archive(tmp_path / "a.keras"), path)
    assert not found.comparable and found.differs
    assert "different formats" in found.notes[0]
    assert (found.before.parameters, found.after.parameters) == (12, 54 + 9 + 63 + 7 + 42 + 6)
    assert [change.kind for change in found.interface] == ["input", "output"]
    assert not (found.facts or found.nodes_removed or found.weights_removed or found.nodes_same)


def test_two_formats_of_one_interface() -> None:
    """Free axes and what a Keras file does not say fit anything."""
    found = diff(ROOT / "fixtures" / "digits_a.keras", ROOT / "fixtures" / "digits_cnn.onnx")
    back = diff(ROOT / "fixtures" / "digits_cnn.onnx", ROOT / "fixtures" / "digits_a.keras")
    assert [c.what for c in found.interface] == [c.what for c in back.interface]
    assert all("dtype" not in change.what for change in found.interface)


@pytest.mark.parametrize("shape", [(7,), (5, 3), (2, 3, 5, 7), (1, 1, 40), (64, 1, 1), (3, 1, 2, 1, 5)])
@pytest.mark.parametrize("chunked", [False, True])
def test_arrays_are_read_in_slabs(
    shape: tuple[int, ...], chunked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any part of an array, read with a buffer that holds hardly any of it."""
    monkeypatch.setattr(slabs, "_BLOCK_BYTES", 24)
    values = np.random.default_rng(3).normal(size=shape)
    path = make_archive(tmp_path / "1.keras", [dense("a")], arrays())
    with h5py.File(tmp_path / "w.h5", "w") as h5:
        h5.create_group("vars")
        h5[BIAS] = np.zeros(3)
        h5.create_dataset(KERNEL, data=values, chunks=shape if chunked else None)
    repack = zipfile.ZipFile(path, "w")
    with repack:
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": [dense("a")]}}
        repack.writestr("config.json", json.dumps(config))
        repack.write(tmp_path / "w.h5", "model.weights.h5")
    contents = detect(path).contents(path)
    tensor = contents.weights["a/kernel"].open()
    flat = values.reshape(-1)
    for start in range(len(flat)):
        for stop in {start, start + 1, min(start + 4, len(flat)), (start + len(flat)) // 2, len(flat)}:
            assert (tensor.read(start, stop) == flat[start:stop]).all(), (start, stop)
    contents.close()


CONFIGS: list[tuple[str, Any]] = [
    ("a layer of no class", {"class_name": 3}),
    ("a layer that is no object", 7),
    ("settings that are no object", {"class_name": "Dense", "config": [1]}),
    ("a name that is no text", dense(3)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("what", "layer"), CONFIGS, ids=[line[0] for line in CONFIGS])
def test_a_config_that_makes_no_sense(what: str, layer: Any, tmp_path: Path) -> None:
    good = archive(tmp_path / "1.keras")
    bad = make_archive(tmp_path / "2.keras", [layer], arrays())
    for models in ((good, bad), (bad, good)):
        try:
            diff(*models)
        except BnfuseError as error:
            assert "\n" not in str(error)


def test_weights_alone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as h5:
        h5.attrs["layer_names"] = [b"a"]
    with pytest.raises(UnreadableModel, match="only weights"):
        diff(archive(tmp_path / "1.keras"), path)
