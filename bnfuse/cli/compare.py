"""``bnfuse verify`` and ``bnfuse bench``: two models (or one), run beside each other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from bnfuse.cli import options as opt
from bnfuse.cli.help import Grouped
from bnfuse.cli.limits import LIMITS
from bnfuse.cli.requests import Bench, Verify
from bnfuse.cli.screen import Screen
from bnfuse.cli.speed_gate import beside_earlier, read_earlier, speed_gate
from bnfuse.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from bnfuse.results import Latency
    from bnfuse.results.outcomes import Comparison
    from bnfuse.use_cases.bench import BenchRequest


@click.command(cls=Grouped, short_help="Are the models A and B equal, and on what evidence?")
@click.argument("a", type=opt.PATH)
@click.argument("b", type=opt.PATH)
@opt.JSON
@opt.REPORTS
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

    Runs both on the same inputs, with the runtime's own optimisation off: made-up ones for about 10 s at
    most, and all of your own (--inputs). A and B may be of two formats, a .keras and its .onnx export.
    Exit codes: 0 equal, 1 different, 4 neither could be shown.
    """
    from bnfuse.formats import load
    from bnfuse.report import check_reports
    from bnfuse.results import Status
    from bnfuse.results.outcomes import Comparison
    from bnfuse.stamps import watched
    from bnfuse.use_cases.notes import unsafe_note
    from bnfuse.use_cases.provenance import Witnessed, file_info, versions
    from bnfuse.use_cases.verify import verify as run

    a, b = options.a, options.b
    check_reports(options.reports, a, b)
    screen.expects(a, options.reports)
    with screen.progress() as progress, watched(a, b) as unchanged:
        files = [file_info(path, hashes=options.as_json or bool(options.reports)) for path in (a, b)]
        opt.check_labels(options.labels, options.inputs)
        request = options.verify_request(max(file.total_bytes for file in files))
        progress("verifying")
        ran = Witnessed(load)
        agreement = run(a, b, request=request, load=ran.load, progress=progress)
        unchanged.check()
    unsafe, found = options.allow_unsafe, versions(ran.versions)
    agreement = replace(agreement, notes=(*agreement.notes, *unsafe_note(unsafe)))
    done = Comparison("verify", files[0], files[1], agreement, versions=found, unsafe=unsafe)
    _show(screen, done, as_json=options.as_json)
    if agreement.status is Status.DIFFERENT:
        raise click.exceptions.Exit(ExitCode.GATE)
    if agreement.status is not Status.EQUAL:
        screen.fail(f"could not show whether '{a}' and '{b}' are equal: {agreement.detail}")
        raise click.exceptions.Exit(ExitCode.UNPROVED)


@click.command(cls=Grouped, short_help="Measure the latency of A, or which of A and B is faster.")
@click.argument("a", type=opt.PATH)
@click.argument("b", type=opt.PATH, required=False)
@opt.JSON
@opt.REPORTS
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
    from bnfuse.formats import load
    from bnfuse.report import check_reports
    from bnfuse.results.outcomes import Comparison
    from bnfuse.stamps import watched
    from bnfuse.use_cases.bench import bench as run
    from bnfuse.use_cases.notes import unsafe_note
    from bnfuse.use_cases.provenance import file_info, versions
    from bnfuse.use_cases.shares import compared

    check_reports(options.reports, a, *([b] if b else []))
    screen.expects(a, options.reports)
    earlier = read_earlier(options.baseline)
    hashes = options.as_json or bool(options.reports)
    with screen.progress() as progress, watched(*filter(None, (a, b))) as unchanged:
        before = file_info(a, hashes=hashes or earlier is not None)
        after = None if b is None else file_info(b, hashes=hashes)
        request = options.bench_request(
            options.batches,
            options.thread_counts,
            max(file.total_bytes for file in (before, after) if file),
        )
        progress("measuring")

        def measured(first: Path, second: Path, how: BenchRequest) -> Latency:
            return run(first, second, request=how, load=load, progress=progress)

        if b is None:
            latency = run(a, request=request, load=load, progress=progress)
        else:
            latency = compared(a, b, request, measured)
        unchanged.check()
    unsafe = options.allow_unsafe
    latency = replace(latency, notes=(*latency.notes, *unsafe_note(unsafe)))
    latency = beside_earlier(latency, before, earlier)
    gates = () if most is None else (speed_gate(latency, most, against_earlier=earlier is not None),)
    ran = versions(latency.versions)
    found = Comparison("bench", before, after, latency=latency, gates=gates, versions=ran, unsafe=unsafe)
    _show(screen, found, as_json=options.as_json)
    screen.stop_on(gates)


def _show(screen: Screen, found: Comparison, *, as_json: bool) -> None:
    """Print it, then write the files."""
    from bnfuse.report import render_comparison

    if as_json:
        screen.document(render_comparison(found, ".json"))
    elif found.agreement is not None:
        screen.agreement(found.agreement)
    elif found.latency is not None:
        screen.latency(found.latency)
    screen.write(lambda suffix: render_comparison(found, suffix))
