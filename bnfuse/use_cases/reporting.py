"""The report of ``optimize`` and ``inspect``, put together step by step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bnfuse.core.apply import Patch
from bnfuse.core.decisions import Plan
from bnfuse.formats.base import Format, Model, Written
from bnfuse.results import FileInfo, Report
from bnfuse.use_cases.notes import growth_note
from bnfuse.use_cases.provenance import sha256, versions, with_parts

if TYPE_CHECKING:
    from bnfuse.use_cases.folding import Phases


def planned_report(
    model: Model, form: Format, plan: Plan, operators: dict[str, int], phases: Phases, *, hashes: bool
) -> Report:
    """What is known once all is planned; ``operators`` are those of the result."""
    with phases("hash", "hashing"):
        digest = sha256(model.path) if hashes else ""
    return Report(
        input=FileInfo(model.path, form.name, digest, model.total_bytes()),
        plan=plan,
        operators_before=model.operators(),
        operators_after=operators,
        notes=tuple(model.notes),
        versions=versions(),
    )


def detailed(report: Report, model: Model, patch: Patch, phases: Phases) -> Report:
    """The report with its details."""
    from bnfuse.annotations.neighbourhood import surroundings
    from bnfuse.annotations.weight_changes import layer_changes
    from bnfuse.results import Details

    with phases("details", "looking at weights"):
        around = surroundings(model.graph, report.plan, patch.removed)
        return replace(report, details=Details(around, layer_changes(model.graph, patch)))


def output_info(written: Written, target: Path, form: Format, phases: Phases, *, hashes: bool) -> FileInfo:
    """What was written, under the name that it gets."""
    total = sum(path.stat().st_size for path in (written.path, *written.side_files))
    with phases("hash", "hashing"):
        return FileInfo(target, form.name, sha256(written.path) if hashes else "", total)


def completed(report: Report, output: FileInfo, parts: Path | None) -> Report:
    """The report with its output, and a word on one that is much larger than the input.

    Where ``parts`` is given, which is where the output lies now, what each file is made of is told, too.
    """
    original = report.input
    if parts is not None:
        original, output = with_parts(original, original.path), with_parts(output, parts)
    notes = (*report.notes, *growth_note(original, output))
    return replace(report, input=original, output=output, notes=notes)
