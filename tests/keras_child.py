"""The process that runs Keras models for bnfuse, as the product has it, but for what ``keras_quick`` spares.

``forked_runtimes`` has it started where this process asks for a model; the commands that tests run in a
process of their own start the product's.
"""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from types import ModuleType

from bnfuse.formats.child.server import serve_engine
from bnfuse.formats.keras.runtime.child import KerasEngine
from tests.keras_quick import settled


class QuickEngine(KerasEngine):
    """Its Keras is quick."""

    def _imported(self, name: str) -> ModuleType:
        keras = super()._imported(name)
        return settled(keras) if self._backend_is_tensorflow() else keras

    def _backend_is_tensorflow(self) -> bool:
        assert self._backend is not None
        return self._backend.version.startswith("tensorflow")


def main(token: str) -> None:
    """Answer requests until they end."""
    serve_engine(token, QuickEngine())


def serve_forked(token: str, environment: dict[str, str], *pipes: Connection) -> None:
    """The same in a process that was forked, with these for stdin, stdout and stderr."""
    os.environ.clear()
    os.environ.update(environment)
    for number, pipe in enumerate(pipes):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdin, sys.stdout, sys.stderr = (
        open(n, "w" if n else "r", closefd=False)  # noqa: SIM115  (they last as long as the process)
        for n in range(3)
    )
    main(token)
