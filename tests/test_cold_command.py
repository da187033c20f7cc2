"""Cold start as ``bench`` and ``optimize`` tell it."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from bnfuse.measure.verdicts import SLOWER, TOO_FEW
from tests.cli_models import convnet
from tests.clockwork import Clock, starts
from tests.command import call
from tests.report_schema import assert_fits
from tests.tiny_models import layer, net, save


@pytest.fixture
def only_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the cold start is timed."""
    monkeypatch.setattr(import_module("bnfuse.use_cases.bench"), "measure_steady", lambda *_, **__: None)


def test_bench_finds_the_slower_start(
    model: Path, clock: Clock, only_cold: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B's starts take a third more."""
    slower = model.with_name("slower.onnx")
    slower.write_bytes(model.read_bytes())
    log = starts(clock, monkeypatch, lambda name: 0.4 if name == "slower.onnx" else 0.3)
    result = call("bench", "--cold", model, slower, "--json", "--bench-time", "16", "--fail-if-slower", "3%")
    document = json.loads(result.stdout)
    assert_fits(document["benchmark"], "benchmark")
    (run,) = document["benchmark"]["runs"]
    assert (run["setting"], run["verdict"], run["control"]) == ("cold start", SLOWER, None)
    assert (run["before_ms"]["p50"], run["after_ms"]["p50"]) == (300.0, 400.0)
    assert run["speedup"] == pytest.approx(0.75)
    assert run["pairs"] == len(log) / 2 == 7  # of 0.7 s each, in 0.3 of 16 s
    assert result.exit_code == 1 and "slower by at least" in result.stderr


@pytest.mark.slow
def test_bench_finds_what_the_larger_model_takes_to_load(
    tmp_path: Path, patient: None, only_cold: None
) -> None:
    """B has 72 MB of weights to load, A hardly any; both take the same inputs."""
    rng = np.random.default_rng(0)
    small = net([layer(rng, 64, 64)], folded=True)
    large = net([layer(rng, 3000, 64), *[layer(rng, 3000, 3000)] * 2, layer(rng, 64, 3000)], folded=True)
    a, b = save(small, tmp_path / "a.onnx"), save(large, tmp_path / "b.onnx")
    result = call("bench", "--cold", a, b, "--json", "--bench-time", "1", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    run = json.loads(result.stdout)["benchmark"]["runs"][-1]
    assert run["setting"] == "cold start"
    before, after = run["before_cold"], run["after_cold"]
    assert after["load_ms"] > 3 * before["load_ms"]  # twenty times, where nothing else runs
    assert 60e6 < after["peak_bytes"] - before["peak_bytes"] < 500e6


def test_bench_tells_the_time_that_is_missing(model: Path) -> None:
    result = call("bench", "--cold", model, "--json", "--bench-time", "0.2")
    notes = json.loads(result.stdout)["benchmark"]["notes"]
    assert any("cold start was not timed" in note and "too short" in note for note in notes)


def test_bench_tells_how_much_time_a_verdict_needs(
    model: Path, clock: Clock, only_cold: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two starts take a second, and the 0.3 s of 1 s that they may take bring no verdict: that needs six
    of each, and starts get 0.6 of the time at most."""
    starts(clock, monkeypatch, lambda _: 0.5)
    result = call("bench", "--cold", model, model, "--json", "--bench-time", "1")
    found = json.loads(result.stdout)["benchmark"]
    run = next(run for run in found["runs"] if run["setting"] == "cold start")
    (note,) = [note for note in found["notes"] if note.startswith("one cold start of each")]
    assert run["verdict"] == TOO_FEW
    assert "one cold start of each model took 1 s" in note and "needs about 10 s in all" in note


def test_optimize_tells_cold_start_and_memory(tmp_path: Path, patient: None) -> None:
    path = save(convnet(), tmp_path / "m.onnx")
    report = tmp_path / "report.json"
    result = call("optimize", path, "--cold", "--bench-time", "2", "--verify-time", "0.2", "--report", report)
    assert result.exit_code == 0, result.stderr
    document = json.loads(report.read_text())
    assert_fits(document)
    run = document["benchmark"]["runs"][-1]
    assert run["setting"] == "cold start"
    for side in ("before", "after"):
        stages = run[f"{side}_cold"]
        total = sum(stages[f"{stage}_ms"] for stage in ("start", "runtime", "load", "first_run"))
        assert total == pytest.approx(run[f"{side}_ms"]["p50"], rel=0.5)
        assert 30e6 < stages["peak_bytes"] < 500e6
    for word in ("cold start", "peak of a process", "runtime", "first answer", "machine"):
        assert word in result.stdout
