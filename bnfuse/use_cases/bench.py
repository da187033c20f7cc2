"""What does the rewritten model gain, on this machine and runtime?

For every batch size and number of threads, with the runtime's graph optimisation off and on, both models
are loaded, warmed up and timed in interleaved rounds (``measure.steady``, ``measure.timing``) until the
wished precision is reached or the time is up; ``measure.judging`` makes figures and a verdict of the
rounds. Cold start is a setting of its own (``measure.cold``).

Does not measure what does not fit into memory or does not load in one setting; it says so in a note
instead.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

import numpy as np

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UnsafeModel, UsageError
from bnfuse.formats import load as load_by_content
from bnfuse.formats.base import RunSettings
from bnfuse.inputs.cross_format import ModelPair, twins_of
from bnfuse.inputs.samples import Feeds, InputRequest, fit
from bnfuse.machine import available_memory_bytes, describe, usable_cpus
from bnfuse.measure.cold import COLD, ColdStarts, StartLimits, cold_starts, judged
from bnfuse.measure.judging import ROUNDS_FOR_VERDICT, Rounds, summarise
from bnfuse.measure.one_runtime import Elsewhere, OneRuntime
from bnfuse.measure.profile import profile, profile_hints
from bnfuse.measure.steady import DEFAULT_BATCH, MOST_COPIES, OFF, ON, Findings, Setting, measure_steady
from bnfuse.measure.timing import enough
from bnfuse.measure.verdicts import TOO_FEW
from bnfuse.results import BenchRun, Latency, Profile
from bnfuse.results.doing import Doing, Progress
from bnfuse.use_cases.bench_hints import reading_hints
from bnfuse.use_cases.verify import MEMORY_FACTOR, Loader

_COLD_SHARE = 0.3  # of the time: a process takes half a second, and a verdict six of each model
_COLD_OVERRUN = 2.0  # how far beyond that it may go for a verdict
_COLD_HINT = (
    "cold start is a fresh process: its start, importing the runtime, loading the model, the first answer; "
    "with all files in the system's cache"
)
_WARM_HINT = "cold start is loading the model and its first run, with the runtime already imported"

_PROFILE_SHARE = 0.1
_MAX_COLD_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure. ``max_time`` bounds all settings together; loading models is apart from it.

    A setting takes less time where ``precision`` is reached: the half-width of the 95 % interval of the
    ratio (of the median call, for one model), as a fraction. ``batch`` empty means 1, or the size that
    the model fixes; ``threads`` empty means all processors this process may use; the inputs are described
    in ``samples.InputRequest``; ``model_bytes`` is the size of a model with its external data (0: that of
    its file). ``profile`` adds a tenth of the time, and loading both models once more, for the time by
    operator. ``runtime`` is the one to run both in, as a runner calls its own ("": the first that loads the
    original, or else another that loads both).
    """

    batch: tuple[int, ...] = ()
    optimise: tuple[bool, ...] = (False, True)
    cold_start: bool = True
    max_time: float = 20.0
    precision: float = 0.01
    seed: int = 0
    shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: str | PathLike[str] | None = None
    device: str = "cpu"
    threads: tuple[int, ...] = ()
    allow_unsafe: bool = False
    model_bytes: int = 0
    profile: bool = False
    runtime: str = ""

    def settings(self, threads: int, *, optimise: bool) -> RunSettings:
        """How to load a model."""
        return RunSettings(optimise, self.device, threads, self.allow_unsafe, runtime=self.runtime)


def bench(
    before: str | PathLike[str],
    after: str | PathLike[str] | None = None,
    *,
    request: BenchRequest | None = None,
    load: Loader = load_by_content,
    progress: Progress = lambda _: None,
) -> Latency:
    """Time one model, or two against each other; ``progress`` is called with what is measured now.

    Raises:
        UnreadableModel: a file does not exist, or the runtime refuses it in every setting.
        RuntimeLost: the runtime crashes, hangs or takes too much memory in every setting.
        UsageError: the request does not fit the model's inputs.
        UnsafeModel: running it would run code that it carries.
        RuntimeMissing: the runtime or the device is not there.
    """
    request = request or BenchRequest()
    paths = tuple(Path(path) for path in (before, after) if path is not None)
    for path in paths:
        if not path.exists():
            raise UnreadableModel(f"{path} does not exist")
    try:
        return _benched(paths, request, load, progress)
    except Elsewhere as found:
        return _benched(paths, replace(request, runtime=found.runtime), load, progress)


def _benched(paths: Sequence[Path], request: BenchRequest, load: Loader, progress: Progress) -> Latency:
    threads = _threads(request)[0]
    seen = Findings(progress=progress)
    copies = _copies_that_fit(paths, request)
    profiled = None
    if copies == 0:
        seen.notes.append("nothing was timed: the model does not fit into the free memory")
    else:
        twins = _twins(paths, request, threads, load)
        seen.notes.extend(twins.notes if twins else ())
        loader = twins.loader(load) if twins else OneRuntime(load, paths, request.runtime)
        begin = time.perf_counter()
        _measure_all(paths, request, loader, seen, copies)
        if request.cold_start and request.optimise:
            left_s = request.max_time - (time.perf_counter() - begin)
            with seen.guard(COLD):
                seen.runs.append(_measured_cold(paths, request, load, loader, twins, left_s, seen))
        profiled = _profiled(paths, request, threads, loader, seen) if request.profile else None
    if not seen.runs and seen.failure is not None:
        raise seen.failure
    seen.notes.extend(reading_hints(seen))
    return Latency(
        request.device,
        threads,
        seen.providers,
        tuple(seen.runs),
        tuple(seen.notes),
        runtime=seen.runtime,
        versions=seen.versions,
        machine=describe(request.device),
        profile=profiled,
    )


def _profiled(
    paths: Sequence[Path], request: BenchRequest, threads: int, load: Loader, seen: Findings
) -> Profile | None:
    """Where the time goes, for the first batch size, with optimisation as asked for last (on, by default)."""
    settings = request.settings(threads, optimise=request.optimise[-1])
    batch = request.batch[0] if request.batch else None
    inputs = _inputs(paths, request, batch)
    try:
        with load(paths[0], settings) as runner:
            samples, _ = fit(runner, inputs, DEFAULT_BATCH)
        found = profile(
            paths,
            settings,
            [samples.feeds(0)] * len(paths),
            setting=ON if settings.optimise else OFF,
            batch=samples.batch,
            budget_s=_PROFILE_SHARE * request.max_time,
            load=load,
        )
        seen.notes.extend(profile_hints(found, request.device))
        return found
    except (UsageError, UnsafeModel, RuntimeMissing):
        raise
    except BnfuseError as error:
        seen.notes.append(f"no profile by operator: {error}")
        return None


def _copies_that_fit(paths: Sequence[Path], request: BenchRequest) -> int:
    """How many of the sessions wanted (two of each of two models, or one) fit into memory."""
    wanted = MOST_COPIES if len(paths) == 2 else 1
    largest = max(request.model_bytes, *(path.stat().st_size for path in paths))
    free = available_memory_bytes()
    if free is None:
        return wanted
    return min(wanted, int(free / max(1.0, largest * MEMORY_FACTOR)))


def _measure_all(
    paths: Sequence[Path], request: BenchRequest, load: Loader, seen: Findings, copies: int
) -> None:
    settings = [
        Setting(request.settings(threads, optimise=on), _inputs(paths, request, batch))
        for batch in request.batch or (None,)
        for threads in _threads(request)
        for on in request.optimise
    ]
    cold = request.cold_start and settings
    measure_steady(
        paths,
        settings,
        budget_s=request.max_time * (1.0 - _COLD_SHARE if cold else 1.0),
        precision=request.precision,
        copies=copies,
        load=load,
        seen=seen,
    )


def _twins(paths: Sequence[Path], request: BenchRequest, threads: int, load: Loader) -> ModelPair | None:
    """How the models correspond where they are of two formats; a loader of one's own feeds its own models."""
    if load is not load_by_content:
        return None
    return twins_of(paths, request.settings(threads, optimise=True), load)


def _threads(request: BenchRequest) -> tuple[int, ...]:
    return request.threads or (usable_cpus(),)


def _inputs(paths: Sequence[Path], request: BenchRequest, batch: int | None) -> InputRequest:
    inputs = None if request.inputs is None else Path(request.inputs)
    return InputRequest(batch, request.shape, inputs, request.seed, paths[0])


def _measured_cold(
    paths: Sequence[Path],
    request: BenchRequest,
    load: Loader,
    loader: Loader,
    twins: ModelPair | None,
    left_s: float,
    seen: Findings,
) -> BenchRun:
    """Process start to first answer, in fresh processes, as users run a model: the first batch and number of
    threads, with optimisation as asked for last.

    A loader that is not the formats' own exists in this process only: then loading and the first run
    are timed here, with the runtime imported already.
    """
    settings = request.settings(_threads(request)[0], optimise=request.optimise[-1])
    inputs = _inputs(paths, request, request.batch[0] if request.batch else None)
    share_s = _COLD_SHARE * request.max_time
    end = time.perf_counter() + share_s
    with loader(paths[0], settings) as runner:  # also brings the files into the system's cache
        samples, _ = fit(runner, inputs, DEFAULT_BATCH)
        seen.remember(runner)
        seen.versions.update(runner.versions)
        if twins is None:  # the other processes do not know what was found out here
            settings = replace(settings, runtime=runner.runtime)
    feeds = samples.feeds(0)
    if load is load_by_content:
        limits = StartLimits(share_s, max(_COLD_OVERRUN * share_s, left_s), request.max_time)
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
        enough_s = starts.round_s * ROUNDS_FOR_VERDICT / (_COLD_SHARE * _COLD_OVERRUN)
        seen.notes.append(
            f"cold start: a start of each model took {starts.round_s:.2g} s; a verdict on it needs about "
            f"{enough_s:.0f} s in all (--max-time)"
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
