"""From parsed options to the requests of the use cases. Imported only when a command runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnfuse.bench import BenchRequest
    from bnfuse.verify import VerifyRequest

NamedShapes = Mapping[str, tuple[int, ...]]


def verify_request(
    *,
    inputs: Path | None,
    shapes: NamedShapes,
    batch: int | None,
    device: str,
    threads: int | None,
    seconds: float,
    allow_unsafe: bool = False,
    model_bytes: int = 0,
    labels: Mapping[str, Path] | None = None,
) -> VerifyRequest:
    """How to prove; ``seconds`` bounds it. ``labels`` are files by output name."""
    from bnfuse.verify import VerifyRequest

    return VerifyRequest(
        labels=labels or {},
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
    shapes: NamedShapes,
    batches: tuple[int, ...],
    device: str,
    threads: tuple[int, ...],
    seconds: float,
    precision_percent: float,
    allow_unsafe: bool = False,
    model_bytes: int = 0,
    profile: bool = False,
) -> BenchRequest:
    """How to measure; ``seconds`` bounds it. ``profile`` adds the time by operator."""
    from bnfuse.bench import BenchRequest

    return BenchRequest(
        profile=profile,
        budget_s=seconds,
        precision=precision_percent / 100,
        batches=batches,
        shapes=shapes,
        inputs=inputs,
        device=device,
        threads=threads,
        allow_unsafe=allow_unsafe,
        model_bytes=model_bytes,
    )
