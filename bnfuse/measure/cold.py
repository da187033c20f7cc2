"""Cold start: how long from the start of a process to its first answer, and how much memory it takes.

Each start is a fresh process (``bnfuse.measure.cold_child``) that imports the runtime, loads the model and
answers once. The models take turns, A B, B A, A B…, and each turn is a round of ``bnfuse.measure.timing``::

    time = wall time from before the process is made until its answer is here
           − what the process spent on bnfuse's own modules and on receiving the inputs

There is no time for a control (A/A). In its place a sign-flip test asks how often chance alone makes such
a difference: were both models equal, each round might as well have come out the other way round (Fisher,
The Design of Experiments, 1935, § 21). Peak memory is what the process reads of itself, and so holds
interpreter and runtime too; what lies on a GPU is not in it. Files come from the system's cache, in
which the caller has put them by loading both models before: how fast a disk is, is not measured.

Does not measure where the time is too short for one start of each model; says how much it would take.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bnfuse.errors import BnfuseError, RuntimeLost
from bnfuse.formats.base import RunSettings
from bnfuse.formats.child.process import ChildProcess, ProcessLost, Reply
from bnfuse.formats.child.settings import settings_to_json
from bnfuse.measure.judging import ROUNDS_FOR_VERDICT, Rounds, summarise
from bnfuse.measure.resampling import Times
from bnfuse.measure.verdicts import SAME, TOO_FEW
from bnfuse.results import BenchRun, ColdStart
from bnfuse.results.figures import digits

Feeds = Mapping[str, np.ndarray]

COLD = "cold start"  # the setting's name

_MAX_ROUNDS = 20
_LEAST_S = 0.25  # a process that imports a runtime takes longer than this
_MOST_CHANCE = 0.05
_EXACT_ROUNDS = 12


class StartLimits(Struct, frozen=True):
    """Seconds: after ``share_s`` no start follows, unless ``verdict_s`` suffices for a verdict.

    Where a first start alone takes longer than ``start_s``, two models are not compared.
    """

    share_s: float
    verdict_s: float
    start_s: float


class Start(Struct, frozen=True):
    """One start in a fresh process, in ns; ``own_ns`` is bnfuse's own part, and not in ``total_ns``."""

    total_ns: int
    runtime_ns: int
    load_ns: int
    run_ns: int
    peak_bytes: int | None


class ColdStarts(Struct, frozen=True, eq=False):
    """All starts: rounds to be judged like any others, and medians by model, original first.

    ``round_s`` is what a round took, bnfuse's own part included.
    """

    rounds: Rounds
    models: tuple[ColdStart, ...]
    round_s: float


def cold_starts(
    paths: Sequence[Path],
    settings: RunSettings,
    feeds: Sequence[Feeds],
    limits: StartLimits,
) -> ColdStarts:
    """Start each model (one, or two to compare) in turn until the time is up; ``feeds`` are for each.

    Raises:
        BnfuseError: the time is too short, or a model does not start; of the class that its runner raises.
        MemoryError: a process ran out of memory.
    """
    begin = time.perf_counter()
    if limits.share_s < _LEAST_S:
        share = f"{digits(limits.share_s)} s"
        raise BnfuseError(f"its share of the time, {share}, is too short to start a process")
    found: list[list[Start]] = [[] for _ in paths]
    for turn in range(_MAX_ROUNDS):
        forth = list(range(len(paths)))
        for at in forth if turn % 2 == 0 else reversed(forth):
            found[at].append(start_once(paths[at], settings, feeds[at]))
            spent_s = time.perf_counter() - begin
            if len(paths) > 1 and turn == at == 0 and spent_s > limits.start_s:
                raise BnfuseError(f"one start takes {digits(spent_s)} s: give it more time")
        if _enough(turn + 1, time.perf_counter() - begin, limits):
            break
    models = tuple(_medians(starts) for starts in found)
    return ColdStarts(_rounds(found), models, (time.perf_counter() - begin) / len(found[0]))


def _enough(rounds: int, spent_s: float, limits: StartLimits) -> bool:
    """Whether to stop: the time is up, and there is a verdict or none within reach."""
    if spent_s < limits.share_s:
        return False
    needed_s = spent_s / rounds * ROUNDS_FOR_VERDICT
    return rounds >= ROUNDS_FOR_VERDICT or needed_s > limits.verdict_s


def _rounds(found: Sequence[Sequence[Start]]) -> Rounds:
    times = [np.array([start.total_ns for start in starts], dtype=np.float64) for starts in found]
    return Rounds(tuple(times), np.array(times))


def _medians(starts: Sequence[Start]) -> ColdStart:
    peaks = [start.peak_bytes for start in starts if start.peak_bytes is not None]
    own = [s.total_ns - s.runtime_ns - s.load_ns - s.run_ns for s in starts]
    return ColdStart(
        start_ms=median(own) / 1e6,
        runtime_ms=median(s.runtime_ns for s in starts) / 1e6,
        load_ms=median(s.load_ns for s in starts) / 1e6,
        first_run_ms=median(s.run_ns for s in starts) / 1e6,
        peak_bytes=int(median(peaks)) if peaks else None,
    )


def judged(setting: str, batch: int, starts: ColdStarts, seed: int) -> BenchRun:
    """The starts as a run like any other, with a verdict that chance alone would hardly bring.

    A single round tells nothing of a ratio, and so has none.
    """
    run = summarise(setting, batch, starts.rounds, seed)
    run = replace(run, before_cold=starts.models[0])
    if len(starts.models) == 1:
        return run
    if len(starts.rounds) < 2:
        return replace(run, after_cold=starts.models[1], speedup=None, ci95=None)
    by_chance = run.verdict != TOO_FEW and chance(*starts.rounds.medians, seed=seed) > _MOST_CHANCE
    return replace(run, after_cold=starts.models[1], verdict=SAME if by_chance else run.verdict)


def chance(before: Times, after: Times, *, seed: int) -> float:
    """How likely equal models differ so much: two-sided sign-flip test of the logarithms' mean, (round) each.

    All 2^n ways to flip signs where n ≤ 12, else 4096 random ones.
    """
    differences = np.log(before / after)
    count = differences.size
    if count <= _EXACT_ROUNDS:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        signs = np.random.default_rng(seed).choice((-1, 1), (2**_EXACT_ROUNDS, count))
    sums = np.abs(signs @ differences)
    return float(np.mean(sums >= abs(differences.sum()) * (1 - 1e-12)))


def start_once(path: Path, settings: RunSettings, feeds: Feeds) -> Start:
    """One start in a fresh process, which is gone when this returns or raises.

    Raises:
        RuntimeLost: it crashes, hangs or takes too much memory.
        BnfuseError: the model does not start there; of the class that its runner raises.
        MemoryError: the process ran out of memory.
    """
    request = {"path": str(path.resolve()), "settings": settings_to_json(settings)}
    begin = time.perf_counter_ns()
    process = ChildProcess("bnfuse.measure.cold_child", os.environ)
    try:
        answer, _ = process.ask(request, feeds)
        total_ns = time.perf_counter_ns() - begin
    except ProcessLost as error:
        raise RuntimeLost(f"the process that started '{path.name}' {error}") from error
    except Reply as error:
        raise error.as_raised() or BnfuseError(str(error)) from error
    finally:
        process.kill()
    return Start(
        total_ns=max(0, total_ns - int(answer["own_ns"])),
        runtime_ns=int(answer["runtime_ns"]),
        load_ns=int(answer["load_ns"]),
        run_ns=int(answer["run_ns"]),
        peak_bytes=answer["peak_bytes"],
    )
