"""rich's console, as the command line needs it."""

from __future__ import annotations

from rich.console import Console


class GuardedConsole(Console):
    """One that lets the command line answer when the reader of its output has gone."""

    def on_broken_pipe(self) -> None:
        """rich would end the process with 1, which says that a gate said no."""
        raise BrokenPipeError
