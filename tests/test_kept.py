"""Models that were proved are there for the measurement: which are kept, for whom, and until when."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import Probe, Runner, RunSettings
from bnfuse.use_cases import kept as module
from bnfuse.use_cases.bench import BenchRequest
from bnfuse.use_cases.kept import KeptModels, of_the_formats
from bnfuse.use_cases.requests import in_one_process
from bnfuse.use_cases.verify import VerifyRequest
from tests.clockwork import Clock, Clockwork, files

OFF = RunSettings(threads=2)
FEEDS = {"x": np.zeros((1, 4), np.float32)}


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def models(clock: Clock, log: list[str]) -> KeptModels:
    """Of Clockworks: the log gets +name where one is entered, -name where one is closed."""

    def load(path: Path, _: RunSettings) -> Runner:
        log.append(f"load {path.name}")
        return Clockwork(clock, log, path.name, lambda: 1.0)

    return KeptModels(load)


def test_a_model_that_was_closed_is_there_for_the_next(
    models: KeptModels, log: list[str], tmp_path: Path
) -> None:
    a, b = files(tmp_path)
    with closing(models):
        for _ in range(3):
            with models.load(a, OFF) as runner, models.load(b, OFF) as other:
                assert runner.run(FEEDS) == {}
                assert other.time(FEEDS, 2) == [10**6, 10**6]
        with models.load(a, replace(OFF, runtime="clockwork 1")) as again:
            assert (again.runtime, again.inputs[0].name) == ("clockwork 1", "x")
        assert [entry for entry in log if entry[0] in "l-"] == ["load a", "load b"]
    assert sorted(entry for entry in log if entry[0] == "-") == ["-a", "-b"]


OTHERS = [
    pytest.param(replace(OFF, optimise=True), id="another optimisation"),
    pytest.param(replace(OFF, threads=1), id="other threads"),
    pytest.param(replace(OFF, device="gpu"), id="another device"),
    pytest.param(replace(OFF, allow_unsafe=True), id="what may run code"),
    pytest.param(replace(OFF, runtime="another 2"), id="another runtime"),
    pytest.param(replace(OFF, probe=Probe(shaken=("w",))), id="moved weights"),
    pytest.param(replace(OFF, profile=True), id="under the profiler"),
]


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_loaded_otherwise_is_another_model(
    models: KeptModels, log: list[str], tmp_path: Path, other: RunSettings
) -> None:
    a, _ = files(tmp_path)
    with closing(models):
        for settings in (OFF, other):
            with models.load(a, settings):
                pass
    assert log.count("load a") == 2
    assert log.count("-a") == 2  # none is forgotten


def test_what_was_opened_up_is_never_kept(models: KeptModels, log: list[str], tmp_path: Path) -> None:
    a, _ = files(tmp_path)
    with closing(models):
        for _ in range(2):
            with models.load(a, replace(OFF, probe=Probe(shakes_all=True))):
                pass
            assert log[-1] == "-a"
    assert log.count("load a") == 2


def test_a_second_copy_is_a_copy(models: KeptModels, log: list[str], tmp_path: Path) -> None:
    a, _ = files(tmp_path)
    with closing(models):
        with models.load(a, OFF), models.load(a, OFF):
            assert log.count("load a") == 2
        assert log.count("-a") == 1  # one of the two is enough
        with models.load(a, OFF), models.load(a, OFF):
            assert log.count("load a") == 3


def test_an_error_lets_go_of_all(models: KeptModels, log: list[str], tmp_path: Path) -> None:
    """The process in which they are may have ended."""
    a, b = files(tmp_path)
    with closing(models):
        with models.load(a, OFF):
            pass
        with pytest.raises(BnfuseError, match="crashed"), models.load(b, OFF):
            raise BnfuseError("crashed")
        assert sorted(entry for entry in log if entry[0] == "-") == ["-a", "-b"]
        with models.load(a, OFF):
            assert log.count("load a") == 2


def test_a_closed_model_answers_nothing(models: KeptModels, tmp_path: Path) -> None:
    a, _ = files(tmp_path)
    with closing(models):
        with models.load(a, OFF) as runner:
            pass
        for ask in (lambda: runner.run(FEEDS), lambda: runner.time(FEEDS, 1)):
            with pytest.raises(BnfuseError, match="closed"):
                ask()


@pytest.mark.parametrize(("free", "loads"), [(None, 1), (200, 1), (199, 2)])
def test_large_models_are_not_kept(
    models: KeptModels,
    log: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int | None,
    loads: int,
) -> None:
    """Of ten bytes: a twentieth of the free memory."""
    a, _ = files(tmp_path)
    a.write_bytes(bytes(10))
    monkeypatch.setattr(module, "available_memory_bytes", lambda: free)
    with closing(models):
        for _ in range(2):
            with models.load(a, OFF):
                pass
    assert log.count("load a") == loads


def test_whose_loader_it_is() -> None:
    assert of_the_formats(KeptModels().load)
    assert not of_the_formats(lambda *_: Clockwork(Clock(), [], "a", lambda: 1.0))


@pytest.mark.parametrize(("asked", "measured", "proved"), [(0, (3, 1), 3), (2, (3, 1), 2), (4, (), 4)])
def test_the_proof_runs_on_the_threads_of_the_measurement(
    asked: int, measured: tuple[int, ...], proved: int
) -> None:
    """Else a runtime that starts for a number of threads would start twice."""
    verify, bench = in_one_process(VerifyRequest(threads=asked), BenchRequest(threads=measured))
    assert verify is not None and verify.threads == proved
    assert bench is not None and bench.threads == measured
    assert in_one_process(VerifyRequest(), None)[0] == VerifyRequest()
