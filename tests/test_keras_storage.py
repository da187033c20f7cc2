"""Storage of Keras files: every stored weight bound to its layer, written back where Keras looks for it.

The yardstick is Keras's own account of models it saved itself (``tests/keras_saved.py``, a process of its
own): which arrays each layer holds, before and after. The small files at the top are made by hand and need
no Keras.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

from bnfuse.errors import OutputError, UnreadableModel
from bnfuse.formats.keras.config import parse
from bnfuse.formats.keras.container import Container, open_container
from bnfuse.formats.keras.network import Layer, Network, walk
from bnfuse.formats.keras.slots import slots, snake_case
from bnfuse.formats.keras.variables import ArrayVariable, StoredVariable
from bnfuse.formats.keras.weights import bind, refuses_edit
from bnfuse.formats.keras.write import write
from tests.keras_saved import MODELS, ONLY_KERAS3, ONLY_TF_KERAS

REAL = Path(__file__).resolve().parents[2] / "shared" / "models" / "keras"
Path_ = tuple[str, ...]

SAVED = (
    *(f"{lib}-{name}" for lib in ("keras3", "tf_keras") for name in MODELS),
    *(f"keras3-{name}" for name in ONLY_KERAS3),
    *(f"tf_keras-{name}" for name in ONLY_TF_KERAS),
)
FILES = (
    *(f"{name}{suffix}" for name in SAVED for suffix in (".keras", ".h5")),
    *(f"keras2_{v}-{name}.keras" for v in (13, 14) for name in ("sequential", "nested", "recurrent")),
)
# What Keras itself does not load again, whoever wrote it.
UNLOADABLE = {
    "keras3-bfloat16.h5",  # raw bytes to it
    "tf_keras-bfloat16.h5",
    "tf_keras-bfloat16.keras",
    "keras3-ops.h5",  # "Unknown layer: 'Relu'"
    "keras3-dot.h5",  # takes score_mode="dot" for a function
}


def opened(path: Path) -> tuple[Container, Network]:
    """A file's container and its network with the weights bound."""
    container = open_container(path)
    network = parse(container.config, container.keras_version)
    bind(container, network)
    return container, network


def edited(network: Network, config: Any) -> Network:
    """The network of an edited config, carrying the variables that the original's layers have."""
    new = parse(config)
    old = {(*path, layer.name): layer for path, layer in walk(network)}
    for path, layer in walk(new):
        here = (*path, layer.name)
        layer.variables = list(old[here].variables)
    return new


def rewritten(path: Path, target: Path) -> None:
    """An unedited round trip."""
    container, network = opened(path)
    with container:
        write(container, container.config, edited(network, copy.deepcopy(container.config)), target)


def held(network: Network) -> dict[Path_, Layer]:
    """Layers that have variables, by the names that lead to them."""
    return {(*path, layer.name): layer for path, layer in walk(network) if layer.variables}


def as_hex(array: np.ndarray) -> list[Any]:
    return [list(array.shape), str(array.dtype), array.tobytes().hex()]


# --- files by Keras itself ---


def run_keras(*arguments: object) -> None:
    """A process that may import TensorFlow; skips where there is none."""
    for module in ("tensorflow", "keras", "tf_keras"):
        if not any((Path(p) / module).is_dir() for p in sys.path):
            pytest.skip(f"{module} is not installed")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.keras_saved", *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every model of ``tests/keras_saved.py``."""
    folder = tmp_path_factory.mktemp("keras_saved")
    run_keras("build", folder)
    return folder


def account(saved: Path, name: str) -> dict[Path_, list[tuple[str, Any]]]:
    """Keras's account of a file: (name, bytes) of each layer's weights."""
    layers = json.loads((saved / f"{name}.json").read_text())["layers"]
    return {tuple(path): list(zip(names, values, strict=True)) for path, names, values in layers}


# In an archive these are not what ``layer.weights`` says, by Keras's own making: the merged kernel, and
# variables that two objects hold.
OTHERWISE = {"keras3-lora.keras", "keras3-spectral.keras"}
# Classes whose slots are not known keep the file's order, which is not that of ``layer.weights``.
FILE_ORDER = {"keras3-lora.h5", "keras3-spectral.h5", "keras3-int8.keras", "keras3-int8.h5"}


def plain_path(path: Path_) -> Path_:
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
    with container:
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
        with container:
            assert word in (refuses_edit(network.layer(layer)) or "")
    container, network = opened(saved / "keras3-sequential.keras")
    with container:
        assert [refuses_edit(layer) for layer in network.layers] == [None] * len(network.layers)


def contents(path: Path) -> dict[str, Any]:
    """Every group's and array's path, type, bytes and attributes, without the optimiser's."""
    with open_container(path) as container:
        tree = container.tree
        found: dict[str, Any] = {"": plain(tree.attributes())}
        for group in tree.groups:
            found[group] = plain(tree.attributes(group))
        for name, stored in tree.datasets.items():
            found[name] = (stored.shape, stored.raw.str, stored.read().tobytes(), plain(stored.attributes()))
        return found


def plain(attributes: dict[str, Any]) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in attributes.items()}


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
    with open_container(saved / name) as old, open_container(first) as new:
        assert new.config == old.config
        assert new.metadata == old.metadata
        assert old.has_optimizer == ("compiled" in name)
        assert not new.has_optimizer


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("stem", ["keras3-nested", "tf_keras-compiled"])
def test_two_writes_give_the_same_bytes(saved: Path, tmp_path: Path, stem: str, suffix: str) -> None:
    """Seconds apart, so that a time stamp would show (a zip's count two seconds)."""
    first, second = tmp_path / f"1{suffix}", tmp_path / f"2{suffix}"
    rewritten(saved / f"{stem}{suffix}", first)
    time.sleep(2.1)
    rewritten(saved / f"{stem}{suffix}", second)
    assert first.read_bytes() == second.read_bytes()


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """A Sequential's config without some layers."""
    new = copy.deepcopy(config)
    new["config"]["layers"] = [e for e in new["config"]["layers"] if e["config"].get("name") not in names]
    return new


def entry(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(e for e in config["config"]["layers"] if e["config"].get("name") == name)


def shorten(path: Path, target: Path) -> dict[Path_, list[np.ndarray]]:
    """Take both BatchNormalizations out of the model "sequential", give "first" a bias, change "third"."""
    container, network = opened(path)
    with container:
        config = without(container.config, "bn_a", "bn_b")
        entry(config, "first")["config"]["use_bias"] = True
        new = edited(network, config)
        rng = np.random.default_rng(11)
        first, third = new.layer("first"), new.layer("third")
        first.variables.append(ArrayVariable("bias", rng.normal(size=5).astype(np.float32)))
        kernel = third.variables[0]
        array = rng.normal(size=kernel.shape).astype(np.float32)
        third.variables[0] = ArrayVariable("kernel", array, source=kernel.source)
        write(container, config, new, target)
        return {path: [v.read() for v in layer.variables] for path, layer in held(new).items()}


def widen_attention(path: Path, target: Path) -> dict[Path_, list[np.ndarray]]:
    """Give the attention without biases its four biases."""
    container, network = opened(path)
    with container:
        config = copy.deepcopy(container.config)
        entry(config, "bare")["config"]["use_bias"] = True
        new = edited(network, config)
        bare, rng = new.layer("bare"), np.random.default_rng(3)
        kernels = {v.name.split("/")[0]: v for v in bare.variables}
        bare.variables = []
        for part, shape in (
            ("query", (2, 3)),
            ("key", (2, 3)),
            ("value", (2, 3)),
            ("attention_output", (4,)),
        ):
            array = rng.normal(size=shape).astype(np.float32)
            bare.variables += [kernels[part], ArrayVariable(f"{part}/bias", array)]
        write(container, config, new, target)
        return {path: [v.read() for v in layer.variables] for path, layer in held(new).items()}


def prune_nested(path: Path, target: Path) -> dict[Path_, list[np.ndarray]]:
    """Replace the first BatchNormalization inside the nested network by Activation("linear")."""
    container, network = opened(path)
    with container:
        config = copy.deepcopy(container.config)
        inner = entry(config, "inner")
        at = next(e for e in inner["config"]["layers"] if e["class_name"] == "BatchNormalization")
        at["class_name"] = "Activation"
        at["config"] = {"name": at["config"]["name"], "activation": "linear", "trainable": True}
        for node in at["inbound_nodes"]:
            if isinstance(node, dict):
                node["kwargs"] = {}  # an Activation takes no mask
        new = edited(network, config)
        gone = ("inner", at["config"]["name"])
        for names, layer in walk(new):
            if (*names, layer.name) == gone:
                layer.variables = []
        write(container, config, new, target)
        return {path: [v.read() for v in layer.variables] for path, layer in held(new).items()}


EDITS: dict[str, Callable[[Path, Path], dict[Path_, list[np.ndarray]]]] = {
    "sequential": shorten,
    "compiled": shorten,
    "attention": widen_attention,
    "nested": prune_nested,
}
EDITED = [
    f"{lib}-{name}{end}" for lib in ("keras3", "tf_keras") for name in EDITS for end in (".keras", ".h5")
]


@pytest.fixture(scope="session")
def reloaded(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Keras says of every round trip, and of every edited file, in one process."""
    folder = tmp_path_factory.mktemp("keras_written")
    failed = json.loads((saved / "failed").read_text())
    pairs, edits = [], {}
    for name in FILES:
        if name in failed or name.startswith("keras2"):
            continue
        rewritten(saved / name, folder / name)
        pairs.append((name, str(saved / name), str(folder / name)))
    for name in EDITED:
        stem, _, end = name.partition("-")[2].rpartition(".")
        target = folder / f"edited-{name}"
        truth = EDITS[stem](saved / name, target)
        edits[name] = {"/".join(path): [as_hex(a) for a in arrays] for path, arrays in truth.items()}
        pairs.append((f"{name}+edited", str(target), str(target)))
        assert end in ("keras", "h5")
    listing = folder / "listing"
    listing.write_text(json.dumps(pairs))
    run_keras("reload", listing)
    results = json.loads((folder / "listing.results").read_text())
    return {"results": results, "edits": edits}


@pytest.mark.slow
@pytest.mark.parametrize("name", [f for f in FILES if not f.startswith("keras2")])
def test_keras_loads_the_round_trip(saved: Path, reloaded: dict[str, Any], name: str) -> None:
    """With the same weights and outputs; where Keras cannot load its own file, it fails in the same way."""
    if name in json.loads((saved / "failed").read_text()):
        pytest.skip("this Keras does not save it")
    outcome = reloaded["results"][name]
    if name in UNLOADABLE:
        assert "first" in outcome
        assert "second" in outcome
        return
    assert "first" not in outcome, outcome
    assert outcome["weights"] is True
    assert outcome["apart"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITED)
def test_keras_binds_an_edited_file(reloaded: dict[str, Any], name: str) -> None:
    """Removed, renumbered, new: each layer holds exactly what was written for it."""
    outcome = reloaded["results"][f"{name}+edited"]
    assert "first" not in outcome, outcome
    loaded = {"/".join(path): values for path, _, values in outcome["layers"]}
    assert loaded == reloaded["edits"][name]


# --- real models ---


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real models at {REAL}")
@pytest.mark.parametrize("name", sorted(p.name for p in REAL.glob("*")) if REAL.is_dir() else [])
def test_real_files_bind_and_round_trip(name: str, tmp_path: Path) -> None:
    """Every stored weight belongs to one layer; written again, nothing is different."""
    path = REAL / name
    container, network = opened(path)
    with container:
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
    assert contents(path).keys() == contents(tmp_path / name).keys()
    after = contents(tmp_path / name)
    for key, value in contents(path).items():
        if key:
            assert after[key] == value, key


def zip_member(path: Path) -> Any:
    import io

    return io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))


# --- made by hand ---


def dense(name: str, **config: Any) -> dict[str, Any]:
    full = {"name": name, "units": 3, "use_bias": True, **config}
    return {"module": "keras.layers", "class_name": "Dense", "config": full, "registered_name": None}


def make_archive(
    path: Path, layers: list[dict[str, Any]], arrays: dict[str, np.ndarray], **members: bytes
) -> Path:
    """A ``.keras`` of a Sequential."""
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    weights = path.with_suffix(".weights")
    with h5py.File(weights, "w") as h5:
        h5.create_group("vars")
        for name, array in arrays.items():
            h5[name] = array
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.0"}')
        archive.writestr("config.json", json.dumps(config))
        archive.write(weights, "model.weights.h5")
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return path


def test_ten_layers_are_numbered_not_sorted(tmp_path: Path) -> None:
    """``dense_10`` comes after ``dense_9``; ``vars/10`` too."""
    rng = np.random.default_rng(0)
    arrays = {}
    for i in range(12):
        group = f"layers/dense_{i}" if i else "layers/dense"
        arrays[f"{group}/vars/0"], arrays[f"{group}/vars/1"] = rng.normal(size=(3, 3)), rng.normal(size=3)
    for i in range(11):
        arrays[f"layers/mystery/vars/{i}"] = np.full(2, i)
    mystery = {
        "module": "mine",
        "class_name": "Mystery",
        "config": {"name": "m"},
        "registered_name": "mine>Mystery",
    }
    path = make_archive(tmp_path / "m.keras", [*(dense(f"d{i}") for i in range(12)), mystery], arrays)
    container, network = opened(path)
    with container:
        for i in range(12):
            group = f"layers/dense_{i}" if i else "layers/dense"
            kernel, bias = network.layer(f"d{i}").variables
            np.testing.assert_array_equal(kernel.read(), arrays[f"{group}/vars/0"])
            np.testing.assert_array_equal(bias.read(), arrays[f"{group}/vars/1"])
        assert [v.read()[0] for v in network.layer("m").variables] == list(range(11))
        assert {v.name for v in network.layer("m").variables} == {""}


@pytest.mark.parametrize(
    ("lacking", "more", "says"),
    [
        ("layers/dense_1/vars/1", "", "layer 'b' (Dense) has no 'bias'"),
        ("layers/dense", "", "layer 'a' (Dense) has no 'kernel'"),
        ("", "layers/dense_1/vars/2", "layer 'b' (Dense) has more weights"),
        ("", "layers/dense_2/vars/0", "for which its config has no layer"),
        ("", "layers/other/vars/0", "for which its config has no layer"),
    ],
)
def test_misfits_name_the_layer(tmp_path: Path, lacking: str, more: str, says: str) -> None:
    """What is missing or left over is refused, never guessed."""
    names = [f"layers/{g}/vars/{i}" for g in ("dense", "dense_1") for i in (0, 1)]
    arrays = {
        n: np.ones((3, 3) if n.endswith("0") else 3)
        for n in names
        if not (lacking and n.startswith(f"{lacking}"))
    }
    if lacking == "layers/dense":
        arrays = {n: a for n, a in arrays.items() if "dense_1" in n}
        arrays |= {n: np.ones(3) for n in names if "dense_1" in n}
    if more:
        arrays[more] = np.ones(3)
    with pytest.raises(UnreadableModel) as caught:
        opened(make_archive(tmp_path / "m.keras", [dense("a"), dense("b")], arrays))
    assert says in str(caught.value)


def legacy(path: Path, layers: list[dict[str, Any]], weights: dict[str, dict[str, np.ndarray]]) -> Path:
    """A Keras 2 ``.h5`` of a Sequential; ``weights`` by layer and stored name, in order."""
    with h5py.File(path, "w") as h5:
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
        h5.attrs["model_config"] = json.dumps(config)
        h5.attrs["keras_version"], h5.attrs["backend"] = "2.4.0", "tensorflow"
        group = h5.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for layer, arrays in weights.items():
            inner = group.create_group(layer)
            inner.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                inner[name] = array
    return path


def norm(name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": "BatchNormalization", "config": {"name": name, **config}}


def test_hdf5_names_that_contradict_the_order_are_refused(tmp_path: Path) -> None:
    """gamma after moving_mean would load without an error, and compute garbage."""
    good = {"bn/gamma:0": 1, "bn/beta:0": 2, "bn/moving_mean:0": 3, "bn/moving_variance:0": 4}
    wrong = ("bn/moving_mean:0", "bn/gamma:0", "bn/beta:0", "bn/moving_variance:0")
    weights = {"bn": {name: np.full(3, good[name]) for name in good}}
    container, network = opened(legacy(tmp_path / "a.h5", [norm("bn")], weights))
    with container:
        assert {v.name: v.read()[0] for v in network.layer("bn").variables} == {
            "gamma": 1,
            "beta": 2,
            "moving_mean": 3,
            "moving_variance": 4,
        }
    weights = {"bn": {name: np.full(3, good[name]) for name in wrong}}
    with pytest.raises(UnreadableModel, match="not in the order"):
        opened(legacy(tmp_path / "b.h5", [norm("bn")], weights))


def test_hdf5_layers_in_another_order_are_refused(tmp_path: Path) -> None:
    """The order of ``layer_names`` is the order of loading."""
    one = {"k": np.ones((3, 3)), "b": np.ones(3)}
    path = legacy(tmp_path / "a.h5", [dense("x"), dense("y")], {"y": one, "x": one})
    with pytest.raises(UnreadableModel, match="another order"):
        opened(path)


@pytest.mark.parametrize("count", [1, 3])
def test_hdf5_counts_are_checked(tmp_path: Path, count: int) -> None:
    """Too few, too many."""
    arrays = {f"x/w{i}:0": np.ones(3) for i in range(count)}
    with pytest.raises(UnreadableModel, match=f"'x' .* {count} weights where its config asks for 2"):
        opened(legacy(tmp_path / "a.h5", [dense("x")], {"x": arrays}))


def test_unknown_layer_inside_a_nested_network_is_bound_by_name(tmp_path: Path) -> None:
    """The order cannot tell how many it has; the names can, or the file is refused."""
    mine = {"class_name": "Mine", "config": {"name": "mine"}}
    inner = {"class_name": "Sequential", "config": {"name": "in", "layers": [dense("d"), mine, norm("bn")]}}
    order = ("d/kernel:0", "d/bias:0", "in/mine/w:0", "bn/gamma:0", "bn/beta:0", "in/mine/state:0")
    names = (*order, "bn/moving_mean:0", "bn/moving_variance:0")
    arrays = {name: np.full(3, float(i)) for i, name in enumerate(names)}
    path = legacy(tmp_path / "a.h5", [inner], {"in": arrays})
    container, network = opened(path)
    with container:
        layers = {layer.name: layer for _, layer in walk(network)}
        assert [(v.name, v.read()[0]) for v in layers["mine"].variables] == [("w", 2.0), ("state", 5.0)]
        assert [v.read()[0] for v in layers["bn"].variables] == [3.0, 4.0, 6.0, 7.0]
        target = tmp_path / "b.h5"
        write(container, container.config, edited(network, container.config), target)
    with h5py.File(target) as h5:
        assert [
            n.decode() if isinstance(n, bytes) else n for n in h5["model_weights/in"].attrs["weight_names"]
        ] == list(names)
    arrays = {f"w{i}:0": np.ones(3) for i in range(8)}
    with pytest.raises(UnreadableModel, match="cannot be told"):
        opened(legacy(tmp_path / "c.h5", [inner], {"in": arrays}))


def test_fixed_length_names_stay_fixed(tmp_path: Path) -> None:
    """Keras before h5py 3 cannot read texts of variable length."""
    path = legacy(tmp_path / "a.h5", [dense("x")], {"x": {"x/k:0": np.ones((3, 3)), "x/b:0": np.ones(3)}})
    with h5py.File(path, "a") as h5:
        h5["model_weights"].attrs["layer_names"] = np.asarray([b"x"])
        h5["model_weights/x"].attrs["weight_names"] = np.asarray([b"x/k:0", b"x/b:0"])
    rewritten(path, tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as h5:
        assert h5["model_weights"].attrs["layer_names"].dtype.kind == "S"
        assert h5["model_weights/x"].attrs["weight_names"].dtype.kind == "S"


def test_new_variables_get_names_like_their_neighbours(tmp_path: Path) -> None:
    """``x/kernel:0`` gives ``x/bias:0``."""
    path = legacy(tmp_path / "a.h5", [dense("x", use_bias=False)], {"x": {"x_1/kernel:0": np.ones((3, 3))}})
    container, network = opened(path)
    with container:
        config = copy.deepcopy(container.config)
        config["config"]["layers"][0]["config"]["use_bias"] = True
        new = edited(network, config)
        new.layer("x").variables.append(ArrayVariable("bias", np.arange(3.0)))
        write(container, config, new, tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as h5:
        assert list(h5["model_weights/x"].attrs["weight_names"]) == ["x_1/kernel:0", "x_1/bias:0"]
        np.testing.assert_array_equal(h5["model_weights/x/x_1/bias:0"], np.arange(3.0))


def test_variables_that_do_not_fit_the_config_are_not_written(tmp_path: Path) -> None:
    """A file that Keras would refuse, or misread, is never made."""
    arrays = {"layers/dense/vars/0": np.ones((3, 3)), "layers/dense/vars/1": np.ones(3)}
    container, network = opened(make_archive(tmp_path / "m.keras", [dense("a")], arrays))
    with container:
        network.layer("a").variables.pop()
        with pytest.raises(ValueError, match="carries \\['kernel'\\] where its config asks for"):
            write(container, container.config, network, tmp_path / "out.keras")


def test_assets_follow_their_layer(tmp_path: Path) -> None:
    """Assets lie at the path of their layer's group, which changes when layers are numbered anew."""
    lookup = {"module": "keras.layers", "class_name": "StringLookup", "registered_name": None}
    layers = [{**lookup, "config": {"name": n}} for n in ("first", "second", "third")]
    path = make_archive(
        tmp_path / "m.keras",
        layers,
        {},
        **{
            "assets__layers__string_lookup__vocabulary.txt": b"1",
            "assets__layers__string_lookup_1__vocabulary.txt": b"2",
            "assets__layers__string_lookup_2__vocabulary.txt": b"3",
            "assets__summary.txt": b"kept",
        },
    )
    container, network = opened(path)
    with container:
        config = without(container.config, "first")
        config["config"]["layers"].reverse()
        write(container, config, edited(network, config), tmp_path / "out.keras")
    with zipfile.ZipFile(tmp_path / "out.keras") as archive:
        found = {name: archive.read(name) for name in archive.namelist() if name.startswith("assets")}
    assert found == {
        "assets/layers/string_lookup/vocabulary.txt": b"3",
        "assets/layers/string_lookup_1/vocabulary.txt": b"2",
        "assets/summary.txt": b"kept",
    }


def test_a_random_generators_state_stays_with_its_layer(tmp_path: Path) -> None:
    """Early Keras 3 stores it below Dropout, which has no weights."""
    drop = {
        "module": "keras.layers",
        "class_name": "Dropout",
        "config": {"name": "drop"},
        "registered_name": None,
    }
    seed = np.asarray([3, 4], np.uint32)
    path = make_archive(tmp_path / "m.keras", [drop], {"layers/dropout/seed_generator/vars/0": seed})
    rewritten(path, tmp_path / "out.keras")
    assert contents(tmp_path / "out.keras") == contents(path)


def test_windows_separators(tmp_path: Path) -> None:
    """Keras 2.13 on Windows joined names with a backslash."""
    rng = np.random.default_rng(4)
    root = "_layer_checkpoint_dependencies"
    arrays = {
        f"{root}\\{g}/vars/{i}": rng.normal(size=s)
        for g in ("dense", "dense_1")
        for i, s in ((0, (3, 3)), (1, (3,)))
    }
    path = make_archive(tmp_path / "m.keras", [dense("a"), dense("b")], arrays)
    container, network = opened(path)
    with container:
        np.testing.assert_array_equal(
            network.layer("b").variables[1].read(), arrays[f"{root}\\dense_1/vars/1"]
        )
    rewritten(path, tmp_path / "out.keras")
    assert contents(tmp_path / "out.keras") == contents(path)


def test_bfloat16_is_read_and_written(tmp_path: Path) -> None:
    """Raw two-byte values, marked by an attribute."""
    values = np.asarray([1.5, -2.25, 0.0078125]).astype(ml_dtypes.bfloat16)
    arrays = {"layers/dense/vars/0": np.ones((3, 3), np.float32), "layers/dense/vars/1": values}
    container, network = opened(make_archive(tmp_path / "m.keras", [dense("a")], arrays))
    with container:
        bias = network.layer("a").variables[1]
        assert bias.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(bias.read().astype(float), [1.5, -2.25, 0.0078125])
        network.layer("a").variables[1] = ArrayVariable("bias", values * 2)
        write(container, container.config, network, tmp_path / "out.keras")
    container, network = opened(tmp_path / "out.keras")
    with container:
        bias = network.layer("a").variables[1]
        np.testing.assert_array_equal(bias.read().astype(float), [3.0, -4.5, 0.015625])
        assert isinstance(bias, StoredVariable)
        assert plain(bias.stored.attributes()) == {"dtype": "bfloat16"}


def test_deflated_members_are_read(tmp_path: Path) -> None:
    """Somebody packed the archive again."""
    arrays = {"layers/dense/vars/0": np.ones((3, 3)), "layers/dense/vars/1": np.arange(3.0)}
    path = make_archive(tmp_path / "m.keras", [dense("a")], arrays)
    packed = tmp_path / "packed.keras"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    container, network = opened(packed)
    with container:
        np.testing.assert_array_equal(network.layer("a").variables[1].read(), np.arange(3.0))
    rewritten(packed, tmp_path / "out.keras")
    assert contents(tmp_path / "out.keras") == contents(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_unwritable_folder(tmp_path: Path, suffix: str) -> None:
    """No permission, or no such folder: one sentence."""
    source = tmp_path / f"m{suffix}"
    if suffix == ".keras":
        make_archive(
            source, [dense("a")], {"layers/dense/vars/0": np.ones((3, 3)), "layers/dense/vars/1": np.ones(3)}
        )
    else:
        legacy(source, [dense("a")], {"a": {"k": np.ones((3, 3)), "b": np.ones(3)}})
    with pytest.raises(OutputError, match=r"^out\.\w+ cannot be written to "):
        rewritten(source, tmp_path / "missing" / f"out{suffix}")


def test_full_disk(tmp_path: Path) -> None:
    """A limit on the file's size stands for a full disk; HDF5 reports it in its own way."""
    source = tmp_path / "m.keras"
    kernel = np.random.default_rng(0).normal(size=(300, 300))
    make_archive(source, [dense("a", use_bias=False)], {"layers/dense/vars/0": kernel})
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tests.test_keras_storage import rewritten\n"
        "from bnfuse.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: rewritten(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except OutputError as e: print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, source, tmp_path / "out.keras"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "out.keras cannot be written" in done.stdout, (done.stdout, done.stderr[-2000:])
    assert not list(tmp_path.glob("*.weights.weights"))


@pytest.mark.parametrize(
    ("class_name", "group"),
    [
        ("Dense", "dense"),
        ("Conv2DTranspose", "conv2d_transpose"),
        ("SeparableConv2D", "separable_conv2d"),
        ("PReLU", "p_re_lu"),
        ("TFOpLambda", "tf_op_lambda"),
        ("GRU", "gru"),
        ("Package>MyBlock2", "my_block2"),
        ("GroupQueryAttention", "grouped_query_attention"),
    ],
)
def test_group_names(class_name: str, group: str) -> None:
    assert snake_case(class_name) == group


def names_of(class_name: str, **config: Any) -> list[str] | None:
    found = slots(Layer("l", class_name, "", "", config, {}))
    return None if found is None else [slot.name for slot in found]


def test_slots() -> None:
    """What the switches of a config add and leave out."""
    assert names_of("BatchNormalization", scale=False) == ["beta", "moving_mean", "moving_variance"]
    assert names_of("Dense", use_bias=False) == ["kernel"]
    assert names_of("EinsumDense", bias_axes=None) == ["kernel"]
    assert names_of("Normalization", mean=[1.0]) == []
    assert names_of("MaxPooling2D") == []
    assert names_of("Mystery") is None
    assert names_of("Dense", dtype={"class_name": "QuantizedDTypePolicy", "config": {"mode": "int8"}}) is None
    assert (
        names_of("Dense", dtype={"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}})
        is not None
    )
    assert names_of("Dense", lora_rank=4) is None


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    """TensorFlow 2.12 wrote HDF5 into files named ``.keras``; suffixes say nothing."""
    arrays = {"a/kernel:0": np.ones((3, 3)), "a/bias:0": np.arange(3.0)}
    path = legacy(tmp_path / "m.keras", [dense("a")], {"a": arrays})
    container, network = opened(path)
    with container:
        assert container.kind == "hdf5"
        assert (container.keras_version, container.backend) == ("2.4.0", "tensorflow")
        np.testing.assert_array_equal(network.layer("a").variables[1].read(), np.arange(3.0))
    arrays = {"layers/dense/vars/0": np.ones((3, 3)), "layers/dense/vars/1": np.ones(3)}
    archive = make_archive(tmp_path / "m.h5", [dense("a")], arrays).rename(tmp_path / "n.h5")
    container, _ = opened(archive)
    with container:
        assert container.kind == "archive"
        assert container.keras_version == "3.15.0"
