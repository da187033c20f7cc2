"""Cold start in fresh processes: what the figures say, in what order models take turns, when it stops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import RunSettings
from bnfuse.measure.cold import ColdStarts, StartLimits, chance, cold_starts, judged
from bnfuse.measure.judging import Rounds
from bnfuse.measure.verdicts import FASTER, SAME, SLOWER, TOO_FEW
from bnfuse.results import ColdStart
from tests.clockwork import Clock, starts


def by_hand(before: Sequence[float], after: Sequence[float]) -> float:
    """The sign-flip test written out."""
    differences = [math.log(b / a) for b, a in zip(before, after, strict=True)]
    seen = abs(sum(differences))
    ways = list(itertools.product((-1, 1), repeat=len(differences)))
    extreme = sum(
        abs(sum(s * d for s, d in zip(way, differences, strict=True))) >= seen - 1e-9 for way in ways
    )
    return extreme / len(ways)


def test_chance_is_the_share_of_sign_flips_that_go_as_far() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 6, 9):
        before, after = np.exp(rng.standard_normal((2, count)))
        assert chance(before, after, seed=0) == pytest.approx(by_hand(before, after))
    assert chance(np.full(6, 3.0), np.ones(6), seed=0) == 2 / 64  # all one way: it and its mirror image
    assert chance(np.ones(6), np.ones(6), seed=0) == 1.0
    assert chance(np.full(15, 3.0), np.ones(15), seed=0) < 0.002  # 2/2^15, from 4096 random flips


def starts_of(before: Sequence[float], after: Sequence[float]) -> ColdStarts:
    times = np.array([before, after]) * 1e6
    model = ColdStart(1.0, 2.0, 3.0, 4.0, 10)
    return ColdStarts(Rounds(tuple(times), times), (model, model), 1.0)


JUDGED = [
    ([10, 11, 10, 12, 10, 11], [5, 5, 6, 5, 5, 6], FASTER),
    ([5, 5, 6, 5, 5, 6], [10, 11, 10, 12, 10, 11], SLOWER),
    ([10, 11, 10, 12, 10, 11], [10, 11, 10, 12, 10, 11], SAME),
    ([10, 11, 10, 12, 10], [5, 5, 6, 5, 5], TOO_FEW),
]


@pytest.mark.parametrize(("before", "after", "expected"), JUDGED)
def test_a_verdict_needs_six_rounds_and_no_chance(
    before: list[float], after: list[float], expected: str
) -> None:
    run = judged("cold start", 3, starts_of(before, after), 0)
    assert run.verdict == expected
    assert (run.batch, run.pairs) == (3, len(before))
    assert run.before_cold == run.after_cold == ColdStart(1.0, 2.0, 3.0, 4.0, 10)


def test_one_round_has_no_ratio() -> None:
    run = judged("cold start", 1, starts_of([20.0], [10.0]), 0)
    assert (run.verdict, run.speedup, run.ci95) == (TOO_FEW, None, None)
    assert run.after_ms is not None and run.after_cold is not None


@pytest.mark.slow
def test_equal_models_are_called_equal_on_a_noisy_machine() -> None:
    """Starts take 1 or, three times in ten, 1.5: what another program on the same processors does to them."""
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(200):
        times = np.exp(0.05 * rng.standard_normal((2, 8))) * np.where(rng.random((2, 8)) < 0.3, 1.5, 1.0)
        wrong += judged("s", 1, starts_of(times[0].tolist(), times[1].tolist()), 0).verdict != SAME
    assert wrong <= 10  # 5 %


@pytest.fixture
def fake_starts(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[float]]:
    """The log of starts, and how many seconds each of them is to take."""
    times: list[float] = []
    log = starts(clock, monkeypatch, lambda _: times[min(len(log), len(times)) - 1])
    return log, times


def begin(models: int, share_s: float, verdict_s: float = 0.0, start_s: float = 100.0) -> ColdStarts:
    paths = [Path("a"), Path("b")][:models]
    return cold_starts(paths, RunSettings(), [{}] * models, StartLimits(share_s, verdict_s, start_s))


def test_models_take_turns(fake_starts: tuple[list[str], list[float]]) -> None:
    log, times = fake_starts
    times.append(0.5)
    found = begin(2, 6.0)
    assert "".join(log) == "abba" * 3
    assert found.rounds.medians.shape == (2, 6)
    assert found.round_s == 1.0
    first = found.models[0]
    assert (first.runtime_ms, first.load_ms, first.first_run_ms) == (1.0, 2.0, 3.0)
    assert first.start_ms == pytest.approx(500 - 6)
    assert first.peak_bytes == 6_500_000  # the median of starts 1, 4, 5, 8, 9, 12


STOPS = [  # seconds a start takes, share, up to how much for a verdict → starts
    (0.5, 20.0, 20.0, 40),
    (0.5, 4.0, 8.0, 12),
    (0.5, 4.0, 5.0, 8),
    (0.5, 2.0, 6.0, 12),
    (3.0, 4.0, 8.0, 2),
    (30.0, 4.0, 8.0, 2),
]


@pytest.mark.parametrize(("each_s", "share_s", "verdict_s", "count"), STOPS)
def test_time_is_the_bound(
    fake_starts: tuple[list[str], list[float]], each_s: float, share_s: float, verdict_s: float, count: int
) -> None:
    log, times = fake_starts
    times.append(each_s)
    begin(2, share_s, verdict_s)
    assert len(log) == count


def test_no_start_is_made_where_the_time_does_not_suffice(
    fake_starts: tuple[list[str], list[float]],
) -> None:
    log, times = fake_starts
    times.append(30.0)
    with pytest.raises(BnfuseError, match="too short"):
        begin(2, 0.1)
    assert log == []
    with pytest.raises(BnfuseError, match="one start takes 30 s"):
        begin(2, 4.0, start_s=20.0)
    assert log == ["a"]
    begin(1, 4.0, start_s=20.0)  # alone, its figure is worth having
    assert log == ["a", "a"]
