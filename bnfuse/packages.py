"""How a command and its workers import other packages: without what they have no work for.

Only they may: their processes are their own. Who imports bnfuse gets numpy and onnx as they come.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


def import_numpy() -> None:
    """Import numpy without the thread for each core that its BLAS starts: a fold has no work for them."""
    threads = "OPENBLAS_NUM_THREADS"
    if threads in os.environ:
        return
    os.environ[threads] = "1"
    try:
        import_module("numpy")
    finally:
        del os.environ[threads]  # runtimes in processes of their own have work for theirs


def defer_onnx() -> None:
    """``import onnx`` will only find it; what is asked of it is imported then.

    Three quarters of the time of importing it go into what no fold calls: merging and printing models,
    JSON, archives, the metadata of packages.
    """
    if "onnx" in sys.modules or (spec := find_spec("onnx")) is None:
        return
    package = module_from_spec(spec)
    package.__class__ = _Deferred
    sys.modules["onnx"] = package


class _Deferred(ModuleType):
    """onnx, whose ``__init__`` was not run: it is for the first name that is neither a message nor a module.

    The package stays the same, as do the messages and modules that it has by then: there is never a second
    class of one message. Not for several threads.
    """

    def __getattr__(self, name: str) -> Any:
        if find_spec("onnx.onnx_ml_pb2") and not name.startswith("__"):
            messages = import_module("onnx.onnx_ml_pb2")
            if name in messages.DESCRIPTOR.message_types_by_name:
                return vars(self).setdefault(name, getattr(messages, name))
            if find_spec(f"onnx.{name}"):
                return import_module(f"onnx.{name}")
        _run(self)
        return getattr(self, name)


def _run(package: ModuleType) -> None:
    package.__class__ = ModuleType  # what it lacks from now on, it lacks
    if package.__spec__ is not None and package.__spec__.loader is not None:
        package.__spec__.loader.exec_module(package)
