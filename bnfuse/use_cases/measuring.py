"""What ``optimize`` does with a result that is proved: measure it, and decide whether it is worth keeping."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bnfuse.errors import BnfuseError, RuntimeMissing, UsageError
from bnfuse.formats.base import ReadOptions, Written
from bnfuse.results import Report

if TYPE_CHECKING:
    from bnfuse.formats.base import Loader
    from bnfuse.use_cases.bench import BenchRequest
    from bnfuse.use_cases.folding import Phases


def foldable(report: Report) -> int:
    """How many nodes the plan folds, in whole or in part: the gate of ``--check``."""
    return report.plan.rewrites + len(report.plan.arithmetic)


def changed(report: Report) -> bool:
    """Whether the result differs from the original at all."""
    return (
        bool(report.plan.rewrites or report.plan.rescaled)
        or report.operators_before != report.operators_after
    )


def measured(
    report: Report,
    written: Written,
    wanted: BenchRequest | None,
    read: ReadOptions,
    load: Loader,
    phases: Phases,
    *,
    folder: Path | None = None,
) -> Report:
    """The report with its latencies, by ``load``. A model that is proved is not lost because a bench failed.

    ``folder`` is for files that the measurement needs; the one that the result lies in where it is None.

    Raises:
        RuntimeMissing, UsageError: as ``bench``.
    """
    if wanted is None or not changed(report):
        return report
    from bnfuse.use_cases.bench import bench
    from bnfuse.use_cases.shares import measured_with_shares, unfolded

    original = report.input.path
    request = replace(wanted, model_bytes=report.input.total_bytes)
    with phases("bench", "measuring"):
        try:
            beside = folder or written.path.parent
            third = unfolded(original, read, beside / f"unfolded-{written.path.name}")
            latency = measured_with_shares(
                original,
                written.path,
                third,
                request,
                lambda a, b, how: bench(a, b, request=how, load=load, progress=phases.progress),
            )
        except (RuntimeMissing, UsageError):
            raise
        except BnfuseError as error:
            note = f"the latency could not be measured: {error}"
            return replace(report, notes=(*report.notes, note))
    return replace(report, benchmark=latency, versions={**report.versions, **latency.versions})


def why_kept(report: Report) -> str:
    """Why the original is kept with ``only_if_faster``; "" where the result is shown to be faster."""
    from bnfuse.measure.gates import gain_missing

    if not changed(report):
        return "nothing was written, as --only-if-faster asks: nothing in the model could be folded"
    why = gain_missing(report.benchmark)
    return why and f"nothing was written, as --only-if-faster asks: no gain was shown ({why})"
