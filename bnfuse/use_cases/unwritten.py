"""Why nothing was written though all went well until then: errors with the report, and their sentences."""

from __future__ import annotations

from msgspec.structs import replace

from bnfuse.core.decisions import Plan
from bnfuse.errors import BnfuseError, NotEqual, TargetMissed, listed
from bnfuse.results import Agreement, Report, Status
from bnfuse.results.outcomes import Gate

_NAMED = 3
_NO_BN = "--target no-bn"


class _WithReport(BnfuseError):
    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class BatchNormsLeft(_WithReport, TargetMissed):
    """A target without BatchNormalization cannot be had; ``report`` tells the plan, and this as a gate."""

    def __init__(self, report: Report) -> None:
        message = why_missed(report.plan)
        super().__init__(message, replace(report, gates=(Gate(_NO_BN, False, message),)))


class Unproved(_WithReport, NotEqual):
    """The proof failed or was inconclusive; ``report`` tells everything that was found out."""


def none_left(report: Report) -> Report:
    """The report of a result without any BatchNormalization, as that target asks: a gate that passed."""
    return replace(report, gates=(*report.gates, Gate(_NO_BN, True, "no BatchNormalization is left")))


def why_missed(plan: Plan) -> str:
    """One sentence on BatchNormalizations that are left where none may be."""
    named = listed([keep.primary.sentence for keep in plan.left], _NAMED, "; ")
    count = "1 BatchNormalization" if len(plan.left) == 1 else f"{len(plan.left)} BatchNormalizations"
    return f"{count} would be left, where the target has none; nothing was written: {named}"


def why_unproved(agreement: Agreement) -> str:
    """One sentence on a proof that failed or was inconclusive, and what to do."""
    why = f": {agreement.detail}" if agreement.detail else ""
    if agreement.status is Status.DIFFERENT:
        return (
            f"the folded model differs from the original{why}; nothing was written: "
            "please report it with the model (--no-verify writes the result unproved)"
        )
    remedy = "give fitting --inputs or --shape, or write it" if agreement.runnable else "write the result"
    return (
        f"the folded model could not be proved equal{why}; nothing was written: "
        f"{remedy} unproved with --no-verify"
    )
