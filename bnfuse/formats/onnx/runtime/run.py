"""Runs an ONNX file in onnxruntime, for ``verify`` and ``bench``, in a process of its own.

onnxruntime may crash, hang or take all memory over a model, which must not happen to bnfuse. One process
serves all sessions: threads, optimisation and device are a session's own affair there.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from bnfuse.errors import RuntimeLost, UnreadableModel, UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.formats.child.pool import Process, acquire, release
from bnfuse.formats.child.pool import prepare as pool_prepare
from bnfuse.formats.child.process import ProcessLost, Reply
from bnfuse.formats.child.runner import Folder, ProfiledRunner, told
from bnfuse.formats.child.settings import settings_to_json


class OrtSetup(Struct, frozen=True):
    """A process for onnxruntime: nothing of it is fixed when it starts."""

    module: ClassVar[str] = "bnfuse.formats.onnx.runtime.child"

    def environment(self) -> dict[str, str]:
        """As it is here, but for threads of numpy's BLAS, which nothing there has work for."""
        return {"OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONIOENCODING": "utf-8"}


def prepare() -> None:
    """Start the process, which imports onnxruntime at once."""
    with contextlib.suppress(OSError):  # told when a model is loaded
        pool_prepare(OrtSetup())


def load(path: Path, settings: RunSettings) -> ProfiledRunner:
    """Load the model at ``path`` into onnxruntime, in a child process.

    The file is given by path, so external data and files beyond 2 GB work.

    Raises:
        RuntimeMissing: onnxruntime, or the GPU that was asked for, is not there.
        RuntimeLost: onnxruntime crashes, hangs or takes too much memory over it.
        UnreadableModel: it does not exist, or onnxruntime refuses it.
        UsageError: the device is neither "cpu" nor "gpu".
    """
    if settings.device not in ("cpu", "gpu"):
        raise UsageError(f"'{settings.device}' is not a device: use cpu or gpu")
    if not path.is_file():
        raise UnreadableModel(f"{path} does not exist")
    process = _started()
    try:
        return _load_into(process, path, settings)
    except BaseException:
        release(process)
        raise


def _started() -> Process:
    """The process to load into.

    Raises:
        RuntimeMissing: onnxruntime is not there, or broken.
        RuntimeLost: it does not come up.
    """
    try:
        return acquire(OrtSetup())
    except ProcessLost as error:
        raise RuntimeLost(
            f"onnxruntime {error} while it was starting: try again, or leave verify and bench out "
            "(--no-verify --no-bench)"
        ) from error
    except Reply as error:
        raise told(error, "onnxruntime cannot be used") from error


def _load_into(process: Process, path: Path, settings: RunSettings) -> ProfiledRunner:
    runtime = process.facts["runtime"]
    # The folder is ours, so that nothing is left of it where the process ends in the middle.
    folder: Folder | None = tempfile.TemporaryDirectory(prefix="bnfuse-") if settings.profile else None
    request = {
        "op": "load",
        "path": str(path.absolute()),
        "settings": settings_to_json(settings),
        "traces": folder and folder.name,
    }
    try:
        loaded, _ = process.ask(request)
    except ProcessLost as error:
        raise RuntimeLost(f"{runtime} {error} while it was loading '{path.name}'") from error
    except Reply as error:
        raise told(error, f"{runtime} cannot load '{path.name}'") from error
    return ProfiledRunner(process, loaded, path.name, folder, probe=settings.probe)
