"""Measures the steady state: calls of models that are loaded and warm, setting by setting.

A setting is one size of batch, one number of threads, and the runtime's graph optimisation off or on. Each is
measured in up to three passes, every pass with the models loaded anew (another place in memory) and at
another time (other load on the machine), and ends as soon as its verdict is certain (``measure.certainty``).
What time is left goes to the settings that are not, to each by how far its interval is from the precision.
Where loading takes longer than a tenth of the measuring, or calls so long that a pass could not tell
anything, one pass takes all of a setting's share, and another what others left, if loading is worth it.

Two copies of each model are loaded where memory and time allow it, else fewer. Does not measure what does not
fit into memory or does not load in one setting; it says so in a note instead. Models that fit only one at a
time are timed one after the other, with a note.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.errors import BnfuseError, RuntimeMissing, UnsafeModel, UsageError
from bnfuse.formats.base import Loader, Runner, RunSettings
from bnfuse.inputs.samples import Feeds, InputRequest, Samples, fit
from bnfuse.measure.certainty import Certainty
from bnfuse.measure.judging import Rounds, summarise
from bnfuse.measure.scouting import scout
from bnfuse.measure.stopwatch import Stopwatch
from bnfuse.measure.timing import interleave, time_call, visit
from bnfuse.results import BenchRun, RanInput
from bnfuse.results.doing import Doing, Progress
from bnfuse.results.latency import OFF, ON

DEFAULT_BATCH = 1
MOST_COPIES = 4  # sessions at once, for two models

_PASSES = 3
_CHEAP_LOAD = 0.1  # of the time a setting may take: below this, models are loaded anew for every pass
# Rounds that should fit into the time a setting may take; where they do not, fewer copies are timed.
_WANTED_ROUNDS = 12
_VISIT_S = 0.005  # a visit takes about so long, where calls are short
_LEAST_S = 0.1  # of a setting that has begun
_LEAST_NEED, _MOST_NEED = 0.25, 10.0  # times what it took
_LONG_NS = 20_000_000  # a call that is timed once only, to know how long it takes
_NO_CONTROL = "there was no {} for a second copy of the original, so no control (A/A) was run"


class Findings(Struct):
    """What has been collected so far."""

    runs: list[BenchRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    providers: tuple[str, ...] = ()
    runtime: str = ""
    second: tuple[str, Sequence[str]] = ("", ())  # the second model's runtime and providers
    optimises: str = ""  # see ``Runner``
    versions: dict[str, str] = field(default_factory=dict)
    failure: BnfuseError | None = None  # the first
    load_ms: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))  # with optimisation on
    progress: Progress = lambda _: None  # called with what is measured now

    def remember(self, runner: Runner) -> None:
        """What really ran."""
        self.providers, self.runtime = tuple(runner.providers), runner.runtime
        self.optimises = runner.optimises

    def note(self, text: str) -> None:
        """Say it, once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextlib.contextmanager
    def guard(self, setting: str) -> Iterator[None]:
        """What fails in one setting becomes a note, unless it is the request's fault."""
        try:
            yield
        except (UsageError, UnsafeModel, RuntimeMissing):
            raise
        except BnfuseError as error:
            self.failure = self.failure or error
            self.note(f"{setting} was not timed: {error}")
        except MemoryError:
            self.note(f"{setting} was not timed: memory ran out")


class Setting(Struct):
    """One setting, and its rounds so far. ``done`` is set where no further pass is wanted.

    ``spent_s`` is what measuring took, ``loads_s`` what loading its models for one pass took.
    """

    settings: RunSettings
    inputs: InputRequest
    certainty: Certainty
    batch: int = 0
    ran: tuple[RanInput, ...] = ()
    rounds: Rounds | None = None
    done: bool = False
    spent_s: float = 0.0
    loads_s: float = 0.0

    @property
    def needs(self) -> float:
        """Its claim on the time that is left: about how much longer it takes to the precision.

        Within bounds: who is far from it may never get there, and who has no verdict yet comes first.
        """
        if self.rounds is None:
            return 1.0
        farther = max(self.certainty.doubt**2 - 1.0, _LEAST_NEED)
        return max(self.spent_s, _LEAST_S) * min(farther, _MOST_NEED)

    @property
    def label(self) -> str:
        """What reports call it."""
        return ON if self.settings.optimise else OFF


def measure_steady(
    paths: Sequence[Path],
    every: Sequence[Setting],
    *,
    budget_s: float,
    copies: int,
    load: Loader,
    seen: Findings,
) -> None:
    """Measure one model, or two against each other, in every setting; adds to ``seen``.

    Args:
        paths: the models.
        every: the settings, as they will be reported.
        budget_s: seconds for all of them together; loading is apart from it.
        copies: how many sessions fit into memory at once.
        load: loads a model into its runtime.
        seen: what has been found.
    """
    left_s = budget_s
    for at_pass in range(_PASSES):
        open_ones = [setting for setting in every if not setting.done]
        for at, setting in enumerate(open_ones):
            rest = open_ones[at:]
            share_s = max(0.0, left_s) * setting.needs / sum(other.needs for other in rest)
            if setting.rounds is not None and share_s <= setting.loads_s:
                continue
            spent = Stopwatch(share_s, max(0.0, left_s), setting.spent_s, _PASSES - at_pass)
            place = f"setting {at + 1}/{len(open_ones)}, pass {at_pass + 1}/{_PASSES}"
            batch = f", batch {setting.inputs.batch}" if setting.inputs.batch else ""
            seen.progress(Doing(f"measuring {setting.label}{batch} ({place})", left_s))
            before = setting.rounds
            with seen.guard(setting.label):
                _one_pass(paths, setting, spent, copies, load, seen)
            setting.done |= setting.rounds is before  # it failed
            setting.spent_s += spent.seconds()
            left_s -= spent.seconds()
    for setting in every:
        if setting.rounds is not None:
            run = summarise(
                setting.label,
                setting.batch,
                setting.rounds,
                setting.inputs.seed,
                threads=setting.settings.threads,
                bound=setting.certainty.bound(setting.rounds),
            )
            seen.runs.append(replace(run, inputs=setting.ran))


def _one_pass(
    paths: Sequence[Path],
    setting: Setting,
    spent: Stopwatch,
    copies: int,
    load: Loader,
    seen: Findings,
) -> None:
    """All models in memory, interleaved; one after the other where that cannot be."""
    if copies < len(paths):
        setting.done = True
        _apart(paths, setting, spent, load, seen)
        return
    earlier = setting.rounds
    with contextlib.ExitStack() as stack:

        def loaded(turns: Sequence[int]) -> dict[int, Runner]:
            return {at: stack.enter_context(_timed_load(paths, at, setting, load, seen)) for at in turns}

        begin = time.perf_counter()
        models = loaded(range(len(paths)))
        load_s = time.perf_counter() - begin
        seen.versions.update({name: v for runner in models.values() for name, v in runner.versions.items()})
        samples, feeds = _inputs(setting, models[0], seen)
        call_s = _call_s(models[0], feeds)
        typical_ns: Sequence[float] = ()
        if earlier is None and copies > len(paths) == 2:
            found = scout([models[0], models[1]], feeds, spent, setting.certainty, setting.inputs.seed)
            typical_ns = found.typical_ns
            if found.rounds is not None:
                setting.rounds, setting.batch, setting.done = found.rounds, samples.batch, True
                return
        if len(paths) == 2:
            copies = (
                len(earlier.calls)
                if earlier is not None
                else _copies_in_time(copies, call_s, spent.share_s, seen)
            )
            begin = time.perf_counter()
            models |= loaded(range(copies - 1, 1, -1))  # A B B A, for what is loaded first may fare better
            if copies == MOST_COPIES:  # the first two may have been there already
                load_s = max(load_s, time.perf_counter() - begin)
        runners = [models[at] for at in sorted(models)]
        setting.loads_s = load_s * len(runners) / len(paths)
        pass_s = _WANTED_ROUNDS * 2 * len(runners) * max(call_s, _VISIT_S)
        at_once = setting.loads_s > _CHEAP_LOAD * spent.share_s or pass_s > spent.share_s / _PASSES

        def all_rounds(rounds: Rounds) -> Rounds:
            return rounds if earlier is None else earlier.followed_by(rounds)

        rounds = interleave(
            runners,
            feeds,
            spent.start(all_at_once=at_once),
            done=lambda new: setting.certainty.look(all_rounds(new), *spent.parts()),
            seed=setting.inputs.seed + (0 if earlier is None else len(earlier)),
            typical_ns=typical_ns,
        )
    setting.rounds, setting.batch = all_rounds(rounds), samples.batch
    setting.done = setting.certainty.reached


def _timed_load(paths: Sequence[Path], at: int, setting: Setting, load: Loader, seen: Findings) -> Runner:
    """One of A B A B; what loading took is remembered as users load a model, with optimisation on."""
    runner = load(paths[at % 2], setting.settings)
    if at % 2:
        seen.second = runner.runtime, runner.providers
    if setting.settings.optimise and setting.rounds is None:
        seen.load_ms[at % 2].append(1e3 * runner.load_s)
    return runner


def _inputs(setting: Setting, runner: Runner, seen: Findings) -> tuple[Samples, Feeds]:
    samples, _ = fit(runner, setting.inputs, DEFAULT_BATCH)
    seen.remember(runner)
    setting.ran = samples.ran
    return samples, samples.feeds(0)


def _call_s(runner: Runner, feeds: Feeds) -> float:
    """About how long a call takes, in seconds: the fastest of three, or the one that takes long."""
    first = time_call(runner, feeds)
    return (first if first > _LONG_NS else min(first, *(time_call(runner, feeds) for _ in range(2)))) / 1e9


def _copies_in_time(copies: int, call_s: float, share_s: float, seen: Findings) -> int:
    """How many sessions of two models to time: as many as fit into memory, and leave time for rounds."""
    fitting = [n for n in range(3, copies + 1) if 2 * n * call_s * _WANTED_ROUNDS <= share_s]
    if not fitting:
        seen.note(_NO_CONTROL.format("memory" if copies == 2 else "time"))
    return max(fitting, default=2)


def _apart(paths: Sequence[Path], setting: Setting, spent: Stopwatch, load: Loader, seen: Findings) -> None:
    """Models loaded one at a time, in the order A B B A, for what does not fit twice into memory."""
    calls: list[list[float]] = [[] for _ in paths]
    medians: list[list[float]] = [[] for _ in paths]
    order = (0, 1, 1, 0) if len(paths) == 2 else (0, 0)
    end = spent.start(all_at_once=True)
    feeds: Feeds | None = None
    for turn, at in enumerate(order):
        left_s = end - time.perf_counter()
        with load(paths[at], setting.settings) as runner:
            seen.versions.update(runner.versions)
            if feeds is None:
                samples, feeds = _inputs(setting, runner, seen)
                setting.batch = samples.batch
            runner.run(feeds)
            block = visit(runner, feeds, _calls_for(max(0.0, left_s / (len(order) - turn)), runner, feeds))
        calls[at].extend(block)
        medians[at].append(float(np.median(block)))
    seen.note(
        f"{setting.label}: the models did not fit into memory together, so they were timed one after "
        "the other, which other load on the machine can distort"
    )
    setting.rounds = Rounds(tuple(np.array(c) for c in calls), np.array(medians))


def _calls_for(seconds: float, runner: Runner, feeds: Feeds) -> int:
    """How many calls fill this time, between 3 and 500."""
    once_ns = max(1, time_call(runner, feeds))
    return int(np.clip(seconds * 1e9 / once_ns, 3, 500))
