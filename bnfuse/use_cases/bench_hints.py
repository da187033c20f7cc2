"""Sentences that keep a reader of a bench from the wrong conclusion."""

from __future__ import annotations

from statistics import median

from bnfuse.measure.cold import COLD
from bnfuse.measure.steady import Findings
from bnfuse.measure.verdicts import FASTER, SAME
from bnfuse.results.latency import ON

_NOISY = 0.03  # smallest detectable change, beyond which the reader is warned


def reading_hints(seen: Findings) -> list[str]:
    """Sentences that keep a reader from drawing the wrong conclusion."""
    hints: list[str] = []
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
    cold = any(run.setting == COLD for run in seen.runs)
    if (before := seen.load_ms[0]) and not cold:
        after = seen.load_ms[1]
        both = f"{median(before):.3g} ms" + (f" before, {median(after):.3g} ms after" if after else "")
        loads = f"medians of {len(before)} loads each" if len(before) > 1 else "one load each"
        hints.append(
            f"loading with {ON} took {both} ({loads}, in a process that has the "
            "runtime already); --cold measures whole starts"
        )
    steady_on = [r for r in seen.runs if r.setting == ON and r.after_ms is not None]
    if seen.optimises and any(r.verdict != FASTER for r in steady_on):
        name = seen.runtime.partition(" ")[0]
        start = "compare the cold start" if cold else "measure the cold start (--cold)"
        hints.append(
            f"{name} {seen.optimises}, so the steady state gains little there; {start}, and "
            "runtimes that do not fold"
        )
    return hints
