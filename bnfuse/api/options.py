"""The keywords of the functions: the options of the commands, under the same names.

What a command takes several times (``--shape``, ``--keep``, ``--labels``) is a mapping or a sequence here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bnfuse.formats.base import ReadOptions
    from bnfuse.results.doing import Progress
    from bnfuse.use_cases.bench import BenchRequest
    from bnfuse.use_cases.verify import VerifyRequest

AnyPath = str | PathLike[str]


class Common(TypedDict, total=False):
    """Of every function.

    Attributes:
        progress: is called with each step, in words.
        hashes: whether SHA-256 sums are wanted, which take as long as copying a large model.
    """

    progress: Progress
    hashes: bool


class Reading(Common, total=False):
    """How a model is read, and what may be made of it; ``read`` gives all of these at once.

    Attributes:
        weights: the file that belongs to an architecture in JSON.
        details: whether the pages of ``to_html`` show the graph around each decision, and each layer's
            weights, which are read once more for it (True).
    """

    read: ReadOptions | None
    strict_inputs: bool
    freeze_inputs: bool
    activations: Literal["keep", "move"] | None
    target: Literal["any", "no-bn"] | None
    equalize: bool
    keep: str | Sequence[str]
    allow_growth: bool
    round_bias: bool
    weights: AnyPath | None
    details: bool


class Running(TypedDict, total=False):
    """On what models run.

    Attributes:
        inputs: samples of your own: a file or a folder as for ``--inputs``, or arrays (of a model with
            several inputs by their names), with the batch as their first axis.
        shape: the shapes of inputs with free axes, by name.
        seed: of made-up inputs.
        runtime_timeout: the most seconds that the runtime may take for an answer.
        runtime_memory: the most memory that it may hold, as "2GB" or "500MB".
    """

    inputs: AnyPath | NDArray[Any] | Mapping[str, NDArray[Any]] | None
    shape: Mapping[str, Sequence[int]]
    device: Literal["cpu", "gpu"]
    allow_unsafe: bool
    seed: int
    runtime_timeout: float
    runtime_memory: str


class Proving(Running, total=False):
    """How to prove.

    Attributes:
        labels: the right answer to each sample of ``inputs``: a file, or files by output.
        verify_time: about how many seconds the proof may take.
        samples: the most input sets that are made up.
    """

    labels: AnyPath | Mapping[str, AnyPath]
    verify_time: float
    samples: int


class Measuring(Running, total=False):
    """How to measure.

    Attributes:
        precision: how well to know ("1%", or a fraction, 0.01): see ``--precision``.
        max_time: the most seconds that all settings together may take; ``bench_time`` is the same.
        profile: whether the time by operator is wanted, too.
        cold: whether starts in fresh processes are measured, too; takes a third of the time.
        fail_if_slower: the gate among the result's ``gates`` says no where it is slower by more, in percent.
        baseline: an earlier report, ``.json``, to compare with.
    """

    precision: float | str
    max_time: float
    bench_time: float
    profile: bool
    cold: bool
    fail_if_slower: float | str
    baseline: AnyPath | None


class OptimizeOptions(Reading, Proving, Measuring, total=False):
    """Of ``optimize``.

    Attributes:
        verify: how to prove the result equal; False writes it unproved.
        bench: how to measure it; False does not.
        force: whether an existing output is overwritten.
        merge_affines: whether chains of Mul, Add, Sub and Div that stay become one BatchNormalization each.
        only_if_faster: whether nothing is written unless the bench shows a gain.
    """

    verify: VerifyRequest | bool
    bench: BenchRequest | bool
    batch: int | None
    threads: int | None
    force: bool
    merge_affines: bool
    only_if_faster: bool


class InspectOptions(Reading, total=False):
    """Of ``inspect``."""


class Several(Common, total=False):
    """Of functions that take two models.

    Attributes:
        weights: the file that belongs to an architecture in JSON; of two such, a list in their order.
    """

    weights: AnyPath | Sequence[AnyPath]


class VerifyOptions(Several, Proving, total=False):
    """Of ``verify``; ``request`` gives all of these at once, and the others add to it."""

    request: VerifyRequest | None
    batch: int | None
    threads: int | None


class BenchOptions(Several, Measuring, total=False):
    """Of ``bench``; ``request`` gives all of these at once, and the others add to it."""

    request: BenchRequest | None
    batch: int | Sequence[int]
    threads: int | Sequence[int]


class DiffOptions(Several, total=False):
    """Of ``diff``.

    Attributes:
        ignore_below: weights whose largest change is below this fraction of their largest value are counted,
            but not listed.
        ranges: whether to look at what 8 bits would leave of each layer's weight, too.
    """

    ignore_below: float
    ranges: bool
