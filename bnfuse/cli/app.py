"""The ``bnfuse`` command: its group and its commands by name."""

from __future__ import annotations

import click

from bnfuse import __version__
from bnfuse.cli.compare import bench, verify
from bnfuse.cli.difference import diff
from bnfuse.cli.doctor import doctor
from bnfuse.cli.fold import inspect, optimize
from bnfuse.cli.guard import GuardedGroup
from bnfuse.cli.options import VERBOSITY


@click.group(
    cls=GuardedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="bnfuse")
@VERBOSITY
def main() -> None:
    """Remove BatchNormalization layers from saved models exactly, prove it, measure it.

    \b
    Exit codes: 0 done; 1 a gate said no; 2 wrong usage; 3 the model cannot be read;
    4 not proved equal, nothing written; 5 a runtime or device is missing.
    """  # noqa: D301 - click wants a real backspace


for command in (optimize, inspect, verify, bench, diff, doctor):
    main.add_command(command)
