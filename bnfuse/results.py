"""The one result object of every use case: frozen values that all reports read.

Units are in the names (``_ms``, ``_bytes``, ``_db``). Nothing here computes.
"""

from __future__ import annotations

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

    For integers, booleans and strings ``max_rel`` is the fraction of elements that differ. ``snr_db`` is
    10·log10(signal power / error power) over all input sets, each in units of its range, ``inf`` where
    no value differs (that includes −0 for 0); ``argmax_agreement`` is the fraction of rows along the
    last axis whose largest element is at the same place, None where that axis has length 1 or there is
    none. In JSON, what is not finite is null.
    """

    name: str
    max_abs: float
    max_rel: float
    snr_db: float
    tolerance: float
    argmax_agreement: float | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """The outcome of comparing two models on the same inputs.

    ``evidence`` says on what ("onnxruntime 1.32, graph optimisation off, 6 input sets"),
    ``detail`` why the status is what it is, as one sentence ("" for a plain pass).
    """

    status: Status
    outputs: tuple[OutputAgreement, ...] = ()
    samples: int = 0
    tolerance: float = 0.0
    evidence: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Latency of one call, in milliseconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class BenchRun:
    """One setting measured in interleaved pairs.

    ``speedup`` is before/after (above 1: the result is faster), ``ci95`` its bootstrap interval;
    ``control`` is the interval of the same ratio for the original against itself (A/A).
    ``after_ms``, ``speedup`` and ``ci95`` are None when only one model was timed.
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


@dataclass(frozen=True, slots=True)
class Latency:
    """What a bench measured, on what device and with how many threads.

    ``providers`` are those that really ran. ``notes`` are sentences the user should read.
    """

    device: str
    threads: int
    providers: tuple[str, ...]
    runs: tuple[BenchRun, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one ``optimize`` (or ``inspect``) found out and did.

    ``operators_before``/``operators_after`` count nodes by operator over all scopes.
    ``output`` is None when nothing was written (``--dry-run``, ``inspect``, ``--check``).
    ``subnormals_flushed`` counts new weights that were set to zero because they were subnormal.
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
