"""Times models in interleaved rounds. What is made of the rounds is for ``bnfuse.measure.judging``.

A round visits the models in an order drawn anew, forth and back: B C A D D A C B, where A is the original, B
the result, C a second copy of the original and D one of the result. A visit is a few calls in a row. Its
first is dropped, because it finds the caches full of another model; not so where a call takes so long
that this is nothing. Drawn anew, because whoever is visited twice in a row finds its caches warm: in a fixed
order that made equal models differ by 0.6 %. Where a visit takes long, a round goes one way only, and the
next the other way: six rounds are the least for a verdict, and need not take seconds.

Two copies of each, because a model's place in memory is part of its speed, and another session has another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from bnfuse.formats.base import Runner
from bnfuse.garbage import without_collections
from bnfuse.inputs.samples import Feeds
from bnfuse.measure.judging import ROUNDS_FOR_VERDICT, Rounds

_VISIT_NS = 4_000_000  # calls per visit are chosen to fill about this time
_LONG_NS = 20_000_000  # calls beyond this take so long that caches filled by another model are nothing
_PAIR_NS = 10_000_000  # calls shorter than this are kept by twos at least: one of them may have to wait
_MAX_CALLS = 50
MIN_ROUNDS = 3
MAX_ROUNDS = 1000
_GRACE_S = 0.5  # beyond the deadline, to get from a few rounds to a verdict
# Looking whether it is enough takes some milliseconds, so it is asked when a third more has been gathered.
_ASK_AFTER = 1.3
_WARM_CALLS = 12
_WARM_LONG = 4  # calls, of those that take so long that these fill
_WARM_NS = 80_000_000  # this time
_ONE_WAY_NS = 10_000_000  # visits that take longer are made once in a round
_STEADY = 0.98  # the latest half of the calls is no faster than the half before, but for this


def interleave(
    runners: Sequence[Runner],
    feeds: Feeds,
    deadline: float,
    *,
    done: Callable[[Rounds], bool] = lambda _: False,
    seed: int = 0,
    typical_ns: Sequence[float] = (),
) -> Rounds:
    """Rounds of visits to all models until the deadline (at least a few rounds), or until ``done`` says so.

    ``runners`` are the original, the result, the original again and the result again, as far as they take
    part. ``deadline`` is by ``time.perf_counter``. ``typical_ns`` is what a call takes of the first of them,
    where those are warm already.
    """
    cold = runners[len(typical_ns) :]
    typical = [*typical_ns, *(warm_up(runner, feeds, deadline, len(runners)) for runner in cold)]
    per_visit, dropped = max(map(_kept_calls, typical)), max(int(ns < _LONG_NS) for ns in typical)
    one_way = (per_visit + dropped) * min(typical) > _ONE_WAY_NS
    order = np.random.default_rng(seed)
    forth: list[int] = []
    calls: list[list[float]] = [[] for _ in runners]
    medians: list[list[tuple[float, ...]]] = [[] for _ in runners]
    ask_at = ROUNDS_FOR_VERDICT
    with without_collections():
        for count in range(1, MAX_ROUNDS + 1):
            back = forth[::-1] if one_way else []
            forth = back if back and count % 2 == 0 else order.permutation(len(runners)).tolist()
            visits: list[list[float]] = [[] for _ in runners]
            for at in forth if one_way else (*forth, *reversed(forth)):
                block = visit(runners[at], feeds, per_visit, dropped=dropped)
                calls[at].extend(block)
                visits[at].append(_lower_median(block))
            for at, found in enumerate(visits):
                medians[at].append(tuple(found))
            if enough(count, deadline):
                break
            if count >= ask_at:
                if done(_rounds(calls, medians)):
                    break
                ask_at = int(count * _ASK_AFTER) + 1
    return _rounds(calls, medians)


def _rounds(calls: Sequence[Sequence[float]], medians: Sequence[Sequence[tuple[float, ...]]]) -> Rounds:
    return Rounds(tuple(np.array(c) for c in calls), np.array(medians))


def enough(rounds: int, deadline: float) -> bool:
    """Whether to stop: the time is up, and there is a verdict or no hope of one soon."""
    late_s = time.perf_counter() - deadline
    wanted = ROUNDS_FOR_VERDICT if late_s < _GRACE_S else MIN_ROUNDS
    return late_s > 0.0 and rounds >= wanted


def warm_up(runner: Runner, feeds: Feeds, deadline: float, models: int) -> float:
    """Run until the latest calls are no faster than those before.

    Bounded by a tenth of the time that is left, but for two calls.

    Returns:
        What a call takes now, in ns.
    """
    start = time.perf_counter()
    end = start + max(0.0, deadline - start) * 0.1 / models
    times: list[int] = []
    while len(times) < 2 or time.perf_counter() < end:
        times.append(time_call(runner, feeds))
        half = len(times) // 2
        many = len(times) >= _WARM_CALLS or (len(times) >= _WARM_LONG and sum(times) >= _WARM_NS)
        if many and np.median(times[half:]) >= _STEADY * np.median(times[:half]):
            break
    return max(1.0, float(np.median(times[half:][-6:])))


def _kept_calls(typical_ns: float) -> int:
    """Calls to keep per visit."""
    least = 2 if typical_ns < _PAIR_NS else 1
    return int(np.clip(_VISIT_NS / typical_ns, least, _MAX_CALLS))


def _lower_median(times: Sequence[float]) -> float:
    """Of two calls the faster one: their mean would be moved by a single wait for a processor.

    Calls that end just beyond the scheduler's slice wait every time, those that end just before it never do,
    and so a mean can make 5 % look like a factor of three.
    """
    return sorted(times)[(len(times) - 1) // 2]


def visit(runner: Runner, feeds: Feeds, calls: int, *, dropped: int = 1) -> list[float]:
    """Nanoseconds of each of some calls in a row, after one or none that is not counted."""
    return [float(ns) for ns in runner.time(feeds, calls + dropped)[dropped:]]


def time_call(runner: Runner, feeds: Feeds) -> int:
    """Nanoseconds of one call."""
    return runner.time(feeds, 1)[0]
