"""What does the rewritten model gain, on this machine and runtime?

For every batch size, with the runtime's graph optimisation off and on, both models are loaded,
warmed up and timed in interleaved rounds, beside a second copy of the original as a control: see
``bnfuse.timing``. Cold start (loading and the first run) is a setting of its own.

Does not measure what does not fit into memory or does not load in one setting; it says so in a note
instead. Models that fit only one at a time are timed one after the other, with a note.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UnsafeModel, UsageError
from bnfuse.formats import load as load_by_content
from bnfuse.formats.base import Runner, RunSettings
from bnfuse.machine import available_memory_bytes, usable_cpus
from bnfuse.results import BenchRun, Latency
from bnfuse.samples import Feeds, InputRequest, fit
from bnfuse.timing import FASTER, TOO_FEW, Rounds, enough, interleave, summarise, time_call, visit
from bnfuse.verify import MEMORY_FACTOR, Loader

OFF, ON, COLD = "optimisation off", "optimisation on", "cold start"

_MAX_COLD_ROUNDS = 20
_NOISY = 0.05
_DEFAULT_BATCH = 1


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure. ``budget_s`` bounds all settings together; loading a model is never cut short.

    ``batches`` empty means 1, or the size that the model fixes; ``threads`` 0 means all processors
    this process may use; the inputs are described in ``samples.InputRequest``; ``model_bytes`` is
    the size of a model with its external data (0: that of its file).
    """

    batches: tuple[int, ...] = ()
    optimise: tuple[bool, ...] = (False, True)
    cold_start: bool = True
    budget_s: float = 10.0
    seed: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: Path | None = None
    device: str = "cpu"
    threads: int = 0
    allow_unsafe: bool = False
    model_bytes: int = 0


@dataclass(slots=True)
class _Findings:
    """What has been collected so far."""

    runs: list[BenchRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    providers: tuple[str, ...] = ()
    runtime: str = ""


def bench(
    before: Path,
    after: Path | None = None,
    *,
    request: BenchRequest | None = None,
    load: Loader = load_by_content,
) -> Latency:
    """Time one model, or two against each other.

    Raises:
        UnreadableModel: a file does not exist, or the runtime refuses the original.
        UsageError: the request does not fit the model's inputs.
        UnsafeModel: running it would run code that it carries.
        RuntimeMissing: the runtime or the device is not there.
    """
    request = request or BenchRequest()
    paths = (before,) if after is None else (before, after)
    for path in paths:
        if not path.exists():
            raise UnreadableModel(f"{path} does not exist")
    threads = request.threads or usable_cpus()
    seen = _Findings()
    copies = _copies_that_fit(paths, request)
    if copies == 0:
        seen.notes.append("nothing was timed: the model does not fit into the free memory")
    else:
        _measure_all(paths, request, threads, load, seen, copies)
    seen.notes.extend(_reading_hints(seen))
    return Latency(request.device, threads, seen.providers, tuple(seen.runs), tuple(seen.notes))


def _copies_that_fit(paths: Sequence[Path], request: BenchRequest) -> int:
    """How many of the sessions wanted (three for two models, one for one) fit into memory."""
    wanted = 3 if len(paths) == 2 else 1
    largest = max(request.model_bytes, *(path.stat().st_size for path in paths))
    free = available_memory_bytes()
    if free is None:
        return wanted
    return min(wanted, int(free / max(1.0, largest * MEMORY_FACTOR)))


def _measure_all(
    paths: Sequence[Path], request: BenchRequest, threads: int, load: Loader, seen: _Findings, copies: int
) -> None:
    batches: tuple[int | None, ...] = request.batches or (None,)
    settings = [RunSettings(on, request.device, threads, request.allow_unsafe) for on in request.optimise]
    parts = len(batches) * len(settings) + (1 if request.cold_start else 0)
    end = time.perf_counter() + request.budget_s
    for batch in batches:
        inputs = InputRequest(batch, request.shapes, request.inputs, request.seed)
        for setting in settings:
            share = max(0.0, end - time.perf_counter()) / max(1, parts)
            parts -= 1
            measure = partial(_steady, paths, setting, inputs, share, load, seen, copies)
            _guarded(seen, _label(setting), measure)
    if request.cold_start and settings:
        share = max(0.0, end - time.perf_counter())
        inputs = InputRequest(batches[0], request.shapes, request.inputs, request.seed)
        _guarded(seen, COLD, partial(_cold, paths, settings[-1], inputs, share, load, seen))


def _label(settings: RunSettings) -> str:
    return ON if settings.optimise else OFF


def _guarded(seen: _Findings, setting: str, measure: Callable[[], BenchRun]) -> None:
    """Measure; what fails in one setting becomes a note, unless it is the request's fault."""
    try:
        seen.runs.append(measure())
    except (UsageError, UnsafeModel, RuntimeMissing):
        raise
    except BnfuseError as error:
        seen.notes.append(f"{setting} was not timed: {error}")
    except MemoryError:
        seen.notes.append(f"{setting} was not timed: memory ran out")


def _steady(
    paths: Sequence[Path],
    settings: RunSettings,
    inputs: InputRequest,
    budget_s: float,
    load: Loader,
    seen: _Findings,
    copies: int,
) -> BenchRun:
    """One setting: all models in memory, interleaved; one after the other where that cannot be."""
    if copies < len(paths):
        return _apart(paths, settings, inputs, budget_s, load, seen)
    chosen = [*paths, paths[0]] if copies == 3 else list(paths)
    if len(paths) == 2 and copies == 2:
        seen.notes.append("there was no memory for a third model, so no control (A/A) was run")
    with contextlib.ExitStack() as stack:
        runners = [stack.enter_context(load(path, settings)) for path in chosen]
        start = time.perf_counter()  # loading is not what the time is for: some runtimes take long
        samples, _ = fit(runners[0], inputs, _DEFAULT_BATCH)
        feeds = samples.feeds(0)
        _remember(seen, runners[0])
        rounds = interleave(runners, feeds, start + budget_s)
    return summarise(_label(settings), samples.batch, rounds, inputs.seed)


def _remember(seen: _Findings, runner: Runner) -> None:
    seen.providers, seen.runtime = tuple(runner.providers), runner.runtime


def _apart(
    paths: Sequence[Path],
    settings: RunSettings,
    inputs: InputRequest,
    budget_s: float,
    load: Loader,
    seen: _Findings,
) -> BenchRun:
    """Models loaded one at a time, in the order A B B A, for what does not fit twice into memory."""
    start = time.perf_counter()
    calls: list[list[float]] = [[] for _ in paths]
    medians: list[list[float]] = [[] for _ in paths]
    samples = None
    order = (0, 1, 1, 0) if len(paths) == 2 else (0, 0)
    for turn, at in enumerate(order):
        left = start + budget_s - time.perf_counter()
        with load(paths[at], settings) as runner:
            if samples is None:
                samples, _ = fit(runner, inputs, _DEFAULT_BATCH)
                _remember(seen, runner)
            feeds = samples.feeds(0)
            runner.run(feeds)
            block = visit(runner, feeds, _calls_for(max(0.0, left / (len(order) - turn)), runner, feeds))
        calls[at].extend(block)
        medians[at].append(float(np.median(block)))
    seen.notes.append(
        f"{_label(settings)}: the models did not fit into memory together, so they were timed one after "
        "the other, which other load on the machine can distort"
    )
    rounds = Rounds(tuple(np.array(c) for c in calls), np.array(medians))
    assert samples is not None
    return summarise(_label(settings), samples.batch, rounds, inputs.seed)


def _calls_for(seconds: float, runner: Runner, feeds: Feeds) -> int:
    """How many calls fill this time, between 3 and 500."""
    once_ns = max(1, time_call(runner, feeds))
    return int(np.clip(seconds * 1e9 / once_ns, 3, 500))


def _cold(
    paths: Sequence[Path],
    settings: RunSettings,
    inputs: InputRequest,
    budget_s: float,
    load: Loader,
    seen: _Findings,
) -> BenchRun:
    """Loading and the first run, in turns; the runtime itself is imported already."""
    end = time.perf_counter() + budget_s
    with load(paths[0], settings) as runner:  # also brings the files into the system's cache
        samples, _ = fit(runner, inputs, _DEFAULT_BATCH)
        _remember(seen, runner)
    feeds = samples.feeds(0)
    chosen = [*paths, paths[0]] if len(paths) == 2 else list(paths)
    times: list[list[float]] = [[] for _ in chosen]
    for turn in range(_MAX_COLD_ROUNDS):
        for at in range(len(chosen)) if turn % 2 == 0 else reversed(range(len(chosen))):
            times[at].append(_time_cold(chosen[at], settings, feeds, load))
        if enough(turn + 1, end):
            break
    rounds = Rounds(tuple(np.array(t) for t in times), np.array(times))
    return summarise(COLD, samples.batch, rounds, inputs.seed)


def _time_cold(path: Path, settings: RunSettings, feeds: Feeds, load: Loader) -> float:
    """Nanoseconds from nothing to the first answer."""
    begin = time.perf_counter_ns()
    runner = load(path, settings)
    with runner:
        runner.run(feeds)
        return float(time.perf_counter_ns() - begin)


def _reading_hints(seen: _Findings) -> list[str]:
    """Sentences that keep a reader from drawing the wrong conclusion."""
    hints = []
    told = [r for r in seen.runs if r.verdict != TOO_FEW and r.setting != COLD]
    width = max((r.control[1] - r.control[0] for r in told if r.control is not None), default=0.0)
    if width > _NOISY:
        hints.append(
            f"this machine is noisy: the original against itself varies by {width:.0%}, "
            "so changes smaller than that do not show"
        )
    steady_on = [r for r in seen.runs if r.setting == ON and r.after_ms is not None]
    if seen.runtime.startswith("onnxruntime") and any(r.verdict != FASTER for r in steady_on):
        hints.append(
            "onnxruntime folds Conv+BatchNormalization itself when its optimisation is on, so the steady "
            "state gains little there; compare the cold start, and runtimes that do not fold"
        )
    if any(r.setting == COLD for r in seen.runs):
        hints.append("cold start is loading the model and its first run, with the runtime already imported")
    return hints
