"""Runs the candidate on what the reference ran on, and concludes: equal, different or inconclusive.

The interface comes first: within one format the very same (``inputs.interface``), across formats one that
corresponds (``inputs.alignment``). Then the values, output by output (``bnfuse.proof.verdict``): the worst
verdict is the outcome.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from msgspec import Struct, field

from bnfuse.errors import BnfuseError, RuntimeLost, UnreadableModel, UsageError
from bnfuse.formats.base import Runner
from bnfuse.inputs.alignment import Alignment, Unalignable, align
from bnfuse.inputs.interface import interface_difference
from bnfuse.inputs.samples import Feeds
from bnfuse.proof.accuracy import Answers, accuracies
from bnfuse.proof.deviation import ROUNDOFF, Deviation, deviation, is_float, relative_change
from bnfuse.proof.observe import Observed
from bnfuse.proof.verdict import Scale, Verdict, judge, judge_exact, limit_for
from bnfuse.results import Agreement, SeamAgreement, Status

_FAILING_SETS = 3
# Of so many input sets it is looked at whether outputs vary.
_VARYING_SETS = 8


class Compared(Struct, eq=False):
    """A comparison with all that it was concluded from; ``found`` holds, by output, a row per input set.

    ``allowed`` is what each output may be off by in any case (from an earlier proof of the same models).
    ``inside`` is what was found out between the folds, where they are known.
    """

    seen: Observed
    depth: int
    allowed: dict[str, float] = field(default_factory=dict)
    inside: SeamAgreement | None = None
    found: dict[str, list[Deviation | None]] = field(default_factory=dict)
    answers: Answers | None = None
    runtime: str = ""
    notes: tuple[str, ...] = ()
    roundoff: float = 0.0

    @property
    def rows(self) -> int:
        """Input sets on which both models ran."""
        return max((len(rows) for rows in self.found.values()), default=0)

    def own_samples(self) -> tuple[int, int]:
        """The user's samples that were run, and those of them on which nothing was compared (``blind``)."""
        every = [self.seen.own_rows(row) for row in range(self.rows)]
        return sum(every), sum(own for row, own in enumerate(every) if self.blind(row))

    def blind(self, row: int) -> bool:
        """Whether no output of floats was compared, as not all that the original puts out is finite."""
        outputs = self.seen.outputs[row]
        floats = [rows[row] for name, rows in self.found.items() if is_float(outputs[name])]
        return bool(floats) and all(one is None for one in floats)

    def verdicts(self) -> list[Verdict]:
        """What was found about each output."""
        return [self._verdict(name, rows) for name, rows in self.found.items()]

    @property
    def proved(self) -> bool:
        """Whether every fold was proved by itself."""
        return self.inside is not None and 0 < self.inside.folds == self.inside.proved

    def _verdict(self, name: str, rows: Sequence[Deviation | None]) -> Verdict:
        noises = [noise[name] for noise in self.seen.noises[: len(rows)]]
        if not is_float(self.seen.outputs[0][name]):
            return judge_exact(name, rows, noises, proved=self.proved)
        roundoff, least = max(self.roundoff, self.seen.roundoff), self.allowed.get(name, 0.0)
        scale = Scale(roundoff, self.depth, least, proved=self.proved)
        return judge(name, rows, noises, scale)


def try_candidate(
    load: Callable[[], Runner], compared: Compared, budget_s: float, *, across: bool
) -> Agreement:
    """Load the candidate, compare its interface, then its values.

    Of made-up sets as many are run as fit into ``budget_s`` once it is loaded, at least one; of the user's
    all.
    """
    try:
        runner = load()
    except UnreadableModel as error:
        return _differs(compared, f"the second model cannot be loaded: {error}")
    except RuntimeLost as error:
        return _unsure(compared, str(error))
    except MemoryError:
        return _unsure(compared, "memory ran out while the second model was loading")
    with runner:
        compared.runtime = runner.runtime
        try:
            aligned = _aligned(compared, runner, across=across)
        except Unalignable as mismatch:
            return _differs(compared, str(mismatch))
        try:
            _run(runner, compared, aligned, time.perf_counter() + budget_s)
        except UsageError:
            raise
        except RuntimeLost as error:
            return _unsure(compared, str(error))
        except BnfuseError as error:
            return _differs(compared, f"the second model does not run where the original does: {error}")
        except MemoryError:
            return _unsure(compared, "memory ran out while the second model was running")
    return conclude(compared)


def _differs(compared: Compared, detail: str) -> Agreement:
    return Agreement(
        Status.DIFFERENT,
        evidence=evidence(compared, 0),
        detail=detail,
        notes=compared.notes,
        failing_sets=tuple(compared.seen.used[:1]),
    )


def _unsure(compared: Compared, detail: str) -> Agreement:
    return Agreement(Status.INCONCLUSIVE, evidence=evidence(compared, 0), detail=detail)


def _aligned(compared: Compared, runner: Runner, *, across: bool) -> Alignment | None:
    """How the candidate's interface corresponds; None where it must be the very same.

    Raises:
        Unalignable: it does not.
    """
    seen = compared.seen
    if across:
        aligned = align((seen.inputs, seen.declared), (runner.inputs, runner.outputs))
        compared.notes = aligned.notes
        types = [pair.second.dtype for pair in aligned.outputs]
        compared.roundoff = max((ROUNDOFF.get(name, 0.0) for name in types), default=0.0)
        return aligned
    mismatch = interface_difference(
        seen.inputs, runner.inputs, "input", free_may_differ=False
    ) or interface_difference(seen.declared, runner.outputs, "output", free_may_differ=True)
    if mismatch:
        raise Unalignable(mismatch)
    return None


def _run(runner: Runner, compared: Compared, aligned: Alignment | None, deadline: float) -> None:
    """Run the candidate on the reference's input sets."""
    seen = compared.seen
    ranges = {spec.name: seen.scales(spec.name) for spec in seen.declared}
    compared.found = {name: [] for name in ranges}
    compared.answers = Answers(list(seen.labels))
    for row, index in enumerate(seen.used):
        own = seen.own_rows(row)
        if row and not own and time.perf_counter() > deadline:
            seen.cut = "time"
            break
        produced = _produced(runner, seen.samples.feeds(index), aligned)
        wanted = seen.outputs[row]
        for name, rows in compared.found.items():
            rows.append(deviation(wanted[name], produced[name], ranges[name][row]))
        if own and compared.answers is not None:
            compared.answers = _answered(compared.answers, wanted, produced, own)


def _produced(runner: Runner, feeds: Feeds, aligned: Alignment | None) -> Feeds:
    if aligned is None:
        return runner.run(feeds)
    return aligned.produced(runner.run(aligned.feeds(feeds)))


def _answered(answers: Answers, wanted: Feeds, produced: Feeds, own: int) -> Answers | None:
    """The candidate's answers with one more set; None from where an output has another shape or kind."""
    for name in answers.names:
        if produced[name].shape != wanted[name].shape or is_float(produced[name]) != is_float(wanted[name]):
            return None
    answers.add(produced, own)
    return answers


def conclude(compared: Compared) -> Agreement:
    """One status from the verdicts on all outputs: the worst."""
    seen, count, verdicts = compared.seen, compared.rows, compared.verdicts()
    status = Status.EQUAL
    for worse in (Status.DIFFERENT, Status.INCONCLUSIVE):
        if any(v.status is worse for v in verdicts):
            status = worse
            break
    detail = _detail(compared, verdicts, status)
    every = [d for rows in compared.found.values() for d in rows]
    if status is Status.EQUAL and not any(d is None or d.compared for d in every):
        status, detail = Status.INCONCLUSIVE, "no output has any values"
    own, blind = compared.own_samples()
    if status is Status.EQUAL and blind:
        some = f"{blind} of your {own} samples" if own > blind else "your samples"
        told = f"nothing was compared on {some}: not all that the original puts out there is finite"
        status = Status.INCONCLUSIVE if own == blind else status
        detail = "; ".join(filter(None, (told, detail)))
    failing = [row for v in verdicts if v.status is Status.DIFFERENT for row in v.failing]
    if compared.inside is not None and compared.inside.failing:
        status, detail = Status.DIFFERENT, "; ".join((compared.inside.failing[0], *filter(None, (detail,))))
    return Agreement(
        status=status,
        outputs=tuple(v.agreement for v in verdicts),
        samples=count,
        planned=seen.planned,
        cut=seen.cut if count < seen.planned else "",
        tolerance=max((v.agreement.tolerance for v in verdicts), default=limit_for(seen.roundoff)),
        evidence=evidence(compared, count),
        detail=detail,
        own_samples=own - blind,
        accuracy=accuracies(seen.labels, seen.answers, compared.answers),
        notes=compared.notes,
        failing_sets=tuple(seen.used[row] for row in dict.fromkeys(failing))[:_FAILING_SETS],
        inside=compared.inside,
    )


def unexplained(compared: Compared) -> list[int]:
    """Rows that show a difference while the original's noise on them was not measured; the worst first."""
    rows = [
        row
        for verdict in compared.verdicts()
        if verdict.status is Status.DIFFERENT
        for row in verdict.failing
        if math.isnan(compared.seen.noises[row][verdict.agreement.name])
    ]
    return list(dict.fromkeys(rows))


def _detail(compared: Compared, verdicts: Sequence[Verdict], status: Status) -> str:
    """Why the status is what it is; for a pass, what weakens the evidence."""
    seen, count = compared.seen, compared.rows
    if status is not Status.EQUAL:
        texts = [v.detail for v in verdicts if v.status is status]
        more = f" (and {len(texts) - 1} more outputs)" if len(texts) > 1 else ""
        floats = [v for v in verdicts if is_float(seen.outputs[0][v.agreement.name])]
        only_exact = status is Status.DIFFERENT and floats and all(v.status is Status.EQUAL for v in floats)
        hint = "; all outputs of floats agree, so a tie may have fallen the other way" if only_exact else ""
        return texts[0] + more + hint
    weak = [v.detail for v in verdicts if v.detail]
    weak += [
        f"output '{v.agreement.name}' {why}"
        for v in verdicts
        if (why := _weakness(seen, v.agreement.name, min(count, _VARYING_SETS)))
    ]
    return "; ".join(weak[:3]) + (f"; and {len(weak) - 3} more such outputs" if len(weak) > 3 else "")


def _weakness(seen: Observed, name: str, count: int) -> str:
    """What makes the agreement of this output weak evidence, else ""."""
    arrays = [seen.outputs[row][name] for row in range(count)]
    if all(not array.size for array in arrays):
        return "is empty for every input"
    if count < 2 or not is_float(arrays[0]):
        return ""
    limit = limit_for(seen.roundoff)
    if all(
        relative_change(arrays[0], array, scale) <= limit
        for array, scale in zip(arrays, seen.scales(name), strict=False)
    ):
        return "does not vary with the input, so its agreement proves little"
    return ""


def evidence(compared: Compared, count: int) -> str:
    """On what the outcome rests, as a clause; of models that were not both run on 0 input sets."""
    seen = compared.seen
    own = [row for row in range(count) if seen.own_rows(row)]
    parts = []
    seeing = [row for row in own if row >= compared.rows or not compared.blind(row)]
    samples = sum(map(seen.own_rows, seeing))
    if samples or (own and count == len(own)):
        parts.append("1 sample of your own" if samples == 1 else f"{samples} samples of your own")
    if count > len(own) or not own:
        made = count - len(own)
        parts.append("1 input set" if made == 1 else f"{made} input sets")
    runtimes = dict.fromkeys(runtime for runtime in (seen.runtime, compared.runtime) if runtime)
    inside = compared.inside
    if inside is not None and inside.seams:
        parts[-1] += f", and {'1 value' if inside.seams == 1 else f'{inside.seams} values'} inside"
    return f"{' and '.join(runtimes)}, graph optimisation off, {' and '.join(parts)}"
