"""What all tests share: the order they run in, the command line as a user calls it, small models, Keras."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import settings

from bnfuse.core.planning.propagate import Worklist
from bnfuse.files import staging
from bnfuse.formats.child import pool
from bnfuse.measure.cold import StartLimits
from tests.cli_models import convnet
from tests.clockwork import Clock
from tests.command import PATIENCE_S, Cli
from tests.diff_nets import array, changed, mlp, node_of, set_array
from tests.keras_handmade import BIAS, KERNEL, dense, legacy, make_archive
from tests.keras_models import import_keras, import_tf_keras
from tests.keras_nets import computing_in
from tests.keras_saved import build
from tests.keras_subjects import Saved, saving
from tests.portable import take_away
from tests.runtime_here import (
    all_cores_are_one,
    as_many_threads_as_asked,
    proofs_run_here,
    shapes_inferred_here,
)

__all__ = ("all_cores_are_one", "as_many_threads_as_asked", "proofs_run_here", "shapes_inferred_here")

# How long an example takes says how busy the machine is. ``--hypothesis-profile`` chooses another.
settings.register_profile("any time", deadline=None)
settings.load_profile("any time")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a mistake shows in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_collection_finish() -> None:
    """What is here to stay is not looked at by later garbage collections, of which bnfuse asks for some.

    Thousands of tests and all modules: a fifth of a second each time. And Python looks for garbage of its own
    accord every twenty thousand new objects, not every seven hundred: models are made of many, and none of
    them is garbage while they are made (6 % of what tests of Keras models cost).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_configure(config: pytest.Config) -> None:
    """A worker of ``pytest -n 2`` tells the one who shows it no more than that shows."""
    if hasattr(config, "workerinput"):
        from tests.scheduling import tell_less

        tell_less(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How ``pytest -n 2`` shares the tests out; ``--dist`` chooses another way."""
    if config.getoption("dist") != "load":
        return None
    from tests.scheduling import QuickThenSlow

    return QuickThenSlow(config, log)


@pytest.fixture(scope="session", autouse=True)
def runtimes_wait_for_the_next_test() -> Iterator[None]:
    """A process that holds a runtime is kept from test to test: TensorFlow takes seconds to import.

    And beside those of other settings, for the next test that has them.
    """
    with pytest.MonkeyPatch.context() as here:
        here.setattr(pool, "_LINGER_S", 3600.0)
        here.setattr(pool, "_in_the_way", lambda setup: [])
        yield


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process of a runtime from before, and none left behind; those of other tests wait apart."""
    monkeypatch.setattr(pool, "_processes", {})
    yield
    pool.stop_all()


@pytest.fixture(scope="session", autouse=True)
def no_disk_is_waited_for() -> Iterator[None]:
    """No file of a test has to outlive the machine: four milliseconds each."""
    with pytest.MonkeyPatch.context() as here:
        here.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def portable_if_asked() -> Iterator[None]:
    """Every test without what only POSIX has, where BNFUSE_PORTABLE is set."""
    with pytest.MonkeyPatch.context() as here:
        if os.environ.get("BNFUSE_PORTABLE"):
            take_away(here)
        yield


@pytest.fixture
def locks() -> None:
    """Skips where no lock goes with its process: what a killed one left stays there."""
    if not staging.has_locks():
        pytest.skip("this system has no locks that go with a process")


@pytest.fixture
def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This test without what only POSIX has."""
    take_away(monkeypatch)


@pytest.fixture(scope="session")
def bnfuse_cli() -> Cli:
    """Call ``bnfuse`` with these arguments in a process of its own; never raises on an exit code."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "PYTHONUTF8": "1"}

    def call(*arguments: object, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bnfuse", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment,
            timeout=timeout,
            check=False,
        )

    return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time, for this test: it passes with the work of what knows this clock, and not otherwise."""
    clock = Clock()
    clock.rule(monkeypatch)
    return clock


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cold start may take as long as a busy machine makes it: no comparison is given up for that."""
    monkeypatch.setattr(
        import_module("bnfuse.use_cases.bench_cold"),
        "StartLimits",
        lambda share_s, verdict_s, _: StartLimits(share_s, verdict_s, PATIENCE_S),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A saved convnet with one BN that folds."""
    path = tmp_path / "model.onnx"
    onnx.save(convnet(), path)
    return path


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A counter of the nodes that all attempts meet: what planning costs, whatever the machine does."""
    count = [0]
    react = Worklist._react

    def counted(self: Worklist, *arguments: object) -> object:
        count[0] += 1
        return react(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Worklist, "_react", counted)
    return count


@pytest.fixture
def plain_model(tmp_path: Path) -> Path:
    """The same without a BN."""
    path = tmp_path / "plain.onnx"
    onnx.save(convnet(norm=False), path)
    return path


@pytest.fixture
def diff_pair(tmp_path: Path) -> tuple[Path, Path]:
    """An mlp, and the same with one weight and one setting changed."""
    after = changed(mlp(), set_array("w1", 2 * array(mlp(), "w1")))
    node_of(after, "act2").attribute[0].f = 0.5
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path, proto in zip(paths, (mlp(), after), strict=True):
        path.write_bytes(proto.SerializeToString())
    return paths


@pytest.fixture(scope="session")
def keras3() -> Any:
    """Keras 3 on TensorFlow as it comes; skips where there is none."""
    return import_keras()


@pytest.fixture(scope="session")
def keras2() -> Any:
    """tf_keras as it comes; skips where there is none."""
    return import_tf_keras()


@pytest.fixture
def keras(keras3: Any) -> Iterator[Any]:
    """Keras 3 in float64, so that a defect cannot hide in rounding."""
    with computing_in(keras3, "float64"):
        yield keras3


@pytest.fixture
def tf_keras(keras2: Any) -> Iterator[Any]:
    """Keras 2 in float64."""
    keras2.backend.set_floatx("float64")
    yield keras2
    keras2.backend.set_floatx("float32")


@pytest.fixture(params=[pytest.param("keras3", id="keras"), pytest.param("keras2", id="tf_keras")])
def either_keras(request: pytest.FixtureRequest) -> Any:
    """Keras 3 and Keras 2, one after the other, as they come."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every model of ``tests/keras_saved_models.py``, saved by Keras itself."""
    folder = tmp_path_factory.mktemp("keras_saved")
    build(folder)
    return folder


@pytest.fixture(scope="session")
def network(keras3: Any, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The network around a kind of layer, saved once, and inputs for it."""
    return saving(keras3, tmp_path_factory.mktemp("subjects"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A ``.keras`` of one Dense, made by hand."""
    rng = np.random.default_rng(0)
    arrays = {KERNEL: rng.normal(size=(3, 3)), BIAS: rng.normal(size=3)}
    return make_archive(tmp_path / "m.keras", [dense("a")], arrays)


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    """The same as an ``.h5``."""
    rng = np.random.default_rng(0)
    arrays = {"a/kernel:0": rng.normal(size=(3, 3)), "a/bias:0": rng.normal(size=3)}
    return legacy(tmp_path / "m.h5", [dense("a")], {"a": arrays})
