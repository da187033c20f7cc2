"""Are two models equal? Runs both on the same inputs and judges by the reference's own rounding noise.

Equation and tolerance: ``bnfuse.proof.verdict``. Decides in this order: the declared inputs and outputs
(names, order, dtypes, shapes), then the values. One model is in memory at a time: the reference
runs on every input set, its outputs are kept, it is freed, and only then the candidate is loaded.
The runtime's graph optimisation is off: switched on, a runtime may fold the reference itself, and
two folded models would be compared.

Models of two formats are compared too (a Keras model and its ONNX export): there names, layouts and
widths of types may differ (``bnfuse.inputs.alignment``).

Says *inconclusive*, never equal, where the reference cannot be run: the runtime refuses it, memory
is short, nothing it puts out is finite, or it is so unstable that noise explains the difference.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.errors import BnfuseError, RuntimeLost, RuntimeMissing, UnreadableModel, UnsafeModel, UsageError
from bnfuse.formats import load as load_by_content
from bnfuse.formats.base import Loader, Probe, RunSettings, TensorSpec
from bnfuse.inputs.alignment import Unalignable, align
from bnfuse.inputs.cross_format import interface_of, of_two_formats
from bnfuse.inputs.labels import read_labels
from bnfuse.inputs.repeatable import RandomOutputs
from bnfuse.inputs.samples import Feeds, InputRequest
from bnfuse.machine import available_memory_bytes
from bnfuse.proof.compare import Compared, conclude, try_candidate, unexplained
from bnfuse.proof.deviation import ROUNDOFF
from bnfuse.proof.inside import SeamPair
from bnfuse.proof.observe import Effort, Observed, measure_noise, observe, shaken_noise
from bnfuse.proof.seams import SETS, SeamProof, look_at
from bnfuse.proof.stretches import Models
from bnfuse.proof.verdict import UNKNOWN_DEPTH
from bnfuse.results import Agreement, SeamAgreement, Status
from bnfuse.results.doing import Progress
from bnfuse.use_cases.provenance import telling

# A runtime holds the file's bytes, its own copy of the weights, and activations.
MEMORY_FACTOR = 2.5
# Input sets whose noise is measured where they show a difference, and runs with moved weights for each.
_SECOND_LOOKS = 8
_SHAKES = 2


class VerifyRequest(Struct, frozen=True):
    """How to compare two models.

    ``samples`` is the most input sets that are made up, ``verify_time`` the time, in seconds, after which
    no more are added (at least one always runs); it counts from when a model is loaded. ``batch``, ``shape``,
    ``inputs`` and ``seed`` are about the inputs, see ``samples.InputRequest``; of the user's ``inputs`` all
    samples are run, however long it takes.
    ``labels`` are files with one integer per sample of ``inputs``, by output name ("" for the only
    output). ``weights`` is the dtype the model computes in where that is known
    and its outputs do not show it, ``depth`` how many folded layers follow one another,
    ``model_bytes`` the size of a model with its external data (0: that of its file). ``runtime`` is the one
    to run both in, as a runner calls its own ("": the first that loads the reference). A ``successor`` takes
    the reference's place, and so must load where that loads; other models are compared where both do.
    ``inside`` says where to look between the folds, where those are known.
    """

    samples: int = 8
    seed: int = 0
    verify_time: float = 10.0
    batch: int | None = None
    shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: str | PathLike[str] | None = None
    device: str = "cpu"
    threads: int = 0
    allow_unsafe: bool = False
    weights: str = ""
    depth: int = UNKNOWN_DEPTH
    model_bytes: int = 0
    labels: Mapping[str, str | PathLike[str]] = field(default_factory=dict)
    runtime: str = ""
    successor: bool = False
    inside: SeamPair | None = None

    @property
    def coarsest(self) -> str:
        """The dtype that the model computes in, as far as that is known."""
        return self.weights or (self.inside.coarsest if self.inside is not None else "")

    @property
    def input_request(self) -> InputRequest:
        """What it says about inputs."""
        inputs = None if self.inputs is None else Path(self.inputs)
        return InputRequest(self.batch, self.shape, inputs, self.seed)

    @property
    def settings(self) -> RunSettings:
        """How to load both models."""
        return RunSettings(False, self.device, self.threads, self.allow_unsafe, runtime=self.runtime)


def verify(
    reference: str | PathLike[str],
    candidate: str | PathLike[str],
    *,
    request: VerifyRequest | None = None,
    load: Loader = load_by_content,
    progress: Progress = lambda _: None,
) -> Agreement:
    """Compare ``candidate`` with ``reference`` on the same inputs; ``progress`` is called with each step.

    Raises:
        UnreadableModel: a file does not exist.
        UsageError: the request does not fit the model's inputs, or labels not its outputs.
        UnsafeModel: running it would run code that it carries.
        RuntimeMissing: the runtime or the device is not there.
    """
    request = request or VerifyRequest()
    reference, candidate = Path(reference), Path(candidate)
    for path in (reference, candidate):
        if not path.exists():
            raise UnreadableModel(f"{path} does not exist")
    shortage = _shortage(reference, candidate, request)
    if shortage:
        return Agreement(Status.INCONCLUSIVE, detail=shortage)
    names = {reference: "the original", candidate: "the second model"}
    load = telling(load, names, request.verify_time, progress)
    across = of_two_formats(reference, candidate)
    try:
        specs = _narrowed(reference, candidate, request, load) if across else None
        witness = ReferenceRun.of(reference, request, load, specs=specs)
    except (UsageError, UnsafeModel, RuntimeMissing):
        raise
    except Unalignable as mismatch:
        return Agreement(Status.DIFFERENT, detail=str(mismatch))
    except RandomOutputs as random:
        return Agreement(Status.INCONCLUSIVE, detail=str(random), runnable=False)
    except BnfuseError as error:
        runnable = not isinstance(error, UnreadableModel | RuntimeLost)
        return Agreement(
            Status.INCONCLUSIVE, detail=f"the original cannot be run: {error}", runnable=runnable
        )
    except MemoryError:
        return Agreement(Status.INCONCLUSIVE, detail="memory ran out while the original was running")
    return replace(witness.compare(candidate, across=across), inputs=witness.seen.samples.ran)


class ReferenceRun(Struct, eq=False):
    """The reference after it has run: candidates are compared with what it put out, one after the other.

    ``allowed`` is what each output may be off by in any case (from an earlier proof of the same models).
    """

    reference: Path
    request: VerifyRequest
    load: Loader
    seen: Observed
    allowed: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        reference: Path,
        request: VerifyRequest,
        load: Loader,
        *,
        only: tuple[int, ...] = (),
        specs: Sequence[TensorSpec] | None = None,
    ) -> ReferenceRun:
        """Run the reference, on some input sets ``only`` where that is not ().

        Raises:
            UsageError: the request does not fit the model.
            UnsafeModel, RuntimeMissing, BnfuseError: it cannot be run.
        """
        labels = {} if only else {name: read_labels(Path(path)) for name, path in request.labels.items()}
        if labels and request.inputs is None:
            raise UsageError("--labels are for your own samples: give those with --inputs")
        tables = request.device == "cpu"  # on a GPU an index out of range may end the process
        size = request.model_bytes or reference.stat().st_size
        effort = Effort(request.samples, request.verify_time, request.coarsest, only, tables, size)
        seen = observe(
            lambda: load(reference, request.settings),
            replace(request.input_request, model=reference),
            effort,
            labels,
            specs,
            None if only else look_at(reference, request.inside, request.settings, load),
        )
        return cls(reference, request, load, seen)

    def compare(self, candidate: Path, *, across: bool = False) -> Agreement:
        """Run a candidate where the reference ran, look between the folds, measure noise if outputs differ.

        Raises:
            UsageError, UnsafeModel, RuntimeMissing: as ``verify``.
        """
        compared = Compared(self.seen, self.request.depth, self.allowed)
        settings = self.request.settings if across else self._same_runtime()
        agreement = try_candidate(
            lambda: self.load(candidate, settings), compared, self.request.verify_time, across=across
        )
        if agreement.status is Status.DIFFERENT and not compared.runtime and not across:
            return self._elsewhere(candidate, agreement)
        if not compared.rows:
            return agreement
        compared.inside = self._between_folds(candidate)
        if rows := unexplained(
            compared
        ):  # then of the other sets, too: steady ones decide where there are any
            others = [row for row in range(compared.rows) if row not in rows]
            self._measure_noise([*rows, *others][:_SECOND_LOOKS])
        return conclude(compared)

    def _between_folds(self, candidate: Path) -> SeamAgreement | None:
        """What is found out at the seams; None where they are not known."""
        inside = self.request.inside
        if inside is None or not inside.folds:
            return None
        roundoff = ROUNDOFF.get(inside.coarsest, 0.0)
        models = Models(self.reference, candidate, inside, self._same_runtime(), self.load, roundoff)
        proof = SeamProof(models, time.perf_counter() + self.request.verify_time, self.seen.noted)
        proof.run([self.seen.samples.feeds(index) for index in self.seen.used[:SETS]])
        return proof.agreement()

    def _measure_noise(self, rows: Sequence[int]) -> None:
        """How far rounding moves the reference on these input sets, its inputs and its weights moved."""
        inside, settings = self.request.inside, self._same_runtime()
        with self.load(self.reference, settings) as runner:
            for row in rows:
                feeds, outputs = self._row(row)
                self.seen.noises[row] = measure_noise(runner, feeds, outputs, self.seen.roundoff)
        for seed in range(_SHAKES):
            near = () if inside is None or inside.hidden else inside.original  # of bodies it names none
            probe = Probe(shaken=near, shakes_all=not near, seed=seed + 1)
            with self.load(self.reference, replace(settings, probe=probe)) as runner:
                for row in rows:
                    moved = shaken_noise(runner, *self._row(row))
                    known = self.seen.noises[row]
                    self.seen.noises[row] = {n: float(np.fmax(known[n], moved[n])) for n in known}

    def _row(self, row: int) -> tuple[Feeds, Feeds]:
        """Inputs and outputs of one input set."""
        return self.seen.samples.feeds(self.seen.used[row]), self.seen.outputs[row]

    def _same_runtime(self) -> RunSettings:
        """To load a model into the runtime in which the reference ran."""
        return replace(self.request.settings, runtime=self.seen.runtime)

    def _elsewhere(self, candidate: Path, refused: Agreement) -> Agreement:
        """The comparison in another runtime, where the candidate loads in that alone."""
        try:
            with self.load(candidate, self.request.settings) as runner:
                here, there = self.seen.runtime, runner.runtime
        except (BnfuseError, MemoryError):
            return refused
        if here == there:
            return refused
        told = f"{here} loads the original, but only {there} loads the second model"
        if self.request.successor:
            return replace(refused, detail=told)
        try:
            witness = ReferenceRun.of(self.reference, replace(self.request, runtime=there), self.load)
        except (BnfuseError, MemoryError):
            return replace(refused, detail=told)
        agreement = witness.compare(candidate)
        return replace(agreement, notes=(*agreement.notes, f"{told}: compared there"))


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


def _narrowed(
    reference: Path, candidate: Path, request: VerifyRequest, load: Loader
) -> tuple[TensorSpec, ...] | None:
    """What inputs must fit for both models of two formats; each is loaded once to ask what it declares.

    Raises:
        Unalignable: their interfaces do not correspond.
        UsageError, UnsafeModel, RuntimeMissing, BnfuseError: as ``verify``.
    """
    try:
        second = interface_of(candidate, request.settings, load)
    except UnreadableModel:  # told when its turn comes
        return None
    return align(interface_of(reference, request.settings, load), second).narrowed()
