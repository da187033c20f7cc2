"""From parsed options to the requests of the use cases. Imported only when a command runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnfuse.bench import BenchRequest
    from bnfuse.verify import VerifyRequest

Shapes = Mapping[str, tuple[int, ...]]


def verify_request(
    *,
    inputs: Path | None,
    shapes: Shapes,
    batch: int | None,
    device: str,
    threads: int | None,
    seconds: float,
    allow_unsafe: bool = False,
    model_bytes: int = 0,
) -> VerifyRequest:
    """How to prove; ``seconds`` bounds it."""
    from bnfuse.verify import VerifyRequest

    return VerifyRequest(
        budget_s=seconds,
        batch=batch,
        shapes=shapes,
        inputs=inputs,
        device=device,
        threads=threads or 0,
        allow_unsafe=allow_unsafe,
        model_bytes=model_bytes,
    )


def bench_request(
    *,
    inputs: Path | None,
    shapes: Shapes,
    batches: tuple[int, ...],
    device: str,
    threads: int | None,
    seconds: float,
    allow_unsafe: bool = False,
    model_bytes: int = 0,
) -> BenchRequest:
    """How to measure; ``seconds`` bounds it."""
    from bnfuse.bench import BenchRequest

    return BenchRequest(
        budget_s=seconds,
        batches=batches,
        shapes=shapes,
        inputs=inputs,
        device=device,
        threads=threads or 0,
        allow_unsafe=allow_unsafe,
        model_bytes=model_bytes,
    )
