"""Rounds of interleaved visits: their order, their length, and when they end."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from bnfuse.measure.judging import Rounds
from bnfuse.measure.timing import enough, interleave
from tests.clockwork import Clock, Clockwork

FEEDS = {"x": np.zeros((1, 4), np.float32)}


FAR_S = 60.0  # a deadline that no test comes near to


def told(clock: Clock, names: str, log: list[str], draw: Callable[[], float]) -> list[Clockwork]:
    return [Clockwork(clock, log, name, draw) for name in names]


def visits(log: list[str], calls: int) -> list[str]:
    """Whose turn it was, from a log of calls."""
    assert len(log) % calls == 0
    turns = [log[at : at + calls] for at in range(0, len(log), calls)]
    assert all(len(set(turn)) == 1 for turn in turns)
    return [turn[0] for turn in turns]


def test_rounds_go_forth_and_back_in_an_order_drawn_anew(clock: Clock) -> None:
    log: list[str] = []
    runners = told(clock, "abcd", log, lambda: 3.0)  # two of them are 6 ms: two calls kept, one dropped
    rounds = interleave(runners, FEEDS, FAR_S, done=lambda found: len(found) >= 60)
    turns = visits(log[-3 * 8 * len(rounds) :], 3)
    each = [turns[at : at + 8] for at in range(0, len(turns), 8)]
    for turn in each:
        assert turn[:4] == turn[:3:-1]
        assert sorted(turn[:4]) == list("abcd")
    assert len({tuple(turn) for turn in each}) >= 15  # of 24 orders; a fixed one favours the outermost
    assert rounds.medians.shape == (4, len(rounds), 2)


VISITS = [
    (0.1, 40, 1, 2),
    (1.0, 4, 1, 2),
    (3.0, 2, 1, 2),
    (5.0, 2, 1, 1),
    (9.0, 2, 1, 1),
    (12.0, 1, 1, 1),
    (19.0, 1, 1, 1),
    (30.0, 1, 0, 1),
    (80.0, 1, 0, 1),
]


def test_long_rounds_go_one_way_and_the_next_the_other(clock: Clock) -> None:
    log: list[str] = []
    rounds = interleave(told(clock, "abcd", log, lambda: 60.0), FEEDS, FAR_S, done=lambda r: len(r) >= 40)
    each = [log[at : at + 4] for at in range(len(log) - 4 * len(rounds), len(log), 4)]
    assert all(sorted(turn) == list("abcd") for turn in each)
    assert all(forth == back[::-1] for forth, back in zip(each[0::2], each[1::2], strict=False))
    assert len({tuple(turn) for turn in each[0::2]}) >= 10


@pytest.mark.parametrize(("call_ms", "calls"), [(0.5, 12), (4.0, 12), (10.0, 8), (30.0, 4), (200.0, 4)])
def test_warming_up_takes_twelve_calls_or_what_fills_80_ms(clock: Clock, call_ms: float, calls: int) -> None:
    log: list[str] = []
    rounds = interleave(told(clock, "a", log, lambda: call_ms), FEEDS, FAR_S, done=lambda _: True)
    (visit,) = {len(log[calls:]) / len(rounds)}
    assert visit == int(visit) and len(log) - calls == visit * len(rounds)


@pytest.mark.parametrize(("call_ms", "kept", "dropped", "times"), VISITS)
def test_a_visit_fills_about_four_milliseconds(
    clock: Clock, call_ms: float, kept: int, dropped: int, times: int
) -> None:
    """A round makes two of each model, or one where that takes more than 10 ms."""
    log: list[str] = []
    asked: list[int] = []

    class Asked(Clockwork):
        def time(self, feeds: Any, calls: int) -> list[int]:
            asked.append(calls)
            return super().time(feeds, calls)

    runners = [Asked(clock, log, name, lambda: call_ms) for name in "ab"]
    rounds = interleave(runners, FEEDS, FAR_S, done=lambda _: True)
    assert set(asked[-4:]) == {kept + dropped}
    assert [len(calls) for calls in rounds.calls] == [times * kept * len(rounds)] * 2
    assert rounds.medians == pytest.approx(call_ms * 1e6)
    assert rounds.medians.shape == (2, len(rounds), times)


def test_the_first_call_of_a_visit_is_not_counted(clock: Clock) -> None:
    """It finds the caches full of another model: here it takes ten times as long."""

    class ColdFirst(Clockwork):
        def time(self, feeds: Any, calls: int) -> list[int]:
            first, *others = super().time(feeds, calls)
            return [10 * first, *others] if others else [first]

    runners = [ColdFirst(clock, [], name, lambda: 5.0) for name in "ab"]
    rounds = interleave(runners, FEEDS, FAR_S, done=lambda _: True)
    assert {float(ns) for calls in rounds.calls for ns in calls} == {5e6}


def test_the_median_of_a_visit_stands_for_it(clock: Clock) -> None:
    times = iter([1.0] * 40 + [1.0, 1.0, 1.0, 2.0, 9.0] * 10_000)  # warm-up, then visits of 1 + 4 calls
    (runner,) = told(clock, "a", [], lambda: next(times))
    rounds = interleave([runner], FEEDS, FAR_S, done=lambda _: True)
    kept = rounds.calls[0].reshape(-1, 4) / 1e6
    assert rounds.medians.ravel() / 1e6 == pytest.approx(np.sort(kept, axis=1)[:, 1])


def test_of_two_calls_the_one_that_had_to_wait_does_not_count(clock: Clock) -> None:
    """Every other call waits for 8 ms; kept are two of a visit, so that one of them always does."""
    waits = iter([2.0] * 40 + [2.0, 2.0, 10.0] * 10_000)
    (runner,) = told(clock, "a", [], lambda: next(waits))
    rounds = interleave([runner], FEEDS, FAR_S, done=lambda _: True)
    assert [len(rounds.calls[0]), *set(rounds.medians.ravel())] == [4 * len(rounds), 2e6]


def test_warming_up_goes_on_until_calls_get_no_faster(clock: Clock) -> None:
    """A runtime that needs 60 calls to get up to speed is not measured while it does."""
    log: list[str] = []
    runners = told(clock, "a", log, lambda: max(1.0, 10.0 * 0.96 ** len(log)))
    rounds = interleave(runners, FEEDS, FAR_S, done=lambda _: True)
    assert rounds.calls[0].max() == 1e6


def test_it_is_asked_less_and_less_often_whether_that_is_enough(clock: Clock) -> None:
    asked: list[int] = []

    def done(found: Rounds) -> bool:
        asked.append(len(found))
        return len(found) >= 200

    rounds = interleave(told(clock, "ab", [], lambda: 5.0), FEEDS, FAR_S, done=done)
    assert asked[0] == 6
    assert asked[-1] == len(rounds) < 300
    assert all(later >= 1.2 * sooner for sooner, later in pairwise(asked))


def test_the_deadline_ends_it(clock: Clock) -> None:
    rounds = interleave(told(clock, "ab", [], lambda: 1.0), FEEDS, 0.4)
    assert 0.4 < clock.seconds <= 0.4 + 4 * 5 * 1e-3  # one round more: four visits of five calls
    assert len(rounds) >= 3


@pytest.mark.parametrize(
    ("rounds", "late_s", "expected"),
    [(100, -1.0, False), (2, 0.1, False), (5, 0.1, False), (6, 0.1, True), (3, 5.0, True), (2, 5.0, False)],
)
def test_a_verdict_is_worth_half_a_second_beyond_the_deadline(
    clock: Clock, rounds: int, late_s: float, expected: bool
) -> None:
    clock.work(60_000.0)
    assert enough(rounds, 60.0 - late_s) == expected


def test_no_garbage_is_collected_meanwhile_and_all_is_as_before(clock: Clock) -> None:
    seen: list[bool] = []

    class Watching(Clockwork):
        def time(self, feeds: Any, calls: int) -> list[int]:
            seen.append(gc.isenabled())
            return super().time(feeds, calls)

    was_on = gc.isenabled()
    try:
        for switch, expected in ((gc.enable, True), (gc.disable, False)):
            switch()
            interleave([Watching(clock, [], "a", lambda: 1.0)], FEEDS, FAR_S, done=lambda _: True)
            assert not seen[-1]
            assert gc.isenabled() == expected
    finally:
        (gc.enable if was_on else gc.disable)()
