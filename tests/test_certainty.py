"""When a verdict is certain: each kind of ending by its equation, and how often endings are wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from bnfuse.measure.certainty import Certainty, Wanted
from bnfuse.measure.judging import Rounds, summarise
from bnfuse.measure.verdicts import FASTER, LAYOUT, SAME, SLOWER


def made_up(
    slowdown: float, noise: float, rounds: int = 60, *, seed: int = 12, layout: float = 0.0, sessions: int = 4
) -> Rounds:
    """Visits of A, B, A and B; ``layout`` is how far sessions of one model lie apart, as logarithms."""
    rng = np.random.default_rng(seed)
    visits = 1e6 * np.exp(noise * rng.standard_normal((sessions, rounds, 2)))
    visits *= np.exp(layout * rng.standard_normal((sessions, 1, 1)))
    visits[1::2] *= slowdown
    return Rounds(tuple(visits.reshape(sessions, -1)), visits)


def first(rounds: Rounds, count: int) -> Rounds:
    return Rounds(tuple(calls[: 2 * count] for calls in rounds.calls), rounds.medians[:, :count])


def looks(rounds: Rounds) -> Iterator[tuple[int, Rounds]]:
    """As ``interleave`` looks: every third more."""
    count = 6
    while count < len(rounds):
        yield count, first(rounds, count)
        count = int(count * 1.3) + 1


def ended(rounds: Rounds, wanted: Wanted = Wanted()) -> tuple[str, int, tuple[float, float]]:  # noqa: B008
    """The verdict, after how many rounds, and the interval; the time goes by with the rounds."""
    certainty = Certainty(wanted)
    for count, part in looks(rounds):
        if certainty.look(part, count / len(rounds), count / len(rounds)):
            break
    else:
        count, part = len(rounds), rounds
    run = summarise("", 1, part, 0, bound=certainty.bound(part))
    assert run.ci95 is not None
    return run.verdict, count, run.ci95


ENDINGS = [
    pytest.param(1.5, 0.05, Wanted(), True, id="a large gain, roughly known"),
    pytest.param(1.5, 0.3, Wanted(), False, id="a large gain, hardly known"),
    pytest.param(1.05, 0.03, Wanted(), True, id="a small gain, known to half of it"),
    pytest.param(1.05, 0.1, Wanted(), False, id="a small gain, not known to half of it"),
    pytest.param(1.5, 0.05, Wanted(0.001), False, id="a large gain, to be known to five times 0.1 %"),
    pytest.param(1.0, 0.02, Wanted(), True, id="a change of 2 % is ruled out"),
    pytest.param(1.0, 0.05, Wanted(0.003), False, id="one of 0.6 % is not"),
    pytest.param(1.02, 0.02, Wanted(), False, id="a change that may be more or less than 2 %"),
    pytest.param(1.004, 0.002, Wanted(), True, id="sure, and yet no more than layout"),
    pytest.param(1.05, 0.03, Wanted(gate=0.05), False, id="shown, but a gate of 5 % is undecided"),
    pytest.param(1.05, 0.03, Wanted(gate=0.01), True, id="shown to be beyond a gate of 1 %"),
    pytest.param(0.95, 0.03, Wanted(gate=0.05), True, id="faster, whatever the gate"),
    pytest.param(0.5, 0.1, Wanted(), True, id="much faster, roughly known"),
    pytest.param(0.5, 0.1, Wanted(gate=0.01), False, id="a gate of 1 % asks how much"),
    pytest.param(1.0, 0.04, Wanted(), True, id="a change of 2 %, hardly"),
    pytest.param(1.0, 0.04, Wanted(gate=0.012), False, id="a gate asks for less than 2 %"),
]


@pytest.mark.parametrize(("slowdown", "noise", "wanted", "expected"), ENDINGS)
def test_what_is_certain(slowdown: float, noise: float, wanted: Wanted, expected: bool) -> None:
    """Early, from 60 rounds, whose interval is about ±0.25 times the noise."""
    assert Certainty(wanted).look(made_up(slowdown, noise), 0.05, 0.05) is expected


PLAIN = [
    pytest.param(1.5, 0.03, Wanted(), True, id="half as slow again"),
    pytest.param(0.7, 0.03, Wanted(), True, id="much faster"),
    pytest.param(1.5, 0.3, Wanted(), False, id="hardly known"),
    pytest.param(1.06, 0.01, Wanted(), False, id="perhaps not beyond 5 %"),
    pytest.param(1.04, 1e-6, Wanted(), False, id="surely within 5 %"),
    pytest.param(1.0, 0.01, Wanted(), False, id="nothing"),
    pytest.param(1.2, 0.02, Wanted(gate=0.2), False, id="a gate that is undecided"),
]


@pytest.mark.parametrize(("slowdown", "noise", "wanted", "expected"), PLAIN)
def test_what_one_copy_of_each_shows(slowdown: float, noise: float, wanted: Wanted, expected: bool) -> None:
    certainty = Certainty(wanted)
    rounds = made_up(slowdown, noise, 8, sessions=2)
    assert (certainty.plainly(rounds), certainty.reached) == (expected, expected)
    assert not Certainty(wanted).plainly(first(rounds, 5))  # too few


def test_one_copy_of_each_shows_no_gain_that_is_none() -> None:
    """Equal models with much noise or little, and sessions that lie 1 % apart, twice what was measured.

    Most looks are where a mistake would show: at the narrowest intervals, which layout alone moves.
    """
    cases = [
        (0.005, 11, 150),
        *((noise, rounds, 12) for noise in (0.005, 0.05, 0.5) for rounds in (6, 8, 11)),
    ]
    shown = sum(
        Certainty(Wanted()).plainly(made_up(1.0, noise, rounds, seed=seed, layout=0.01, sessions=2))
        for noise, rounds, seeds in cases
        for seed in range(seeds)
    )
    assert shown == 0


def test_a_small_gain_need_not_be_known_better_than_was_asked_for() -> None:
    """6.5 ± 2.6 %, in the middle of the time."""
    rounds = made_up(1.065, 0.1)
    assert Certainty(Wanted(0.03)).look(rounds, 0.5, 0.5)
    assert not Certainty(Wanted(0.01)).look(rounds, 0.5, 0.5)
    assert Certainty(Wanted(0.01)).look(made_up(1.065, 0.08), 0.5, 0.5)  # ± 2.1 %, less than half of it


def test_where_noise_hides_what_matters_it_ends_once_the_rest_of_the_time_would_not_tell_more() -> None:
    """±4 % now, and with all of the time hardly less: what that could show in nine of ten cases is out."""
    noisy = made_up(1.0, 0.3)
    assert Certainty(Wanted()).look(noisy, 0.95, 0.95)
    assert Certainty(Wanted()).look(noisy, 0.6, 0.6)  # 1.64·s against 0.75 % + 2.5·s
    assert not Certainty(Wanted()).look(noisy, 0.2, 0.2)


def test_a_control_that_shows_a_difference_takes_the_verdict_away() -> None:
    """The second copy of A is 9 % slower than the first: that B is 6 % slower than both says nothing."""
    rounds = made_up(1.06, 0.02)
    rounds.medians[2] *= 1.09
    rounds.medians[3] *= 1.09
    assert not Certainty(Wanted()).look(rounds, 0.1, 0.1)


def test_few_rounds_are_never_enough() -> None:
    medians = np.full((2, 5, 2), 1e6)
    assert not Certainty(Wanted(0.5)).look(Rounds(tuple(medians.reshape(2, -1)), medians), 0.5, 0.5)


def test_one_model_is_measured_to_the_precision_of_its_median() -> None:
    alone = made_up(1.0, 0.05, sessions=1)
    assert Certainty(Wanted(0.05)).look(alone, 0.1, 0.1)
    assert not Certainty(Wanted(0.001)).look(alone, 0.1, 0.1)


def test_the_bound_is_that_of_the_look_that_showed_a_difference_and_else_the_last() -> None:
    shown, same = Certainty(Wanted()), Certainty(Wanted())
    faster, equal = made_up(0.5, 0.02), made_up(1.0, 0.01)
    assert shown.look(faster, 0.1, 0.1) and same.look(equal, 0.1, 0.1)
    assert shown.bound(faster) > 3.5
    assert same.bound(equal) == pytest.approx(1.96, abs=0.01)


def test_the_doubt_is_counted_in_units_of_the_precision() -> None:
    coarse, fine = Certainty(Wanted(0.02)), Certainty(Wanted(0.001))
    for certainty in (coarse, fine):
        certainty.look(made_up(1.0, 0.05), 0.5, 0.5)
    assert fine.doubt == pytest.approx(20 * coarse.doubt)
    assert coarse.doubt == pytest.approx(0.25 * 0.05 / 0.02, rel=0.4)


RUNS = 40
TRUTHS = [
    # slowdown, right, how many of 40 at least, of 120 rounds at most so many at the median
    (1.0, SAME, 39, 60),
    (1.02, SLOWER, 32, 120),
    (1.05, SLOWER, 39, 40),
    (1 / 1.05, FASTER, 39, 40),
]


@pytest.mark.slow
@pytest.mark.parametrize(("slowdown", "right", "least", "rounds"), TRUTHS)
def test_verdicts_of_measurements_that_end_early(
    slowdown: float, right: str, least: int, rounds: int
) -> None:
    """Whole measurements by the real estimate, with sessions 0.4 % apart for where they lie in memory."""
    found = [ended(made_up(slowdown, 0.03, 120, seed=seed, layout=0.004)) for seed in range(RUNS)]
    said = [verdict for verdict, _, _ in found]
    print(said.count(right), float(np.median([count for _, count, _ in found])))
    assert said.count(right) >= least
    assert np.median([count for _, count, _ in found]) <= rounds


@pytest.mark.slow
def test_the_interval_that_is_told_holds_the_truth() -> None:
    """However early it ended; sessions lie where they lie, so that the interval is all there is."""
    hits = total = 0
    for slowdown in (1.0, 1.02, 1.05):
        for seed in range(30):
            low, high = ended(made_up(slowdown, 0.03, 60, seed=seed))[2]
            hits += low <= 1 / slowdown <= high
            total += 1
    print(hits, total)
    assert hits / total >= 0.92


def test_nothing_is_called_a_change_that_layout_could_make() -> None:
    """Without noise, on both sides of the margin."""
    for slowdown, said in ((LAYOUT - 1e-4, SAME), (LAYOUT + 3e-3, SLOWER)):
        assert ended(made_up(slowdown, 1e-4))[0] == said
    assert math.isclose(LAYOUT, 1.0075)
