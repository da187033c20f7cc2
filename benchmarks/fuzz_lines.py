"""Lines of a pipe as they come, waited for with a limit: ``select`` knows nothing of a stream's buffer."""

from __future__ import annotations

import os
import select
from typing import IO, Any


class Lines:
    """The lines that a process writes to a pipe."""

    def __init__(self, stream: IO[Any]) -> None:
        self._descriptor, self._held, self._ended = stream.fileno(), b"", False

    def next(self, seconds: float) -> str | None:
        """The next line without its end, "" where there is no more, None where none came within the time."""
        while b"\n" not in self._held and not self._ended:
            if not select.select([self._descriptor], [], [], seconds)[0]:
                return None
            chunk = os.read(self._descriptor, 1 << 16)
            self._ended = not chunk
            self._held += chunk
        line, _, self._held = self._held.partition(b"\n")
        return line.decode("utf-8", "replace")
