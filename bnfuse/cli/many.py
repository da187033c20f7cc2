"""Several models, folders, patterns or addresses: one progress, one report in every form, one exit code."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct
from msgspec.structs import replace

from bnfuse.cli.requests import Inspect, Optimize, Reading
from bnfuse.cli.screen import Screen
from bnfuse.errors import ExitCode
from bnfuse.results.places import is_address, place_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from bnfuse.results import Report
    from bnfuse.results.doing import Progress
    from bnfuse.results.many import Collected, Outcome
    from bnfuse.use_cases.many.tasks import Task

Judge = Callable[["Report"], "Report"]
_MOST_COMPLAINTS = 20


def is_many(options: Reading) -> bool:
    """Whether this is more than one file of this machine, taken through a command as it always was."""
    places = [*options.models, str(getattr(options, "output", None) or "")]
    return (
        options.resume
        or options.cluster is not None
        or any(map(is_address, places))
        or not shows_one(options)
    )


def shows_one(options: Reading) -> bool:
    """Whether but one model can be meant, whose report is told by itself."""
    if len(options.models) != 1:
        return False
    from bnfuse.use_cases.many.discovery import means_one

    return means_one(options.models[0])


def check_together(options: Reading) -> None:
    """Refuse options that are about one model where several may be meant.

    Raises:
        click.UsageError: one of them.
    """
    if isinstance(options, Optimize):
        if options.output is not None and options.output_dir is not None:
            raise click.UsageError("--output names a file and --output-dir a folder: give one of them")
        if options.output is not None and not shows_one(options):
            raise click.UsageError("--output is for one model: give --output-dir for several")
        if options.baseline is not None:
            raise click.UsageError("--baseline compares one model with its earlier report: run it by itself")
    if isinstance(options, Inspect) and options.pattern is not None:
        raise click.UsageError("--explain is for one model: run it by itself")


def run_many(screen: Screen, options: Reading, arguments: dict[str, Any], judged: Judge) -> None:
    """Take them through ``optimize`` (or ``inspect``) with these arguments, and tell all of it at once."""
    from bnfuse.use_cases.many.spool import Spool

    gc.enable()  # a thousand models are no quick command
    check_together(options)
    with closing(Spool()) as spool:
        collected = _collected(screen, options, arguments, spool, judged)
        if shows_one(options):
            _show_one(screen, next(iter(spool)))
            return
        code = _show(screen, collected)
        if code != ExitCode.DONE:
            raise click.exceptions.Exit(code)


def _collected(
    screen: Screen, options: Reading, arguments: dict[str, Any], spool: Any, judged: Judge
) -> Collected:
    """Do it all; every outcome goes to the spool as it comes."""
    from bnfuse.report import check_reports
    from bnfuse.results.many import Collected
    from bnfuse.use_cases.many.collecting import Wanted, collected, jobs_for, tasks_of
    from bnfuse.use_cases.provenance import versions

    begin = time.perf_counter()
    command = "optimize" if isinstance(options, Optimize) and not options.plan_only else "inspect"
    apart = options.output_dir if isinstance(options, Optimize) else None
    wanted = Wanted(
        options.models, command, arguments, apart, options.recursive, options.resume, options.jobs
    )
    with screen.progress() as progress:
        progress("looking for models")
        tasks = _aimed(tasks_of(wanted), options)
        check_reports(
            options.reports,
            *_here(task.model for task in tasks),
            results=_here(task.output for task in tasks if task.output is not None),
        )
        screen.expects(options.reports, *([place_of(tasks[0].model)] if shows_one(options) else []))
        with _executor(options) as (executor, slots, beside):
            tally = _Tally(len(tasks), progress)
            jobs = slots or jobs_for(wanted, tasks)
            for at, outcome in collected(wanted, tasks, executor, beside=beside, doing=tally.doing):
                if outcome.report is not None:
                    outcome = replace(outcome, report=judged(outcome.report))
                spool.add(at, outcome)
                tally.done(outcome)
    return Collected(screen.command, spool, jobs, time.perf_counter() - begin, versions())


def _here(places: Iterable[str]) -> list[Path]:
    """The files of this machine among them."""
    return [Path(place) for place in places if not is_address(place)]


def _aimed(tasks: list[Task], options: Reading) -> list[Task]:
    """With the output that was named for the one model."""
    output = options.output if isinstance(options, Optimize) else None
    return tasks if output is None else [replace(task, output=output) for task in tasks]


@contextmanager
def _executor(options: Reading) -> Iterator[tuple[Executor | None, int, int | None]]:
    """An executor, how many models it takes at once, and how many of them one machine does."""
    with ExitStack() as stack:
        if options.cluster is None:
            yield None, 0, None
            return
        from bnfuse.use_cases.many.cluster import connected

        yield stack.enter_context(connected(options.cluster))


class _Tally(Struct):
    """How far it is, in words: ``proving: 3 of 26 models done, 23 left, about 41 s to go``."""

    models: int
    progress: Progress
    finished: int = 0
    ran: int = 0
    phase: str = ""
    begin: float = 0.0

    def __post_init__(self) -> None:
        self.begin = time.monotonic()
        self._tell()

    def doing(self, words: str) -> None:
        """What is done from now on."""
        self.phase = words
        self._tell()

    def done(self, outcome: Outcome) -> None:
        """One more."""
        self.finished += 1
        self.ran += not outcome.resumed
        self._tell()

    def _tell(self) -> None:
        left = self.models - self.finished
        words = f"{self.finished} of {self.models} models done, {left} left"
        if self.ran and left:
            words += f", about {left * (time.monotonic() - self.begin) / self.ran:.0f} s to go"
        self.progress(f"{self.phase}: {words}" if self.phase else words)


def _show(screen: Screen, collected: Collected) -> ExitCode:
    """Print the report, say what went wrong, write the files; the exit code that speaks for all."""
    from bnfuse.report.content.many import summary

    screen.show(collected)
    found = summary(collected)
    for model, why in found.complaints[:_MOST_COMPLAINTS]:
        screen.fail(why if model in why else f"{model}: {why}")
    if len(found.complaints) > _MOST_COMPLAINTS:
        screen.fail(f"and {len(found.complaints) - _MOST_COMPLAINTS} more, which every report lists")
    if screen.verbose:
        for outcome in collected.outcomes:
            click.echo(outcome.trace, nl=False, err=True)
    screen.write(collected)
    return found.exit_code


def _show_one(screen: Screen, outcome: Outcome) -> None:
    """The outcome of one model, told as that of a file of this machine is."""
    report, failure = outcome.report, outcome.failure
    if report is not None:
        screen.result(report)
    if screen.verbose:
        click.echo(outcome.trace, nl=False, err=True)
    if failure is not None:
        screen.fail(failure.message)
        screen.failure(failure.kind, failure.message, failure.exit_code)
        raise click.exceptions.Exit(failure.exit_code)
    screen.stop_on(report.gates if report is not None else ())
