"""``baseline`` and ``fail_if_slower``: a result beside an earlier one, and what the gate says of it.

A gate ends no program: it is among the ``gates`` of the result, for the caller to look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfuse.api.requests import percentage
from bnfuse.errors import UsageError
from bnfuse.use_cases.speed_gate import beside_earlier, read_earlier, speed_gate

if TYPE_CHECKING:
    from bnfuse.measure.baseline import Earlier
    from bnfuse.results import Comparison, FileInfo, Latency, Report
    from bnfuse.results.outcomes import Gate


@dataclass(frozen=True, slots=True)
class SpeedGate:
    """What to hold a measurement against; ``most_percent`` is None where nothing is to be gated."""

    earlier: Earlier | None
    most_percent: float | None

    @classmethod
    def of(cls, given: Mapping[str, Any], *, alone: bool = False, measured: bool = True) -> SpeedGate:
        """What the keywords ask for, read before any work; ``alone``: there is one model only.

        Raises:
            UsageError: it is no percentage, no report, or nothing is measured that could be compared.
        """
        path, asked = given.get("baseline"), given.get("fail_if_slower")
        if not measured and (path is not None or asked is not None):
            raise UsageError("fail_if_slower and baseline need the measurement: do not leave it out")
        if alone and asked is not None and path is None:
            raise UsageError("fail_if_slower compares two models: give another, or a baseline")
        earlier = read_earlier(None if path is None else Path(path))
        return cls(earlier, None if asked is None else percentage(asked))

    def report(self, found: Report) -> Report:
        """The report of ``optimize``, held against it."""
        from bnfuse.use_cases.measuring import changed

        latency = found.benchmark and self._beside(found.benchmark, found.input)
        gates = self._gates(latency) if self.earlier is not None or changed(found) else ()
        return replace(found, benchmark=latency, gates=gates)

    def comparison(self, found: Comparison) -> Comparison:
        """What ``bench`` found, held against it."""
        latency = found.latency and self._beside(found.latency, found.before)
        return replace(found, latency=latency, gates=self._gates(latency))

    def _beside(self, latency: Latency, original: FileInfo) -> Latency:
        return beside_earlier(latency, original, self.earlier)

    def _gates(self, latency: Latency | None) -> tuple[Gate, ...]:
        if self.most_percent is None:
            return ()
        return (speed_gate(latency, self.most_percent, against_earlier=self.earlier is not None),)
