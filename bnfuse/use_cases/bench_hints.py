"""Sentences that keep a reader of a bench from the wrong conclusion."""

from __future__ import annotations

from collections.abc import Sequence

from bnfuse.measure.cold import COLD
from bnfuse.measure.steady import Findings
from bnfuse.measure.verdicts import FASTER, SAME
from bnfuse.results.figures import digits
from bnfuse.results.latency import ON

_NOISY = 0.03  # smallest detectable change, beyond which the reader is warned


def reading_hints(seen: Findings) -> list[str]:
    """Sentences that keep a reader from drawing the wrong conclusion."""
    hints: list[str] = []
    runtime, providers = seen.second
    if runtime and runtime != seen.runtime:
        where = f"{runtime} ({', '.join(providers)})"
        hints.append(f"the first model ran in {seen.runtime}, the second in {where}")
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
    if not cold:
        hints += _loading(*seen.load_ms)
    steady_on = [r for r in seen.runs if r.setting == ON and r.after_ms is not None]
    if seen.optimises and any(r.verdict != FASTER for r in steady_on):
        name = seen.runtime.partition(" ")[0]
        start = "compare the cold start" if cold else "measure the cold start (--cold)"
        hints.append(
            f"{name} {seen.optimises}, so the steady state gains little there; {start}, and "
            "runtimes that do not fold"
        )
    return hints


def _loading(before: Sequence[float], after: Sequence[float]) -> list[str]:
    """What loading took, in ms; nothing where one of two models was loaded once.

    The first load in a process takes up to several times as long as the next, whichever model it is. Of
    A B B A the shortest of each is told; of A B the ratio would be that of the places in line.
    """
    if not before or (after and min(len(before), len(after)) < 2):
        return []
    took = f"{digits(min(before))} ms" + (f" before, {digits(min(after))} ms after" if after else "")
    loads = f"the shortest of {len(before)} loads" if len(before) > 1 else "one load"
    each = " each" if after else ""
    where = f"{loads}{each}, in a process that has the runtime already"
    return [f"loading with {ON} took {took} ({where}); --cold measures whole starts"]
