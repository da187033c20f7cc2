"""What ``optimize`` was asked for, as the requests of the steps that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnfuse.use_cases.bench import BenchRequest
    from bnfuse.use_cases.verify import VerifyRequest


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
