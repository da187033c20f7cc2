"""Runs Keras models in this very process, which must be one that exists for nothing else.

A cold start is measured from the start of a process to its first answer, and its memory is that of
one process: ``bnfuse.measure.cold_child`` loads with this, where ``run.load`` would start another process.
Nothing may have imported a runtime before: what a runtime reads from the environment is set here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from msgspec import to_builtins

from bnfuse.errors import UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.formats.child.messages import Arrays, Head
from bnfuse.formats.child.process import Reply, checked
from bnfuse.formats.child.runner import ChildRunner
from bnfuse.formats.child.server import Server
from bnfuse.formats.keras.runtime.process import KerasSetup
from bnfuse.formats.keras.runtime.run import flavour_of, load_into, no_start, setup_for
from bnfuse.formats.keras.runtime.safety import refuse_unsafe


class InProcess:
    """What ``pool.Process`` is for a child process, for this one."""

    def __init__(self, setup: KerasSetup, flavour: str = "") -> None:
        """Import the runtime: this Keras, or the one that is tried first.

        Raises:
            Answer: it cannot be imported, or has no such device.
        """
        os.environ.update(setup.environment())
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
        from bnfuse.formats.keras.runtime.child import KerasEngine

        self.setup = setup
        self._server = Server(KerasEngine())
        self.facts, _ = self.ask({"op": "start", "setup": {**to_builtins(setup), "flavour": flavour}})

    def ask(
        self, head: Head, arrays: Mapping[str, np.ndarray] | None = None, *, extra_s: float = 0.0
    ) -> tuple[Head, Arrays]:
        """Do it, and answer.

        Raises:
            Answer: an error is the answer.
            MemoryError: memory ran out.
        """
        answer, results = self._server.respond(head, dict(arrays or {}))
        return checked(answer), results

    def ask_again(
        self, head: Head, arrays: Mapping[str, np.ndarray], *, extra_s: float = 0.0
    ) -> tuple[Head, Arrays]:
        """The same: nothing needs to be sent."""
        return self.ask({**head, "kept": False}, arrays)


def here(settings: RunSettings) -> Callable[[Path], ChildRunner]:
    """The runtime imported into this process, as a function that loads models.

    Raises:
        RuntimeMissing: no Keras runtime, or not the device that was asked for.
        UsageError: the environment names an unknown backend, or the device is none.
    """
    if settings.device not in ("cpu", "gpu"):
        raise UsageError(f"'{settings.device}' is not a device: use cpu or gpu")
    setup = setup_for(settings)
    try:
        process = InProcess(setup, flavour_of(settings.runtime))
    except Reply as error:
        raise no_start(setup, error) from error

    def load(path: Path) -> ChildRunner:
        return load_into(process, path, settings, refuse_unsafe(path, settings.allow_unsafe))

    return load
