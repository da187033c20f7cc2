"""Sentences that keep a reader of a bench from the wrong conclusion."""

from __future__ import annotations

from bnfuse.measure.cold import COLD
from bnfuse.measure.steady import ON, Findings
from bnfuse.measure.verdicts import FASTER, SAME

_NOISY = 0.03  # smallest detectable change, beyond which the reader is warned


def reading_hints(seen: Findings) -> list[str]:
    """Sentences that keep a reader from drawing the wrong conclusion."""
    hints = []
    missed = [r for r in seen.runs if r.verdict == SAME and r.setting != COLD and r.detectable is not None]
    coarsest = max(missed, key=lambda r: r.detectable or 0.0, default=None)
    if coarsest is not None and coarsest.detectable is not None and coarsest.detectable > _NOISY:
        would = (
            f"a change below {coarsest.detectable:.0%} would hardly have shown"
            if coarsest.precise
            else "nothing can be told of a change"
        )
        hints.append(
            f"this machine is noisy: with {coarsest.setting}, batch {coarsest.batch}, {would}; more time "
            "(--max-time), fewer threads or less other load shows smaller ones"
        )
    steady_on = [r for r in seen.runs if r.setting == ON and r.after_ms is not None]
    if seen.optimises and any(r.verdict != FASTER for r in steady_on):
        name = seen.runtime.partition(" ")[0]
        hints.append(
            f"{name} {seen.optimises}, so the steady state gains little there; measure the cold start "
            "(--cold), and runtimes that do not fold"
        )
    return hints
