"""Cold start as a setting of ``bench``: in fresh processes, or here for a loader of one's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bnfuse.formats import load as load_by_content
from bnfuse.formats.base import Loader, RunSettings
from bnfuse.inputs.cross_format import ModelPair
from bnfuse.inputs.samples import Feeds, InputRequest, fit
from bnfuse.measure.cold import COLD, ColdStarts, StartLimits, cold_starts, judged
from bnfuse.measure.judging import ROUNDS_FOR_VERDICT, Rounds, summarise
from bnfuse.measure.steady import DEFAULT_BATCH, Findings
from bnfuse.measure.timing import enough
from bnfuse.measure.verdicts import TOO_FEW
from bnfuse.results import BenchRun
from bnfuse.results.doing import Doing
from bnfuse.results.figures import digits

COLD_SHARE = 0.3  # of the time: a process takes half a second, and a verdict six of each model
_COLD_OVERRUN = 2.0  # how far beyond that it may go for a verdict
_COLD_HINT = (
    "cold start is the time that a fresh process takes to start, import the runtime, load the model and give "
    "its first answer, with all files in the system's cache"
)
_WARM_HINT = "cold start is loading the model and its first run, with the runtime already imported"
_MAX_COLD_ROUNDS = 20


class ColdRequest(Struct, frozen=True):
    """What to start, how, with what; ``budget_s`` bounds the whole bench."""

    paths: Sequence[Path]
    settings: RunSettings
    inputs: InputRequest
    budget_s: float


def measured_cold(
    wanted: ColdRequest,
    load: Loader,
    loader: Loader,
    twins: ModelPair | None,
    left_s: float,
    seen: Findings,
) -> BenchRun:
    """Process start to first answer, in fresh processes.

    Args:
        wanted: what is measured.
        load: loads a model, as it was given. One that is not the formats' own exists in this process only:
            then loading and the first run are timed here, with the runtime imported already.
        loader: the same, for models that are compared.
        twins: how the models correspond, where they are of two formats.
        left_s: of the time of the bench, in seconds.
        seen: what has been found.

    Raises:
        BnfuseError, MemoryError: as ``cold_starts``, and as loading the model does.
    """
    paths, settings, inputs = wanted.paths, wanted.settings, wanted.inputs
    share_s = COLD_SHARE * wanted.budget_s
    end = time.perf_counter() + share_s
    with loader(paths[0], settings) as runner:  # also brings the files into the system's cache
        samples, _ = fit(runner, inputs, DEFAULT_BATCH)
        seen.remember(runner)
        seen.versions.update(runner.versions)
        if twins is None:  # the other processes do not know what was found out here
            settings = replace(settings, runtime=runner.runtime)
    feeds = samples.feeds(0)
    if load is load_by_content:
        limits = StartLimits(share_s, max(_COLD_OVERRUN * share_s, left_s), wanted.budget_s)
        seen.progress(Doing("measuring cold start, in fresh processes", limits.verdict_s))
        fed = [twins.feeds(path, feeds) if twins else feeds for path in paths]
        run = _judged_cold(cold_starts(paths, settings, fed, limits), samples.batch, inputs.seed, seen)
    else:
        run = _reloaded(paths, settings, feeds, load, end, samples.batch, inputs.seed, seen)
    return replace(run, threads=settings.threads, inputs=samples.ran)


def _judged_cold(starts: ColdStarts, batch: int, seed: int, seen: Findings) -> BenchRun:
    seen.notes.append(_COLD_HINT)
    run = judged(COLD, batch, starts, seed)
    if run.verdict == TOO_FEW:
        enough_s = starts.round_s * ROUNDS_FOR_VERDICT / (COLD_SHARE * _COLD_OVERRUN)
        seen.notes.append(
            f"one cold start of each model took {digits(starts.round_s)} s; a verdict on cold starts needs "
            f"about {enough_s:.0f} s in all (--max-time)"
        )
    return run


def _reloaded(
    paths: Sequence[Path],
    settings: RunSettings,
    feeds: Feeds,
    load: Loader,
    end: float,
    batch: int,
    seed: int,
    seen: Findings,
) -> BenchRun:
    """Loading and the first run in this process, until ``end``."""
    seen.notes.append(_WARM_HINT)
    chosen = [*paths, paths[0]] if len(paths) == 2 else list(paths)
    times: list[list[float]] = [[] for _ in chosen]
    for turn in range(_MAX_COLD_ROUNDS):
        for at in range(len(chosen)) if turn % 2 == 0 else reversed(range(len(chosen))):
            times[at].append(_time_cold(chosen[at], settings, feeds, load))
        if enough(turn + 1, end):
            break
    rounds = Rounds(tuple(np.array(t) for t in times), np.array(times))
    return summarise(COLD, batch, rounds, seed)


def _time_cold(path: Path, settings: RunSettings, feeds: Feeds, load: Loader) -> float:
    """Nanoseconds from nothing to the first answer."""
    begin = time.perf_counter_ns()
    runner = load(path, settings)
    with runner:
        runner.run(feeds)
        return float(time.perf_counter_ns() - begin)
