"""bnfuse removes BatchNormalization layers from saved models exactly, proves it and measures it.

The functions of the public API are imported on first use, so ``import bnfuse`` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnfuse.bench import bench
    from bnfuse.diff import diff
    from bnfuse.optimize import inspect, optimize
    from bnfuse.verify import verify

__version__ = "0.1.0"
__all__ = ["__version__", "bench", "diff", "inspect", "optimize", "verify"]

_HOME = {
    "optimize": "bnfuse.optimize",
    "inspect": "bnfuse.optimize",
    "verify": "bnfuse.verify",
    "bench": "bnfuse.bench",
    "diff": "bnfuse.diff",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package, in which ``bnfuse.optimize`` stays the function.

    Importing a submodule binds it as an attribute of its package, which would hide the function
    of the same name; the modules themselves are reached with ``from bnfuse.optimize import …``.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
