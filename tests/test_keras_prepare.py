"""Keras starts while the file is being folded: the process that will load the model, and no error yet."""

from __future__ import annotations

from importlib import import_module

import pytest

from bnfuse.formats.base import RunSettings
from bnfuse.formats.child.pool import Setup
from bnfuse.formats.keras import FORMAT
from bnfuse.formats.keras.runtime.child import KerasEngine
from bnfuse.formats.keras.runtime.run import BACKEND_VARIABLE, setup_for
from bnfuse.machine import usable_cpus
from bnfuse.use_cases.bench import BenchRequest
from bnfuse.use_cases.requests import first_settings, in_one_process
from bnfuse.use_cases.verify import VerifyRequest

run = import_module("bnfuse.formats.keras.runtime.run")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Setup]:
    """What processes were started with."""
    setups: list[Setup] = []
    monkeypatch.setattr(run, "pool_prepare", setups.append)
    monkeypatch.setattr(run, "_installed", lambda name: name == "jax")
    return setups


ALL = usable_cpus()
REQUESTS = [
    (VerifyRequest(), BenchRequest(), RunSettings(threads=ALL)),
    (VerifyRequest(), BenchRequest(threads=(1, 2)), RunSettings(threads=1)),
    (VerifyRequest(threads=3, allow_unsafe=True), None, RunSettings(threads=3, allow_unsafe=True)),
    (VerifyRequest(), None, RunSettings()),
    (None, BenchRequest(threads=(2,)), RunSettings(threads=2)),
    (None, BenchRequest(), RunSettings()),
]


@pytest.mark.parametrize(("verify", "bench", "first"), REQUESTS)
def test_it_is_the_process_that_proves(
    started: list[Setup], verify: VerifyRequest | None, bench: BenchRequest | None, first: RunSettings
) -> None:
    """On the threads of the measurement, so that it is the one that measures, too."""
    FORMAT.prepare(first_settings(*in_one_process(verify, bench)))
    assert started == [setup_for(first)]


@pytest.mark.parametrize("backend", ["torch", "nonsense"])
def test_what_is_missing_is_told_when_a_model_is_loaded(
    started: list[Setup], monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv(BACKEND_VARIABLE, backend)
    FORMAT.prepare(RunSettings())
    assert started == []


def test_a_backend_that_cannot_be_imported_is_told_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported: list[str] = []

    def broken(name: str) -> None:
        imported.append(name)
        raise OSError("no such library")

    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr("bnfuse.formats.keras.runtime.child.importlib.import_module", broken)
    KerasEngine().prepare()
    assert imported == ["tensorflow"]
