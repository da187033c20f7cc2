"""Which fold breaks equality? Bisects over a plan whose result was found different.

Where the proof saw the models part between two seams (``proof.seams``), the folds that meet there are known,
and nothing is searched. Else:

The steps of a plan (its folds in order, then what is narrowed, settled and rescaled) build on those before
them, so every prefix is a plan of its own. The result of a prefix is written beside the whole result and
compared with the original, only on input sets that showed the difference and with the tolerance of the proof.

What is concluded: with the steps before the culprit the result is equal, with the culprit it is not. That
is the first step that breaks equality if equality, once broken, stays so. It need not: two errors may
cancel each other, a later step may hide an earlier one, and a step may be right in itself and show what an
earlier one spoiled. That nothing folded is equal is taken for granted: it is the file itself.

Does not act without an input set that shows the difference, nor name anything where the difference does
not show again. Ends after about log2(steps) trials, or with a few suspects when its time is up.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.core.apply import OverflowingFold, apply
from bnfuse.core.decisions import Keep, Plan
from bnfuse.core.planning.plan import replay
from bnfuse.errors import BnfuseError, listed
from bnfuse.files.staging import output_errors
from bnfuse.formats import detect
from bnfuse.formats.base import Loader, ReadOptions
from bnfuse.results import Agreement, Culprit, Status
from bnfuse.use_cases.reading import open_model
from bnfuse.use_cases.verify import ReferenceRun, VerifyRequest

# How much longer than the proof the search may take.
PATIENCE = 3.0
_NAMED = 3


class Failed(Struct, frozen=True):
    """A result that is wrong: how it was made from ``model``, and where it lies.

    ``merged`` tells that chains of arithmetic were merged behind the folds. ``folder`` takes trials.
    """

    model: Path
    read: ReadOptions
    plan: Plan
    merged: bool
    result: Path
    folder: Path


def name_culprit(failed: Agreement, made: Failed, request: VerifyRequest, load: Loader) -> Agreement:
    """The failed agreement with its culprit or suspects, and a clause about them in its detail.

    ``request`` is that of the proof. The agreement comes back as it is where nothing can be said.
    """
    steps = _steps(made.plan)
    if failed.inside is not None and failed.inside.suspects:
        return _at_the_seams(failed, steps, failed.inside.suspects)
    if failed.status is not Status.DIFFERENT or not failed.failing_sets or not steps:
        return failed
    if len(steps) == 1 and not made.merged:
        return _named(failed, steps[0], f"the only fold is that of {_told(steps[0])}")
    request = replace(request, inside=None)  # a part of the folds has other seams
    search = _Search(made, steps, time.perf_counter() + PATIENCE * request.verify_time)
    try:
        witness = ReferenceRun.of(made.model, request, load, only=failed.failing_sets)
        witness.allowed.update({output.name: output.tolerance for output in failed.outputs})
        if witness.compare(made.result).status is not Status.DIFFERENT:
            return _noted(failed, "the difference did not show a second time, so no fold is named")
        search.run(witness)
    except (BnfuseError, MemoryError):
        pass  # what was found out so far is said; why the result is refused is known already
    return search.concluded(failed)


def _at_the_seams(failed: Agreement, steps: Sequence[Culprit], suspects: Sequence[str]) -> Agreement:
    """Where the models part between two seams, the folds in between are known: nothing is to be searched."""
    found = [step for step in steps if step.node in suspects]
    if len(found) == 1:
        return _named(failed, found[0], f"that of {_told(found[0])} is the fold that breaks equality")
    told = listed([f"'{step.node}'" for step in found], _NAMED)
    text = f"{len(found)} folds meet there: {told}"
    return replace(_noted(failed, text), suspects=tuple(step.node for step in found))


class _Search(Struct, eq=False):
    """Between ``low`` steps, which are equal, and ``high``, which are not."""

    made: Failed
    steps: list[Culprit]
    deadline: float
    low: int = 0
    high: int = 0
    merging: bool = False

    def __post_init__(self) -> None:
        self.high = len(self.steps)
        self.merging = self.made.merged

    def run(self, witness: ReferenceRun) -> None:
        """Halve until one step is left, the time is up, or a trial tells nothing."""
        if self.merging:
            different = self._trial(witness, self.high)
            if not different:  # equal, or nothing can be said: the steps are not shown to be at fault
                self.low = self.high if different is False else 0
                return
            self.merging = False
        while self.high - self.low > 1 and time.perf_counter() < self.deadline:
            middle = (self.low + self.high) // 2
            different = self._trial(witness, middle)
            if different is None:
                return
            self.low, self.high = (self.low, middle) if different else (middle, self.high)

    def _trial(self, witness: ReferenceRun, count: int) -> bool | None:
        """Whether the first ``count`` steps make a difference; None where that cannot be told."""
        with _written(self.made, count) as result:
            status = Status.SKIPPED if result is None else witness.compare(result).status
        return {Status.DIFFERENT: True, Status.EQUAL: False}.get(status)

    def concluded(self, failed: Agreement) -> Agreement:
        """What the search says in the end."""
        if self.merging and self.low == self.high:
            text = "the folds alone are equal: merging what stays (--merge-affines) breaks equality"
            return _noted(failed, text)
        if self.high - self.low == 1 and not self.merging:
            found = self.steps[self.low]
            before = f"with the {self.low} before it the result is equal" if self.low else "it is the first"
            return _named(
                failed, found, f"of {len(self.steps)} folds that of {_told(found)} breaks equality ({before})"
            )
        left = tuple(step.node for step in self.steps[self.low : self.high])
        told = listed([f"'{name}'" for name in left], _NAMED)
        of = " or of merging" if self.merging else ""
        text = f"it is the fold of one of these {len(left)}{of}: {told}"
        return replace(_noted(failed, text), suspects=left)


@contextmanager
def _written(made: Failed, count: int) -> Iterator[Path | None]:
    """The result of the first ``count`` steps, for as long as it is looked at; None if it cannot be made.

    Raises:
        OutputError: no space.
    """
    with (
        output_errors(made.folder),
        tempfile.TemporaryDirectory(prefix="trial-", dir=made.folder) as folder,
        closing(open_model(detect(made.model), made.model, made.read)) as model,
    ):
        patch = apply(model.graph, replay(model.graph, prefix(made.plan, count)))
        path = Path(folder) / made.result.name
        try:
            model.write(patch, path)
        except OverflowingFold:  # the whole does not overflow, but a part of it may
            yield None
            return
        yield path


def prefix(plan: Plan, count: int) -> Plan:
    """The plan's first ``count`` steps as a plan of its own."""
    left = max(0, count - len(plan.order))
    wanted = {name for name, _ in plan.narrowed[:left]}
    left = max(0, left - len(plan.narrowed))
    settled, values = plan.settled[:left], plan.rescaled[: max(0, left - len(plan.settled))]
    decisions = tuple(
        replace(d, narrowed=None) if isinstance(d, Keep) and d.narrowed and d.node not in wanted else d
        for d in plan.decisions
    )
    equalized = replace(plan.equalized, values=values) if plan.equalized and values else None
    return Plan(decisions, plan.order[:count], equalized, settled)


def _steps(plan: Plan) -> list[Culprit]:
    """What a plan does, in order."""
    ops = {decision.node: decision.op for decision in plan.decisions}
    folds = [Culprit(fold.node, fold.op, fold.split.value, fold.into) for fold in plan.order]
    moves = [Culprit(name, ops[name], "narrowed", move.into) for name, move in plan.narrowed]
    moves += [Culprit(part.node, part.op, part.split.value, part.into) for part in plan.settled]
    return folds + moves + [Culprit(held.node, held.op, "rescaled", held.into) for held in plan.rescaled]


def _told(step: Culprit) -> str:
    return f"'{step.node}' ({step.split}, into {listed(step.into, _NAMED) or 'nothing'})"


def _named(failed: Agreement, found: Culprit, text: str) -> Agreement:
    return replace(_noted(failed, text), culprit=found)


def _noted(failed: Agreement, text: str) -> Agreement:
    return replace(failed, detail=f"{failed.detail}; {text}" if failed.detail else text)
