"""The steady state, setting by setting: what is loaded when, when it is enough, and what it costs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.bench import BenchRequest, bench
from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.measure.judging import FASTER, SAME, SLOWER
from bnfuse.measure.steady import OFF, ON
from tests.clockwork import Clockwork, Told, clockworks, files, most_open

CHANGES = [(0.5, 1.0, SLOWER, 0.5), (1.0, 0.5, FASTER, 2.0)]


def steady(**wanted: Any) -> BenchRequest:
    return BenchRequest(**{"cold_start": False, "threads": (1,), **wanted})


@pytest.mark.parametrize(("before_ms", "after_ms", "expected", "speedup"), CHANGES)
def test_a_real_change_is_found(
    tmp_path: Path, before_ms: float, after_ms: float, expected: str, speedup: float
) -> None:
    a, b, loaded, log, seen = clockworks(tmp_path, before_ms, after_ms)
    found = bench(a, b, request=steady(budget_s=4.0), load=loaded)
    assert [run.setting for run in found.runs] == [OFF, ON]
    for run in found.runs:
        assert run.verdict == expected, run
        assert run.ci95 is not None and run.speedup is not None and run.after_ms is not None
        assert run.speedup == pytest.approx(speedup, rel=0.15)
        assert run.ci95[0] <= run.speedup <= run.ci95[1]
        assert run.before_ms.p50 == pytest.approx(before_ms, rel=0.3)
        assert run.after_ms.p50 == pytest.approx(after_ms, rel=0.3)
        assert run.before_ms.least is not None
        assert before_ms <= run.before_ms.least <= run.before_ms.p50 <= run.before_ms.p90 <= run.before_ms.p99
        assert run.before_items_per_s == pytest.approx(1000 / run.before_ms.p50)
        assert run.before_quantiles_ms[20] == pytest.approx(run.before_ms.p50, rel=1e-4)
    assert (found.device, found.threads, found.providers) == ("cpu", 1, ("Clockwork",))
    assert {(s.optimise, s.device, s.threads) for s in seen} == {(False, "cpu", 1), (True, "cpu", 1)}
    assert log.count("+a") == log.count("-a")
    assert log.count("+b") == log.count("-b")


def test_the_same_speed_is_no_significant_change(tmp_path: Path) -> None:
    a, b, loaded, _, _ = clockworks(tmp_path, 0.5, 0.5)
    (run,) = bench(a, b, request=steady(budget_s=1.5, optimise=(False,)), load=loaded).runs
    assert run.verdict == SAME
    assert run.speedup == pytest.approx(1.0, abs=0.05)


def test_two_copies_of_each_are_loaded_anew_for_every_pass(tmp_path: Path) -> None:
    a, b = files(tmp_path)
    log: list[str] = []
    rng = np.random.default_rng(0)

    def loaded(path: Path, _: RunSettings) -> Told:
        return Told(0.0, log, path.name, draw=lambda: float(rng.uniform(2, 4)))

    (run,) = bench(a, b, request=steady(budget_s=2.0, optimise=(False,), precision=1e-6), load=loaded).runs
    assert log.count("+a") == log.count("+b")
    assert log.count("+a") in (4, 6)  # two copies, three passes; two where the machine is very busy
    assert most_open(log) == 4
    assert run.control is not None


def test_what_loads_slowly_is_loaded_once(tmp_path: Path) -> None:
    a, b = files(tmp_path)
    log: list[str] = []
    rng = np.random.default_rng(0)

    def loaded(path: Path, _: RunSettings) -> Told:
        time.sleep(0.1)
        return Told(0.0, log, path.name, draw=lambda: float(rng.uniform(2, 4)))

    bench(a, b, request=steady(budget_s=0.6, optimise=(False,), precision=1e-6), load=loaded)
    assert log.count("+a") == log.count("+b") == 2


def test_a_setting_ends_when_it_is_precise_and_leaves_its_time_to_others(tmp_path: Path) -> None:
    """With optimisation on calls are even and need no time; without, they scatter."""
    a, b = files(tmp_path)
    rng = np.random.default_rng(0)

    def loaded(path: Path, settings: RunSettings) -> Told:
        even, log = settings.optimise, list[str]()
        return Told(0.0, log, path.name, draw=lambda: 4.0 if even else float(rng.uniform(2, 8)))

    off, on = bench(a, b, request=steady(budget_s=3.0, precision=0.002), load=loaded).runs
    assert (off.setting, on.setting) == (OFF, ON)
    assert on.pairs < 20
    assert off.pairs > 2 * on.pairs


def test_nobody_waits_for_what_is_precise_already(tmp_path: Path) -> None:
    a, b = files(tmp_path)
    begin = time.perf_counter()
    found = bench(
        a, b, request=steady(budget_s=60.0), load=lambda path, _: Told(0.0, [], path.name, draw=lambda: 3.0)
    )
    assert time.perf_counter() - begin < 20.0
    assert [run.verdict for run in found.runs] == [SAME, SAME]


def test_the_budget_bounds_everything(tmp_path: Path) -> None:
    a, b, loaded, _, _ = clockworks(tmp_path, 2.0, 2.0)
    start = time.perf_counter()
    bench(a, b, request=BenchRequest(budget_s=1.0, precision=1e-6), load=loaded)
    assert time.perf_counter() - start < 3.5


def test_loading_is_no_part_of_the_time(tmp_path: Path) -> None:
    a, b = files(tmp_path)

    def loaded(path: Path, _: RunSettings) -> Told:
        time.sleep(0.3)
        return Told(0.0, [], path.name, draw=lambda: 3.0)

    found = bench(a, b, request=steady(budget_s=0.4), load=loaded)
    assert [run.pairs >= 6 for run in found.runs] == [True, True]


def test_batches_and_threads_are_settings_of_their_own(tmp_path: Path) -> None:
    a, b, loaded, _, seen = clockworks(tmp_path, 0.2, 0.2)
    request = BenchRequest(batches=(1, 8), threads=(1, 2), budget_s=0.8, cold_start=False)
    found = bench(a, b, request=request, load=loaded)
    labels = [(run.batch, run.threads, run.setting) for run in found.runs]
    assert labels == [(batch, threads, name) for batch in (1, 8) for threads in (1, 2) for name in (OFF, ON)]
    assert {s.threads for s in seen} == {1, 2}


def test_one_model_alone_has_no_ratio_but_a_precision(tmp_path: Path) -> None:
    a, _, loaded, log, _ = clockworks(tmp_path, 0.5, 0.5)
    found = bench(a, request=steady(budget_s=1.0), load=loaded)
    assert [run.setting for run in found.runs] == [OFF, ON]
    for run in found.runs:
        assert (run.after_ms, run.speedup, run.ci95, run.control, run.verdict) == (None, None, None, None, "")
        assert run.before_ci95_ms is not None
        assert 0.5 <= run.before_ci95_ms[0] <= run.before_ci95_ms[1] < 1.0
    assert "b" not in log


def test_a_noisy_machine_is_told(tmp_path: Path) -> None:
    """Calls whose time wanders by a factor of two, at random."""
    a, b = files(tmp_path)
    rng = np.random.default_rng(0)
    found = bench(
        a,
        b,
        request=steady(budget_s=0.3, optimise=(False,)),
        load=lambda path, _: Told(1.0, [], path.name, draw=lambda: float(rng.uniform(5.0, 15.0))),
    )
    (run,) = found.runs
    assert run.detectable is not None
    (note,) = (note for note in found.notes if "noisy" in note)
    assert f"below {run.detectable:.0%}" in note


# --- memory, errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fits", "settings", "note"),
    [(3, 2, ""), (2, 2, "no control"), (1, 2, "one after the other"), (0, 0, "does not fit")],
)
def test_short_memory_is_told_and_never_exceeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int, settings: int, note: str
) -> None:
    import sys

    module = sys.modules["bnfuse.bench"]
    gigabyte = 1 << 30
    monkeypatch.setattr(module, "available_memory_bytes", lambda: int(2.5 * gigabyte * fits + gigabyte))
    a, b, loaded, log, _ = clockworks(tmp_path, 1.0, 0.5)
    found = bench(a, b, request=steady(budget_s=4.0, model_bytes=gigabyte), load=loaded)
    assert len(found.runs) == settings
    assert not note or any(note in text for text in found.notes)
    assert most_open(log) == fits
    for run in found.runs:
        assert (run.control is not None) == (fits == 3)
        assert run.speedup == pytest.approx(2.0, rel=0.3)


def test_slow_calls_are_not_spent_on_copies(tmp_path: Path) -> None:
    a, b, loaded, log, _ = clockworks(tmp_path, 60.0, 60.0)
    found = bench(a, b, request=steady(budget_s=1.0, optimise=(False,)), load=loaded)
    assert most_open(log) == 2
    assert found.runs[0].control is None
    assert any("no time for a second copy" in note for note in found.notes)


def test_a_setting_that_fails_becomes_a_note(tmp_path: Path) -> None:
    a, b, loaded, _, _ = clockworks(tmp_path, 0.5, 0.5)

    def only_plain(path: Path, settings: RunSettings) -> Any:
        if settings.optimise:
            raise UnreadableModel("the optimiser gave up")
        return loaded(path, settings)

    found = bench(a, b, request=steady(budget_s=0.5), load=only_plain)
    assert [run.setting for run in found.runs] == [OFF]
    assert [note for note in found.notes if ON in note and "gave up" in note] == [
        f"{ON} was not timed: the optimiser gave up"
    ]


def test_a_setting_that_fails_late_keeps_what_was_measured(tmp_path: Path) -> None:
    a, b = files(tmp_path)
    loads: list[Path] = []
    rng = np.random.default_rng(0)

    def loaded(path: Path, _: RunSettings) -> Clockwork:
        loads.append(path)
        if len(loads) > 4:
            raise UnreadableModel("the disk is gone")
        return Told(0.0, [], path.name, draw=lambda: float(rng.uniform(2, 8)))

    found = bench(a, b, request=steady(budget_s=2.0, optimise=(True,), precision=1e-6), load=loaded)
    assert [run.pairs >= 6 for run in found.runs] == [True]
    assert any("the disk is gone" in note for note in found.notes)


@pytest.mark.parametrize("error", [RuntimeMissing, UsageError])
def test_what_the_user_asked_for_in_vain_is_raised(tmp_path: Path, error: type[BnfuseError]) -> None:
    a, b, _, _, _ = clockworks(tmp_path, 0.5, 0.5)

    def refuses(path: Path, settings: RunSettings) -> Any:
        raise error("no such device")

    with pytest.raises(error):
        bench(a, b, load=refuses)


def test_a_model_that_takes_seconds_is_not_measured_again_and_again(tmp_path: Path) -> None:
    """Beyond its time a setting gets three rounds of two calls of each model, once: 2.4 s."""
    a, b, loaded, log, _ = clockworks(tmp_path, 200.0, 200.0)
    begin = time.perf_counter()
    found = bench(a, b, request=steady(budget_s=0.5), load=loaded)
    assert [run.pairs for run in found.runs] == [3, 3]
    assert log.count("+a") == log.count("+b") == 2  # once per setting
    assert time.perf_counter() - begin < 20.0
