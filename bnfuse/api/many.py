"""``optimize_many``: many models at once, over any executor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict, replace

from bnfuse.api import options as known
from bnfuse.api import requests
from bnfuse.api.options import AnyPath
from bnfuse.api.results import Report, written_down
from bnfuse.results import many
from bnfuse.use_cases.many.collecting import Wanted, check_jobs, collected, tasks_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Unpack

    from bnfuse.api.options import OptimizeOptions
    from bnfuse.use_cases.many.tasks import Task


class Outcome(many.Outcome, frozen=True):
    """What became of one model: ``report``, which can be written in every form, or the ``failure``."""

    report: Report[Path] | None = None


def optimize_many(
    models: AnyPath | Iterable[AnyPath],
    output_dir: AnyPath | None = None,
    *,
    recursive: bool = False,
    executor: Executor | None = None,
    jobs: int | None = None,
    resume: bool = False,
    plan_only: bool = False,
    **options: Unpack[OptimizeOptions],
) -> Iterator[Outcome]:
    """Fold many models at once; one that fails stops no other.

    Args:
        models: paths, folders, patterns (``models/*.onnx``) and addresses (``s3://…``).
        output_dir: the folder or address that results go to, in the folders that the models are in;
            None for beside each model. A result is called ``NAME.fused.EXT``.
        recursive: whether folders within folders are looked into.
        executor: any ``concurrent.futures.Executor``, such as ``dask.distributed.Client.get_executor()``;
            None for processes of this machine, which start anew (``spawn``): a script that calls this needs
            ``if __name__ == "__main__":``.
        jobs: how many models at once; None for the processors that may be used.
        resume: whether models are skipped that were done before, with these options and this version, and
            have not changed, nor has their result.
        plan_only: whether only ``inspect`` is called; nothing is written then.
        **options: those of ``optimize``, the same for all models.

    Returns:
        An ``Outcome`` for each model as soon as it is done. Latencies are measured when all are proved, one
        model after the other. Whoever stops to go through them stops the work.

    Raises:
        UsageError: before anything has run: two models would write one file, ``jobs`` is below 1, or a value
            makes no sense.
        RuntimeMissing: an address needs a package that is not installed.
        TypeError: a keyword that there is not.
    """
    requests.check_known(
        "optimize_many", options, known.InspectOptions if plan_only else known.OptimizeOptions
    )
    check_jobs(jobs)
    named = [models] if isinstance(models, str | PathLike) else list(models)
    wanted = Wanted(
        models=[str(fspath(name)) for name in named],
        command="inspect" if plan_only else "optimize",
        options=requests.arguments(options, plan_only=plan_only),
        output_dir=None if output_dir is None else str(fspath(output_dir)),
        recursive=recursive,
        resume=resume,
        jobs=jobs,
    )
    return _outcomes(wanted, tasks_of(wanted), executor, options)


def _outcomes(
    wanted: Wanted, tasks: list[Task], executor: Executor | None, options: Mapping[str, Any]
) -> Iterator[Outcome]:
    """As they come; arrays among the options lie in files, and a runtime's limits hold, for as long."""
    plan_only = wanted.command == "inspect"
    with requests.prepared("optimize_many", options, known.OptimizeOptions) as asked:
        arguments = requests.arguments(asked, plan_only=plan_only)
        tasks = [replace(task, options=arguments) for task in tasks]
        for _, outcome in collected(wanted, tasks, executor, beside=wanted.jobs):
            yield _written_down(outcome)


def _written_down(outcome: many.Outcome) -> Outcome:
    found = outcome.report
    output = None if found is None or found.output is None else found.output.path
    report = None if found is None else written_down(Report, found, model=output)
    return Outcome(**{**asdict(outcome), "report": report})
