"""What does the rewritten model gain, on this machine and runtime?

For every batch size and number of threads, with the runtime's graph optimisation off and on, both models
are loaded, warmed up and timed in interleaved rounds (``measure.steady``, ``measure.timing``) until the
verdict is certain (``measure.certainty``) or the time is up; ``measure.judging`` makes figures and a verdict
of the rounds. Cold start is a setting of its own (``measure.cold``), where it is asked for.

Does not measure what does not fit into memory or does not load in one setting; it says so in a note
instead.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UnsafeModel, UsageError
from bnfuse.formats import load as load_by_content
from bnfuse.formats.base import Loader, RunSettings
from bnfuse.inputs.cross_format import ModelPair, twins_of
from bnfuse.inputs.samples import InputRequest, fit
from bnfuse.machine import available_memory_bytes, describe, usable_cpus
from bnfuse.measure.certainty import Certainty, Wanted
from bnfuse.measure.cold import COLD
from bnfuse.measure.one_runtime import Elsewhere, OneRuntime
from bnfuse.measure.profile import profile, profile_hints
from bnfuse.measure.steady import DEFAULT_BATCH, MOST_COPIES, Findings, Setting, measure_steady
from bnfuse.results import Latency, Profile
from bnfuse.results.doing import Progress
from bnfuse.results.latency import OFF, ON
from bnfuse.use_cases.bench_cold import COLD_SHARE, ColdRequest, measured_cold
from bnfuse.use_cases.bench_hints import reading_hints
from bnfuse.use_cases.verify import MEMORY_FACTOR

_PROFILE_SHARE = 0.1


class BenchRequest(Struct, frozen=True):
    """What to measure. ``max_time`` bounds all settings together; loading models is apart from it.

    A setting takes less time where its verdict is certain (``measure.certainty``): to within ``precision``, a
    fraction, of the ratio (of one model: of the median call), and beside a gate on slow-downs beyond
    ``fail_if_slower``, a fraction too. ``cold`` measures starts in fresh processes, in a third of the time.
    ``batch`` empty means 1, or the size that the model fixes; ``threads`` empty means all processors this
    process may use; the inputs are described in ``samples.InputRequest``; ``model_bytes`` is the size of a
    model with its external data (0: that of its file). ``profile`` adds a tenth of the time, and loading
    both models once more, for the time by operator. ``runtime`` is the one to run both in, as a runner
    calls its own ("": the first that loads the original, or else another that loads both).
    """

    batch: tuple[int, ...] = ()
    optimise: tuple[bool, ...] = (False, True)
    cold: bool = False
    max_time: float = 20.0
    precision: float = 0.01
    fail_if_slower: float | None = None
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
        if request.cold and request.optimise:
            left_s = request.max_time - (time.perf_counter() - begin)
            with seen.guard(COLD):
                seen.runs.append(measured_cold(_cold(paths, request), load, loader, twins, left_s, seen))
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
    wanted = Wanted(request.precision, request.fail_if_slower)
    settings = [
        Setting(
            request.settings(threads, optimise=on),
            _inputs(paths, request, batch),
            Certainty(wanted, request.seed),
        )
        for batch in request.batch or (None,)
        for threads in _threads(request)
        for on in request.optimise
    ]
    cold = request.cold and settings
    measure_steady(
        paths,
        settings,
        budget_s=request.max_time * (1.0 - COLD_SHARE if cold else 1.0),
        copies=copies,
        load=load,
        seen=seen,
    )


def _cold(paths: Sequence[Path], request: BenchRequest) -> ColdRequest:
    """As users run a model: the first batch and number of threads, with optimisation as asked for last."""
    settings = request.settings(_threads(request)[0], optimise=request.optimise[-1])
    inputs = _inputs(paths, request, request.batch[0] if request.batch else None)
    return ColdRequest(paths, settings, inputs, request.max_time)


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
