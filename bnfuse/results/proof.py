"""What a verification found out."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from bnfuse.results.inputs import RanInput


class Status(str, Enum):
    """Outcome of a verification."""

    EQUAL = "equal"
    DIFFERENT = "different"
    INCONCLUSIVE = "inconclusive"
    SKIPPED = "skipped"


class OutputAgreement(Struct, frozen=True):
    """How far one output of the two models is apart, over all samples.

    ``max_abs`` is max |difference| in the output's own units, ``max_rel`` the same divided by the
    reference's range, max |reference| of that input set. Three cases are settled so:

    - tiny references: no range counts as less than a thousandth of the largest among the input sets, nor
      as less than 1.2e-38 (float32's smallest normal number, whatever the dtype), so a reference of
      zeros makes no rounding error infinite;
    - a reference that is not finite (inf or NaN anywhere): that input set is left out of all figures;
      where none is left, they are NaN and the proof is inconclusive;
    - a candidate that is not finite where the reference is, or of another shape or dtype: ``max_abs`` and
      ``max_rel`` are ``inf``, ``snr_db`` is ``-inf``, and the models differ. Where the reference is zero
      throughout and the other is not, ``max_rel`` and ``snr_db`` are NaN: there is no range.

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


class Accuracy(Struct, frozen=True):
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


class Culprit(Struct, frozen=True):
    """The fold whose coming breaks equality (what that says: ``use_cases.bisection``)."""

    node: str
    op: str
    split: str
    into: tuple[str, ...]


class SeamAgreement(Struct, frozen=True):
    """What was found out between the folds, at values that both models must hold alike.

    Each stretch from seam to seam ran on the same values in both models. ``folds`` counts the folds, among
    them ``parts``, after which a part of the node stays, and ``rescalings`` of channels (``--equalize``);
    ``proved`` counts those all of whose seams agree. ``seams`` counts the seams that were compared.
    ``worst`` names the value that used most of what it was allowed, ``share`` how much of it (at most 1 where
    rounding explains the difference). ``failing`` says where the models part, as sentences, the clearest
    first; ``suspects`` names the folds that are felt there. ``detail`` says why not all folds could be
    looked at.
    """

    folds: int
    proved: int
    seams: int
    worst: str = ""
    share: float = 0.0
    failing: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()
    detail: str = ""
    parts: int = 0
    rescalings: int = 0


class Agreement(Struct, frozen=True):
    """The outcome of comparing two models on the same inputs.

    ``evidence`` says on what ("onnxruntime 1.32, graph optimisation off, 6 input sets"),
    ``detail`` why the status is what it is, as one sentence ("" for a plain pass).
    ``samples`` counts input sets, of those ``planned`` (0 where none were), ``own_samples`` the samples
    among them that are the user's own; ``cut`` says for what they were cut short, "time" or "memory".
    ``inputs`` are those of the original, with their sizes and which of these were guessed.
    ``notes`` are sentences on how the models were made comparable. Where they differ, ``failing_sets``
    numbers up to three input sets that show it, the clearest first; ``culprit`` is the fold that breaks
    equality, or ``suspects`` names those among which it is, where the time did not suffice. ``inside`` tells
    what was compared between the folds, where they are known. ``runnable`` is False where other inputs would
    not help: the runtime refuses the original, or does not survive it, or its outputs are random.
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
    inside: SeamAgreement | None = None
    runnable: bool = True
    inputs: tuple[RanInput, ...] = ()
    planned: int = 0
    cut: str = ""

    @property
    def shade(self) -> Status:
        """The status whose colour it has: equality on fewer sets than planned is not that on all of them."""
        return Status.INCONCLUSIVE if self.partial and self.status is Status.EQUAL else self.status

    @property
    def partial(self) -> bool:
        """Whether fewer input sets were run than planned: weaker evidence, whatever it says."""
        return 0 < self.samples < self.planned
