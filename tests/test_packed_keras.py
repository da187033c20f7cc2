"""Keras models in more than one file: a folder of ``zipped=False``, an architecture beside its weights."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import bnfuse
from bnfuse.files import exchanging, placing
from tests.command import call
from tests.fake_format import names_in
from tests.keras_nets import assert_same, outputs_of, random_inputs

FIXTURES = Path(__file__).parents[1] / "fixtures"
QUICK: dict[str, Any] = {"verify": False, "bench": False}


def unzipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


def members(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def as_folder(to: Path) -> Path:
    """As ``model.save(to, zipped=False)`` writes it, with an asset and a file that is none."""
    unzipped(FIXTURES / "digits_b.keras", to)
    (to / "assets" / "words").mkdir(parents=True)
    (to / "assets" / "words" / "a.txt").write_text("one\ntwo\n")
    (to / ".DS_Store").write_bytes(b"x")
    return to


def parts(to: Path) -> tuple[Path, Path]:
    """``model.to_json()`` and ``model.save_weights("net.weights.h5")``."""
    found = members(unzipped(FIXTURES / "digits_b.keras", to / "whole"))
    shutil.rmtree(to / "whole")
    (to / "net.json").write_bytes(found["config.json"])
    (to / "net.weights.h5").write_bytes(found["model.weights.h5"])
    return to / "net.json", to / "net.weights.h5"


def old_parts(to: Path) -> tuple[Path, Path]:
    """The same as Keras 2 writes them: ``model.to_json()`` and ``model.save_weights("net.h5")``."""
    with h5py.File(FIXTURES / "digits_b.h5") as whole, h5py.File(to / "net.h5", "w") as weights:
        config = json.loads(whole.attrs["model_config"])
        for name in ("keras_version", "backend"):
            config[name] = str(np.asarray(whole.attrs[name]).item())
        for key, value in whole["model_weights"].attrs.items():
            weights.attrs[key] = value
        for name in whole["model_weights"]:
            whole.copy(f"model_weights/{name}", weights)
    (to / "net.json").write_text(json.dumps(config))
    return to / "net.json", to / "net.h5"


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the whole archive becomes, by member."""
    to = tmp_path_factory.mktemp("folded")
    bnfuse.optimize(FIXTURES / "digits_b.keras", to / "out.keras", **QUICK)
    return members(unzipped(to / "out.keras", to / "members"))


def test_a_folder_becomes_a_folder(tmp_path: Path, folded: dict[str, bytes]) -> None:
    source = as_folder(tmp_path / "net")
    before = members(source)
    report = bnfuse.optimize(source, **QUICK)
    assert report.model == tmp_path / "net.fused"
    after = members(tmp_path / "net.fused")
    assert after == folded | {"assets/words/a.txt": b"one\ntwo\n"}
    assert members(source) == before and names_in(tmp_path) == ["net", "net.fused"]
    assert report.input.total_bytes == sum(map(len, before.values())) - 1  # all but what is hidden
    assert report.output is not None and report.output.total_bytes == sum(map(len, after.values()))
    assert report.output.sha256 == bnfuse.inspect(tmp_path / "net.fused").input.sha256
    assert (tmp_path / "net.fused" / "config.json").stat().st_mode & 0o400
    assert report.plan.counts(batchnorm=True) == (3, 3, 0)


def test_a_folder_is_hashed_as_sha256sum_lists_it(tmp_path: Path) -> None:
    import hashlib

    source = unzipped(FIXTURES / "digits_b.keras", tmp_path / "net")
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in members(source).items()]
    expected = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    assert bnfuse.inspect(source).input.sha256 == expected


@pytest.mark.parametrize("exchanges", [True, False])
def test_another_folder_of_a_model_gives_way(
    tmp_path: Path, folded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    """At once where the system can exchange two names; else the old one comes back on a failure."""
    source, target = as_folder(tmp_path / "net"), tmp_path / "out"
    shutil.rmtree(source / "assets")
    unzipped(FIXTURES / "digits_a.keras", target)
    with pytest.raises(bnfuse.OutputError, match="exists"):
        bnfuse.optimize(source, target, **QUICK)
    old = members(target)
    if not exchanges:
        monkeypatch.setattr(placing, "exchange", lambda *_: False)
        rename = Path.rename

        def fails(path: Path, to: Path) -> Path:
            if path.name == "out" and path.parent.name == "packed":
                raise OSError(5, "Input/output error")
            return rename(path, to)

        with monkeypatch.context() as broken:
            broken.setattr(Path, "rename", fails)
            with pytest.raises(bnfuse.OutputError, match="Input/output error"):
                bnfuse.optimize(source, target, force=True, **QUICK)
        assert members(target) == old
    elif not exchanging.exchange(source, source):
        pytest.skip("this system exchanges no names")
    bnfuse.optimize(source, target, force=True, **QUICK)
    assert members(target) == folded and names_in(tmp_path) == ["net", "out"]


def test_no_other_folder_is_replaced(tmp_path: Path) -> None:
    source, target = as_folder(tmp_path / "net"), tmp_path / "mine"
    unzipped(FIXTURES / "digits_a.keras", target)
    (target / "thesis.txt").write_text("years of work")
    for path in (target, tmp_path):
        with pytest.raises(bnfuse.OutputError, match="so it is not replaced"):
            bnfuse.optimize(source, path, force=True, **QUICK)
    with pytest.raises(bnfuse.UsageError, match="the input itself"):
        bnfuse.optimize(source, tmp_path / "x" / ".." / "net", force=True, **QUICK)
    for inside in ("net/out", "net/out.keras", "net/assets/x"):
        with pytest.raises(bnfuse.UsageError, match="lies in the input"):
            bnfuse.optimize(source, tmp_path / inside, force=True, **QUICK)
    assert (target / "thesis.txt").exists() and members(source).keys() == members(
        as_folder(tmp_path / "n")
    ).keys()


def test_a_folder_may_become_an_archive(tmp_path: Path, folded: dict[str, bytes]) -> None:
    source = unzipped(FIXTURES / "digits_b.keras", tmp_path / "net")
    bnfuse.optimize(source, tmp_path / "out.keras", **QUICK)
    assert members(unzipped(tmp_path / "out.keras", tmp_path / "again")) == folded


@pytest.mark.parametrize("layout", [parts, old_parts])
def test_an_architecture_and_its_weights(
    tmp_path: Path, layout: Callable[[Path], tuple[Path, Path]], folded: dict[str, bytes]
) -> None:
    model, weights = layout(tmp_path)
    before = members(tmp_path)
    report = bnfuse.optimize(model, tmp_path / "new" / "OUT.json", **QUICK)
    ending = weights.name.removeprefix("net")
    assert names_in(tmp_path / "new") == sorted(["OUT.json", f"OUT{ending}"])
    assert report.plan.counts(batchnorm=True) == (3, 3, 0)
    config = json.loads((tmp_path / "new" / "OUT.json").read_text())
    original = json.loads(model.read_text())
    assert {**config, "config": 0} == {**original, "config": 0}
    names = [layer["config"]["name"] for layer in config["config"]["layers"]]
    assert not any(name.startswith("bn") for name in names) and "dense_1" in names
    with h5py.File(tmp_path / "new" / f"OUT{ending}") as made:
        if layout is parts:
            assert made["layers/dense/vars/1"].shape == (300,)
            assert (tmp_path / "new" / f"OUT{ending}").read_bytes() == folded["model.weights.h5"]
        else:
            listed = list(map(str, made.attrs["layer_names"]))
            assert any("dense_1" in name for name in listed) and not any("bn" in name for name in listed)
            assert "keras_version" in made.attrs
    again = bnfuse.inspect(tmp_path / "new" / "OUT.json")
    assert again.plan.counts(batchnorm=True) == (0, 0, 0)
    assert report.output is not None and again.input.sha256 == report.output.sha256
    assert {name: data for name, data in members(tmp_path).items() if "new" not in name} == before


def test_weights_may_lie_elsewhere(tmp_path: Path) -> None:
    model, weights = parts(tmp_path)
    elsewhere = tmp_path / "epoch7.weights.h5"
    weights.rename(elsewhere)
    found = call("inspect", model)
    assert found.exit_code == 3 and "--weights FILE.weights.h5" in found.stderr
    found = call("optimize", model, "--weights", elsewhere, "--no-verify", "--no-bench", "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["batchnorms"]["folded"] == 3
    assert names_in(tmp_path) == ["epoch7.weights.h5", "net.fused.json", "net.fused.weights.h5", "net.json"]
    assert "bn_1" in call("inspect", model, "--weights", elsewhere, "--explain", "bn_1").stdout
    assert bnfuse.inspect(str(model), weights=str(elsewhere)).plan.counts(batchnorm=True)[0] == 3
    found = call("optimize", model, "--weights", elsewhere, "--no-verify", "--no-bench")
    assert found.exit_code == 2 and "exists" in found.stderr


def test_a_hash_of_files_given_from_here_and_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, weights = parts(tmp_path)
    sums = bnfuse.inspect(model).input.sha256
    monkeypatch.chdir(tmp_path)
    assert bnfuse.inspect(model.name, weights=weights).input.sha256 == sums
    assert bnfuse.inspect(model, weights=weights.name).input.sha256 == sums


def test_neither_file_of_a_result_takes_the_place_of_another(tmp_path: Path) -> None:
    """Which is found out before any work; the input's own files never give way."""
    model, weights = parts(tmp_path)
    mine = tmp_path / "OUT.weights.h5"
    mine.write_bytes(b"mine")
    with pytest.raises(bnfuse.OutputError, match=r"OUT\.weights\.h5' exists"):
        bnfuse.optimize(model, tmp_path / "OUT.json", inputs="none.npz", bench=False)
    bnfuse.optimize(model, tmp_path / "OUT.json", force=True, **QUICK)
    assert mine.stat().st_size > 1000
    weights.rename(tmp_path / "b.weights.h5")
    with pytest.raises(bnfuse.UsageError, match="the input itself"):
        bnfuse.optimize(model, tmp_path / "b.json", weights=tmp_path / "b.weights.h5", force=True, **QUICK)
    with pytest.raises(bnfuse.UsageError, match="the input itself"):
        bnfuse.optimize(model, model, weights=tmp_path / "b.weights.h5", force=True, **QUICK)


def no_json(folder: Path) -> tuple[str, ...]:
    (folder / "net.json").write_text("{")
    return ("net.json",)


def other_json(folder: Path) -> tuple[str, ...]:
    (folder / "net.json").write_text('{"a": 1}')
    return ("net.json",)


def other_json_with_weights(folder: Path) -> tuple[str, ...]:
    return (*other_json(folder), "--weights", "net.weights.h5")


def weights_of_a_file(_: Path) -> tuple[str, ...]:
    return (str(FIXTURES / "digits_cnn.onnx"), "--weights", "net.weights.h5")


def missing_weights(_: Path) -> tuple[str, ...]:
    return ("net.json", "--weights", "none.h5")


def whole_model(_: Path) -> tuple[str, ...]:
    return ("net.json", "--weights", str(FIXTURES / "digits_b.h5"))


def no_hdf5(folder: Path) -> tuple[str, ...]:
    (folder / "net.weights.h5").write_bytes(b"x" * 2000)
    return ("net.json",)


def linked_weights(folder: Path) -> tuple[str, ...]:
    """An HDF5 link out of the file."""
    model, weights = old_parts(folder)
    with h5py.File(weights, "r+") as file:
        file["dense_1/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    return (model.name, "--weights", weights.name)


def weights_alone(_: Path) -> tuple[str, ...]:
    return ("net.weights.h5",)


def linked_folder(folder: Path) -> tuple[str, ...]:
    as_folder(folder / "net")
    (folder / "net" / "assets" / "p").symlink_to("/etc/passwd")
    return ("net",)


def folder_without_weights(folder: Path) -> tuple[str, ...]:
    (as_folder(folder / "net") / "model.weights.h5").unlink()
    return ("net",)


REFUSED: list[tuple[Callable[[Path], tuple[str, ...]], int, str]] = [
    (no_json, 3, "not valid JSON"),
    (other_json, 3, "no architecture of a Keras model"),
    (other_json_with_weights, 3, "no architecture of a Keras model"),
    (weights_of_a_file, 2, "--weights belong to an architecture in JSON"),
    (missing_weights, 3, "'none.h5' cannot be read"),
    (whole_model, 3, "is a whole model by itself"),
    (no_hdf5, 3, "damaged or cut off"),
    (linked_weights, 3, "link"),
    (weights_alone, 3, "holds only weights"),
    (linked_folder, 3, "is a link or no regular file"),
    (folder_without_weights, 3, "lacks model.weights.h5"),
]


@pytest.mark.parametrize(("given", "code", "sentence"), REFUSED, ids=[row[0].__name__ for row in REFUSED])
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, code: int, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    parts(tmp_path)
    found = call("inspect", *given(tmp_path))
    assert (found.exit_code, sentence in found.stderr) == (code, True), found.stderr
    assert "Traceback" not in found.stderr and "/bnfuse-" not in found.stderr


@pytest.mark.slow
def test_keras_loads_what_comes_of_a_folder(keras3: Any, tmp_path: Path) -> None:
    """Saved and loaded by Keras 3 itself, proved through the command line."""
    model = keras3.models.load_model(FIXTURES / "digits_b.keras")
    try:
        model.save(tmp_path / "net", zipped=False)
    except (TypeError, ValueError):
        pytest.skip("this Keras saves no folders")
    found = call("optimize", tmp_path / "net", "--no-bench", "--verify-time", "0.5")
    assert found.exit_code == 0, found.stderr
    made = keras3.models.load_model(tmp_path / "net.fused")
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(made, feeds), 1e-5)
    assert len(model.layers) - len(made.layers) == 3 and (tmp_path / "net.fused").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net.weights.h5", "net.h5"])
def test_keras_loads_what_comes_of_two_files(either_keras: Any, tmp_path: Path, name: str) -> None:
    """Both layouts, saved and loaded by Keras itself; Keras 3 writes the one alone."""
    if name == "net.h5" and either_keras.__name__ == "keras":
        pytest.skip("Keras 3 writes no weights of that layout")
    layers = either_keras.layers
    x = y = layers.Input((6, 5, 3))
    steps = [
        layers.Conv2D(4, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
    ]
    for step in steps:
        y = step(y)
    model = either_keras.Model(x, layers.Dense(2)(y))
    model.set_weights([np.random.default_rng(1).uniform(0.3, 1, w.shape) for w in model.get_weights()])
    (tmp_path / "net.json").write_text(model.to_json())
    model.save_weights(tmp_path / name)
    report = bnfuse.optimize(tmp_path / "net.json", tmp_path / "OUT.json", verify_time=0.5, bench=False)
    assert report.verification.status is bnfuse.Status.EQUAL
    made = either_keras.models.model_from_json((tmp_path / "OUT.json").read_text())
    made.load_weights(tmp_path / name.replace("net", "OUT"))
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(made, feeds), 1e-5)
    assert len(model.layers) - len(made.layers) == 1
