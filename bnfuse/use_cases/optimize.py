"""The use cases ``optimize`` and ``inspect``: read → plan → apply → write → verify → bench.

Nothing is put into place before it is finished and, unless the caller skips it, proved equal: the
result is written into a folder of its own beside the target, verified and measured from there, and
renamed last. The input is never touched. A result that is different, or whose equality could not
be shown, raises ``Unproved``, which carries the report, and leaves nothing behind.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from os import PathLike
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.core.apply import Patch
from bnfuse.files.staging import check_target, default_output, staging_folder
from bnfuse.files.stamps import Watched, watched
from bnfuse.formats import detect, keeping_models, load
from bnfuse.formats.base import Format, Model, ReadOptions, Written
from bnfuse.garbage import without_collections
from bnfuse.packed import packing_of
from bnfuse.results import Report
from bnfuse.results.doing import Progress
from bnfuse.use_cases import notes as words
from bnfuse.use_cases.folding import Folded, Phases, fold, planned_to_fit, read_model
from bnfuse.use_cases.measuring import measured, why_kept
from bnfuse.use_cases.proving import proved
from bnfuse.use_cases.reporting import completed, detailed, output_info, planned_report
from bnfuse.use_cases.requests import OptimizeRequest, first_settings, requested
from bnfuse.use_cases.targets import check_name, made_folder
from bnfuse.use_cases.unpacking import optimized, unpacked
from bnfuse.use_cases.unwritten import BatchNormsLeft, none_left


@without_collections()
def inspect(
    model: str | PathLike[str],
    *,
    read: ReadOptions | None = None,
    hashes: bool = True,
    details: bool = False,
    progress: Progress = lambda _: None,
) -> Report:
    """Plan only: every BatchNormalization, its decision, its reason. Needs no runtime, writes nothing.

    ``report.operators_after`` counts nodes as ``optimize`` would leave them; all else is as there.

    Raises:
        UsageError: no BatchNormalization has a name that is to ``keep``.
        UnreadableModel: not a whole, valid model of a known format.
        UnsafeModel: it reaches outside its own folder.
    """
    path, phases = Path(model), Phases(progress)
    options = read or ReadOptions()
    with unpacked(path, options.weights) as source, watched(source.path) as files:
        opened, form = read_model(source.path, options, phases)
        files.add(*opened.side_files)
        settled = planned_to_fit(opened, form, options, phases, _operators)
        with closing(settled.model):
            report = planned_report(settled.model, form, settled.plan, settled.outcome, phases, hashes=hashes)
            if options.equalize:
                note = words.equalized_note(settled.plan.equalized, done=False)
                report = replace(report, notes=(*report.notes, *note))
            if details:
                report = detailed(report, settled.model, settled.patch, phases)
        files.check()
    return replace(source.report(report), seconds=dict(phases.seconds))


def _operators(model: Model, patch: Patch, _attempt: int) -> dict[str, int]:
    """What is left; where new weights would not fit, this is found out as ``optimize`` finds it out."""
    operators = model.operators_after(patch)
    model.check_fit(patch)
    return operators


def optimize(
    model: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    *,
    request: OptimizeRequest | None = None,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> Report:
    """Fold what can be folded exactly, write the result, prove it equal, measure it.

    Args:
        model: the file to read; it is never touched.
        output: the file to write; ``NAME.fused.EXT`` beside the model if None.
        request: what is to be done (``requests.requested``); with all defaults if None.
        force: whether an existing output is overwritten.
        progress: called with a word for each phase.

    ``report.notes`` warn where folding spreads the ranges of a layer's channels (``core.quantising.growth``).
    That reads the weights once more, and is left out where neither proof, bench nor hashes are wanted.

    Raises:
        UnreadableModel: not a whole, valid model of a known format.
        UnsafeModel: it reaches outside its own folder.
        UsageError: the output is the input, or named like another format; the inputs given do not fit the
            model.
        OutputError: the output exists, or cannot be written.
        Unproved: different, or not proved equal; nothing was written.
        RuntimeMissing: the runtime or the device is not there; nothing was written.
        BatchNormsLeft: the target is "no-bn", and some must stay; nothing was written.
    """
    path, request = Path(model), request or requested()
    result, packing = None if output is None else Path(output), packing_of(path, request.read.weights)
    run = partial(_optimized, request=request, progress=progress)
    return run(path, result, force=force) if packing is None else optimized(packing, result, force, run)


def _optimized(
    path: Path, output: Path | None, *, force: bool, request: OptimizeRequest, progress: Progress
) -> Report:
    """From one plain file to another."""
    phases, form = Phases(progress), detect(path)
    result = output if output is not None else default_output(path, form.suffix(path))
    check_name(result, path, form.name)
    with made_folder(result):
        check_target(result, path, force=force)
        if request.runs:
            form.prepare(first_settings(request.verify, request.bench))
        report = _placed(path, result, request, phases, force=force)
    return replace(report, seconds=dict(phases.seconds))


def _placed(path: Path, target: Path, request: OptimizeRequest, phases: Phases, *, force: bool) -> Report:
    """Make the result beside its target, prove and measure it there, and put it into place."""
    from bnfuse.files.placing import place

    with watched(path) as files, staging_folder(target) as folder:
        made = _written(path, folder / target.name, request, phases, files)
        written = made.written
        with keeping_models():
            report = _proof(path, target, made, request, phases, files)
            report = measured(report, written, request.bench, request.read, load, phases)
        files.check()
        if request.only_if_faster and (kept := why_kept(report)):
            return replace(report, notes=(*report.notes, kept))
        info = output_info(written, target, made.form, phases, hashes=request.hashes)
        report = completed(report, info, written.path if request.reads_weights else None)
        place((*written.side_files, written.path), target, made.own_files, force=force)
    return none_left(report) if request.read.target == "no-bn" else report


class _Made(Struct, frozen=True):
    """A result that was written, and what to prove and measure of it; the model it came from is closed."""

    report: Report
    written: Written
    request: OptimizeRequest
    form: Format
    own_files: tuple[Path, ...]  # of the original


@without_collections()
def _written(path: Path, staged: Path, request: OptimizeRequest, phases: Phases, files: Watched) -> _Made:
    """Read, fold and write; what else than ``path`` was read is watched, too."""
    opened, form = read_model(path, request.read, phases)
    merge, prove = request.merge_affines, request.verify is not None
    made = fold(opened, form, request.read, staged, phases, merge=merge, prove=prove)
    opened, patch = made.model, made.patch
    with closing(opened):
        if not request.read.allow_growth:
            words.check_growth(opened.total_bytes(), made.written, path)
        own_files = (opened.path, *opened.side_files)
        files.add(*own_files)
        operators = opened.operators_after(patch)
        report = planned_report(opened, form, made.plan, operators, phases, hashes=request.hashes)
        if request.read.target == "no-bn" and made.plan.left:
            raise BatchNormsLeft(report)
        notes = words.merged_note(report) if request.merge_affines else words.arithmetic_note(made.plan)
        if request.details:
            report = detailed(report, opened, patch, phases)
        if request.read.equalize:
            notes = (*notes, *words.equalized_note(made.plan.equalized))
        elif request.reads_weights:
            notes = (*notes, *words.ranges_note(patch))
        request = _looking_inside(request, made)
    limits, told = words.told_limits() if request.runs else (None, ())
    notes = (*report.notes, *notes, *words.unsafe_note(request.unsafe), *told)
    flushed = made.written.subnormals_flushed
    report = replace(report, notes=notes, subnormals_flushed=flushed, unsafe=request.unsafe, limits=limits)
    report = replace(report, rounded_biases=made.written.rounded)
    return _Made(report, made.written, request, form, own_files)


def _looking_inside(request: OptimizeRequest, made: Folded) -> OptimizeRequest:
    """The same, with where to look between the folds; a patch that merges chains has more than folds."""
    if request.verify is None or not made.patch.steps:
        return request
    from bnfuse.proof.inside import inside

    look = inside(made.model, made.patch, made.near)
    return replace(request, verify=replace(request.verify, inside=look))


def _proof(
    path: Path,
    target: Path,
    made: _Made,
    request: OptimizeRequest,
    phases: Phases,
    files: Watched,
) -> Report:
    """The report with its proof: where biases were rounded, of the result before they were."""
    notes = (*made.report.notes, *words.rounded_note(made.written.rounded, proved=request.verify is not None))
    if not made.written.rounded or request.verify is None:
        return replace(proved(made.report, made.written, made.request, phases), notes=notes)
    exactly = replace(request, read=replace(request.read, round_bias=False))
    with staging_folder(target) as folder:
        exact = _written(path, folder / target.name, exactly, phases, files)
        proof = proved(exact.report, exact.written, exact.request, phases)
    return replace(made.report, verification=proof.verification, versions=proof.versions, notes=notes)
