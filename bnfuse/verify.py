"""Are two models equal? Runs both on the same inputs and judges by the reference's own rounding noise.

Equation and tolerance: ``bnfuse.proof.verdict``. Decides in this order: the declared inputs and outputs
(names, order, dtypes, shapes), then the values. One model is in memory at a time: the reference
runs on every input set, its outputs are kept, it is freed, and only then the candidate is loaded.
The runtime's graph optimisation is off: switched on, a runtime may fold the reference itself, and
two folded models would be compared.

Says *inconclusive*, never equal, where the reference cannot be run: the runtime refuses it, memory
is short, nothing it puts out is finite, or it is so unstable that noise explains the difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UnsafeModel, UsageError
from bnfuse.formats import load as load_by_content
from bnfuse.formats.base import Runner, RunSettings
from bnfuse.interface import interface_difference
from bnfuse.machine import available_memory_bytes
from bnfuse.proof.deviation import Deviation, deviation, is_float, relative_change
from bnfuse.proof.observe import Effort, Observed, observe
from bnfuse.proof.verdict import UNKNOWN_DEPTH, Verdict, judge, judge_exact, limit_for
from bnfuse.results import Agreement, Status
from bnfuse.samples import InputRequest

Loader = Callable[[Path, RunSettings], Runner]
# A runtime holds the file's bytes, its own copy of the weights, and activations.
MEMORY_FACTOR = 2.5


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """How to compare two models.

    ``samples`` is the most input sets, ``budget_s`` the time after which no more are added (at
    least one always runs). ``batch``, ``shapes``, ``inputs`` and ``seed`` are about the inputs, see
    ``samples.InputRequest``. ``weights`` is the dtype the model computes in where that is known
    and its outputs do not show it, ``depth`` how many folded layers follow one another,
    ``model_bytes`` the size of a model with its external data (0: that of its file).
    """

    samples: int = 8
    seed: int = 0
    budget_s: float = 10.0
    batch: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: Path | None = None
    device: str = "cpu"
    threads: int = 0
    allow_unsafe: bool = False
    weights: str = ""
    depth: int = UNKNOWN_DEPTH
    model_bytes: int = 0

    @property
    def input_request(self) -> InputRequest:
        """What it says about inputs."""
        return InputRequest(self.batch, self.shapes, self.inputs, self.seed)


def verify(
    reference: Path, candidate: Path, *, request: VerifyRequest | None = None, load: Loader = load_by_content
) -> Agreement:
    """Compare ``candidate`` with ``reference`` on the same inputs.

    Raises:
        UnreadableModel: a file does not exist.
        UsageError: the request does not fit the model's inputs.
        UnsafeModel: running it would run code that it carries.
        RuntimeMissing: the runtime or the device is not there.
    """
    request = request or VerifyRequest()
    for path in (reference, candidate):
        if not path.exists():
            raise UnreadableModel(f"{path} does not exist")
    shortage = _shortage(reference, candidate, request)
    if shortage:
        return Agreement(Status.INCONCLUSIVE, detail=shortage)
    settings = RunSettings(False, request.device, request.threads, request.allow_unsafe)
    effort = Effort(request.samples, time.perf_counter(), request.budget_s, request.weights)
    try:
        observed = observe(lambda: load(reference, settings), request.input_request, effort)
    except (UsageError, UnsafeModel, RuntimeMissing):
        raise
    except BnfuseError as error:
        return Agreement(Status.INCONCLUSIVE, detail=f"the original cannot be run: {error}")
    except MemoryError:
        return Agreement(Status.INCONCLUSIVE, detail="memory ran out while the original was running")
    return _confront(lambda: load(candidate, settings), observed, request.depth, effort)


def _shortage(reference: Path, candidate: Path, request: VerifyRequest) -> str:
    """A sentence where the larger model would not fit in memory, else ""."""
    largest = max(request.model_bytes, reference.stat().st_size, candidate.stat().st_size)
    free = available_memory_bytes()
    if free is None or largest * MEMORY_FACTOR <= free:
        return ""
    return (
        f"running a model of {largest / 1e9:.1f} GB needs about {largest * MEMORY_FACTOR / 1e9:.1f} GB "
        f"of memory, but {free / 1e9:.1f} GB are free"
    )


def _confront(load: Callable[[], Runner], seen: Observed, depth: int, effort: Effort) -> Agreement:
    """Load the candidate, compare its interface, then its values."""
    evidence = _evidence(seen, len(seen.used))
    try:
        runner = load()
    except UnreadableModel as error:
        return Agreement(
            Status.DIFFERENT, evidence=evidence, detail=f"the second model cannot be loaded: {error}"
        )
    except MemoryError:
        text = "memory ran out while the second model was loading"
        return Agreement(Status.INCONCLUSIVE, evidence=evidence, detail=text)
    with runner:
        if (moved := _moved(seen.runtime, runner.runtime)) is not None:
            return Agreement(Status.DIFFERENT, evidence=evidence, detail=moved)
        mismatch = interface_difference(
            seen.inputs, runner.inputs, "input", free_may_differ=False
        ) or interface_difference(seen.declared, runner.outputs, "output", free_may_differ=True)
        if mismatch:
            return Agreement(Status.DIFFERENT, evidence=evidence, detail=mismatch)
        try:
            found = _deviations(runner, seen, effort.start + 1.5 * effort.budget_s)
        except BnfuseError as error:
            text = f"the second model does not run where the original does: {error}"
            return Agreement(Status.DIFFERENT, evidence=evidence, detail=text)
        except MemoryError:
            text = "memory ran out while the second model was running"
            return Agreement(Status.INCONCLUSIVE, evidence=evidence, detail=text)
    return _conclude(seen, found, depth)


def _moved(before: str, after: str) -> str | None:
    """A result that only another generation of the same runtime still loads is a broken result."""
    generations = {"keras", "tf_keras"}
    names = [runtime.split(" ")[0] for runtime in (before, after)]
    if names[0] == names[1] or not generations.issuperset(names):
        return None
    return f"{names[0]} loads the original, but only {names[1]} loads the second model"


def _deviations(runner: Runner, seen: Observed, deadline: float) -> dict[str, list[Deviation | None]]:
    """Run the candidate on the reference's input sets, at least one, until the deadline."""
    ranges = {spec.name: seen.scales(spec.name) for spec in seen.declared}
    found: dict[str, list[Deviation | None]] = {name: [] for name in ranges}
    for row, index in enumerate(seen.used):
        if row and time.perf_counter() > deadline:
            break
        produced = runner.run(seen.samples.feeds(index))
        for name, rows in found.items():
            rows.append(deviation(seen.outputs[row][name], produced[name], ranges[name][row]))
    return found


def _conclude(seen: Observed, found: Mapping[str, Sequence[Deviation | None]], depth: int) -> Agreement:
    """One status from the verdicts on all outputs: the worst."""
    count = max((len(rows) for rows in found.values()), default=0)
    verdicts = [_verdict(seen, name, rows, depth) for name, rows in found.items()]
    status = Status.EQUAL
    for worse in (Status.DIFFERENT, Status.INCONCLUSIVE):
        if any(v.status is worse for v in verdicts):
            status = worse
            break
    arrays = [array for outputs in seen.outputs[:count] for array in outputs.values()]
    if status is Status.EQUAL and not any(array.size for array in arrays):
        return Agreement(
            Status.INCONCLUSIVE, evidence=_evidence(seen, count), detail="no output has any values"
        )
    return Agreement(
        status=status,
        outputs=tuple(v.agreement for v in verdicts),
        samples=count,
        tolerance=max((v.agreement.tolerance for v in verdicts), default=limit_for(seen.roundoff)),
        evidence=_evidence(seen, count),
        detail=_detail(seen, verdicts, status, count),
    )


def _verdict(seen: Observed, name: str, rows: Sequence[Deviation | None], depth: int) -> Verdict:
    noises = [noise[name] for noise in seen.noises[: len(rows)]]
    if not any(is_float(outputs[name]) for outputs in seen.outputs):
        return judge_exact(name, rows, noises)
    return judge(name, rows, noises, seen.roundoff, depth)


def _detail(seen: Observed, verdicts: Sequence[Verdict], status: Status, count: int) -> str:
    """Why the status is what it is; for a pass, what weakens the evidence."""
    if status is not Status.EQUAL:
        texts = [v.detail for v in verdicts if v.status is status]
        more = f" (and {len(texts) - 1} more outputs)" if len(texts) > 1 else ""
        floats = [v for v in verdicts if is_float(seen.outputs[0][v.agreement.name])]
        only_exact = status is Status.DIFFERENT and floats and all(v.status is Status.EQUAL for v in floats)
        hint = "; all outputs of floats agree, so a tie may have fallen the other way" if only_exact else ""
        return texts[0] + more + hint
    weak = [
        f"output '{v.agreement.name}' {why}"
        for v in verdicts
        if (why := _weakness(seen, v.agreement.name, count))
    ]
    return "; ".join(weak[:3]) + (f"; and {len(weak) - 3} more such outputs" if len(weak) > 3 else "")


def _weakness(seen: Observed, name: str, count: int) -> str:
    """What makes the agreement of this output weak evidence, else ""."""
    arrays = [outputs[name] for outputs in seen.outputs[:count]]
    if all(not array.size for array in arrays):
        return "is empty for every input"
    if count < 2 or not is_float(arrays[0]):
        return ""
    limit = limit_for(seen.roundoff)
    ranges = seen.scales(name)
    if all(
        relative_change(arrays[0], array, scale) <= limit
        for array, scale in zip(arrays, ranges, strict=False)
    ):
        return "does not vary with the input, so its agreement proves little"
    return ""


def _evidence(seen: Observed, count: int) -> str:
    sets = "1 input set" if count == 1 else f"{count} input sets"
    return f"{seen.runtime}, graph optimisation off, {sets}"
