"""bnfuse removes BatchNormalization layers from saved models exactly, proves it and measures it.

The public API is imported on first use, so ``import bnfuse`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnfuse.use_cases.bench import bench
    from bnfuse.use_cases.diff import diff
    from bnfuse.use_cases.optimize import inspect, optimize
    from bnfuse.use_cases.verify import verify

__version__ = "0.1.0"
__all__ = ["__version__", "bench", "diff", "inspect", "optimize", "verify"]

_HOME = {
    "optimize": "bnfuse.use_cases.optimize",
    "inspect": "bnfuse.use_cases.optimize",
    "verify": "bnfuse.use_cases.verify",
    "bench": "bnfuse.use_cases.bench",
    "diff": "bnfuse.use_cases.diff",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
