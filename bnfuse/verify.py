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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UnsafeModel, UsageError
from bnfuse.formats import load as load_by_content
from bnfuse.formats.base import Runner, RunSettings, TensorSpec
from bnfuse.inputs.alignment import Unalignable, align
from bnfuse.inputs.labels import read_labels
from bnfuse.inputs.samples import InputRequest
from bnfuse.inputs.twins import interface_of, of_two_formats
from bnfuse.machine import available_memory_bytes
from bnfuse.proof.compare import Compared, conclude, confront, unexplained
from bnfuse.proof.observe import Effort, Observed, measure_noise, observe
from bnfuse.proof.verdict import UNKNOWN_DEPTH
from bnfuse.results import Agreement, Status

Loader = Callable[[Path, RunSettings], Runner]
# A runtime holds the file's bytes, its own copy of the weights, and activations.
MEMORY_FACTOR = 2.5
# Rows of the user's data whose noise is measured when they show a difference.
_SECOND_LOOKS = 3


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """How to compare two models.

    ``samples`` is the most input sets that are made up, ``budget_s`` the time after which no more are
    added (at least one always runs). ``batch``, ``shapes``, ``inputs`` and ``seed`` are about the inputs,
    see ``samples.InputRequest``; of the user's ``inputs`` all samples are run, however long it takes.
    ``labels`` are files with one integer per sample of ``inputs``, by output name ("" for the only
    output). ``weights`` is the dtype the model computes in where that is known
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
    labels: Mapping[str, Path] = field(default_factory=dict)

    @property
    def input_request(self) -> InputRequest:
        """What it says about inputs."""
        return InputRequest(self.batch, self.shapes, self.inputs, self.seed)

    @property
    def settings(self) -> RunSettings:
        """How to load both models."""
        return RunSettings(False, self.device, self.threads, self.allow_unsafe)


def verify(
    reference: Path, candidate: Path, *, request: VerifyRequest | None = None, load: Loader = load_by_content
) -> Agreement:
    """Compare ``candidate`` with ``reference`` on the same inputs.

    Raises:
        UnreadableModel: a file does not exist.
        UsageError: the request does not fit the model's inputs, or labels not its outputs.
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
    across = of_two_formats(reference, candidate)
    try:
        specs = _narrowed(reference, candidate, request, load) if across else None
        witness = Witness.of(reference, request, load, specs=specs)
    except (UsageError, UnsafeModel, RuntimeMissing):
        raise
    except Unalignable as mismatch:
        return Agreement(Status.DIFFERENT, detail=str(mismatch))
    except BnfuseError as error:
        return Agreement(Status.INCONCLUSIVE, detail=f"the original cannot be run: {error}")
    except MemoryError:
        return Agreement(Status.INCONCLUSIVE, detail="memory ran out while the original was running")
    return witness.compare(candidate, across=across)


@dataclass(slots=True, eq=False)
class Witness:
    """The reference after it has run: candidates are compared with what it put out, one after the other.

    ``allowed`` is what each output may be off by in any case (from an earlier proof of the same models).
    """

    reference: Path
    request: VerifyRequest
    load: Loader
    seen: Observed
    deadline: float
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
    ) -> Witness:
        """Run the reference, on some input sets ``only`` where that is not ().

        Raises:
            UsageError: the request does not fit the model.
            UnsafeModel, RuntimeMissing, BnfuseError: it cannot be run.
        """
        labels = {} if only else {name: read_labels(path) for name, path in request.labels.items()}
        if labels and request.inputs is None:
            raise UsageError("--labels are for your own samples: give those with --inputs")
        tables = request.device == "cpu"  # on a GPU an index out of range may end the process
        start = time.perf_counter()
        size = request.model_bytes or reference.stat().st_size
        effort = Effort(request.samples, start, request.budget_s, request.weights, only, tables, size)
        seen = observe(
            lambda: load(reference, request.settings), request.input_request, effort, labels, specs
        )
        return cls(reference, request, load, seen, start + 1.5 * request.budget_s)

    def compare(self, candidate: Path, *, across: bool = False) -> Agreement:
        """Run a candidate, and look twice at the user's samples where it differs.

        Raises:
            UsageError, UnsafeModel, RuntimeMissing: as ``verify``.
        """
        compared = Compared(self.seen, self.request.depth, self.allowed)
        agreement = confront(
            lambda: self.load(candidate, self.request.settings), compared, self.deadline, across=across
        )
        rows = unexplained(compared) if agreement.status is Status.DIFFERENT else []
        if not rows:
            return agreement
        with self.load(self.reference, self.request.settings) as runner:
            for row in rows[:_SECOND_LOOKS]:
                feeds = self.seen.samples.feeds(self.seen.used[row])
                outputs = self.seen.outputs[row]
                self.seen.noises[row] = measure_noise(runner, feeds, outputs, self.seen.roundoff)
        return conclude(compared)


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
