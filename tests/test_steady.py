"""The steady state, setting by setting: what is loaded when, when it is enough, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.inputs.samples import InputRequest
from bnfuse.measure.certainty import Certainty, Wanted
from bnfuse.measure.judging import Rounds
from bnfuse.measure.steady import Setting
from bnfuse.measure.verdicts import FASTER, SAME, SLOWER
from bnfuse.results.latency import OFF, ON
from bnfuse.use_cases.bench import BenchRequest, bench
from tests.clockwork import Clock, Clockwork, clockworks, files, most_open

CHANGES = [(0.5, 1.0, SLOWER, 0.5), (1.0, 0.5, FASTER, 2.0)]


def steady(**wanted: Any) -> BenchRequest:
    return BenchRequest(**{"threads": (1,), **wanted})


@pytest.mark.parametrize(("before_ms", "after_ms", "expected", "speedup"), CHANGES)
def test_a_real_change_is_found(
    clock: Clock, tmp_path: Path, before_ms: float, after_ms: float, expected: str, speedup: float
) -> None:
    a, b, loaded, log, seen = clockworks(clock, tmp_path, before_ms, after_ms)
    found = bench(a, b, request=steady(max_time=4.0), load=loaded)
    assert [run.setting for run in found.runs] == [OFF, ON]
    for run in found.runs:
        assert run.verdict == expected, run
        assert run.ci95 is not None and run.speedup is not None and run.after_ms is not None
        assert run.speedup == pytest.approx(speedup)
        assert run.ci95[0] <= run.speedup <= run.ci95[1]
        assert (run.before_ms.p50, run.after_ms.p50) == pytest.approx((before_ms, after_ms))
        assert run.before_ms.least is not None
        assert before_ms <= run.before_ms.least <= run.before_ms.p50 <= run.before_ms.p90 <= run.before_ms.p99
        assert run.before_items_per_s == pytest.approx(1000 / run.before_ms.p50)
        assert run.before_quantiles_ms[20] == pytest.approx(run.before_ms.p50, rel=1e-4)
    assert (found.device, found.threads, found.providers) == ("cpu", 1, ("Clockwork",))
    assert {(s.optimise, s.device, s.threads) for s in seen} == {(False, "cpu", 1), (True, "cpu", 1)}
    assert log.count("+a") == log.count("-a")
    assert log.count("+b") == log.count("-b")


def test_the_same_speed_is_no_significant_change(clock: Clock, tmp_path: Path) -> None:
    a, b, loaded, _, _ = clockworks(clock, tmp_path, 0.5, 0.5)
    (run,) = bench(a, b, request=steady(max_time=1.5, optimise=(False,)), load=loaded).runs
    assert run.verdict == SAME
    assert run.speedup == 1.0


def test_two_copies_of_each_are_loaded_anew_for_every_pass(clock: Clock, tmp_path: Path) -> None:
    a, b = files(tmp_path)
    log: list[str] = []
    rng = np.random.default_rng(1)
    slower = {a: 1.0, b: 1.08}  # so that no difference is not ruled out, and never known to 0.0001 %

    def loaded(path: Path, _: RunSettings) -> Clockwork:
        return Clockwork(clock, log, path.name, lambda: slower[path] * float(rng.uniform(2, 4)))

    (run,) = bench(a, b, request=steady(max_time=10.0, optimise=(False,), precision=1e-6), load=loaded).runs
    assert log.count("+a") == log.count("+b")
    assert log.count("+a") == 6  # two copies, three passes
    assert most_open(log) == 4
    assert run.control is not None


@pytest.mark.parametrize(("after_ms", "most"), [(2.0, 2), (0.5, 2), (0.9, 2), (1.04, 4), (1.0, 4)])
def test_second_copies_are_loaded_unless_the_gain_is_large(
    clock: Clock, tmp_path: Path, after_ms: float, most: int
) -> None:
    a, b, loaded, log, _ = clockworks(clock, tmp_path, 1.0, after_ms)
    found = bench(a, b, request=steady(max_time=4.0, optimise=(False,)), load=loaded)
    (run,) = found.runs
    assert most_open(log) == most
    assert (run.control is None) == (most == 2)
    assert run.verdict == (SAME if after_ms == 1.0 else SLOWER if after_ms > 1.0 else FASTER)
    assert run.speedup == pytest.approx(1.0 / after_ms)
    assert found.notes == ()


def test_what_seems_a_gain_when_it_is_warmed_up_is_forgotten(clock: Clock, tmp_path: Path) -> None:
    """The result's calls get slower by a fifth as soon as rounds begin: there is no gain any more."""
    a, b = files(tmp_path)
    log: list[str] = []

    def draw(name: str) -> float:
        return 0.8 if name == "b.onnx" and log.count(name) < 20 else 1.0

    def loaded(path: Path, _: RunSettings) -> Clockwork:
        return Clockwork(clock, log, path.name, lambda: draw(path.name))

    (run,) = bench(a, b, request=steady(max_time=4.0, optimise=(False,)), load=loaded).runs
    assert most_open(log) == 4
    assert run.verdict == SAME
    assert run.speedup == pytest.approx(1.0)
    assert clock.seconds < 4.0


def test_what_loads_slowly_is_loaded_once(clock: Clock, tmp_path: Path) -> None:
    a, b = files(tmp_path)
    log: list[str] = []
    rng = np.random.default_rng(0)

    def loaded(path: Path, _: RunSettings) -> Clockwork:
        clock.work(100.0)
        return Clockwork(clock, log, path.name, lambda: float(rng.uniform(2, 4)))

    bench(a, b, request=steady(max_time=0.6, optimise=(False,), precision=1e-6), load=loaded)
    assert log.count("+a") == log.count("+b") == 2


def test_a_setting_ends_when_it_is_precise_and_leaves_its_time_to_others(
    clock: Clock, tmp_path: Path
) -> None:
    """With optimisation on calls are even and need no time; without, they scatter about a difference."""
    a, b = files(tmp_path)
    rng = np.random.default_rng(0)
    slower = {a: 1.0, b: 1.08}

    def loaded(path: Path, settings: RunSettings) -> Clockwork:
        even, log = settings.optimise, list[str]()
        return Clockwork(
            clock, log, path.name, lambda: 4.0 if even else slower[path] * float(rng.uniform(2, 8))
        )

    off, on = bench(a, b, request=steady(max_time=30.0, precision=0.002), load=loaded).runs
    assert (off.setting, on.setting) == (OFF, ON)
    assert on.pairs < 20
    assert off.pairs > 8 * on.pairs
    assert 16.5 < clock.seconds < 32.0  # more than half of the time, which is its own


def test_nobody_waits_for_what_is_precise_already(clock: Clock, tmp_path: Path) -> None:
    a, b = files(tmp_path)
    found = bench(
        a, b, request=steady(max_time=60.0), load=lambda path, _: Clockwork(clock, [], path.name, lambda: 3.0)
    )
    assert clock.seconds < 5.0
    assert [run.verdict for run in found.runs] == [SAME, SAME]


def test_the_budget_bounds_everything(clock: Clock, tmp_path: Path) -> None:
    a, b = files(tmp_path)
    rng = np.random.default_rng(0)
    slower = {a: 1.0, b: 1.08}

    def loaded(path: Path, _: RunSettings) -> Clockwork:
        return Clockwork(clock, [], path.name, lambda: slower[path] * float(rng.uniform(2, 4)))

    bench(a, b, request=BenchRequest(max_time=10.0, precision=1e-6), load=loaded)
    assert 7.0 < clock.seconds < 10.5


def test_loading_is_no_part_of_the_time(clock: Clock, tmp_path: Path) -> None:
    a, b = files(tmp_path)

    def loaded(path: Path, _: RunSettings) -> Clockwork:
        clock.work(300.0)
        return Clockwork(clock, [], path.name, lambda: 3.0)

    found = bench(a, b, request=steady(max_time=0.4), load=loaded)
    assert [run.pairs >= 6 for run in found.runs] == [True, True]


def test_batches_and_threads_are_settings_of_their_own(clock: Clock, tmp_path: Path) -> None:
    a, b, loaded, _, seen = clockworks(clock, tmp_path, 0.2, 0.2)
    request = BenchRequest(batch=(1, 8), threads=(1, 2), max_time=0.8)
    found = bench(a, b, request=request, load=loaded)
    labels = [(run.batch, run.threads, run.setting) for run in found.runs]
    assert labels == [(batch, threads, name) for batch in (1, 8) for threads in (1, 2) for name in (OFF, ON)]
    assert {s.threads for s in seen} == {1, 2}


def test_one_model_alone_has_no_ratio_but_a_precision(clock: Clock, tmp_path: Path) -> None:
    a, _, loaded, log, _ = clockworks(clock, tmp_path, 0.5, 0.5)
    found = bench(a, request=steady(max_time=1.0), load=loaded)
    assert [run.setting for run in found.runs] == [OFF, ON]
    for run in found.runs:
        assert (run.after_ms, run.speedup, run.ci95, run.control, run.verdict) == (None, None, None, None, "")
        assert run.before_ci95_ms is not None
        assert run.before_ci95_ms == pytest.approx((0.5, 0.5))
    assert "b" not in log


@pytest.mark.parametrize(("least_ms", "told"), [(9.0, True), (5.0, False)])
def test_a_noisy_machine_is_told(clock: Clock, tmp_path: Path, least_ms: float, told: bool) -> None:
    """Calls whose time wanders at random, a little or by a factor of three: then no figure means anything."""
    a, b = files(tmp_path)
    rng = np.random.default_rng(0)
    found = bench(
        a,
        b,
        request=steady(max_time=0.3, optimise=(False,)),
        load=lambda path, _: Clockwork(
            clock, [], path.name, lambda: float(rng.uniform(least_ms, 20.0 - least_ms))
        ),
    )
    (run,) = found.runs
    assert run.detectable is not None
    (note,) = (note for note in found.notes if "noisy" in note)
    assert run.told is told
    assert (f"below {run.detectable:.0%}" if told else "nothing can be told") in note


# --- memory, errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fits", "settings", "note"),
    [(3, 2, ""), (2, 2, "no control"), (1, 2, "one after the other"), (0, 0, "does not fit")],
)
def test_short_memory_is_told_and_never_exceeded(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int, settings: int, note: str
) -> None:
    import sys

    module = sys.modules["bnfuse.use_cases.bench"]
    gigabyte = 1 << 30
    monkeypatch.setattr(module, "available_memory_bytes", lambda: int(2.5 * gigabyte * fits + gigabyte))
    a, b, loaded, log, _ = clockworks(clock, tmp_path, 1.0, 0.98)
    found = bench(a, b, request=steady(max_time=4.0, model_bytes=gigabyte), load=loaded)
    assert len(found.runs) == settings
    assert not note or any(note in text for text in found.notes)
    assert most_open(log) == fits
    for run in found.runs:
        assert (run.control is not None) == (fits == 3)
        assert run.speedup == pytest.approx(1.0 / 0.98)


def test_slow_calls_are_not_spent_on_copies(clock: Clock, tmp_path: Path) -> None:
    a, b, loaded, log, _ = clockworks(clock, tmp_path, 60.0, 60.0)
    found = bench(a, b, request=steady(max_time=1.0, optimise=(False,)), load=loaded)
    assert most_open(log) == 2
    assert found.runs[0].control is None
    assert any("no time for a second copy" in note for note in found.notes)


def test_a_setting_that_fails_becomes_a_note(clock: Clock, tmp_path: Path) -> None:
    a, b, loaded, _, _ = clockworks(clock, tmp_path, 0.5, 0.5)

    def only_plain(path: Path, settings: RunSettings) -> Any:
        if settings.optimise:
            raise UnreadableModel("the optimiser gave up")
        return loaded(path, settings)

    found = bench(a, b, request=steady(max_time=0.5), load=only_plain)
    assert [run.setting for run in found.runs] == [OFF]
    assert [note for note in found.notes if ON in note and "gave up" in note] == [
        f"{ON} was not timed: the optimiser gave up"
    ]


def test_a_setting_that_fails_late_keeps_what_was_measured(clock: Clock, tmp_path: Path) -> None:
    a, b = files(tmp_path)
    loads: list[Path] = []
    rng = np.random.default_rng(0)
    slower = {a: 1.0, b: 1.5}

    def loaded(path: Path, _: RunSettings) -> Clockwork:
        loads.append(path)
        if len(loads) > 4:
            raise UnreadableModel("the disk is gone")
        return Clockwork(clock, [], path.name, lambda: slower[path] * float(rng.uniform(2, 8)))

    found = bench(a, b, request=steady(max_time=2.0, optimise=(True,), precision=1e-6), load=loaded)
    assert [run.pairs >= 6 for run in found.runs] == [True]
    assert any("the disk is gone" in note for note in found.notes)


@pytest.mark.parametrize("error", [RuntimeMissing, UsageError])
def test_what_the_user_asked_for_in_vain_is_raised(
    clock: Clock, tmp_path: Path, error: type[BnfuseError]
) -> None:
    a, b, _, _, _ = clockworks(clock, tmp_path, 0.5, 0.5)

    def refuses(path: Path, settings: RunSettings) -> Any:
        raise error("no such device")

    with pytest.raises(error):
        bench(a, b, load=refuses)


def test_a_model_that_takes_seconds_is_not_measured_again_and_again(clock: Clock, tmp_path: Path) -> None:
    """Beyond its time a setting gets three rounds of two calls of each model, once: 2.4 s."""
    a, b, loaded, log, _ = clockworks(clock, tmp_path, 200.0, 200.0)
    found = bench(a, b, request=steady(max_time=0.5), load=loaded)
    assert [run.pairs for run in found.runs] == [3, 3]
    assert log.count("+a") == log.count("+b") == 2  # once per setting
    assert clock.seconds == pytest.approx(log.count("a") * 0.2 + log.count("b") * 0.2)


@pytest.mark.parametrize("models", [1, 2])
def test_what_loading_takes_is_told_of_loads_that_happen_anyway(
    clock: Clock, tmp_path: Path, models: int
) -> None:
    """A takes 120 ms to load with optimisation on, B 30; what it takes without is not how users load.

    The first load of all takes 1.5 s more, and says nothing of A.
    """
    paths = files(tmp_path)
    cold = [1.5 if models == 2 else 0.0]

    def loaded(path: Path, settings: RunSettings) -> Clockwork:
        took_s = (0.12 if path == paths[0] else 0.03) if settings.optimise else 0.9
        took_s += cold.pop() if settings.optimise and cold else 0.0
        clock.work(1e3 * took_s)
        return Clockwork(clock, [], path.name, lambda: 1.0, load_s=took_s)

    found = bench(*paths[:models], request=steady(), load=loaded)
    (note,) = [note for note in found.notes if note.startswith("loading with optimisation on")]
    both = "took 120 ms before, 30 ms after (the shortest of 2 loads each"
    assert (both if models == 2 else "took 120 ms (one load,") in note
    assert "--cold" in note


def test_loads_of_which_one_was_the_first_of_its_process_are_not_compared(
    clock: Clock, tmp_path: Path
) -> None:
    """With a gain of ten times each model is loaded once, and the original first."""
    a, b, loaded, log, _ = clockworks(clock, tmp_path, 10.0, 1.0)
    found = bench(a, b, request=steady(), load=loaded)
    assert log.count("+a") == log.count("+b") == 2  # once per setting
    assert not [note for note in found.notes if note.startswith("loading")]


@pytest.mark.parametrize("runtime", ["clockwork 1", "sundial 2"])
def test_where_the_second_model_ran_is_told_where_it_is_elsewhere(
    clock: Clock, tmp_path: Path, runtime: str
) -> None:
    a, b = files(tmp_path)

    def loaded(path: Path, settings: RunSettings) -> Clockwork:
        ran = runtime if path == b else "clockwork 1"
        return Clockwork(clock, [], path.name, lambda: 1.0, runtime=ran, providers=(f"on {ran}",))

    told = [note for note in bench(a, b, request=steady(), load=loaded).notes if "ran in" in note]
    other = ["the first model ran in clockwork 1, the second in sundial 2 (on sundial 2)"]
    assert told == ([] if runtime == "clockwork 1" else other)


def test_a_load_of_seconds_is_a_plain_number(clock: Clock, tmp_path: Path) -> None:
    (path, _) = files(tmp_path)

    def loaded(path: Path, settings: RunSettings) -> Clockwork:
        return Clockwork(clock, [], path.name, lambda: 1.0, load_s=2.345)

    found = bench(path, request=steady(), load=loaded)
    (note,) = [note for note in found.notes if note.startswith("loading")]
    assert "took 2345 ms (" in note


def test_the_time_that_is_left_goes_to_who_is_least_certain() -> None:
    """After three seconds each; without six rounds there is no doubt to tell, and so no verdict."""
    rng = np.random.default_rng(0)

    def after(noise: float, count: int) -> float:
        medians = 1e6 * np.exp(noise * rng.standard_normal((4, count, 2)))
        rounds = Rounds(tuple(medians.reshape(4, -1)), medians)
        setting = Setting(RunSettings(), InputRequest(), Certainty(Wanted()), rounds=rounds, spent_s=3.0)
        setting.certainty.look(rounds, 0.2, 0.1)
        return setting.needs

    few, noisy, nearly, hopeless = after(0.02, 4), after(0.08, 40), after(0.03, 40), after(0.4, 40)
    assert few == hopeless == pytest.approx(30.0)
    assert 0.75 <= nearly < noisy < few
