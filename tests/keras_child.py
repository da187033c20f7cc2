"""The process that runs Keras models for bnfuse, as the product starts it, but for what ``keras_quick`` spares.

The fixture ``runtimes_wait_for_the_next_test`` has it started where this process asks for a model; the
commands that tests run in a process of their own start the product's.
"""

from __future__ import annotations

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
