"""What makes a pipeline stop: the gates on what a bench measured, each a sentence or nothing.

A gate says no only for what the measurement shows with all its doubt taken off, so that noise does
not trip it; where nothing could be compared it says no too, for it cannot say yes.

Which runs count:

- ``slower`` looks at every setting that has a verdict, cold start among them;
- ``gain_missing`` looks at the steady state with the runtime's optimisation on, as users run a model
  (where that was not measured, at the other steady runs): at least one batch must be faster, and
  none slower.
"""

from __future__ import annotations

from collections.abc import Sequence

from bnfuse.measure.baseline import stray
from bnfuse.measure.cold import COLD
from bnfuse.measure.verdicts import FASTER, SAME, SLOWER, TOO_FEW
from bnfuse.results import Baseline, BenchRun, Latency
from bnfuse.results.latency import ON


def slower(latency: Latency | None, most_percent: float) -> str:
    """Why the result counts as slower than the original by more than ``most_percent``, else "".

    ``ci95`` bounds before/after, so its upper end is the least slow-down: 1/(high · stray) − 1, where
    stray is by how much the original is shown to differ from itself.
    """
    compared = [run for run in (latency.runs if latency else ()) if run.ci95 is not None]
    if all(run.verdict == TOO_FEW for run in compared):
        return "nothing could be compared, so the gate cannot say yes"
    suspects = [run for run in compared if run.verdict not in (TOO_FEW, SAME, FASTER)]
    worst = max(suspects, key=_least_slowdown, default=None)
    if worst is None or 100 * _least_slowdown(worst) <= most_percent:
        return ""
    return (
        f"slower by at least {100 * _least_slowdown(worst):.1f} % with {worst.setting}, batch {worst.batch}"
    )


def _least_slowdown(run: BenchRun) -> float:
    """As a fraction: 0.05 where it is at least 5 % slower."""
    assert run.ci95 is not None
    return 1 / (run.ci95[1] * stray(run.control)) - 1


def slower_than_baseline(baseline: Baseline | None, most_percent: float) -> str:
    """The same against an earlier report."""
    if baseline is None or not baseline.runs:
        why = "nothing was measured" if baseline is None else baseline.refusal
        return f"not comparable with the baseline ({why}), so the gate cannot say yes"
    worst = max(baseline.runs, key=lambda run: run.slowdown)
    if 100 * (worst.slowdown - 1) <= most_percent:
        return ""
    return (
        f"slower than '{baseline.path}' by at least {100 * (worst.slowdown - 1):.1f} % with {worst.setting}, "
        f"batch {worst.batch}"
    )


def gain_missing(latency: Latency | None) -> str:
    """Why ``--only-if-faster`` keeps the original, as a clause; "" where a gain is shown."""
    if latency is None:
        return "nothing was measured"
    runs = counting(latency.runs)
    if not runs:
        return "nothing was compared"
    worse = [run for run in runs if run.verdict == SLOWER]
    if worse:
        return f"{worse[0].setting}, batch {worse[0].batch}: {worse[0].verdict}"
    if any(run.verdict == FASTER for run in runs):
        return ""
    return f"{runs[0].setting}, batch {runs[0].batch}: {runs[0].verdict}"


def counting(runs: Sequence[BenchRun]) -> list[BenchRun]:
    """The runs that ``--only-if-faster`` looks at."""
    steady = [run for run in runs if run.after_ms is not None and run.setting != COLD]
    return [run for run in steady if run.setting == ON] or steady
