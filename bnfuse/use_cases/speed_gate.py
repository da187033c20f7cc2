"""A result beside an earlier report, and the gate on speed, which ``bench`` and ``optimize`` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    from bnfuse.measure.baseline import Earlier
    from bnfuse.results import Comparison, FileInfo, Latency, Report
    from bnfuse.results.outcomes import Gate


class SpeedGate:
    """What to hold a measurement against; ``most_percent`` is None where nothing is to be gated."""

    def __init__(self, earlier: Earlier | None, most_percent: float | None) -> None:
        self.earlier, self.most_percent = earlier, most_percent

    @classmethod
    def of(cls, baseline: Path | None, most_percent: float | None) -> SpeedGate:
        """The earlier report is read before any work is done.

        Raises:
            UsageError: it is none.
        """
        if baseline is None:
            return cls(None, most_percent)
        from bnfuse.measure.baseline import read_baseline

        return cls(read_baseline(baseline), most_percent)

    def report(self, found: Report) -> Report:
        """The report of ``optimize``, held against it; an original that did not change is no slower.

        Where another gate said no, nothing was written that could be.
        """
        if not all(gate.passed for gate in found.gates):
            return found
        latency = found.benchmark and self._beside(found.benchmark, found.input)
        return replace(found, benchmark=latency, gates=(*found.gates, *self._gates(latency, found)))

    def comparison(self, found: Comparison) -> Comparison:
        """What ``bench`` found, held against it."""
        latency = found.latency and self._beside(found.latency, found.before)
        return replace(found, latency=latency, gates=self._gates(latency))

    def _beside(self, latency: Latency, original: FileInfo) -> Latency:
        if self.earlier is None:
            return latency
        from bnfuse.measure.baseline import compare

        return replace(latency, baseline=compare(latency, original.sha256, self.earlier))

    def _gates(self, latency: Latency | None, report: Report | None = None) -> tuple[Gate, ...]:
        """Says no where the figures show a slow-down beyond ``most_percent``, or show nothing at all."""
        if self.most_percent is None:
            return ()
        from bnfuse.measure.gates import slower, slower_than_baseline
        from bnfuse.results.outcomes import Gate
        from bnfuse.use_cases.measuring import changed

        if self.earlier is not None:
            refusal = slower_than_baseline(None if latency is None else latency.baseline, self.most_percent)
        elif report is not None and not changed(report):
            return ()
        else:
            refusal = slower(latency, self.most_percent)
        option = f"--fail-if-slower {self.most_percent:g}%"
        return (Gate(option, not refusal, refusal or "no run is shown to be slower by more"),)
