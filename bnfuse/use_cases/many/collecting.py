"""Many models taken through ``optimize`` or ``inspect``: found, handed out, and their outcomes as they come.

Proofs run at once, latencies one after the other (``measuring``). What was done before and has not changed is
not done again where that is asked for (``records``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.errors import UsageError
from bnfuse.files.staging import sweep
from bnfuse.machine import usable_cpus
from bnfuse.results import Status
from bnfuse.results.doing import Progress
from bnfuse.results.many import Outcome
from bnfuse.results.places import is_address
from bnfuse.use_cases.many.discovery import discover
from bnfuse.use_cases.many.measuring import run_bench, whole_alone, without_bench
from bnfuse.use_cases.many.records import Records
from bnfuse.use_cases.many.remote import check_writable
from bnfuse.use_cases.many.scheduling import Call, outcomes
from bnfuse.use_cases.many.spool import Spool
from bnfuse.use_cases.many.targets import placed
from bnfuse.use_cases.many.tasks import Task, run
from bnfuse.use_cases.many.workers import Workers

_AHEAD = 2  # calls that are handed over for each worker, so that none waits for the next
_FOREIGN_WINDOW = 64  # the same for an executor of which nobody knows how many workers it has


class Wanted(Struct, frozen=True):
    """What is to be done with many models.

    Attributes:
        models: paths, folders, patterns and addresses.
        command: "optimize" or "inspect".
        options: what that is called with, but for the model and its output.
        output_dir: the folder that results go to, with the folders that hold the models; None: beside them.
        recursive: whether folders within folders are looked into.
        resume: whether what is done and unchanged is left as it is.
        jobs: how many models at once; None for the processors that may be used.
    """

    models: Sequence[str]
    command: str = "optimize"
    options: Mapping[str, Any] = field(default_factory=dict)
    output_dir: str | None = None
    recursive: bool = False
    resume: bool = False
    jobs: int | None = None


def tasks_of(wanted: Wanted) -> list[Task]:
    """A task for each model that was found. Nothing has run yet.

    Raises:
        UsageError: two would write one file, or a result cannot go where it would.
        RuntimeMissing: an address needs a package that is not installed.
    """
    writes = wanted.command == "optimize"
    apart = wanted.output_dir if writes else None
    without = Path(apart) if apart is not None and not is_address(apart) else None
    found = discover(wanted.models, recursive=wanted.recursive, without=without)
    if apart is not None and is_address(apart):
        check_writable(apart)
    targets = placed(found, apart, _weights(wanted)) if writes else [None] * len(found)
    return [
        Task(each.model, target, wanted.command, wanted.options, each.problem, free=_is_free(target))
        for each, target in zip(found, targets, strict=True)
    ]


def _weights(wanted: Wanted) -> Any:
    """The file that was named as the weights of an architecture in JSON."""
    read = wanted.options.get("read")
    return None if read is None else read.weights


def _is_free(target: str | None) -> bool:
    """Whether nothing is at a path; what is behind an address is looked at where it is written."""
    return target is not None and not is_address(target) and not os.path.lexists(target)


def jobs_for(wanted: Wanted, tasks: Sequence[Task]) -> int:
    """How many models are worked on at once: never more than there are."""
    return max(1, min(wanted.jobs or usable_cpus(), len(tasks)))


def collected(
    wanted: Wanted,
    tasks: Sequence[Task],
    executor: Executor | None = None,
    *,
    beside: int | None = None,
    doing: Progress = lambda _: None,
) -> Iterator[tuple[int, Outcome]]:
    """(number of the task, its outcome), as they are done.

    Args:
        wanted: as ``tasks`` were made of.
        tasks: what is to be done.
        executor: what to hand it to; None for processes of this machine.
        beside: how many models are worked on at once on a machine; None for the number of jobs.
        doing: called with what is done from then on, in a word or two.
    """
    records = Records()
    records.forget_old()
    left = dict(enumerate(tasks))
    if wanted.resume:
        doing("looking for what has changed")
    for at, task in enumerate(tasks) if wanted.resume else ():
        known = records.find(task)
        if known is not None:
            del left[at]
            yield at, known
    if not left:
        return
    jobs = jobs_for(wanted, list(left.values()))
    with ExitStack() as stack:
        stack.callback(_sweep, list(left.values()))
        crew: Workers | Executor = stack.enter_context(Workers(jobs)) if executor is None else executor
        window = _AHEAD * jobs if executor is None else max(_FOREIGN_WINDOW, jobs)
        for at, outcome in _worked(left, _Crew(crew, window, beside or jobs, doing)):
            records.keep(tasks[at], outcome)
            yield at, outcome


def _sweep(tasks: Sequence[Task]) -> None:
    """Remove what a worker that was killed left where it was writing; what lives is not touched."""
    outputs = (task.output for task in tasks if task.output is not None and not is_address(task.output))
    for folder in {Path(output).parent for output in outputs}:
        sweep(folder)


class _Crew(Struct, frozen=True):
    """Who works, how many calls are handed over at once, how many models a machine works on, whom to tell."""

    crew: Workers | Executor
    window: int
    beside: int
    doing: Progress


def _worked(tasks: Mapping[int, Task], by: _Crew) -> Iterator[tuple[int, Outcome]]:
    """What can run beside others, largest files first; then, alone, what is to be measured or ran short.

    A large one that begins last would keep one worker at work while all others have nothing left to do.
    """
    shared, alone = [], []
    for at, task in sorted(tasks.items(), key=lambda pair: -_size(pair[1])):
        if whole_alone(task):
            alone.append(Call(at, task, run, (task,)))
        else:
            part = replace(without_bench(task), beside=by.beside)
            shared.append(Call(at, task, run, (part,)))
    with closing(Spool()) as proved:
        by.doing("planning" if not any(task.command == "optimize" for task in tasks.values()) else "folding")
        for at, outcome in outcomes(shared, by.crew, by.window):
            if by.beside > 1 and ran_short(outcome):
                alone.append(Call(at, tasks[at], run, (tasks[at],)))
            elif tasks[at].benches and outcome.failure is None:
                proved.add(at, outcome)
            else:
                yield at, outcome
        if alone or len(proved):
            by.doing("one after the other")
        yield from outcomes(alone, by.crew, 1)
        for at, outcome in proved.numbered():
            yield from outcomes([Call(at, tasks[at], run_bench, (tasks[at], outcome))], by.crew, 1)


def ran_short(outcome: Outcome) -> bool:
    """Whether a model may have failed because others took the memory or the time that it needed.

    A runtime that was killed, or stopped at a limit, makes a proof inconclusive, too.
    """
    failure, report = outcome.failure, outcome.report
    if failure is None:
        return False
    inconclusive = report is not None and report.verification.status is Status.INCONCLUSIVE
    return inconclusive or failure.kind in ("MemoryError", "RuntimeLost")


def _size(task: Task) -> int:
    """Bytes of the model's file; 0 where nobody knows."""
    try:
        return 0 if is_address(task.model) else os.stat(task.model).st_size  # noqa: PTH116  (any text)
    except (OSError, ValueError):
        return 0


def check_jobs(jobs: int | None) -> None:
    """Refuse a number of jobs that is none.

    Raises:
        UsageError: below 1.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} is no number of jobs: give 1 or more")
