"""What the writer does with the odd parts of files by hand: names, assets, states, separators, types."""

from __future__ import annotations

import copy
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

from bnfuse.errors import OutputError
from bnfuse.formats.keras.edit.write import write
from bnfuse.formats.keras.graph.variables import NewVariable, StoredVariable
from tests.command import PATIENCE_S
from tests.keras_files import contents, edited, opened, plain, rewritten, without
from tests.keras_handmade import dense, legacy, make_archive
from tests.keras_nets import both_containers


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
    with closing(container):
        config = copy.deepcopy(container.config)
        config["config"]["layers"][0]["config"]["use_bias"] = True
        new = edited(network, config)
        new.layer("x").variables.append(NewVariable("bias", np.arange(3.0)))
        write(container, config, new, tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as h5:
        assert list(h5["model_weights/x"].attrs["weight_names"]) == ["x_1/kernel:0", "x_1/bias:0"]
        np.testing.assert_array_equal(h5["model_weights/x/x_1/bias:0"], np.arange(3.0))


def test_variables_that_do_not_fit_the_config_are_not_written(tmp_path: Path) -> None:
    """A file that Keras would refuse, or misread, is never made."""
    arrays = {"layers/dense/vars/0": np.ones((3, 3)), "layers/dense/vars/1": np.ones(3)}
    container, network = opened(make_archive(tmp_path / "m.keras", [dense("a")], arrays))
    with closing(container):
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
    with closing(container):
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
    with closing(container):
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
    with closing(container):
        bias = network.layer("a").variables[1]
        assert bias.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(bias.read().astype(float), [1.5, -2.25, 0.0078125])
        network.layer("a").variables[1] = NewVariable("bias", values * 2)
        write(container, container.config, network, tmp_path / "out.keras")
    container, network = opened(tmp_path / "out.keras")
    with closing(container):
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
    with closing(container):
        np.testing.assert_array_equal(network.layer("a").variables[1].read(), np.arange(3.0))
    rewritten(packed, tmp_path / "out.keras")
    assert contents(tmp_path / "out.keras") == contents(path)


@both_containers
def test_unwritable_folder(tmp_path: Path, suffix: str) -> None:
    """No permission, or no such folder: one sentence."""
    source = tmp_path / f"m{suffix}"
    if suffix == ".keras":
        make_archive(
            source, [dense("a")], {"layers/dense/vars/0": np.ones((3, 3)), "layers/dense/vars/1": np.ones(3)}
        )
    else:
        legacy(source, [dense("a")], {"a": {"k": np.ones((3, 3)), "b": np.ones(3)}})
    with pytest.raises(OutputError, match=r"^'out\.\w+' cannot be written: No such"):
        rewritten(source, tmp_path / "missing" / f"out{suffix}")


def test_full_disk(tmp_path: Path) -> None:
    """A limit on the file's size stands for a full disk; HDF5 reports it in its own way."""
    source = tmp_path / "m.keras"
    kernel = np.random.default_rng(0).normal(size=(300, 300))
    make_archive(source, [dense("a", use_bias=False)], {"layers/dense/vars/0": kernel})
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tests.keras_files import rewritten\n"
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
        timeout=PATIENCE_S,
        check=False,
    )
    assert "'out.keras' cannot be written: the disk is full" in done.stdout, (
        done.stdout,
        done.stderr[-2000:],
    )
    assert not list(tmp_path.glob("*.weights.weights"))
