"""The use cases ``optimize`` and ``inspect``: read → plan → apply → write → verify → bench.

Nothing is put into place before it is finished and, unless the caller skips it, proved equal: the
result is written into a folder of its own beside the target, verified and measured from there, and
renamed last. The input is never touched. A result that is different, or whose equality could not
be shown, raises ``Unproved``, which carries the report, and leaves nothing behind.
"""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bnfuse.core.apply import apply
from bnfuse.core.plan import plan as plan_folds
from bnfuse.errors import NotEqual, UsageError
from bnfuse.formats import detect, load
from bnfuse.formats.base import Format, ReadOptions, Written
from bnfuse.garbage import without_collections
from bnfuse.results import Agreement, Report, Status
from bnfuse.staging import check_target, default_output, place, staging_folder
from bnfuse.use_cases.folding import Folded, Phases, Progress, fold, read_model
from bnfuse.use_cases.measuring import measured, why_kept
from bnfuse.use_cases.notes import merged_note, ranges_note, why_unproved
from bnfuse.use_cases.provenance import Loader, Witnessed, versions
from bnfuse.use_cases.reading import as_asked
from bnfuse.use_cases.reporting import completed, detailed, output_info, planned_report
from bnfuse.use_cases.targets import check_name, made_folder

if TYPE_CHECKING:
    from bnfuse.use_cases.bench import BenchRequest
    from bnfuse.use_cases.verify import VerifyRequest


class Unproved(NotEqual):
    """The proof failed or was inconclusive; ``report`` tells everything that was found out."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What one ``optimize`` was asked for; ``verify`` or ``bench`` is None to leave that step out."""

    verify: VerifyRequest | None
    bench: BenchRequest | None
    hashes: bool
    details: bool
    read: ReadOptions
    merge: bool = False

    @property
    def reads_weights(self) -> bool:
        """Whether the run reads all weights anyway, so that looking at them costs little beside it."""
        return self.hashes or self.verify is not None or self.bench is not None


@without_collections()
def inspect(
    model: str | Path,
    *,
    read: ReadOptions | None = None,
    activations: Literal["keep", "move"] | None = None,
    keep: Sequence[str] = (),
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
    opened, form = read_model(path, as_asked(read, activations, keep), phases)
    with closing(opened):
        with phases("plan", "planning"):
            planned = plan_folds(opened.graph)
            patch = apply(opened.graph, planned)
            operators = opened.operators_after(patch)
        report = planned_report(opened, form, planned.plan, operators, phases, hashes=hashes)
        if details:
            report = detailed(report, opened, patch, phases)
    return replace(report, seconds=dict(phases.seconds))


def optimize(
    model: str | Path,
    output: str | Path | None = None,
    *,
    verify: VerifyRequest | bool = True,
    bench: BenchRequest | bool = True,
    force: bool = False,
    read: ReadOptions | None = None,
    activations: Literal["keep", "move"] | None = None,
    keep: Sequence[str] = (),
    hashes: bool = True,
    merge_affines: bool = False,
    details: bool = False,
    only_if_faster: bool = False,
    progress: Progress = lambda _: None,
) -> Report:
    """Fold what can be folded exactly, write the result, prove it equal, measure it.

    Args:
        model: the file to read; it is never touched.
        output: the file to write; ``NAME.fused.EXT`` beside the model if None.
        verify: how to prove the result equal; True for the defaults, False to write it unproved.
        bench: how to measure it; True for the defaults, False not to.
        force: whether an existing output is overwritten.
        read: what to make of initializers that are also inputs.
        activations: "move" lets a Relu or Clip become a Max or Min where more can go so.
        keep: names, or patterns, of BatchNormalizations that stay.
        hashes: whether SHA-256 sums are wanted; they take as long as copying a large model.
        merge_affines: whether chains of Mul, Add, Sub, Div that stay become one BatchNormalization each.
        details: whether ``report.details`` are wanted: the graph around each decision, and what became of
            each layer's weights, which are read once more for it.
        only_if_faster: whether the original is kept, and nothing written, unless the bench shows a gain in
            the runs that count (``gates``): ``report.output`` is None then, and a note says why.
        progress: called with a word for each phase.

    ``report.notes`` warn where folding spreads the ranges of a layer's channels (``core.ranges``). That
    reads the weights once more, and is left out where neither proof, bench nor hashes are wanted.

    Raises:
        UnreadableModel: not a whole, valid model of a known format.
        UnsafeModel: it reaches outside its own folder.
        UsageError: the output is the input, or named like another format; the inputs given do not fit the
            model; or ``only_if_faster`` without a bench.
        OutputError: the output exists, or cannot be written.
        Unproved: different, or not proved equal; nothing was written.
        RuntimeMissing: the runtime or the device is not there; nothing was written.
    """
    path, phases = Path(model), Phases(progress)
    read = as_asked(read, activations, keep)
    wanted = _Wanted(_verify_request(verify), _bench_request(bench), hashes, details, read, merge_affines)
    if only_if_faster and wanted.bench is None:
        raise UsageError("--only-if-faster needs the measurement: do not leave it out")
    form = detect(path)
    target = Path(output) if output is not None else default_output(path, form.suffix(path))
    check_name(target, path, form.name)
    with made_folder(target):
        check_target(target, path, force=force)
        if wanted.verify is not None or wanted.bench is not None:
            form.prepare()
        report = _placed(path, target, wanted, phases, force=force, only_if_faster=only_if_faster)
    return replace(report, seconds=dict(phases.seconds))


def _placed(
    path: Path, target: Path, wanted: _Wanted, phases: Phases, *, force: bool, only_if_faster: bool
) -> Report:
    """Make the result beside its target, prove and measure it there, and put it into place."""
    with staging_folder(target) as folder:
        made = _written(path, folder / target.name, wanted, phases)
        report, written, wanted = made.report, made.written, made.wanted
        report = _proved(report, written, wanted, phases)
        report = measured(report, written, wanted.bench, wanted.read, phases)
        if only_if_faster and (kept := why_kept(report)):
            return replace(report, notes=(*report.notes, kept))
        info = output_info(written, target, made.form, phases, hashes=wanted.hashes)
        report = completed(report, info, written.path if wanted.reads_weights else None)
        place((*written.side_files, written.path), target, made.own_files, force=force)
    return report


@dataclass(frozen=True, slots=True)
class _Made:
    """A result that was written, and what to prove and measure of it; the model it came from is closed."""

    report: Report
    written: Written
    wanted: _Wanted
    form: Format
    own_files: tuple[Path, ...]  # of the original


@without_collections()
def _written(path: Path, staged: Path, wanted: _Wanted, phases: Phases) -> _Made:
    """Read, fold and write."""
    opened, form = read_model(path, wanted.read, phases)
    made = fold(
        opened, form, wanted.read, staged, phases, merge=wanted.merge, prove=wanted.verify is not None
    )
    opened, patch = made.model, made.patch
    with closing(opened):
        operators = opened.operators_after(patch)
        report = planned_report(opened, form, made.plan, operators, phases, hashes=wanted.hashes)
        own_files = (opened.path, *opened.side_files)
        notes = merged_note(report) if wanted.merge else ()
        if wanted.details:
            report = detailed(report, opened, patch, phases)
        if wanted.reads_weights:
            notes = (*notes, *ranges_note(patch))
        wanted = _looking_inside(wanted, made)
    flushed = made.written.subnormals_flushed
    report = replace(report, notes=(*report.notes, *notes), subnormals_flushed=flushed)
    return _Made(report, made.written, wanted, form, own_files)


def _looking_inside(wanted: _Wanted, made: Folded) -> _Wanted:
    """The same, with where to look between the folds; a patch that merges chains has more than folds."""
    if wanted.verify is None or not made.patch.steps:
        return wanted
    from bnfuse.proof.inside import inside

    look = inside(made.model, made.patch, made.near)
    return replace(wanted, verify=replace(wanted.verify, inside=look))


def _verify_request(verify: VerifyRequest | bool) -> VerifyRequest | None:
    if not isinstance(verify, bool) or not verify:
        return verify or None
    from bnfuse.use_cases.verify import VerifyRequest

    return VerifyRequest()


def _bench_request(bench: BenchRequest | bool) -> BenchRequest | None:
    if not isinstance(bench, bool) or not bench:
        return bench or None
    from bnfuse.use_cases.bench import BenchRequest

    return BenchRequest()


def _proved(report: Report, written: Written, wanted: _Wanted, phases: Phases) -> Report:
    """The report with its proof; raises ``Unproved`` where there is none but one was asked for."""
    if wanted.verify is None:
        return replace(report, verification=Agreement(Status.SKIPPED, detail="as asked for"))
    ran = Witnessed(load)
    with phases("verify", "verifying"):
        agreement = _prove(report, written, wanted.verify, ran.load, phases.progress)
    if agreement.status is Status.DIFFERENT:
        with phases("bisect", "looking for the fold that breaks equality"):
            agreement = _blamed(agreement, report, written, wanted, wanted.verify)
    report = replace(report, verification=agreement, versions=versions(ran.versions))
    if agreement.status is Status.EQUAL:
        return report
    raise Unproved(why_unproved(agreement), replace(report, seconds=dict(phases.seconds)))


def _prove(
    report: Report, written: Written, request: VerifyRequest, load: Loader, progress: Progress
) -> Agreement:
    original = report.input.path
    same = not written.side_files and filecmp.cmp(original, written.path, shallow=False)
    if same and not request.labels:  # an accuracy takes a run
        return Agreement(Status.EQUAL, evidence="identical bytes")
    from bnfuse.use_cases.verify import verify

    return verify(original, written.path, request=_request(report, request), load=load, progress=progress)


def _request(report: Report, request: VerifyRequest) -> VerifyRequest:
    """The request with what is known about the model."""
    depth = max(1, report.plan.rewrites)  # merging alone rounds, too
    return replace(request, model_bytes=report.input.total_bytes, depth=depth, successor=True)


def _blamed(
    failed: Agreement, report: Report, written: Written, wanted: _Wanted, request: VerifyRequest
) -> Agreement:
    """The failed agreement with the fold that breaks equality, where that can be found out."""
    from bnfuse.use_cases.bisection import Failed, name_culprit

    folder = written.path.parent
    made = Failed(report.input.path, wanted.read, report.plan, wanted.merge, written.path, folder)
    return name_culprit(failed, made, _request(report, request), load)
