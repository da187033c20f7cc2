"""onnxruntime in this process, for tests that promise nothing of processes.

What becomes of arrays, limits and errors on the way to another one is tested by those that do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from bnfuse.formats.base import RunSettings
from bnfuse.formats.onnx.runtime import run
from bnfuse.formats.onnx.runtime.session import OrtRunner, load_session


def load_here(path: Path, settings: RunSettings) -> OrtRunner:
    """A ``Loader``: on one thread, since whatever tests run is small."""
    return load_session(path, replace(settings, threads=1))


@contextmanager
def onnxruntime_here() -> Iterator[None]:
    """Whatever loads an ONNX model loads it into this process."""
    with pytest.MonkeyPatch.context() as here:
        here.setattr(run, "load", load_here)
        here.setattr(run, "prepare", lambda: None)
        yield
