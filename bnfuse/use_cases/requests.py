"""What ``optimize`` was asked for, as the requests of the steps that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.errors import UsageError
from bnfuse.formats.base import ReadOptions, RunSettings

if TYPE_CHECKING:
    from bnfuse.use_cases.bench import BenchRequest
    from bnfuse.use_cases.verify import VerifyRequest


class OptimizeRequest(Struct, frozen=True):
    """What one ``optimize`` is to do; ``requested`` makes one.

    Attributes:
        verify: how to prove the result equal; None to write it unproved.
        bench: how to measure it; None not to.
        read: how the model is read, and what may be made of it.
        hashes: whether SHA-256 sums are wanted; they take as long as copying a large model.
        merge_affines: whether chains of Mul, Add, Sub, Div that stay become one BatchNormalization each.
        details: whether ``report.details`` are wanted: the graph around each decision, and what became of
            each layer's weights, which are read once more for it.
        only_if_faster: whether the original is kept, and nothing written, unless the bench shows a gain in
            the runs that count (``gates``): ``report.output`` is None then, and a note says why.
    """

    verify: VerifyRequest | None
    bench: BenchRequest | None
    read: ReadOptions
    hashes: bool
    merge_affines: bool
    details: bool
    only_if_faster: bool

    @property
    def unsafe(self) -> bool:
        """Whether the model may run code that it carries."""
        return any(request is not None and request.allow_unsafe for request in (self.verify, self.bench))

    @property
    def runs(self) -> bool:
        """Whether a runtime is to run the models."""
        return self.verify is not None or self.bench is not None

    @property
    def reads_weights(self) -> bool:
        """Whether the run reads all weights anyway, so that looking at them costs little beside it."""
        return self.hashes or self.runs


def requested(
    *,
    verify: VerifyRequest | bool = True,
    bench: BenchRequest | bool = True,
    read: ReadOptions | None = None,
    hashes: bool = True,
    merge_affines: bool = False,
    details: bool = False,
    only_if_faster: bool = False,
) -> OptimizeRequest:
    """What ``optimize`` is to do; ``verify`` and ``bench`` are True for their defaults, False for neither.

    Raises:
        UsageError: ``only_if_faster`` without a bench; ``merge_affines`` beside the target "no-bn".
    """
    read = read or ReadOptions()
    proof, measurement = in_one_process(verify_request(verify), bench_request(bench))
    if only_if_faster and measurement is None:
        raise UsageError("--only-if-faster needs the measurement: do not leave it out")
    if merge_affines and read.target == "no-bn":
        raise UsageError("--merge-affines makes BatchNormalizations, which --target no-bn takes out")
    return OptimizeRequest(proof, measurement, read, hashes, merge_affines, details, only_if_faster)


def verify_request(verify: VerifyRequest | bool) -> VerifyRequest | None:
    """How to prove: True asks for the defaults, False for no proof."""
    if not isinstance(verify, bool) or not verify:
        return verify or None
    from bnfuse.use_cases.verify import VerifyRequest

    return VerifyRequest()


def bench_request(bench: BenchRequest | bool) -> BenchRequest | None:
    """How to measure: True asks for the defaults, False for no measurement."""
    if not isinstance(bench, bool) or not bench:
        return bench or None
    from bnfuse.use_cases.bench import BenchRequest

    return BenchRequest()


def in_one_process(
    verify: VerifyRequest | None, bench: BenchRequest | None
) -> tuple[VerifyRequest | None, BenchRequest | None]:
    """Both, the proof on as many threads as the measurement: a runtime may start for a number of threads."""
    if verify is None or bench is None or verify.threads:
        return verify, bench
    from bnfuse.machine import usable_cpus

    return replace(verify, threads=(bench.threads or (usable_cpus(),))[0]), bench


def first_settings(verify: VerifyRequest | None, bench: BenchRequest | None) -> RunSettings:
    """How the first model will be loaded."""
    if verify is not None:
        return verify.settings
    if bench is None:
        return RunSettings()
    return bench.settings((bench.threads or (0,))[0], optimise=False)
