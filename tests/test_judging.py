"""From rounds to figures and a verdict: the arithmetic, on times that are made up."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from bnfuse.measure.judging import (
    Rounds,
    percentiles_ms,
    quantiles_ms,
    summarise,
)
from bnfuse.measure.ratio import paired_ratio, paired_times
from bnfuse.measure.resampling import interval as interval_of
from bnfuse.measure.resampling import median_ms, median_over_blocks
from bnfuse.measure.verdicts import FASTER, SAME, SLOWER, TOO_FEW, Interval, detectable, verdict
from tests.report_samples import bench_run

VERDICTS = [
    ((1.02, 1.06), (0.99, 1.01), FASTER),
    ((1.008, 1.06), (0.9, 1.1), FASTER),  # a control that holds 1 says nothing against it, however wide
    ((1.02, 1.06), (1.03, 1.05), SAME),  # the control proves that this machine makes 3 % of nothing
    ((1.02, 1.06), (0.95, 0.97), SAME),  # the same, the other way round
    ((1.04, 1.06), (1.03, 1.05), FASTER),
    ((0.90, 0.97), (0.99, 1.01), SLOWER),
    ((0.90, 0.97), (0.93, 0.96), SAME),
    ((0.98, 1.03), (1.0, 1.0), SAME),
    ((1.001, 1.007), (1.0, 1.0), SAME),  # sure, and still nothing that a change of layout could not do
    ((0.993, 0.999), (1.0, 1.0), SAME),
    ((1.02, 1.06), None, FASTER),
    ((0.99, 1.06), None, SAME),
]


@pytest.mark.parametrize(("ci95", "control", "expected"), VERDICTS)
def test_verdict(ci95: Interval, control: Interval | None, expected: str) -> None:
    assert verdict(ci95, control) == expected


def test_percentiles_are_in_milliseconds() -> None:
    found = percentiles_ms(np.linspace(1e6, 101e6, 101))
    assert (found.p50, found.p90, found.p99, found.least) == (51.0, 91.0, 100.0, 1.0)


def test_quantiles_run_evenly_from_the_fastest_call_to_the_slowest() -> None:
    found = quantiles_ms(np.random.default_rng(0).permutation(np.linspace(1e6, 41e6, 81)))
    assert found == pytest.approx(tuple(range(1, 42)))


# --- the ratio -----------------------------------------------------------------------------------


def test_the_ratio_is_paired() -> None:
    """Drift that doubles both times leaves the ratio of every round, and so the interval, alone."""
    before = np.linspace(1e6, 2e6, 20)
    speedup, (low, high) = paired_ratio(before, before / 1.25, seed=0)
    assert (speedup, low, high) == pytest.approx((1.25, 1.25, 1.25), rel=1e-3)


def test_the_median_of_ratios_is_not_the_ratio_of_means() -> None:
    before, after = [1.0, 1.0, 9.0], [1.0, 1.0, 1.0]
    assert paired_ratio(np.array(before), np.array(after), 0)[0] == statistics.median([1.0, 1.0, 9.0])


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_the_ratio_is_the_one_that_most_pairs_agree_on(noise: float) -> None:
    """The sum over all pairs, written out and searched on a grid, two sessions against one."""
    rng = np.random.default_rng(3)
    before, after = (
        np.exp(noise * rng.standard_normal((2, 50, 2))),
        np.exp(noise * rng.standard_normal((1, 50, 2))),
    )
    fast, faster = (np.sort(np.log(times).ravel()) for times in (before, after))
    pairs = fast[:, None] - faster[None, :] + math.log(1.4)
    ranks = [(np.arange(size) + 0.5) / size for size in (fast.size, faster.size)]
    weights = (1 - ranks[0][:, None]) ** 2 * (1 - ranks[1][None, :]) ** 2
    grid = np.arange(math.log(1.2), math.log(1.6), 1e-4)
    agreeing = [float(np.sum(weights * np.exp(-((pairs - shift) ** 2) / (2 * 0.05**2)))) for shift in grid]
    assert (fast.size, faster.size) == (200, 100)
    found, (low, high) = paired_ratio(1.4 * before, after, 0)
    assert math.log(found) == pytest.approx(float(grid[np.argmax(agreeing)]), abs=2e-3)
    assert low < found < high


@pytest.mark.parametrize("factor", [1.0, 1.003, 7.3, 1000.0, 1 / 1000])
def test_any_ratio_of_constant_times_is_found_exactly(factor: float) -> None:
    before = np.full((2, 12, 2), 1e6)
    found, interval = paired_ratio(before, before / factor, 0)
    assert (found, *interval) == pytest.approx((factor, factor, factor))


def test_calls_that_had_to_wait_do_not_move_the_ratio() -> None:
    """A mixture, as on a machine that others use: 5 % slower, while of each model another share, up to a
    half, takes up to four times as long. Medians of whole samples stray by more than the estimate."""
    rng = np.random.default_rng(4)
    estimates, medians = [], []
    for seed in range(30):
        times = 1e6 * np.exp(0.02 * rng.standard_normal((2, 60, 2)))
        waited = rng.random(times.shape) < rng.uniform(0.2, 0.55, (2, 1, 1))
        times *= np.where(waited, rng.uniform(1.5, 4.0, times.shape), 1.0)
        times[1] *= 1.05
        estimates.append(math.log(paired_ratio(times[:1], times[1:], seed)[0] * 1.05))
        medians.append(math.log(np.median(times[0]) / np.median(times[1]) * 1.05))
    print("estimates", np.abs(estimates).max(), "medians", np.abs(medians).max())
    assert np.abs(estimates).max() < 0.02 < 0.1 < np.abs(medians).max()


@pytest.mark.parametrize(("rounds", "noise"), [(12, 0.1), (40, 0.1)])
def test_the_interval_covers_the_truth_about_95_times_in_100(rounds: int, noise: float) -> None:
    rng = np.random.default_rng(rounds)
    hits = 0
    for seed in range(200):
        visits = 1e6 * np.exp(noise * rng.standard_normal((4, rounds, 2)))
        low, high = paired_ratio(1.1 * visits[0::2], visits[1::2], seed)[1]
        hits += low <= 1.1 <= high
    assert 0.91 <= hits / 200 <= 0.99


def test_the_interval_takes_neighbours_that_are_disturbed_together_for_one() -> None:
    """Bursts of ten rounds that hit one model more than the other: by rounds, they would seem sure."""
    rng = np.random.default_rng(6)
    hits = 0
    for seed in range(200):
        bursts = np.repeat(0.1 * rng.standard_normal((2, 48, 1)), 10, axis=1)
        visits = 1e6 * np.exp(bursts + 0.02 * rng.standard_normal((2, 480, 2)))
        low, high = paired_ratio(visits[:1], visits[1:], seed)[1]
        hits += low <= 1.0 <= high
    assert hits / 200 >= 0.9


def test_the_median_over_blocks_agrees_with_resampling_by_hand() -> None:
    values = np.random.default_rng(7).standard_normal((24, 10))
    estimate, (low, high) = median_over_blocks(values, 0)
    picks = np.random.default_rng(8).integers(0, 24, (4000, 24))
    by_hand = np.percentile([np.median(values[pick]) for pick in picks], (2.5, 97.5))
    wider = 2.0687 / 1.96 * math.sqrt(24 / 23)  # Student's t with 23 degrees of freedom, from a table
    assert estimate == pytest.approx(float(np.median(values)))
    expected = [estimate + wider * (end - estimate) for end in by_hand]
    assert [low, high] == pytest.approx(expected, abs=0.03)


def test_the_interval_of_one_model_holds_its_median() -> None:
    rng = np.random.default_rng(9)
    hits = 0
    for seed in range(200):
        _, (low, high) = median_ms(2e6 * np.exp(0.1 * rng.standard_normal((1, 40, 2))), seed)
        hits += low <= 2.0 <= high
    assert 0.9 <= hits / 200 <= 0.99


def test_an_interval_holds_its_estimate_wherever_the_resamples_lie() -> None:
    for estimate in (0.0, 1.5, 9.0):
        low, high = interval_of(estimate, np.linspace(1.0, 2.0, 500), 12)
        assert low <= estimate <= high


# --- the times that the ratio is made of -------------------------------------------------------------


def visits(rng: np.random.Generator, waited: float) -> np.ndarray:
    """(model, round, visit) in ns: 2 ms and 1 ms, a share of which took up to four times as long."""
    times = 1e6 * np.exp(0.02 * rng.standard_normal((2, 60, 2))) * np.array([2.0, 1.0])[:, None, None]
    late = rng.random(times.shape) < waited * np.array([1.0, 0.3])[:, None, None]
    return np.asarray(times * np.where(late, rng.uniform(1.5, 4.0, times.shape), 1.0))


@pytest.mark.parametrize("waited", [0.0, 0.4, 0.7])
def test_the_ratio_is_that_of_the_two_times_and_each_lies_in_its_interval(waited: float) -> None:
    times = visits(np.random.default_rng(12), waited)
    (before, low_high), (after, ends) = paired_times(times[:1], times[1:], 0)
    assert before / after == pytest.approx(paired_ratio(times[:1], times[1:], 0)[0], rel=1e-9)
    assert low_high[0] < before < low_high[1] and ends[0] < after < ends[1]
    assert (before, after) == pytest.approx((2.0, 1.0), rel=0.02)  # what others made wait does not move them


def test_the_times_are_where_the_visits_of_both_lie_densest() -> None:
    """The density of both, the second's moved by the ratio, written out and searched on a grid."""
    times = visits(np.random.default_rng(13), 0.5)
    ratio = paired_ratio(times[:1], times[1:], 0)[0]
    grid = np.arange(math.log(1.5e6), math.log(3e6), 1e-4)
    density = np.zeros_like(grid)
    for logs in (np.log(times[0].ravel()), np.log(times[1].ravel() * ratio)):
        weights = (1 - (np.arange(logs.size) + 0.5) / logs.size) ** 2
        gaps = grid[:, None] - np.sort(logs)[None, :]
        density += np.exp(-(gaps**2) / (2 * 0.05**2)) @ (weights / weights.sum())
    (before, _), _ = paired_times(times[:1], times[1:], 0)
    assert math.log(1e6 * before) == pytest.approx(float(grid[np.argmax(density)]), abs=2e-3)


@pytest.mark.parametrize("factor", [1.0, 7.3, 1000.0, 1 / 1000])
def test_constant_times_are_themselves(factor: float) -> None:
    before = np.full((2, 12, 2), 1e6)
    (one, ends), (other, _) = paired_times(before, before / factor, 0)
    assert (one, *ends, other) == pytest.approx((1.0, 1.0, 1.0, 1 / factor))


WIDTHS = [
    ((1.2, 1.5), FASTER, True),
    ((1.0, 1.51), SAME, False),
    ((1.2, 1.3), TOO_FEW, False),
    (None, "", False),
]


@pytest.mark.parametrize(("ci95", "said", "told"), WIDTHS)
def test_a_ratio_is_told_with_a_verdict_and_an_interval_that_means_one(
    ci95: Interval | None, said: str, told: bool
) -> None:
    assert bench_run("s", ci95=ci95, verdict=said).told is told


# --- the verdict of a run ------------------------------------------------------------------------


def made_up(rng: np.random.Generator, slowdown: float, noise: float, rounds: int = 40) -> Rounds:
    visits = 1e6 * np.exp(noise * rng.standard_normal((4, rounds, 2)))
    visits[1::2] *= slowdown
    return Rounds(tuple(visits.reshape(4, -1)), visits)


@pytest.mark.slow
def test_equal_and_slowed_noise_get_the_right_verdict() -> None:
    rng = np.random.default_rng(1)
    said = {
        slowdown: [summarise("", 1, made_up(rng, slowdown, 0.05), seed).verdict for seed in range(40)]
        for slowdown in (1.0, 1.05, 1 / 1.05)
    }
    assert said[1.0].count(SAME) >= 38
    assert said[1.05].count(SLOWER) >= 38
    assert said[1 / 1.05].count(FASTER) >= 38


def test_few_rounds_give_figures_but_no_verdict() -> None:
    medians = np.array([[2e6] * 3, [1e6] * 3])
    run = summarise("optimisation on", 4, Rounds(tuple(medians), medians), 0, threads=3)
    assert (run.speedup, run.verdict, run.pairs, run.batch, run.threads) == (2.0, TOO_FEW, 3, 4, 3)
    assert (run.control, run.detectable) == (None, None)


def test_a_single_round_has_no_interval() -> None:
    medians = np.array([[2e6], [1e6], [2e6]])
    run = summarise("cold start", 1, Rounds(tuple(medians), medians), 0)
    assert (run.speedup, run.ci95, run.control, run.verdict) == (2.0, None, None, TOO_FEW)


def test_the_figures_of_a_run_take_both_copies_together() -> None:
    medians = np.array([[2e6] * 8, [1e6] * 8, [4e6] * 8, [1e6] * 8])
    run = summarise("s", 6, Rounds(tuple(medians), medians), 0)
    assert run.after_ms is not None
    assert (run.before_ms.p50, run.before_ms.least, run.after_ms.p50) == (3.0, 2.0, 1.0)
    assert (run.before_items_per_s, run.after_items_per_s) == (2000.0, 6000.0)
    assert (len(run.before_quantiles_ms), len(run.after_quantiles_ms)) == (41, 41)
    assert (run.before_quantiles_ms[0], run.before_quantiles_ms[-1]) == (2.0, 4.0)
    assert run.control is not None
    assert run.control == pytest.approx((0.5, 0.5))  # the copies differ by a factor of two
    assert run.verdict == SAME  # and so a factor of about three is nothing to believe in


def test_one_model_alone_has_an_interval_of_its_own() -> None:
    medians = np.full((1, 8, 2), 4e6)
    run = summarise("s", 2, Rounds((medians.ravel(),), medians), 0)
    assert run.before_ci95_ms is not None
    assert run.before_ci95_ms == pytest.approx((4.0, 4.0))
    assert run.before_typical is not None and run.before_typical.ms == pytest.approx(4.0)
    assert run.before_typical.ci95_ms == run.before_ci95_ms
    assert (run.before_items_per_s, run.after_items_per_s) == (500.0, None)
    assert (run.speedup, run.after_ms, run.verdict, run.after_quantiles_ms) == (None, None, "", ())


@pytest.mark.slow
def test_what_is_called_detectable_is_found_in_nine_of_ten_cases() -> None:
    """The truth is put where ``detectable`` says, judged from equal models with the same noise."""
    rng = np.random.default_rng(11)
    least = []
    for seed in range(30):
        run = summarise("", 1, made_up(rng, 1.0, 0.08), seed)
        assert run.detectable is not None
        least.append(run.detectable)
    change = 1 + float(np.median(least))
    found = [summarise("", 1, made_up(rng, change, 0.08), seed).verdict for seed in range(100)]
    assert 0.8 <= found.count(SLOWER) / 100 <= 0.97


def test_a_wide_interval_detects_large_changes_only() -> None:
    assert detectable((0.999, 1.001), None) < 0.01
    assert detectable((0.9, 1.1), None) > 0.1
    assert detectable((0.999, 1.001), (1.1, 1.2)) > 0.1  # equal models differ by 10 % here


# --- looked at again and again ------------------------------------------------------------------


def test_an_interval_of_more_standard_errors_is_wider_about_the_same_ratio() -> None:
    """24 blocks and so 23 degrees of freedom: Student's quantiles are 2.0687 and, for 3 errors, 3.3656."""
    rounds = made_up(np.random.default_rng(12), 1.05, 0.05, rounds=48)
    plain, wide = summarise("", 1, rounds, 0), summarise("", 1, rounds, 0, bound=3.0)
    assert plain.ci95 and wide.ci95 and wide.speedup and plain.speedup == wide.speedup
    for end, farther in zip(plain.ci95, wide.ci95, strict=True):
        factor = math.log(farther / wide.speedup) / math.log(end / wide.speedup)
        assert factor == pytest.approx(3.3656 / 2.0687, rel=0.01)
    assert (wide.control, wide.before_typical) == (plain.control, plain.before_typical)


def test_rounds_follow_each_other_as_far_as_both_have_the_models() -> None:
    first, second = made_up(np.random.default_rng(0), 1, 0.1, 6), made_up(np.random.default_rng(1), 1, 0.1, 4)
    both = first.followed_by(Rounds(second.calls[:3], second.medians[:3]))
    assert (both.medians.shape, len(both), [len(c) for c in both.calls]) == ((3, 10, 2), 10, [20, 20, 20])
    assert np.array_equal(both.medians[:, :6], first.medians[:3])
    assert np.array_equal(both.calls[2], np.concatenate([first.calls[2], second.calls[2]]))


def test_rounds_of_two_visits_and_of_one_follow_each_other_by_visits() -> None:
    two, one = made_up(np.random.default_rng(0), 1, 0.1, 6), made_up(np.random.default_rng(1), 1, 0.1, 4)
    one = Rounds(one.calls, one.medians[:, :, :1])
    both = two.followed_by(one)
    assert both.medians.shape == (4, 16, 1)
    assert np.array_equal(both.medians[1, :, 0], [*two.medians[1].ravel(), *one.medians[1].ravel()])
