"""An earlier report to compare with, and the gate on speed, which ``bench`` and ``optimize`` share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnfuse.measure.baseline import Earlier
    from bnfuse.results import FileInfo, Latency
    from bnfuse.results.outcomes import Gate


def read_earlier(path: Path | None) -> Earlier | None:
    """The report of ``--baseline``, read before any work is done.

    Raises:
        UsageError: it is none.
    """
    if path is None:
        return None
    from bnfuse.measure.baseline import read_baseline

    return read_baseline(path)


def beside_earlier(latency: Latency, original: FileInfo, earlier: Earlier | None) -> Latency:
    """What was measured, with its comparison where an earlier report was given."""
    if earlier is None:
        return latency
    from bnfuse.measure.baseline import compare

    return replace(latency, baseline=compare(latency, original.sha256, earlier))


def speed_gate(latency: Latency | None, most_percent: float, *, against_earlier: bool) -> Gate:
    """Says no where the figures show a slow-down beyond ``most_percent``, or show nothing at all."""
    from bnfuse.measure.gates import slower, slower_than_baseline
    from bnfuse.results.outcomes import Gate

    if against_earlier:
        refusal = slower_than_baseline(None if latency is None else latency.baseline, most_percent)
    else:
        refusal = slower(latency, most_percent)
    option = f"--fail-if-slower {most_percent:g}%"
    return Gate(option, not refusal, refusal or "no run is shown to be slower by more")
