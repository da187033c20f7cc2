"""Two Keras models are compared and timed in one Keras: the one that loads both.

Files of Keras 2 whose BatchNormalization is all that Keras 3 does not take: once it is folded, Keras 3 loads
the result. The editing of the files is by hand, the numbers by tf_keras in this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bnfuse.errors import BnfuseError, UnreadableModel
from bnfuse.formats.base import RunSettings
from bnfuse.formats.keras.runtime import run
from bnfuse.measure.one_runtime import OneRuntime
from bnfuse.results import Status
from bnfuse.use_cases.bench import BenchRequest, bench
from bnfuse.use_cases.unwritten import Unproved
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.calls import optimize
from tests.keras_nets import fold_file, outputs_of, random_inputs, stir

pytestmark = pytest.mark.slow
Edit = Callable[[dict[str, Any]], None]


def as_class(name: str) -> Edit:
    return lambda entry: entry.update(class_name=name)


def with_settings(**settings: Any) -> Edit:
    return lambda entry: entry["config"].update(settings)


EDITS: dict[str, Edit] = {
    "V1": as_class("BatchNormalizationV1"),
    "V2": as_class("BatchNormalizationV2"),
    "SyncBatchNormalization": as_class("SyncBatchNormalization"),
    "an initialiser with a dtype": with_settings(
        gamma_initializer={"class_name": "Ones", "config": {"dtype": "float32"}}
    ),
    "keys that Keras 3 has not": with_settings(renorm=False, virtual_batch_size=None, fused=True),
}


def net(tf_keras: Any, names: tuple[str, ...] = ("a", "b"), *, deep: bool = False) -> Any:
    """A convolution, a ReLU and a BatchNormalization by each name; all of them fold."""
    layers = tf_keras.layers
    x = y = layers.Input((8, 7, 3), name="x")
    for number, name in enumerate(names):
        y = layers.Conv2D(4 + number, 3, name=f"conv{number}")(y)
        y = layers.ReLU(name=f"relu{number}")(layers.BatchNormalization(name=name)(y))
    if deep:
        y = layers.DepthwiseConv2D(3, name="deep")(y)
    return stir(tf_keras.Model(x, layers.Dense(3, name="y")(layers.GlobalAveragePooling2D()(y))))


def edited(path: Path, *edits: Edit) -> Path:
    """The first edit for the first BatchNormalization, and so on, around and around."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        norms = [e for e in config["config"]["layers"] if e["class_name"] == "BatchNormalization"]
        for number, entry in enumerate(norms):
            edits[number % len(edits)](entry)
        file.attrs["model_config"] = json.dumps(config)
    return path


def served_by(path: Path) -> set[str]:
    """The Kerases that load a file."""
    found = set()
    for flavour in ("keras", "tf_keras"):
        try:
            with run.load(path, RunSettings(runtime=flavour)) as runner:
                found.add(runner.runtime.split()[0])
        except UnreadableModel:
            pass
    return found


def proved(path: Path, model: Any, result: Path) -> None:
    """Folded whole, proved in tf_keras, which alone loads the original, and equal by it in this process."""
    assert served_by(path) == {"tf_keras"}
    report = optimize(path, result, bench=False, verify=VerifyRequest(samples=2))
    proof = report.verification
    assert proof.status is Status.EQUAL
    assert proof.evidence.startswith("tf_keras ") and " keras " not in proof.evidence
    assert len(report.plan.order) == 2
    import tf_keras

    loaded = tf_keras.models.load_model(result, compile=False)
    feeds = random_inputs(model)
    (want,), (got,) = outputs_of(model, feeds), outputs_of(loaded, feeds)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("kind", EDITS)
def test_the_folded_norm_was_all_that_keras_3_refused(keras2: Any, tmp_path: Path, kind: str) -> None:
    model = net(keras2)
    model.save(tmp_path / "m.h5")
    path = edited(tmp_path / "m.h5", EDITS[kind])
    proved(path, model, tmp_path / "out.h5")
    assert served_by(tmp_path / "out.h5") == {"keras", "tf_keras"}


def test_a_slash_in_the_name_of_a_norm(keras2: Any, tmp_path: Path) -> None:
    model = net(keras2, ("block/a", "block/b"))
    model.save(tmp_path / "m.h5")
    assert served_by(tmp_path / "m.h5") == {"tf_keras"}
    proved(tmp_path / "m.h5", model, tmp_path / "out.h5")
    assert served_by(tmp_path / "out.h5") == {"keras", "tf_keras"}


def test_several_kinds_in_one_model(keras2: Any, tmp_path: Path) -> None:
    """One norm of another class, the other with old keys; a layer of Keras 2 stays in the result."""
    model = net(keras2, ("a", "up/b"), deep=True)
    model.save(tmp_path / "m.h5")
    path = edited(tmp_path / "m.h5", EDITS["V1"], EDITS["keys that Keras 3 has not"])
    proved(path, model, tmp_path / "out.h5")
    assert served_by(tmp_path / "out.h5") == {"tf_keras"}  # DepthwiseConv2D has ``groups``, as before


@pytest.fixture(scope="module")
def pair(keras2: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file that only tf_keras loads, and its result, which both load."""
    folder = tmp_path_factory.mktemp("pair")
    net(keras2).save(folder / "m.h5")
    path = edited(folder / "m.h5", EDITS["SyncBatchNormalization"])
    fold_file(path, folder / "out.h5")
    assert (served_by(path), served_by(folder / "out.h5")) == ({"tf_keras"}, {"keras", "tf_keras"})
    return path, folder / "out.h5"


def test_models_are_compared_where_both_load(pair: tuple[Path, Path]) -> None:
    """Either may come first; what is to take the first one's place must load wherever that does."""
    narrow, wide = pair
    found = verify(narrow, wide, request=VerifyRequest(samples=2))
    assert (found.status, found.notes) == (Status.EQUAL, ())
    found = verify(wide, narrow, request=VerifyRequest(samples=2))
    assert found.status is Status.EQUAL
    assert found.evidence.startswith("tf_keras ") and " keras " not in found.evidence
    (note,) = found.notes
    assert note.startswith("keras 3") and "loads the original, but only tf_keras" in note
    found = verify(wide, narrow, request=VerifyRequest(samples=2, successor=True))
    assert found.status is Status.DIFFERENT
    assert "loads the original, but only tf_keras" in found.detail


def test_a_result_that_the_originals_keras_refuses_is_broken(
    keras2: Any, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnfuse.formats.keras import KerasModel

    _, original = pair
    refused = edited_names(original.with_name("named.h5"), keras2)

    def broken(self: KerasModel, patch: Any, path: Path) -> Any:
        from bnfuse.formats.base import Written

        path.write_bytes(refused.read_bytes())
        return Written(path, (), 0)

    monkeypatch.setattr(KerasModel, "write", broken)
    with pytest.raises(Unproved, match="loads the original, but only tf_keras"):
        optimize(original, original.with_name("again.h5"), bench=False, verify=VerifyRequest(samples=1))
    assert not original.with_name("again.h5").exists()


def edited_names(path: Path, keras2: Any) -> Path:
    """A model with a slash in a name: tf_keras alone loads it."""
    net(keras2, ("block/a", "b")).save(path)
    return path


def test_no_keras_loads_both(keras3: Any, keras2: Any, tmp_path: Path) -> None:
    layers = keras3.layers
    x = layers.Input((8, 7, 3), name="x")
    y = layers.GlobalAveragePooling2D()(keras3.ops.flip(x, axis=1))
    stir(keras3.Model(x, layers.Dense(3, name="y")(y))).save(tmp_path / "new.keras")
    old = edited_names(tmp_path / "old.h5", keras2)
    found = verify(tmp_path / "new.keras", old, request=VerifyRequest(samples=1))
    assert found.status is Status.DIFFERENT
    assert "loads the original, but only tf_keras" in found.detail
    with pytest.raises(BnfuseError, match="loads the first model, but only tf_keras"):
        bench(tmp_path / "new.keras", old, request=BenchRequest(max_time=0.5, optimise=(False,)))


@pytest.mark.parametrize("turned", [False, True])
def test_models_are_timed_where_both_load(
    pair: tuple[Path, Path], turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steady state and cold start, whichever is first."""
    monkeypatch.setattr("gc.collect", lambda: 0)  # what other tests left, which takes seconds
    asked = []

    def starts(paths: Any, settings: RunSettings, *_: Any) -> None:
        asked.append(settings.runtime)
        raise BnfuseError("it is not what takes long that is tested here")

    monkeypatch.setattr(import_module("bnfuse.use_cases.bench_cold"), "cold_starts", starts)
    first, second = reversed(pair) if turned else pair
    timed = bench(first, second, request=BenchRequest(max_time=0.4, optimise=(True,), cold=True))
    assert [run.setting for run in timed.runs] == ["optimisation on"], timed.notes
    assert timed.runs[0].after_ms is not None
    assert [runtime.split()[0] for runtime in (timed.runtime, *asked)] == ["tf_keras", "tf_keras"]


def test_every_load_of_a_bench_asks_for_the_same_runtime(pair: tuple[Path, Path]) -> None:
    narrow, wide = pair
    load = OneRuntime(run.load, (narrow, wide))
    for path in (narrow, wide, wide, narrow):
        with load(path, RunSettings()) as runner:
            assert runner.runtime.startswith("tf_keras ")
