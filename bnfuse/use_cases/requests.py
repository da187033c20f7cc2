"""What ``optimize`` was asked for, as the requests of the steps that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.formats.base import RunSettings

if TYPE_CHECKING:
    from bnfuse.formats.base import ReadOptions
    from bnfuse.use_cases.bench import BenchRequest
    from bnfuse.use_cases.verify import VerifyRequest


class Wanted(Struct, frozen=True):
    """What one ``optimize`` was asked for; ``verify`` or ``bench`` is None to leave that step out."""

    verify: VerifyRequest | None
    bench: BenchRequest | None
    hashes: bool
    details: bool
    read: ReadOptions
    merge: bool = False

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
