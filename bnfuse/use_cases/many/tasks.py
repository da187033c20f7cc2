"""One model of many, as a value that any process can be handed, and what is done with it there.

Nothing that becomes of a model is raised: it is an ``Outcome``, so that it stops no other, and comes back
whole from another process or another machine.
"""

from __future__ import annotations

import filecmp
import os
import traceback
from collections.abc import Mapping
from contextlib import closing
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse import __version__
from bnfuse.errors import BnfuseError, ExitCode, UnreadableModel, internal
from bnfuse.machine import usable_cpus
from bnfuse.results.many import Outcome
from bnfuse.results.outcomes import Failure

if TYPE_CHECKING:
    from bnfuse.results import FileInfo, Report
    from bnfuse.use_cases.requests import OptimizeRequest

_KEPT_S = 600.0  # that a runtime waits for its next model
_NO_MEMORY = "not enough memory for this model beside others: try it alone, or with fewer --jobs"


class Task(Struct, frozen=True):
    """What is to be done with one model.

    Attributes:
        model: its path or address.
        output: where its result goes; None where nothing is written.
        command: "optimize" or "inspect", which function of ``bnfuse`` is called.
        options: what that is called with.
        problem: why there is no such model, where that is known.
        beside: how many models are worked on at once on a machine, this one among them.
        free: whether nothing was at ``output`` when all began. What is there later was most likely put there
            by this very task, whose process died before it could say so.
    """

    model: str
    output: str | None
    command: str
    options: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    beside: int = 1
    free: bool = False

    @property
    def benches(self) -> bool:
        """Whether latencies are to be measured."""
        return self.command == "optimize" and self.options.get("bench", True) is not False


def run(task: Task) -> Outcome:
    """Do it, whatever comes of it. An interruption alone is raised."""
    from bnfuse.formats.child.pool import keep_alive

    keep_alive(_KEPT_S)
    begin = perf_counter()
    try:
        done = _done(task)
    except MemoryError as error:
        done = _failed(task, error, _NO_MEMORY, ExitCode.UNREADABLE)
    except BnfuseError as error:
        done = _failed(task, error, str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001  (a bug over one model is told, and stops no other)
        done = _failed(task, error, internal(error), ExitCode.INTERNAL)
    return replace(done, seconds=perf_counter() - begin)


def lost(task: Task, why: str) -> Outcome:
    """What to say of a model over which the process that worked on it ended, or did not answer."""
    return Outcome(task.model, failure=_failure(task, "RuntimeLost", why, ExitCode.UNREADABLE))


def _done(task: Task) -> Outcome:
    if task.problem:
        raise UnreadableModel(task.problem)
    from bnfuse.use_cases.many.remote import at_hand

    force, runs = bool(task.options.get("force")), task.command != "inspect"
    with at_hand(task.model, task.output, force=force, runs=runs) as here:
        if here.parts:
            task = replace(task, options={**task.options, "hashes": False})
        report = called(task, here.model, here.output)
        weights = getattr(task.options.get("read"), "weights", None)
        read = tuple((name, "") for name in here.parts) or stamped(report.input, weights)
        wrote = () if report.output is None else stamped(report.output)
        here.send()
        return here.named(Outcome(task.model, report, read=read, wrote=wrote))


def called(task: Task, model: Path, output: Path | None) -> Report:
    """The use case, with its share of the processors."""
    from bnfuse.use_cases.optimize import inspect, optimize
    from bnfuse.use_cases.requests import requested

    options = dict(task.options)
    if task.command == "inspect":
        return inspect(model, **options)
    force = bool(options.pop("force", False))
    if task.beside > 1:
        options["verify"] = sharing(options.get("verify", True), task.beside)
    request = requested(**options)
    if output is not None and task.free and not force and output.is_file():
        return _once_more(model, output, request)
    return optimize(model, output, request=request, force=force)


def _once_more(model: Path, output: Path, request: OptimizeRequest) -> Report:
    """The report on a result that is there already, where it is what comes out again, byte for byte.

    The files with its weights are called by their content, so the model's own bytes speak for them.

    Raises:
        OutputError: it is something else.
    """
    from bnfuse.files.staging import check_free, staging_folder
    from bnfuse.use_cases.optimize import optimize

    with staging_folder(output) as folder:
        report = optimize(model, folder / output.name, request=request)
        if report.output is None:  # not faster, so not to be written
            return report
        same = filecmp.cmp(report.output.path, output, shallow=False)
    check_free(output, force=same)
    return replace(report, output=replace(report.output, path=output))


def sharing(verify: Any, beside: int) -> Any:
    """The request for a proof, with the threads that fall to one of so many at once."""
    from bnfuse.use_cases.requests import verify_request

    request = verify_request(verify)
    if request is None or request.threads:
        return verify
    return replace(request, threads=max(1, usable_cpus() // beside))


def stamped(file: FileInfo, weights: str | PathLike[str] | None = None) -> tuple[tuple[str, str], ...]:
    """(name, SHA-256) of a model and of all files that it is read from; () where there is no sum of it.

    ``weights`` are those of an architecture in JSON. Names are those from the model's folder on.
    """
    from bnfuse.packed import packing_of
    from bnfuse.use_cases.provenance import sha256

    if not file.sha256:
        return ()
    home, packing = Path(os.path.realpath(file.path)).parent, packing_of(file.path, weights)
    if packing is not None:
        files = sorted(packing.files, key=lambda each: each != file.path)
        return tuple((os.path.relpath(os.path.realpath(each), home), sha256(each)) for each in files)
    beside: list[Path] = []
    if file.path.stat().st_size != file.total_bytes:
        from bnfuse.formats import detect
        from bnfuse.formats.base import ReadOptions

        with closing(detect(file.path).read(file.path, ReadOptions())) as model:
            beside = sorted(model.side_files)
    others = ((os.path.relpath(os.path.realpath(each), home), sha256(each)) for each in beside)
    return ((file.path.name, file.sha256), *others)


def _failed(task: Task, error: BaseException, told: str, code: int) -> Outcome:
    """An error as an outcome; one that carries a report hands it on, and a gate of it speaks for itself."""
    trace = "".join(traceback.format_exception(error))
    refused = Outcome(task.model, getattr(error, "report", None), trace=trace)
    if refused.exit_code != ExitCode.DONE:
        return refused
    return replace(refused, failure=_failure(task, type(error).__name__, told, code))


def _failure(task: Task, kind: str, told: str, code: int) -> Failure:
    from bnfuse.results.places import place_of

    return Failure(task.command, kind, told, int(code), place_of(task.model), {"bnfuse": __version__})
