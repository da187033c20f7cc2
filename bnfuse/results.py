"""The one result object of every use case: frozen values that all reports read.

Units are in the names (``_ms``, ``_bytes``, ``_db``). Nothing here computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from bnfuse.core.decisions import Plan


class Status(str, Enum):
    """Outcome of a verification."""

    EQUAL = "equal"
    DIFFERENT = "different"
    INCONCLUSIVE = "inconclusive"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One model file. ``total_bytes`` counts external data too; ``sha256`` is of the model file."""

    path: Path
    format: str
    sha256: str
    total_bytes: int


@dataclass(frozen=True, slots=True)
class OutputAgreement:
    """How far one output of the two models is apart, over all samples.

    ``max_abs`` is max |difference| in the output's own units, ``max_rel`` the same divided by the
    reference's range, max |reference| of that input set. Three cases are settled so:

    - tiny references: no range counts as less than a thousandth of the largest among the input sets, nor
      as less than 1.2e-38 (float32's smallest normal number, whatever the dtype), so a reference of
      zeros makes no rounding error infinite;
    - a reference that is not finite (inf or NaN anywhere): that input set is left out of all figures;
      where none is left, they are NaN and the proof is inconclusive;
    - a candidate that is not finite where the reference is, or of another shape or dtype: ``max_abs`` and
      ``max_rel`` are ``inf``, ``snr_db`` is ``-inf``, and the models differ.

    For integers, booleans and strings ``max_rel`` is the fraction of elements that differ. ``rms`` is the
    root of the mean squared difference over all elements of all input sets, in the output's own units
    (NaN for strings, sequences and maps). ``snr_db`` is
    10·log10(signal power / error power) over all input sets, each in units of its range, ``inf`` where
    no value differs (that includes −0 for 0); ``argmax_agreement`` is the fraction of rows along the
    last axis whose largest element is at the same place, None where that axis has length 1 or there is
    none. ``tolerance`` bounds ``max_rel``; ``basis`` says as a clause where it comes from. In JSON, what is
    not finite is null.
    """

    name: str
    max_abs: float
    max_rel: float
    snr_db: float
    tolerance: float
    argmax_agreement: float | None = None
    rms: float = math.nan
    basis: str = ""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How many of the user's labels each of two models gets right, by one output.

    ``before`` and ``after`` are fractions of ``samples`` (``after`` None where the second model's output
    cannot be read so); ``changed`` counts the samples that the models answer differently. ``rule`` says
    how an answer is read from the output ("the largest of 10 values").
    """

    output: str
    samples: int
    before: float
    after: float | None
    changed: int
    rule: str


@dataclass(frozen=True, slots=True)
class Culprit:
    """The fold whose coming breaks equality (what that does and does not say: ``bnfuse.culprit``)."""

    node: str
    op: str
    split: str
    into: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The outcome of comparing two models on the same inputs.

    ``evidence`` says on what ("onnxruntime 1.32, graph optimisation off, 6 input sets"),
    ``detail`` why the status is what it is, as one sentence ("" for a plain pass).
    ``samples`` counts input sets, ``own_samples`` the samples among them that are the user's own.
    ``notes`` are sentences on how the models were made comparable. Where they differ, ``failing_sets``
    numbers up to three input sets that show it, the clearest first; ``culprit`` is the fold that breaks
    equality, or ``suspects`` names those among which it is, where the time did not suffice.
    """

    status: Status
    outputs: tuple[OutputAgreement, ...] = ()
    samples: int = 0
    tolerance: float = 0.0
    evidence: str = ""
    detail: str = ""
    own_samples: int = 0
    accuracy: tuple[Accuracy, ...] = ()
    notes: tuple[str, ...] = ()
    failing_sets: tuple[int, ...] = ()
    culprit: Culprit | None = None
    suspects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Latency of one call, in milliseconds; ``least`` is the fastest call, None where it is not known."""

    p50: float
    p90: float
    p99: float
    least: float | None = None


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One model's starts in fresh processes, as medians over them, from process start to first answer.

    ``start_ms`` is the start of the process itself, ``runtime_ms`` importing the runtime, ``load_ms``
    loading the model, ``first_run_ms`` the first answer. ``peak_bytes`` is the most memory that was
    resident in the process (not on a GPU), None where the system does not tell.
    """

    start_ms: float
    runtime_ms: float
    load_ms: float
    first_run_ms: float
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class BenchRun:
    """One setting measured in interleaved rounds.

    ``speedup`` is before/after (above 1: the result is faster), ``ci95`` its bootstrap interval;
    ``control`` is the interval of the same ratio for the original against itself (A/A).
    ``after_ms``, ``speedup`` and ``ci95`` are None when only one model was timed; ``before_ci95_ms``, the
    interval of its median call, is there only then. ``pairs`` counts rounds, ``threads`` is 0 where not told.
    ``detectable`` is the least change, as a fraction, that these rounds would show in nine of ten cases.
    ``…_items_per_s`` is batch / p50, ``…_quantiles_ms`` are 41 evenly spaced quantiles of single calls, from
    the fastest to the slowest. Cold start alone has ``before_cold`` and ``after_cold``.
    """

    setting: str
    batch: int
    before_ms: Percentiles
    after_ms: Percentiles | None = None
    speedup: float | None = None
    ci95: tuple[float, float] | None = None
    control: tuple[float, float] | None = None
    pairs: int = 0
    verdict: str = ""
    before_cold: ColdStart | None = None
    after_cold: ColdStart | None = None
    threads: int = 0
    before_ci95_ms: tuple[float, float] | None = None
    before_quantiles_ms: tuple[float, ...] = ()
    after_quantiles_ms: tuple[float, ...] = ()
    before_items_per_s: float | None = None
    after_items_per_s: float | None = None
    detectable: float | None = None


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """What all nodes of one operator cost in one call, before and after: median over calls, and count."""

    op: str
    before_ms: float
    before_nodes: int
    after_ms: float | None = None
    after_nodes: int | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of a call goes, and what ran where, as the runtime's own profiler tells it.

    The operators are those that really ran, the runtime's own fusions among them. ``before_ms`` and
    ``after_ms`` are the median of whole calls under the profiler, which slows them a little; what the
    operators do not add up to is spent between them. ``…_placed`` counts nodes by provider.
    """

    setting: str
    batch: int
    calls: int
    operators: tuple[OperatorTime, ...]
    before_ms: float
    before_placed: dict[str, int]
    after_ms: float | None = None
    after_placed: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What a bench ran on. ``processors`` are those this process may use; ``gpu`` is "" where none ran."""

    cpu: str
    processors: int
    memory_bytes: int | None
    system: str
    gpu: str = ""


@dataclass(frozen=True, slots=True)
class BaselineRun:
    """One setting beside the same setting of an earlier report.

    ``then_ms`` and ``now_ms`` are p50. ``slowdown`` is the least one that the figures show, as a ratio:
    1.05 where all doubt taken away the model is still 5 % slower (``bnfuse.baseline`` has the formula).
    ``basis`` says whether calls ("time") or gains over the same original ("speed-up") were compared.
    """

    setting: str
    batch: int
    threads: int
    then_ms: float
    now_ms: float
    slowdown: float
    basis: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """A comparison with an earlier report; ``refusal`` says why nothing could be compared, else ""."""

    path: str
    runs: tuple[BaselineRun, ...] = ()
    refusal: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Latency:
    """What a bench measured, on what device and with how many threads.

    ``providers`` are those that really ran. ``notes`` are sentences the user should read. ``runtime``
    is what ran the models, with its version. ``profile`` is there where one was asked for and the
    runtime has one, ``baseline`` where an earlier report was given.
    """

    device: str
    threads: int
    providers: tuple[str, ...]
    runs: tuple[BenchRun, ...]
    notes: tuple[str, ...] = ()
    runtime: str = ""
    machine: Machine | None = None
    profile: Profile | None = None
    baseline: Baseline | None = None


@dataclass(frozen=True, slots=True)
class DrawnNode:
    """One node of a ``Neighbourhood``.

    ``kind`` is "node", or "input" or "output" for what the model itself reads and writes (``name`` is
    then that value's). ``role`` says what it has to do with the decision: "self", "into" (its weights
    took the node on), "through" (passed), "refuses", or "" for what merely lies beside. ``removed``
    tells that the result no longer has it.
    """

    name: str
    op: str
    kind: str = "node"
    role: str = ""
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The graph around one decision, as the original has it.

    ``nodes`` stand in graph order, writers first; ``edges`` are (writer, reader) as indices of them.
    ``left_out`` counts nodes that belong here and were left out because there are too many to draw.
    """

    nodes: tuple[DrawnNode, ...]
    edges: tuple[tuple[int, int], ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class LayerChange:
    """What folding did to the parameters of one node that stays.

    ``kind`` is "weight" (a linear op), "scale" (a BatchNormalization or a Mul, Add, Sub, Div) or "constant"
    (an operand, a table). ``shape`` and ``dtype`` are as stored. ``factor_min`` and ``factor_max``
    bound |factor| over all elements. ``largest_change`` is max |new − old| / max |old|, None where the
    old values are all zero. ``bias`` is "made", "changed" or "". ``folded`` names whose folds led here.

    ``ranges_before`` and ``ranges_after`` are the largest |weight| of each output channel, ascending; of
    more than 64 channels 65 evenly spaced quantiles. ``spread_before`` and ``spread_after`` are largest
    over median of them (docs/quantise-next.md), 1 and () where ranges mean nothing (a constant).
    """

    node: str
    op: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    factor_min: float
    factor_max: float
    largest_change: float | None
    bias: str
    folded: tuple[str, ...]
    ranges_before: tuple[float, ...] = ()
    ranges_after: tuple[float, ...] = ()
    spread_before: float = 1.0
    spread_after: float = 1.0


@dataclass(frozen=True, slots=True)
class Details:
    """What only a report file shows, and what takes a look at all weights to know.

    ``neighbourhoods`` hold one entry per decision of the plan, in its order, None where not drawn.
    """

    neighbourhoods: tuple[Neighbourhood | None, ...] = ()
    layers: tuple[LayerChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one ``optimize`` (or ``inspect``) found out and did.

    ``operators_before``/``operators_after`` count nodes by operator over all scopes.
    ``output`` is None when nothing was written (``--dry-run``, ``inspect``, ``--check``).
    ``subnormals_flushed`` counts new weights that were set to zero because they were subnormal.
    ``details`` is None unless it was asked for.
    ``seconds`` maps a phase ("read", "plan", "write", "verify", "bench") to its wall time.
    """

    input: FileInfo
    plan: Plan
    operators_before: dict[str, int]
    operators_after: dict[str, int]
    output: FileInfo | None = None
    verification: Agreement = field(default_factory=lambda: Agreement(Status.SKIPPED))
    benchmark: Latency | None = None
    notes: tuple[str, ...] = ()
    subnormals_flushed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    details: Details | None = None
