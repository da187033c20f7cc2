"""The use case ``inspect``: read → plan. Runs nothing and writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Literal

from bnfuse.core.apply import Patch
from bnfuse.formats.base import Model, ReadOptions
from bnfuse.garbage import without_collections
from bnfuse.results import Report
from bnfuse.stamps import watched
from bnfuse.use_cases.folding import Phases, Progress, planned_to_fit, read_model
from bnfuse.use_cases.reading import as_asked
from bnfuse.use_cases.reporting import detailed, planned_report
from bnfuse.use_cases.unpacking import unpacked


@without_collections()
def inspect(
    model: str | PathLike[str],
    *,
    read: ReadOptions | None = None,
    activations: Literal["keep", "move"] | None = None,
    keep: Sequence[str] = (),
    target: Literal["any", "no-bn"] | None = None,
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
    path, phases, options = Path(model), Phases(progress), as_asked(read, activations, keep, target)
    with unpacked(path, options.weights) as source, watched(source.path) as files:
        opened, form = read_model(source.path, options, phases)
        files.add(*opened.side_files)
        settled = planned_to_fit(opened, form, options, phases, _operators)
        with closing(settled.model):
            report = planned_report(settled.model, form, settled.plan, settled.outcome, phases, hashes=hashes)
            if details:
                report = detailed(report, settled.model, settled.patch, phases)
        files.check()
    return replace(source.report(report), seconds=dict(phases.seconds))


def _operators(model: Model, patch: Patch, _attempt: int) -> dict[str, int]:
    """What is left; where new weights would not fit, this is found out as ``optimize`` finds it out."""
    operators = model.operators_after(patch)
    patch.check_fit()
    return operators
