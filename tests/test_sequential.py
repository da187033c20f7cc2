"""Looking again and again: the error of all looks together, by simulation and against published tables."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bnfuse.measure.sequential import ERROR, Looks, student
from bnfuse.measure.verdicts import Z95

PLANS = [
    pytest.param([6, 8, 11, 15, 20, 27, 36, 47, 62, 81, 106, 138, 180, 235, 250], id="often"),
    pytest.param([6, 20, 21, 60], id="seldom"),
    pytest.param([100, 101, 102, 103, 200], id="in a row"),
    pytest.param([40], id="once"),
]


def paths(looks: list[int], drift: float = 0.0) -> np.ndarray:
    """Standard scores (path, look) of sums of independent steps, each step counting for one round."""
    rng = np.random.default_rng(len(looks))
    steps = np.diff([0, *looks])
    sums = (np.sqrt(steps) * rng.standard_normal((40_000, len(looks)))).cumsum(axis=1)
    return np.asarray((sums + drift * np.array(looks)) / np.sqrt(looks))


def bounds(looks: list[int]) -> list[float]:
    """Of looks at rounds, whose number goes with the time."""
    series = Looks()
    return [series.bound(rounds, rounds / looks[-1]) for rounds in looks]


@pytest.mark.parametrize("looks", PLANS)
def test_all_looks_together_err_once_in_twenty(looks: list[int]) -> None:
    """40,000 paths of no drift: the standard deviation of what is counted is 0.11 %."""
    scores = np.abs(paths(looks))
    outside = float(np.mean((scores > bounds(looks)).any(axis=1)))
    naive = float(np.mean((scores > Z95).any(axis=1)))
    print(f"outside {outside:.4f}, of plain intervals {naive:.4f}")
    assert outside == pytest.approx(ERROR, abs=0.004)
    assert len(looks) == 1 or naive > 0.06  # what the bounds are for


def test_what_was_spent_by_any_time_follows_the_spending() -> None:
    looks = [20, 40, 60, 80, 100]
    scores = np.abs(paths(looks)) > bounds(looks)
    spent = [float(np.mean(scores[:, : at + 1].any(axis=1))) for at in range(5)]
    assert spent == pytest.approx([ERROR * (at / 100) ** 3 for at in looks], abs=0.0035)


def test_looking_costs_little_of_the_last_look_s_power() -> None:
    """Where a single look at the end finds 90 of 100, all looks together still find 88."""
    looks = [6, 8, 11, 15, 20, 27, 36, 47, 62, 81, 106, 138, 180, 235, 250]
    scores = paths(looks, drift=(Z95 + 1.281552) / np.sqrt(250))
    assert np.mean(np.abs(scores[:, -1]) > Z95) == pytest.approx(0.9, abs=0.01)
    assert np.mean((np.abs(scores) > bounds(looks)).any(axis=1)) > 0.875
    assert bounds(looks)[-1] < 2.1


def test_bounds_come_down_as_time_goes_by_and_never_below_a_single_look() -> None:
    found = bounds([6, 12, 25, 50, 100])
    assert all(later < sooner for sooner, later in pairwise(found))
    assert found[0] > 4.0 and found[-1] >= Z95
    assert bounds([40]) == [pytest.approx(Z95, abs=1e-3)]


def test_equally_spaced_looks_agree_with_the_recursion_done_by_simulation() -> None:
    """The bound of the second of two looks: the quantile among paths that were inside at the first."""
    rng = np.random.default_rng(5)
    first = rng.standard_normal(2_000_000)
    second = np.abs(first + rng.standard_normal(first.size)) / np.sqrt(2)
    one, other = bounds([50, 100])
    inside = np.abs(first) <= one
    left = ERROR * first.size - np.count_nonzero(~inside)
    by_hand = np.sort(second[inside])[-round(left)]
    assert other == pytest.approx(by_hand, abs=0.005)


def test_the_last_look_may_come_at_any_time_and_spends_what_is_left() -> None:
    looks = [10, 20, 30]
    series = Looks()
    found = [series.bound(rounds, rounds / 100) for rounds in looks]
    assert series.bound(30, 1.0) < found[-1]  # the same rounds, looked at for the last time
    found[-1] = series.bound(30, 1.0)
    outside = np.abs(paths(looks)) > found
    assert np.mean(outside.any(axis=1)) == pytest.approx(ERROR, abs=0.004)


def test_a_share_that_grows_takes_nothing_back() -> None:
    """Another setting left its time, so that less has gone by than was thought: spent is spent."""
    series = Looks()
    found = [series.bound(20, 0.8), series.bound(30, 0.4), series.bound(60, 1.0)]
    outside = np.abs(paths([20, 30, 60])) > found
    assert np.mean(outside.any(axis=1)) == pytest.approx(ERROR, abs=0.004)


# Student's t, two-sided, as tabulated: 95 %, 99.9 %
QUANTILES = [(4, 2.776, 8.610), (5, 2.571, 6.869), (11, 2.201, 4.437), (23, 2.069, 3.768)]


@pytest.mark.parametrize(("degrees", "at_95", "at_999"), QUANTILES)
def test_student_s_quantile(degrees: int, at_95: float, at_999: float) -> None:
    assert student(1.959964, degrees) == pytest.approx(at_95, rel=0.01)
    assert 1.0 <= student(3.290527, degrees) / at_999 < 1.05  # errs on the wide side


def test_a_bound_beyond_all_numbers_is_infinite() -> None:
    assert student(8.0, 2) > 1e6
    assert student(60.0, 2) == float("inf")
