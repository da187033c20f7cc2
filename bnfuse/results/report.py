"""Everything one ``optimize`` or ``inspect`` found out and did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from bnfuse.core.decisions import Plan
from bnfuse.results.proof import Agreement, Status

if TYPE_CHECKING:
    from bnfuse.results.annotations import Details
    from bnfuse.results.latency import Latency
    from bnfuse.results.outcomes import Gate
    from bnfuse.results.rounding import RoundedBias


class FileInfo(Struct, frozen=True):
    """One model file. ``total_bytes`` counts external data too; ``sha256`` is of the model file.

    ``weights_path`` is the file of its weights where it is an architecture in JSON; ``total_bytes`` and
    ``sha256`` are of both then.

    ``weight_bytes`` and ``state_bytes`` (an optimiser's) are as the arrays are in memory, None where nobody
    looked; what they leave of the whole is the container: structure, names, padding.
    """

    path: Path
    format: str
    sha256: str
    total_bytes: int
    weight_bytes: int | None = None
    state_bytes: int | None = None
    weights_path: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called, and what its weights are called where they are a file of their own."""
        return (self.path.name,) if self.weights_path is None else (self.path.name, self.weights_path.name)

    @property
    def container_bytes(self) -> int | None:
        """What is neither weights nor state; None where that is not known, or they are stored compressed."""
        if self.weight_bytes is None:
            return None
        rest = self.total_bytes - self.weight_bytes - (self.state_bytes or 0)
        return rest if rest >= 0 else None


class Report(Struct, frozen=True):
    """Everything one ``optimize`` (or ``inspect``) found out and did.

    ``operators_before``/``operators_after`` count nodes by operator over all scopes.
    ``output`` is None when nothing was written (``--dry-run``, ``inspect``, ``--check``).
    ``subnormals_flushed`` counts new weights that were set to zero because they were subnormal.
    ``rounded_biases`` are those that ``--round-bias`` rounded; the proof is of the result before that.
    ``details`` is None unless it was asked for. ``gates`` are those that were asked for.
    ``unsafe`` says that the model was allowed to run code that it carries (``--allow-unsafe``).
    ``limits`` of the runtime are "answer_s" and "memory_bytes" (None: not watched); None where nothing runs.
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
    unsafe: bool = False
    limits: dict[str, float | None] | None = None
    gates: tuple[Gate, ...] = ()
    rounded_biases: tuple[RoundedBias, ...] = ()
