"""What of a speed-up is folding's own? A written result may differ from its original in more than its folds.

An ONNX model that lists its initializers among its inputs must let a caller override them, so a runtime may
neither work anything out beforehand nor fuse; once they are constants it may. So a third model is measured,
the original with that change only (``formats.base.Unfolding``): against the result it shows what folding
gains. With r the speed-up of the whole and f that of folding, the other cause's share is r/f, and as
logarithms the half-widths of both intervals add up as squares::

    log (r/f) ± √(w(r)² + w(f)²)

Measures nothing where folding is all that a result changes. Steady state only: starts are too few to split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.errors import BnfuseError
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions, Unfolding
from bnfuse.measure.verdicts import Interval, verdict
from bnfuse.results import BenchRun, Latency, Share
from bnfuse.results.latency import OFF, ON
from bnfuse.use_cases.reading import open_model

if TYPE_CHECKING:
    from bnfuse.use_cases.bench import BenchRequest

FOLDING = "folding"
_PART = 0.35  # of the time, for the result against the third model

Bench = Callable[[Path, Path, "BenchRequest"], Latency]


class Unfolded(Struct, frozen=True):
    """The third model, and what was changed in it, as a noun phrase."""

    path: Path
    cause: str


def unfolded(original: Path, read: ReadOptions, path: Path) -> Unfolded | None:
    """Write the third model to ``path``; None where folding is all that a result changes."""
    model = open_model(detect(original), original, read)
    with closing(model):
        cause = model.write_unfolded(path) if isinstance(model, Unfolding) else ""
    return Unfolded(path, cause) if cause else None


def compared(before: Path, after: Path, request: BenchRequest, bench: Bench) -> Latency:
    """The latency of two models of which the second may have come of the first, by bnfuse or not.

    Where the second lists none of its initializers among its inputs, and the first does, that is told apart.

    Raises:
        BnfuseError: as ``bench``.
    """
    with TemporaryDirectory(prefix="bnfuse-") as folder:
        third = None
        if _lists_initializers(before) and not _lists_initializers(after):
            third = unfolded(before, ReadOptions(freeze_inputs=True), Path(folder) / before.name)
        return measured_with_shares(before, after, third, request, bench)


def _lists_initializers(path: Path) -> bool:
    with closing(detect(path).contents(path)) as found:
        return bool(found.facts.get("initializers that are also inputs"))


def measured_with_shares(
    original: Path, result: Path, third: Unfolded | None, request: BenchRequest, bench: Bench
) -> Latency:
    """The latency of the original and the result, with each cause's share where there are two.

    Raises:
        BnfuseError: as ``bench``, of the original and the result.
    """
    if third is None:
        return bench(original, result, request)
    whole = bench(original, result, replace(request, max_time=(1 - _PART) * request.max_time))
    told = f"folding is not all that helps: {third.cause} let a runtime do more, too"
    part = replace(request, max_time=_PART * request.max_time, cold=False, profile=False)
    try:
        folding = bench(third.path, result, part)
    except BnfuseError as error:
        note = f"what of the speed-up comes from folding was not measured: {error}"
        return replace(whole, notes=(*whole.notes, told, note))
    runs = tuple(_shared(run, folding.runs, third.cause) for run in whole.runs)
    unsplit = dict.fromkeys(
        f"{run.setting}, batch {run.batch}" for run in runs if run.setting in (ON, OFF) and not run.shares
    )
    if unsplit:
        note = f"{told}; how much each of the two gained could not be measured with {' and '.join(unsplit)}"
        whole = replace(whole, notes=(*whole.notes, note))
    return replace(whole, runs=runs)


def _shared(run: BenchRun, parts: Sequence[BenchRun], cause: str) -> BenchRun:
    """The run with the shares of both causes, where each has a ratio that means something."""
    key = (run.setting, run.batch, run.threads)
    part = next((one for one in parts if (one.setting, one.batch, one.threads) == key), None)
    if part is None or not (run.told and part.told):
        return run
    assert run.speedup and run.ci95 and part.speedup and part.ci95
    ratio = run.speedup / part.speedup
    ends = _quotient(ratio, run.speedup, run.ci95, part.speedup, part.ci95)
    other = Share(cause, ratio, ends, verdict(ends, run.control))
    return replace(run, shares=(other, Share(FOLDING, part.speedup, part.ci95, part.verdict)))


def _quotient(ratio: float, whole: float, a: Interval, part: float, b: Interval) -> Interval:
    """The interval of whole/part: the lower end takes the whole's lower and the part's upper half."""
    below = math.hypot(math.log(whole / a[0]), math.log(b[1] / part))
    above = math.hypot(math.log(a[1] / whole), math.log(part / b[0]))
    return ratio * math.exp(-below), ratio * math.exp(above)
