"""What a format tells besides, whose models may lie in more than one file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Spread(Protocol):
    """A format whose models may have weights in files beside them.

    Its reader takes the bytes of all of them through ``formats.elsewhere``.
    """

    def asks_for(self, path: Path) -> tuple[str, ...]:
        """The names of those files as the model at ``path`` says them; nobody has looked at either.

        Raises:
            UnreadableModel: not a whole, valid model of this format.
        """
