"""Models that are objects of a program: which library's they are, and how they become files and come back.

A kind is a row in ``_MODULES``; its module is imported only when an object is asked about, and imports no
library that the program has not imported, for an object cannot be without it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

_MODULES = ("bnfuse.formats.onnx.in_memory", "bnfuse.formats.keras.in_memory")


class InMemory(Protocol):
    """One kind of objects that are models."""

    def name(self, model: object) -> str:
        """What a report calls such an object, in angle brackets; "" for an object of another kind."""

    def save(self, model: Any, folder: Path) -> Path:
        """Write it into a fresh folder. It is not changed.

        Returns:
            The file of the model.

        Raises:
            UnreadableModel: the library cannot write it.
        """

    def load(self, path: Path, like: Any) -> Any:
        """A new object of a file, of the same kind as the one that the original of that file is.

        Raises:
            UnreadableModel: the library cannot read it.
        """


def kind_of(model: object) -> InMemory | None:
    """The kind that an object is of."""
    kinds = (cast(InMemory, import_module(module).IN_MEMORY) for module in _MODULES)
    return next((kind for kind in kinds if kind.name(model)), None)
