"""``bench``: the arithmetic of its verdicts, and that it finds what is there and nothing else."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse import bench as bench_function
from bnfuse import machine
from bnfuse.bench import COLD, OFF, ON, BenchRequest, bench
from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import Runner, RunSettings, TensorSpec
from bnfuse.formats.onnx.run import load
from bnfuse.timing import (
    FASTER,
    SAME,
    SLOWER,
    TOO_FEW,
    Rounds,
    paired_ratio,
    percentiles_ms,
    summarise,
    verdict,
)
from tests.tiny_models import layer, net, save

Loaded = Callable[[Path, RunSettings], Any]


# --- arithmetic --------------------------------------------------------------------------------

VERDICTS = [
    ((1.02, 1.06), (0.99, 1.01), FASTER),
    ((1.005, 1.06), (0.99, 1.01), SAME),  # the machine calls 1 % a difference of nothing
    ((0.90, 0.97), (0.99, 1.01), SLOWER),
    ((0.90, 0.97), (0.95, 1.00), SAME),  # the control strays by 5 %, to either side
    ((0.98, 1.03), (1.0, 1.0), SAME),
    ((1.001, 1.003), (1.0, 1.0), SAME),  # sure, and still nothing that a change of layout could not do
    ((0.997, 0.999), (1.0, 1.0), SAME),
    ((1.02, 1.06), None, FASTER),
    ((0.99, 1.06), None, SAME),
]


@pytest.mark.parametrize(("ci95", "control", "expected"), VERDICTS)
def test_verdict(ci95: tuple[float, float], control: tuple[float, float] | None, expected: str) -> None:
    assert verdict(ci95, control) == expected


def test_percentiles_are_in_milliseconds() -> None:
    found = percentiles_ms(np.linspace(1e6, 101e6, 101))
    assert (found.p50, found.p90, found.p99) == (51.0, 91.0, 100.0)


def test_the_ratio_is_paired() -> None:
    """Drift that doubles both times leaves the ratio of every round, and so the interval, alone."""
    before = np.linspace(1e6, 2e6, 30)
    speedup, (low, high) = paired_ratio(before, before / 1.25, seed=0)
    assert speedup == pytest.approx(1.25)
    assert low == pytest.approx(1.25)
    assert high == pytest.approx(1.25)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(300):
        before, after = (1e6 * np.exp(0.1 * rng.standard_normal(40)) for _ in range(2))
        low, high = paired_ratio(1.1 * before, after, seed)[1]
        hits += low <= 1.1 <= high
    assert 0.91 <= hits / 300 <= 0.99


def test_equal_and_slowed_noise_get_the_right_verdict() -> None:
    rng = np.random.default_rng(1)
    found: dict[float, list[str]] = {1.0: [], 1.2: []}
    for slowdown, verdicts in found.items():
        for seed in range(100):
            medians = 1e6 * np.exp(0.05 * rng.standard_normal((3, 40)))
            medians[1] *= slowdown
            verdicts.append(summarise(OFF, 1, Rounds(tuple(medians), medians), seed).verdict)
    assert found[1.0].count(SAME) >= 95
    assert found[1.2].count(SLOWER) >= 95


def test_few_rounds_give_figures_but_no_verdict() -> None:
    medians = np.array([[2e6] * 3, [1e6] * 3])
    run = summarise(ON, 4, Rounds(tuple(medians), medians), 0)
    assert (run.speedup, run.verdict, run.pairs, run.batch) == (2.0, TOO_FEW, 3, 4)


# --- with runners whose time is known ----------------------------------------------------------


@dataclass
class Clockwork:
    """A Runner whose calls take a known time, actively waited for."""

    milliseconds: float
    log: list[str]
    name: str
    shape: tuple[int | str | None, ...] = ("N", 4)
    providers: Sequence[str] = ("Clockwork",)
    runtime: str = "clockwork 1"
    outputs: Sequence[TensorSpec] = ()
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inputs: Sequence[TensorSpec] = (TensorSpec("x", "float32", self.shape),)

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        end = time.perf_counter_ns() + int(self.milliseconds * 1e6)
        self.log.append(self.name)
        self.batches.append(len(feeds["x"]))
        while time.perf_counter_ns() < end:
            pass
        return {}

    def time(self, feeds: Any, calls: int) -> list[int]:
        times = []
        for _ in range(calls):
            begin = time.perf_counter_ns()
            self.run(feeds)
            times.append(time.perf_counter_ns() - begin)
        return times

    def __enter__(self) -> Runner:
        self.log.append(f"+{self.name}")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append(f"-{self.name}")


def clockworks(
    tmp_path: Path, before_ms: float, after_ms: float
) -> tuple[Path, Path, Loaded, list[str], list[RunSettings]]:
    log: list[str] = []
    seen: list[RunSettings] = []
    paths = tmp_path / "a", tmp_path / "b"
    for path in paths:
        path.write_bytes(b"")
    times = dict(zip(paths, (before_ms, after_ms), strict=True))

    def load_clockwork(path: Path, settings: RunSettings) -> Clockwork:
        seen.append(settings)
        return Clockwork(times[path], log, path.name)

    return *paths, load_clockwork, log, seen


CHANGES = [(0.5, 1.0, SLOWER, 0.5), (1.0, 0.5, FASTER, 2.0)]


@pytest.mark.parametrize(("before_ms", "after_ms", "expected", "speedup"), CHANGES)
def test_a_real_change_is_found(
    tmp_path: Path, before_ms: float, after_ms: float, expected: str, speedup: float
) -> None:
    a, b, loaded, log, seen = clockworks(tmp_path, before_ms, after_ms)
    found = bench(a, b, request=BenchRequest(budget_s=1.5, threads=1), load=loaded)
    assert [run.setting for run in found.runs] == [OFF, ON, COLD]
    for run in found.runs[:2]:
        assert run.verdict == expected
        assert run.ci95 is not None
        assert run.speedup is not None
        assert run.speedup == pytest.approx(speedup, rel=0.15)
        assert run.ci95[0] <= run.speedup <= run.ci95[1]
        assert run.control is not None
        assert run.before_ms.p50 == pytest.approx(before_ms, rel=0.3)
        assert run.before_ms.p50 <= run.before_ms.p90 <= run.before_ms.p99
        assert run.after_ms is not None
        assert run.after_ms.p50 == pytest.approx(after_ms, rel=0.3)
    assert (found.device, found.threads, found.providers) == ("cpu", 1, ("Clockwork",))
    assert {(s.optimise, s.device, s.threads) for s in seen} == {(False, "cpu", 1), (True, "cpu", 1)}
    assert log.count("+a") == log.count("-a")
    assert log.count("+b") == log.count("-b")


def test_the_same_speed_is_no_significant_change(tmp_path: Path) -> None:
    a, b, loaded, _, _ = clockworks(tmp_path, 0.5, 0.5)
    request = BenchRequest(budget_s=1.0, optimise=(False,), cold_start=False, threads=1)
    (run,) = bench(a, b, request=request, load=loaded).runs
    assert run.verdict == SAME
    assert run.speedup == pytest.approx(1.0, abs=0.05)


def test_visits_go_forth_and_back(tmp_path: Path) -> None:
    """A C B B C A: whoever is first in one half of a round is last in the other."""
    a, b, loaded, log, _ = clockworks(tmp_path, 5.0, 5.0)  # beyond a visit's 4 ms: 1 call kept, 1 dropped
    request = BenchRequest(budget_s=0.5, optimise=(False,), cold_start=False)
    bench(a, b, request=request, load=loaded)
    calls = [entry for entry in log if entry in "ab"]
    timed = "".join(calls)
    assert "aaaabbbbaaaa" * 3 in timed  # per round: A, C (both of file a), B, B, C, A, two calls each


def test_the_clock_is_the_runners_own(tmp_path: Path) -> None:
    """What it costs to reach the model is no part of its latency: here, 20 ms of waiting per question."""
    a, b, _, log, _ = clockworks(tmp_path, 0.0, 0.0)

    class FarAway(Clockwork):
        def time(self, feeds: Any, calls: int) -> list[int]:
            time.sleep(0.02)
            return super().time(feeds, calls)

    request = BenchRequest(budget_s=0.8, optimise=(False,), cold_start=False)
    (run,) = bench(a, b, request=request, load=lambda path, _: FarAway(1.0, log, path.name)).runs
    assert run.before_ms.p50 == pytest.approx(1.0, rel=0.3)


def test_the_budget_bounds_everything(tmp_path: Path) -> None:
    a, b, loaded, _, _ = clockworks(tmp_path, 2.0, 2.0)
    start = time.perf_counter()
    bench(a, b, request=BenchRequest(budget_s=1.0), load=loaded)
    assert time.perf_counter() - start < 2.5


def test_batches_are_settings_of_their_own(tmp_path: Path) -> None:
    a, b, loaded, _, _ = clockworks(tmp_path, 0.2, 0.2)
    request = BenchRequest(batches=(1, 8), budget_s=0.6)
    found = bench(a, b, request=request, load=loaded)
    assert [(run.setting, run.batch) for run in found.runs] == [
        (OFF, 1),
        (ON, 1),
        (OFF, 8),
        (ON, 8),
        (COLD, 1),
    ]


def test_one_model_alone_has_no_ratio(tmp_path: Path) -> None:
    a, _, loaded, log, _ = clockworks(tmp_path, 0.5, 0.5)
    found = bench(a, request=BenchRequest(budget_s=0.5), load=loaded)
    assert [run.setting for run in found.runs] == [OFF, ON, COLD]
    for run in found.runs:
        assert (run.after_ms, run.speedup, run.ci95, run.control, run.verdict) == (None, None, None, None, "")
    assert "b" not in log


def test_a_noisy_machine_is_told(tmp_path: Path) -> None:
    """Calls whose time wanders by a factor of two, at random."""
    a, b, _, log, _ = clockworks(tmp_path, 0.0, 0.0)
    rng = np.random.default_rng(0)

    class Noisy(Clockwork):
        def run(self, feeds: Any) -> dict[str, np.ndarray]:
            self.milliseconds = float(rng.choice([5.0, 10.0]))
            return super().run(feeds)

    request = BenchRequest(budget_s=1.0, optimise=(False,), cold_start=False)
    found = bench(a, b, request=request, load=lambda path, settings: Noisy(1.0, log, path.name))
    assert any("noisy" in note for note in found.notes)


# --- memory, errors, devices -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fits", "settings", "note"),
    [(2, 2, "no control"), (1, 2, "one after the other"), (0, 0, "does not fit")],
)
def test_short_memory_is_told_and_never_exceeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int, settings: int, note: str
) -> None:
    import sys

    module = sys.modules["bnfuse.bench"]
    gigabyte = 1 << 30
    monkeypatch.setattr(module, "available_memory_bytes", lambda: int(2.5 * gigabyte * fits + gigabyte))
    a, b, loaded, log, _ = clockworks(tmp_path, 1.0, 0.5)
    request = BenchRequest(budget_s=0.8, cold_start=False, model_bytes=gigabyte)
    found = bench(a, b, request=request, load=loaded)
    assert len(found.runs) == settings
    assert any(note in text for text in found.notes)
    open_now = most = 0
    for entry in log:
        open_now += entry.startswith("+") - entry.startswith("-")
        most = max(most, open_now)
    assert most == fits
    for run in found.runs:
        assert run.control is None
        assert run.speedup == pytest.approx(2.0, rel=0.3)


def test_a_setting_that_fails_becomes_a_note(tmp_path: Path) -> None:
    a, b, loaded, _, _ = clockworks(tmp_path, 0.5, 0.5)

    def only_plain(path: Path, settings: RunSettings) -> Any:
        if settings.optimise:
            raise UnreadableModel("the optimiser gave up")
        return loaded(path, settings)

    found = bench(a, b, request=BenchRequest(budget_s=0.5), load=only_plain)
    assert [run.setting for run in found.runs] == [OFF]
    assert any(ON in note and "gave up" in note for note in found.notes)


@pytest.mark.parametrize("error", [RuntimeMissing, UsageError])
def test_what_the_user_asked_for_in_vain_is_raised(tmp_path: Path, error: type[BnfuseError]) -> None:
    a, b, _, _, _ = clockworks(tmp_path, 0.5, 0.5)

    def refuses(path: Path, settings: RunSettings) -> Any:
        raise error("no such device")

    with pytest.raises(error):
        bench(a, b, load=refuses)


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match="none"):
        bench(tmp_path / "none", load=load)


# --- with onnxruntime --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_of_four_times_the_work_is_slower(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [layer(rng, 24, 3 if i == 0 else 24, 3, 3) for i in range(8)]
    small = save(net(layers[:2], folded=True, image=(48, 40)), tmp_path / "small.onnx")
    large = save(net(layers, folded=True, image=(48, 40)), tmp_path / "large.onnx")
    found = bench(small, large, request=BenchRequest(budget_s=2.0, threads=1), load=load)
    assert [run.verdict for run in found.runs[:2]] == [SLOWER, SLOWER]
    assert found.providers == ("CPUExecutionProvider",)


@pytest.mark.slow
def test_a_model_against_itself_is_no_significant_change(tmp_path: Path) -> None:
    """An interval of 95 % may miss: one run in six may be wrong on a machine that others use too."""
    rng = np.random.default_rng(0)
    layers = [layer(rng, 24, 3 if i == 0 else 24, 3, 3) for i in range(3)]
    model = save(net(layers, folded=True, image=(48, 40)), tmp_path / "m.onnx")
    request = BenchRequest(budget_s=1.6, threads=1, cold_start=False)
    verdicts = [run.verdict for _ in range(3) for run in bench(model, model, request=request, load=load).runs]
    assert len(verdicts) == 6
    assert verdicts.count(SAME) >= 5


def test_the_hint_about_onnxruntimes_own_folding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [layer(rng, 4, 3, 3, 3)]
    paths = [save(net(layers, folded=f), tmp_path / f"{f}.onnx") for f in (False, True)]
    found = bench(*paths, request=BenchRequest(budget_s=0.5), load=load)
    steady = next(run for run in found.runs if run.setting == ON)
    assert any("folds Conv+BatchNormalization itself" in note for note in found.notes) == (
        steady.verdict != FASTER
    )


def test_the_public_function_is_this_one() -> None:
    assert bench_function is bench


# --- the machine -------------------------------------------------------------------------------


def _fake_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)


MEMORY = [
    ({"meminfo": "MemTotal: 9 kB\nMemAvailable:   2048 kB\n"}, 2048 * 1024),
    ({"meminfo": "MemAvailable: 2048 kB\n", "memory.max": "max\n", "memory.current": "5"}, 2048 * 1024),
    ({"meminfo": "MemAvailable: 2048 kB\n", "memory.max": "1000\n", "memory.current": "400"}, 600),
    ({"memory.max": "1000", "memory.current": "400", "memory.stat": "anon 1\ninactive_file 300\n"}, 900),
    ({}, None),
]


@pytest.mark.parametrize(("files", "expected"), MEMORY)
def test_available_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    _fake_machine(tmp_path, monkeypatch, files)
    assert machine.available_memory_bytes() == expected


QUOTAS = [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("", 4)]


@pytest.mark.parametrize(("quota", "expected"), QUOTAS)
def test_usable_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int) -> None:
    _fake_machine(tmp_path, monkeypatch, {"cpu.max": quota})
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert machine.usable_cpus() == expected


def test_the_median_of_ratios_is_not_the_ratio_of_means() -> None:
    before, after = [1.0, 1.0, 9.0], [1.0, 1.0, 1.0]
    assert paired_ratio(np.array(before), np.array(after), 0)[0] == statistics.median([1.0, 1.0, 9.0])
