"""``bnfuse diff``: what differs between two models, from their files alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bnfuse.cli import options as opt
from bnfuse.cli.models import MODEL_FILE, WEIGHTS
from bnfuse.cli.requests import Diff
from bnfuse.cli.screen import Screen

if TYPE_CHECKING:
    from bnfuse.difference.result import Difference
    from bnfuse.results.outcomes import Gate


@click.command(short_help="Say what differs between A and B, from their files alone.")
@click.argument("a", type=MODEL_FILE)
@click.argument("b", type=MODEL_FILE)
@click.option(
    "--ignore-below",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="REL",
    help="Count, but do not list, weights whose largest change is below this fraction of their largest "
    "value: 1e-6 leaves out what rounding may do.",
)
@click.option(
    "--ranges",
    is_flag=True,
    help="Also say what quantisation to 8 bits would leave of each layer's weight, in A and in B: with one "
    "step for the whole tensor, which spoils some layers, and with one per channel.",
)
@WEIGHTS
@click.option("--exit-code", is_flag=True, help="Exit 1 if anything differs.")
@opt.REPORTS
@opt.JSON
@opt.VERBOSITY
@click.pass_obj
@opt.gathered(Diff)
def diff(screen: Screen, options: Diff) -> None:
    """Say what differs between the models A and B: interface, operators, nodes, weights by size of change.

    Runs nothing: it needs no runtime, and takes as long as reading the weights of both. Shows the largest
    changes; -v shows all. Exit code 0 whatever it finds, unless --exit-code asks for 1.
    """
    from msgspec.structs import replace

    from bnfuse.report import check_reports
    from bnfuse.use_cases.diff import diff as run

    a, b, reports = options.a, options.b, options.reports
    check_reports(reports, a, b)
    screen.expects(reports, a, b)
    with screen.progress() as progress:
        found = run(
            a,
            b,
            weights=options.weights,
            ignore_below=options.ignore_below,
            ranges=options.ranges,
            hashes=options.as_json or bool(reports),
            progress=progress,
        )
    if options.exit_code:
        found = replace(found, gates=(_gate(found),))
    screen.result(found)
    screen.stop_on(found.gates)


def _gate(found: Difference) -> Gate:
    from bnfuse.report.content.difference import headline
    from bnfuse.results.outcomes import Gate

    said = headline(found)
    return Gate("--exit-code", not found.differs, f"the models differ: {said}" if found.differs else said)
