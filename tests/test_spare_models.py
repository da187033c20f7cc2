"""Models that were closed and are there for the next load: which, for how long, and as they were loaded."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

import bnfuse
from bnfuse.errors import BnfuseError
from bnfuse.formats import keeping_models
from bnfuse.formats.base import Probe, RunSettings
from bnfuse.formats.child import pool, spare_models
from bnfuse.formats.child.spare_models import FileIdentity, SpareModels
from bnfuse.formats.keras.runtime import run as keras_run
from bnfuse.formats.onnx.runtime import session
from bnfuse.formats.onnx.runtime.run import load
from bnfuse.use_cases.bench import BenchRequest
from bnfuse.use_cases.requests import in_one_process
from bnfuse.use_cases.verify import VerifyRequest
from tests.cli_models import convnet
from tests.keras_nets import stir
from tests.keras_probed import residual

OFF = RunSettings(threads=2)
FEEDS = {"x": np.random.default_rng(0).standard_normal((1, 3, 9, 7)).astype(np.float32)}

# --- which are kept


def identity(name: str, size: int = 1, mtime_ns: int = 0, ctime_ns: int = 0) -> FileIdentity:
    return FileIdentity(name, size, mtime_ns, ctime_ns)


def test_a_spare_model_is_taken_once_by_whoever_loads_the_same_in_the_same_way() -> None:
    spares = SpareModels[str]()
    assert spares.put(identity("a"), "plain", "first") == []
    assert spares.take(identity("a"), "compiled") is None
    assert spares.take(identity("a", mtime_ns=1), "plain") is None  # it has changed since
    assert spares.take(identity("a", ctime_ns=1), "plain") is None
    assert spares.take(identity("a", size=2), "plain") is None
    assert spares.take(identity("a"), "plain") == "first"
    assert spares.take(identity("a"), "plain") is None


def test_no_more_stay_than_a_bench_of_two_files_needs() -> None:
    spares = SpareModels[str]()
    for model in ("first", "second"):
        assert spares.put(identity("a"), "plain", model) == []
    assert spares.put(identity("a"), "plain", "third") == ["third"]
    assert spares.put(identity("b"), "plain", "other") == []
    assert spares.put(identity("c"), "plain", "newest") == ["first", "second"]  # of the oldest file
    assert len(spares) == 2
    assert spares.clear() == ["other", "newest"] and len(spares) == 0


@pytest.mark.parametrize(("free", "left"), [(None, []), (200, []), (199, ["large"])])
def test_large_models_do_not_stay(monkeypatch: pytest.MonkeyPatch, free: int | None, left: list[str]) -> None:
    """Of ten bytes: a twentieth of the free memory."""
    monkeypatch.setattr(spare_models, "available_memory_bytes", lambda: free)
    assert SpareModels[str]().put(identity("a", size=10), "plain", "large") == left


# --- in onnxruntime's process


class Loaded(NamedTuple):
    """A session that was made: of which file, with onnxruntime's optimisation, opened up."""

    name: str
    optimise: bool
    probed: bool


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Loaded]]:
    """What the engine was asked to load and could not take from its spares: it runs in this process."""
    from bnfuse.formats.child.server import Server
    from bnfuse.formats.onnx.runtime import child

    made: list[Loaded] = []
    real = session.load_session

    def counted(path: Path, settings: RunSettings, traces: Path | None = None) -> Any:
        made.append(Loaded(path.name, settings.optimise, probed=settings.probe is not None))
        return real(path, settings, traces)

    monkeypatch.setattr(child, "load_session", counted)
    server = Server(child.OrtEngine())

    def ask(self: pool.Process, head: Any, arrays: Any = None, *, extra_s: float = 0.0) -> Any:
        answer, results = server.respond(head, dict(arrays or {}))
        assert "error" not in answer, answer
        return answer, results

    monkeypatch.setattr(pool.Process, "ask", ask)
    yield made
    pool.stop_all()


def closed_once(path: Path, settings: RunSettings = OFF) -> dict[str, np.ndarray]:
    with load(path, settings) as runner:
        return runner.run(FEEDS)


def test_a_closed_session_serves_the_next_load(model: Path, sessions: list[Loaded]) -> None:
    with keeping_models():
        first, second = closed_once(model), closed_once(model)
        assert len(sessions) == 1
        with load(model, OFF) as one, load(model, OFF) as other:  # a second copy is a copy
            assert len(sessions) == 2
            assert np.array_equal(one.run(FEEDS)["y"], other.run(FEEDS)["y"])
        with load(model, replace(OFF, runtime="onnxruntime 1")), load(model, OFF):
            assert len(sessions) == 2
    assert np.array_equal(first["y"], second["y"])
    closed_once(model)
    assert len(sessions) == 3  # nothing stays beyond the context


def test_nothing_stays_where_nobody_asked_for_it(model: Path, sessions: list[Loaded]) -> None:
    closed_once(model)
    closed_once(model)
    assert len(sessions) == 2


OTHERS = [
    pytest.param(replace(OFF, optimise=True), id="another optimisation"),
    pytest.param(replace(OFF, threads=1), id="other threads"),
    pytest.param(replace(OFF, probe=Probe(shaken=("w",))), id="moved weights"),
    pytest.param(replace(OFF, profile=True), id="under the profiler"),
]


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_loaded_otherwise_is_another_session(
    model: Path, sessions: list[Loaded], other: RunSettings, as_many_threads_as_asked: None
) -> None:
    with keeping_models():
        expected = closed_once(model)
        closed_once(model, other)
        assert len(sessions) == 2
        assert np.array_equal(closed_once(model)["y"], expected["y"])
        assert len(sessions) == 2


def test_a_file_that_changed_is_loaded_anew(model: Path, sessions: list[Loaded]) -> None:
    with keeping_models():
        before = closed_once(model)["y"]
        onnx.save(convnet(norm=False), model)
        assert not np.array_equal(closed_once(model)["y"], before)


def _heavier(path: Path) -> None:
    """The same model with other weights, in as many bytes."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        values = (1.5 * onnx.numpy_helper.to_array(tensor)).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, path)


def test_a_time_that_was_set_back_hides_no_change(model: Path, sessions: list[Loaded]) -> None:
    onnx.save(onnx.load(model), model)
    was = model.stat()
    with keeping_models():
        before = closed_once(model)["y"]
        _heavier(model)
        os.utime(model, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert model.stat().st_size == was.st_size
        assert not np.array_equal(closed_once(model)["y"], before)


def test_weights_in_other_files_are_loaded_anew(model: Path, sessions: list[Loaded]) -> None:
    """They may change, and be as large as they like, where the model's file stays as it is."""
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="w.bin", size_threshold=0)
    weights = model.with_name("w.bin")
    with keeping_models():
        before = closed_once(model)["y"]
        held = np.frombuffer(weights.read_bytes(), np.float32)
        weights.with_name("new.bin").write_bytes((1.5 * held).astype(np.float32).tobytes())
        weights.with_name("new.bin").replace(weights)
        assert not np.array_equal(closed_once(model)["y"], before)
    assert len(sessions) == 2


def test_an_error_leaves_no_spare(model: Path, sessions: list[Loaded]) -> None:
    """What failed may be broken."""
    with keeping_models():
        with pytest.raises(BnfuseError, match="crashed"), load(model, OFF):
            raise BnfuseError("crashed")
        closed_once(model)
    assert len(sessions) == 2


def test_a_proof_and_a_bench_load_no_model_twice(model: Path, sessions: list[Loaded], tmp_path: Path) -> None:
    """But the copies that the bench times beside each other."""
    report = bnfuse.optimize(model, tmp_path / "out.onnx", max_time=1.0)
    assert report.benchmark is not None and len(report.benchmark.runs) == 2
    counts = Counter(sessions)
    for name in ("model.onnx", "out.onnx"):
        for optimise in (False, True):
            assert 1 <= counts[Loaded(name, optimise, probed=False)] <= 2, counts


# --- in Keras' process


@pytest.mark.slow
@pytest.mark.parametrize(("library", "suffix"), [("keras3", ".keras"), ("keras2", ".h5")])
def test_a_keras_model_that_was_opened_up_is_as_it_was_loaded(
    library: str, suffix: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Its weights were moved and its values set in between; ``load_s`` tells that it is the same model."""
    net = residual(request.getfixturevalue(library))
    path = tmp_path / f"m{suffix}"
    net.model.save(path)
    seam = json.dumps([["norm2", 0], 0])
    shaken = Probe((seam,), forced=True, dtypes=("float32",), shakes_all=True, seed=3)
    with keeping_models():
        with keras_run.load(path, OFF) as runner:
            before, load_s = runner.run(net.feeds), runner.load_s
        with keras_run.load(path, replace(OFF, probe=shaken)) as opened:
            moved = opened.run({**net.feeds, seam: np.ones((2, 8, 7, 4), np.float32)})
            assert opened.load_s == load_s
        with keras_run.load(path, OFF) as again, keras_run.load(path, OFF) as other:
            after = again.run(net.feeds)
            assert (again.load_s == load_s) and (other.load_s != load_s)
        with keras_run.load(path, replace(OFF, optimise=True)) as compiled:
            assert compiled.load_s in (load_s, other.load_s)
            close = compiled.run(net.feeds)
    assert not np.array_equal(moved["y"], before["y"])
    assert after.keys() == before.keys() and np.array_equal(after["y"], before["y"])
    np.testing.assert_allclose(close["y"], before["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_keeps_a_state_from_call_to_call_is_loaded_anew(keras3: Any, tmp_path: Path) -> None:
    layers = keras3.layers
    x = layers.Input(batch_shape=(2, 5, 3), name="x")
    model = stir(keras3.Model(x, layers.LSTM(4, stateful=True, name="y")(x)))
    path = tmp_path / "m.keras"
    model.save(path)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)}
    found = []
    with keeping_models():
        for _ in range(2):
            with keras_run.load(path, OFF) as runner:
                found.append([next(iter(runner.run(feeds).values())) for _ in range(2)])
    assert not np.array_equal(found[0][0], found[0][1])  # a call leaves something behind
    assert np.array_equal(found[0][0], found[1][0])


# --- one process


@pytest.mark.parametrize(("asked", "measured", "proved"), [(0, (3, 1), 3), (2, (3, 1), 2), (4, (), 4)])
def test_the_proof_runs_on_the_threads_of_the_measurement(
    asked: int, measured: tuple[int, ...], proved: int
) -> None:
    """Else a runtime that starts for a number of threads would start twice."""
    verify, bench = in_one_process(VerifyRequest(threads=asked), BenchRequest(threads=measured))
    assert verify is not None and verify.threads == proved
    assert bench is not None and bench.threads == measured
    assert in_one_process(VerifyRequest(), None)[0] == VerifyRequest()
