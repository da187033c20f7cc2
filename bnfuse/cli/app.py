"""The ``bnfuse`` command: its group and its commands by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

import click

from bnfuse import __version__
from bnfuse.cli.guard import GuardedGroup
from bnfuse.cli.options import VERBOSITY

_HOMES = {
    "optimize": "bnfuse.cli.fold",
    "inspect": "bnfuse.cli.fold",
    "verify": "bnfuse.cli.compare",
    "bench": "bnfuse.cli.compare",
    "diff": "bnfuse.cli.difference",
    "doctor": "bnfuse.cli.doctor",
}


class _Commands(Mapping[str, click.Command]):
    """Each is imported when it is asked for; the help asks for all."""

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = getattr(import_module(_HOMES[name]), name)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


@click.group(
    cls=GuardedGroup,
    commands=_Commands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="bnfuse")
@VERBOSITY
def main() -> None:
    """Remove BatchNormalization layers from saved models exactly, prove it, measure it.

    \b
    Exit codes: 0 done; 1 a gate said no; 2 wrong usage; 3 the model cannot be
    read; 4 not proved equal, nothing written; 5 a runtime or device is missing.
    """  # noqa: D301 - click wants a real backspace
