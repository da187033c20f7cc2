"""How onnx and onnxruntime run for tests that promise nothing of processes and threads: here, and on one.

What becomes of arrays, limits and errors on the way to another process is tested by those that do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bnfuse.formats.base import RunSettings
from bnfuse.formats.child.settings import settings_to_json
from bnfuse.formats.onnx.graph import inference
from bnfuse.formats.onnx.runtime import run
from bnfuse.formats.onnx.runtime.session import OrtRunner, load_session
from bnfuse.machine import usable_cpus


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


@pytest.fixture(scope="module")
def proofs_run_here() -> Iterator[None]:
    """For files of tests that promise nothing of processes."""
    with onnxruntime_here():
        yield


@pytest.fixture(scope="session", autouse=True)
def all_cores_are_one() -> Iterator[None]:
    """What onnxruntime may run on all cores runs on one of them: for what it runs here, the rest only spin.

    ``as_many_threads_as_asked`` is for tests that are about their number.
    """

    def told(settings: RunSettings) -> dict[str, Any]:
        threads = 1 if settings.threads in (0, usable_cpus()) else settings.threads
        return settings_to_json(replace(settings, threads=threads))

    with pytest.MonkeyPatch.context() as here:
        here.setattr(run, "settings_to_json", told)
        yield


@pytest.fixture
def as_many_threads_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime as the product asks for it in this test."""
    monkeypatch.setattr(run, "settings_to_json", settings_to_json)


@pytest.fixture(scope="module")
def shapes_inferred_here() -> Iterator[None]:
    """No model costs a process of onnx's shape inference: for files of tests whose models are sound."""
    with pytest.MonkeyPatch.context() as here:
        here.setattr(inference, "_apart", inference._here)
        yield
