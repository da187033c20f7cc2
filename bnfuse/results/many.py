"""What became of many models: one ``Outcome`` for each, and all of them as one result.

Which of several exit codes speaks for all goes by ``WORST_FIRST``: what hinders any answer (a bug, the call,
the machine) comes before what was found out of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from bnfuse.errors import ExitCode

if TYPE_CHECKING:
    from bnfuse.results.outcomes import Failure
    from bnfuse.results.report import Report

WORST_FIRST = (
    ExitCode.INTERNAL,
    ExitCode.USAGE,
    ExitCode.RUNTIME_MISSING,
    ExitCode.UNPROVED,
    ExitCode.UNREADABLE,
    ExitCode.GATE,
    ExitCode.DONE,
)


class Outcome(Struct, frozen=True):
    """What became of one model of many.

    Attributes:
        model: its path or address, as it was found.
        report: what was found out; also where nothing was written because equality was not shown.
        failure: the error that it ended in, if it did.
        seconds: the wall time that it took where it ran, 0 for one that was skipped.
        resumed: whether it was done and unchanged, so that nothing was run.
        read: (name, SHA-256) of the model and of the files beside it that hold its weights.
        wrote: the same of the result.
        trace: the traceback of the error.
    """

    model: str
    report: Report | None = None
    failure: Failure | None = None
    seconds: float = 0.0
    resumed: bool = False
    read: tuple[tuple[str, str], ...] = ()
    wrote: tuple[tuple[str, str], ...] = ()
    trace: str = ""

    @property
    def exit_code(self) -> ExitCode:
        """What the command would have ended with for this model alone."""
        if self.failure is not None:
            return ExitCode(self.failure.exit_code)
        refused = self.report is not None and any(not gate.passed for gate in self.report.gates)
        return ExitCode.GATE if refused else ExitCode.DONE


class Outcomes(Protocol):
    """Outcomes that can be gone through as often as one likes, in the order of the models."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Outcome]: ...


class Collected(Struct, frozen=True):
    """Many models taken through one command: ``jobs`` of them at once, in ``seconds`` of wall time."""

    command: str
    outcomes: Outcomes
    jobs: int = 1
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


def worst(codes: Iterable[int]) -> ExitCode:
    """The one exit code that speaks for all, by ``WORST_FIRST``; 0 for none."""
    return min(map(ExitCode, codes), key=WORST_FIRST.index, default=ExitCode.DONE)
