"""``bnfuse verify`` and ``bnfuse bench``: two models (or one), run beside each other."""

from __future__ import annotations

import click

from bnfuse.cli import options as opt
from bnfuse.cli.help import Grouped
from bnfuse.cli.limits import LIMITS
from bnfuse.cli.models import MODEL_FILE, WEIGHTS
from bnfuse.cli.requests import Bench, Verify
from bnfuse.cli.screen import Screen
from bnfuse.errors import ExitCode


@click.command(cls=Grouped, short_help="Are the models A and B equal, and on what evidence?")
@click.argument("a", type=MODEL_FILE)
@click.argument("b", type=MODEL_FILE)
@opt.JSON
@opt.REPORTS
@WEIGHTS
@opt.INPUTS
@opt.LABELS
@opt.BATCH
@opt.DEVICE
@opt.THREADS
@opt.ALLOW_UNSAFE
@LIMITS
@opt.VERIFY_TIME
@opt.VERBOSITY
@click.pass_obj
@opt.gathered(Verify)
def verify(screen: Screen, options: Verify) -> None:
    """Are the models A and B equal, and on what evidence?

    Runs both on the same inputs, with the runtime's own optimisation off: random ones for about 10 s at
    most, and all of your own (--inputs). A and B may be of two formats, a .keras and its .onnx export.
    Exit codes: 0 equal, 1 different, 4 neither could be shown.
    """
    from bnfuse.report import check_reports
    from bnfuse.results import Status
    from bnfuse.use_cases.comparing import verified

    a, b = options.a, options.b
    check_reports(options.reports, a, b)
    screen.expects(options.reports, a, b)
    opt.check_labels(options.labels, options.inputs)
    hashes = options.as_json or bool(options.reports)
    with screen.progress() as progress:
        done = verified(
            a, b, options.verify_request(), weights=options.weights, hashes=hashes, progress=progress
        )
    screen.result(done)
    agreement = done.agreement
    assert agreement is not None
    if agreement.status is Status.DIFFERENT:
        screen.fail(f"'{a}' and '{b}' differ: {agreement.detail}")
        raise click.exceptions.Exit(ExitCode.GATE)
    if agreement.status is not Status.EQUAL:
        screen.fail(f"could not show whether '{a}' and '{b}' are equal: {agreement.detail}")
        raise click.exceptions.Exit(ExitCode.UNPROVED)


@click.command(cls=Grouped, short_help="Measure the latency of A, or which of A and B is faster.")
@click.argument("a", type=MODEL_FILE)
@click.argument("b", type=MODEL_FILE, required=False)
@opt.JSON
@opt.REPORTS
@WEIGHTS
@opt.INPUTS
@opt.BATCHES
@opt.DEVICE
@opt.THREAD_COUNTS
@opt.ALLOW_UNSAFE
@LIMITS
@opt.MEASURING
@opt.FAIL_IF_SLOWER
@opt.BASELINE
@opt.COLD
@opt.PROFILE
@opt.VERBOSITY
@click.pass_obj
@opt.gathered(Bench)
def bench(screen: Screen, options: Bench) -> None:
    """Measure the latency of the model A, or of A and B in interleaved pairs.

    Measures with the runtime's own optimisation off and on until the verdict is certain: often in a few
    seconds, at most in about 20 s (--max-time), and the time to load the models.
    """
    a, b, most = options.a, options.b, options.most_percent
    if most is not None and b is None and options.baseline is None:
        raise click.UsageError("--fail-if-slower compares two models: give B as well, or --baseline")
    from bnfuse.report import check_reports
    from bnfuse.use_cases.comparing import benched
    from bnfuse.use_cases.speed_gate import SpeedGate

    models = (a, b) if b else (a,)
    check_reports(options.reports, *models)
    screen.expects(options.reports, *models)
    gate = SpeedGate.of(options.baseline, most)
    hashes = options.as_json or bool(options.reports) or gate.earlier is not None
    request = options.bench_request(options.batch, options.threads)
    with screen.progress() as progress:
        found = benched(a, b, request, weights=options.weights, hashes=hashes, progress=progress)
    found = gate.comparison(found)
    screen.result(found)
    screen.stop_on(found.gates)
