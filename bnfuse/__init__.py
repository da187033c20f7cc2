"""bnfuse removes BatchNormalization layers from saved models exactly, proves it and measures it.

The public API is imported on first use, so ``import bnfuse`` costs nothing. ``docs/python.md`` shows it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnfuse.api.calls import bench, diff, inspect, optimize, verify
    from bnfuse.api.many import optimize_many
    from bnfuse.api.results import Agreement, Difference, Latency, Report
    from bnfuse.errors import (
        BnfuseError,
        ExitCode,
        NotEqual,
        OutputError,
        RuntimeLost,
        RuntimeMissing,
        TargetMissed,
        UnreadableModel,
        UnsafeModel,
        UsageError,
    )
    from bnfuse.formats.base import ReadOptions
    from bnfuse.results import Status
    from bnfuse.use_cases.bench import BenchRequest
    from bnfuse.use_cases.unwritten import BatchNormsLeft, Unproved
    from bnfuse.use_cases.verify import VerifyRequest

__version__ = "0.1.0"
__all__ = [
    "Agreement",
    "BatchNormsLeft",
    "BenchRequest",
    "BnfuseError",
    "Difference",
    "ExitCode",
    "Latency",
    "NotEqual",
    "OutputError",
    "ReadOptions",
    "Report",
    "RuntimeLost",
    "RuntimeMissing",
    "Status",
    "TargetMissed",
    "Unproved",
    "UnreadableModel",
    "UnsafeModel",
    "UsageError",
    "VerifyRequest",
    "__version__",
    "bench",
    "diff",
    "inspect",
    "optimize",
    "optimize_many",
    "verify",
]

_HOMES = {
    "bnfuse.api.calls": "bench diff inspect optimize verify",
    "bnfuse.api.many": "optimize_many",
    "bnfuse.api.results": "Agreement Difference Latency Report",
    "bnfuse.formats.base": "ReadOptions",
    "bnfuse.results": "Status",
    "bnfuse.use_cases.bench": "BenchRequest",
    "bnfuse.use_cases.unwritten": "BatchNormsLeft Unproved",
    "bnfuse.use_cases.verify": "VerifyRequest",
    "bnfuse.errors": "BnfuseError ExitCode NotEqual OutputError RuntimeLost RuntimeMissing TargetMissed "
    "UnreadableModel UnsafeModel UsageError",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


if not TYPE_CHECKING:  # to a type checker a misspelt name is an error

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
