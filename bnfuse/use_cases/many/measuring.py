"""Latencies of models that were proved beside others: measured afterwards, each alone on its machine.

A time that was taken beside other work says little about the model. So the proofs of many models run at
once, and what was written is measured when all of them are done, one model after the other.

A result that is only written if it is faster, and one of a model whose files are elsewhere (an address) or
packed, is made as a whole when its turn comes.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bnfuse.errors import BnfuseError, ExitCode, internal
from bnfuse.results.many import Outcome
from bnfuse.results.outcomes import Failure
from bnfuse.results.places import is_address
from bnfuse.use_cases.many.tasks import Task

if TYPE_CHECKING:
    from bnfuse.results import Report


def whole_alone(task: Task) -> bool:
    """Whether proof and measurement cannot be taken apart."""
    return task.benches and (
        bool(task.options.get("only_if_faster"))
        or is_address(task.model)
        or is_address(task.output or "")
        or _is_packed(task)
    )


def _is_packed(task: Task) -> bool:
    """Whether the model lies as a plain file only while it is worked on."""
    from bnfuse.packed import packing_of

    try:
        return packing_of(Path(task.model), getattr(task.options.get("read"), "weights", None)) is not None
    except BnfuseError:  # it is told where the model is read
        return False


def without_bench(task: Task) -> Task:
    """The same, but for the measurement."""
    return replace(task, options={**task.options, "bench": False}) if task.benches else task


def run_bench(task: Task, done: Outcome) -> Outcome:
    """The outcome of ``without_bench(task)`` with its latencies, or the error that they ended in."""
    begin = perf_counter()
    if done.report is None or done.failure is not None or done.report.output is None:
        return done
    try:
        report = _measured(task, done.report)
    except BnfuseError as error:
        return _ended(done, error, str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001  (as in ``tasks.run``)
        return _ended(done, error, internal(error), ExitCode.INTERNAL)
    return replace(done, report=report, seconds=done.seconds + perf_counter() - begin)


def _measured(task: Task, report: Report) -> Report:
    from bnfuse.files.staging import staging_folder
    from bnfuse.formats import load
    from bnfuse.formats.base import ReadOptions, Written
    from bnfuse.use_cases.folding import Phases
    from bnfuse.use_cases.measuring import measured
    from bnfuse.use_cases.requests import bench_request

    assert report.output is not None
    options = task.options
    read = options.get("read") or ReadOptions()
    phases = Phases(lambda _: None, dict(report.seconds))
    target = Path(report.output.path)
    with staging_folder(target) as folder:
        written = Written(target, (), 0)
        wanted = bench_request(options.get("bench", True))
        found = measured(report, written, wanted, read, load, phases, folder=folder)
    return replace(found, seconds=dict(phases.seconds))


def _ended(done: Outcome, error: Exception, told: str, code: int) -> Outcome:
    assert done.report is not None
    failure = Failure("optimize", type(error).__name__, told, int(code), done.report.input.path)
    failure = replace(failure, versions={"bnfuse": done.report.versions.get("bnfuse", "")})
    return replace(done, failure=failure, trace="".join(traceback.format_exception(error)))
