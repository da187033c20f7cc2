"""``bnfuse doctor``: what is here to prove and measure with."""

from __future__ import annotations

import click

from bnfuse.cli import options as opt
from bnfuse.cli.screen import Screen


@click.command(short_help="Say which runtimes and devices are here, and how to get others.")
@opt.JSON
@opt.VERBOSITY
@click.pass_obj
def doctor(screen: Screen, *, as_json: bool) -> None:  # which the screen knows
    """Say which runtimes and devices are here, in which versions, what is missing, and how to get it.

    Imports each runtime in a process of its own (TensorFlow takes seconds); runs no model. Folding needs
    none of them: they prove and measure.
    """
    from bnfuse.use_cases.doctor import doctor as run

    with screen.progress() as progress:
        progress("asking the runtimes")
        found = run()
    screen.result(found)
