"""Are two models equal? Runs both on the same inputs and judges by the reference's own rounding noise.

Equation and tolerance: ``bnfuse.compare``. Decides in this order: the declared inputs and outputs
(names, order, dtypes, shapes), then the values. One model is in memory at a time: the reference
runs on every input set, its outputs are kept, it is freed, and only then the candidate is loaded.
The runtime's graph optimisation is off: switched on, a runtime may fold the reference itself, and
two folded models would be compared.

Says *inconclusive*, never equal, where the reference cannot be run: the runtime refuses it, memory
is short, nothing it puts out is finite, or it is so unstable that noise explains the difference.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bnfuse.compare import (
    ROUNDOFF,
    UNKNOWN_DEPTH,
    Deviation,
    Verdict,
    deviation,
    is_float,
    judge,
    judge_exact,
    limit_for,
    relative_change,
    rounding_noise,
    roundoff_of,
    scales,
)
from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats import load as load_by_content
from bnfuse.formats.base import Runner, RunSettings, TensorSpec
from bnfuse.interface import interface_difference
from bnfuse.machine import available_memory_bytes
from bnfuse.results import Agreement, Status
from bnfuse.samples import Feeds, InputRequest, Samples, fit

Loader = Callable[[Path, RunSettings], Runner]

# A runtime holds the file's bytes, its own copy of the weights, and activations.
MEMORY_FACTOR = 2.5
_MAX_KEPT_BYTES = 1 << 29
# Batch 2 shows whether samples of a batch get mixed up.
_BATCH = 2
# Perturbed runs per input set.
_PROBES = 3


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


@dataclass(frozen=True, slots=True, eq=False)
class _Observed:
    """What the reference did. ``used`` numbers the input sets on which it ran.

    ``outputs`` and ``noises`` hold, per input set, a value for every output by name.
    """

    inputs: tuple[TensorSpec, ...]
    declared: tuple[TensorSpec, ...]
    runtime: str
    samples: Samples
    roundoff: float
    depth: int
    used: list[int]
    outputs: list[Feeds]
    noises: list[dict[str, float]]

    def scales(self, name: str) -> list[float]:
        """The output's range, per input set."""
        return scales([outputs[name] for outputs in self.outputs])

    def size_bytes(self) -> int:
        """What the kept outputs take."""
        return sum(array.nbytes for outputs in self.outputs for array in outputs.values())


def verify(
    reference: Path, candidate: Path, *, request: VerifyRequest | None = None, load: Loader = load_by_content
) -> Agreement:
    """Compare ``candidate`` with ``reference`` on the same inputs.

    Raises:
        UnreadableModel: a file does not exist.
        UsageError: the request does not fit the model's inputs.
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
    start = time.perf_counter()
    try:
        observed = _observe(lambda: load(reference, settings), request, start)
    except (UsageError, RuntimeMissing):
        raise
    except BnfuseError as error:
        return Agreement(Status.INCONCLUSIVE, detail=f"the original cannot be run: {error}")
    except MemoryError:
        return Agreement(Status.INCONCLUSIVE, detail="memory ran out while the original was running")
    return _confront(lambda: load(candidate, settings), observed, request.budget_s, start)


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


def _observe(load: Callable[[], Runner], request: VerifyRequest, start: float) -> _Observed:
    """Run the reference on as many input sets as the budget allows, and on perturbed copies."""
    wanted = InputRequest(request.batch, request.shapes, request.inputs, request.seed)
    with load() as runner:
        samples, first = fit(runner, wanted, _BATCH)
        roundoff = roundoff_of(list(first.values()), request.weights)
        specs = tuple(runner.inputs), tuple(runner.outputs)
        seen = _Observed(
            *specs, runner.runtime, samples, roundoff, request.depth, used=[], outputs=[], noises=[]
        )
        setup_s = time.perf_counter() - start
        deadline = start + max(0.0, request.budget_s - setup_s)  # the candidate must load as well
        for index in range(max(1, request.samples)):
            begin = time.perf_counter()
            outputs = first if index == 0 else _attempt(runner, samples.feeds(index))
            if outputs is not None:
                seen.used.append(index)
                seen.outputs.append(outputs)
                seen.noises.append(_noise(runner, samples.feeds(index), outputs, roundoff, deadline))
            now = time.perf_counter()
            # Still to come: the candidate loads, and runs each set once.
            ahead = setup_s + (now - begin) * (1.0 + (len(seen.used) + 1) / (1.0 + _PROBES))
            if now - start + ahead > request.budget_s or seen.size_bytes() > _MAX_KEPT_BYTES:
                break
        return seen


def _attempt(runner: Runner, feeds: Feeds) -> Feeds | None:
    """Outputs, or None where these values stop the model (an index that is out of range)."""
    try:
        return runner.run(feeds)
    except BnfuseError:
        return None


def _noise(
    runner: Runner, feeds: Feeds, outputs: Feeds, roundoff: float, deadline: float
) -> dict[str, float]:
    """The reference's own noise in each output (equation: ``bnfuse.compare``).

    NaN where it cannot be measured: no input is a float, the deadline has passed, or the model
    does not run on the moved inputs.
    """
    noises = dict.fromkeys(outputs, math.nan)
    if not any(is_float(array) for array in feeds.values()):
        return noises

    def moved(step: float, seed: int) -> Feeds | None:
        return None if time.perf_counter() > deadline else _attempt(runner, perturb(feeds, step, seed))

    shaken = moved(2.0 * roundoff, 0)
    up, down = moved(roundoff**0.75, 1), moved(-(roundoff**0.75), 1)
    for name, array in outputs.items():
        scale = scales([array])[0]
        found = []
        if shaken is not None:
            found.append(relative_change(array, shaken[name], scale))
        if up is not None and down is not None:
            found.append(rounding_noise(array, up[name], down[name], scale))
        noises[name] = max(found, default=math.nan)
    return noises


def perturb(feeds: Feeds, step: float, seed: int) -> Feeds:
    """The float inputs times 1 ± step, signs at random but the same for a seed; zeros become ±step.

    The step is at least two unit roundoffs of the input's own type, so that it is not rounded away.
    """
    rng = np.random.default_rng(seed)
    moved = dict(feeds)
    for name, array in feeds.items():
        if not is_float(array):
            continue
        size = max(abs(step), 2.0 * ROUNDOFF[array.dtype.name])
        steps = np.copysign(size, step) * rng.choice((-1.0, 1.0), array.shape)
        wide = array.astype(np.float64)
        with np.errstate(over="ignore"):
            moved[name] = np.where(wide == 0.0, steps, wide * (1.0 + steps)).astype(array.dtype)
    return moved


def _confront(load: Callable[[], Runner], seen: _Observed, budget_s: float, start: float) -> Agreement:
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
        mismatch = interface_difference(
            seen.inputs, runner.inputs, "input", free_may_differ=False
        ) or interface_difference(seen.declared, runner.outputs, "output", free_may_differ=True)
        if mismatch:
            return Agreement(Status.DIFFERENT, evidence=evidence, detail=mismatch)
        try:
            found = _deviations(runner, seen, start + 1.5 * budget_s)
        except BnfuseError as error:
            text = f"the second model does not run where the original does: {error}"
            return Agreement(Status.DIFFERENT, evidence=evidence, detail=text)
        except MemoryError:
            text = "memory ran out while the second model was running"
            return Agreement(Status.INCONCLUSIVE, evidence=evidence, detail=text)
    return _conclude(seen, found)


def _deviations(runner: Runner, seen: _Observed, deadline: float) -> dict[str, list[Deviation | None]]:
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


def _conclude(seen: _Observed, found: Mapping[str, Sequence[Deviation | None]]) -> Agreement:
    """One status from the verdicts on all outputs: the worst."""
    count = max((len(rows) for rows in found.values()), default=0)
    verdicts = [_verdict(seen, name, rows) for name, rows in found.items()]
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


def _verdict(seen: _Observed, name: str, rows: Sequence[Deviation | None]) -> Verdict:
    noises = [noise[name] for noise in seen.noises[: len(rows)]]
    if not any(is_float(outputs[name]) for outputs in seen.outputs):
        return judge_exact(name, rows, noises)
    return judge(name, rows, noises, seen.roundoff, seen.depth)


def _detail(seen: _Observed, verdicts: Sequence[Verdict], status: Status, count: int) -> str:
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


def _weakness(seen: _Observed, name: str, count: int) -> str:
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


def _evidence(seen: _Observed, count: int) -> str:
    sets = "1 input set" if count == 1 else f"{count} input sets"
    return f"{seen.runtime}, graph optimisation off, {sets}"
