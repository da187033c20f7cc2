"""``bnfuse verify`` and ``bnfuse bench``: two models (or one), run beside each other."""

from __future__ import annotations

from dataclasses import replace

import click

from bnfuse.cli import options as opt
from bnfuse.cli.limits import LIMITS
from bnfuse.cli.requests import Bench, Verify
from bnfuse.cli.screen import Screen
from bnfuse.cli.speed_gate import beside_earlier, gate_speed, read_earlier
from bnfuse.errors import ExitCode


@click.command()
@click.argument("a", type=opt.PATH)
@click.argument("b", type=opt.PATH)
@opt.JSON
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
    from bnfuse.report.json import dumps, verify_document
    from bnfuse.results import Status
    from bnfuse.stamps import watched
    from bnfuse.use_cases.notes import unsafe_note
    from bnfuse.use_cases.provenance import Witnessed, file_info, versions
    from bnfuse.use_cases.verify import verify as run

    a, b = options.a, options.b
    with screen.progress() as progress, watched(a, b) as unchanged:
        files = [file_info(path, hashes=options.as_json) for path in (a, b)]
        opt.check_labels(options.labels, options.inputs)
        request = options.verify_request(max(file.total_bytes for file in files))
        progress("verifying")
        ran = Witnessed(load)
        agreement = run(a, b, request=request, load=ran.load)
        unchanged.check()
    unsafe = options.allow_unsafe
    agreement = replace(agreement, notes=(*agreement.notes, *unsafe_note(unsafe)))
    if options.as_json:
        found = versions(ran.versions)
        screen.document(dumps(verify_document(files[0], files[1], agreement, found, unsafe=unsafe)))
    else:
        screen.agreement(agreement)
    if agreement.status is Status.DIFFERENT:
        raise click.exceptions.Exit(ExitCode.GATE)
    if agreement.status is not Status.EQUAL:
        screen.fail(f"could not show whether '{a}' and '{b}' are equal: {agreement.detail}")
        raise click.exceptions.Exit(ExitCode.UNPROVED)


@click.command()
@click.argument("a", type=opt.PATH)
@click.argument("b", type=opt.PATH, required=False)
@opt.JSON
@opt.INPUTS
@opt.BATCHES
@opt.DEVICE
@opt.THREAD_COUNTS
@opt.ALLOW_UNSAFE
@LIMITS
@opt.MEASURING
@opt.FAIL_IF_SLOWER
@opt.BASELINE
@opt.PROFILE
@opt.VERBOSITY
@click.pass_obj
@opt.gathered(Bench)
def bench(screen: Screen, options: Bench) -> None:
    """Measure the latency of the model A, or of A and B in interleaved pairs.

    Measures with the runtime's own optimisation off and on, and a cold start, until --precision is
    reached: often in 10 s, at most in about 20 s (--max-time), and the time to load the models.
    """
    a, b, most = options.a, options.b, options.most_percent
    if most is not None and b is None and options.baseline is None:
        raise click.UsageError("--fail-if-slower compares two models: give B as well, or --baseline")
    earlier = read_earlier(options.baseline)
    from bnfuse.formats import load
    from bnfuse.report.json import bench_document, dumps
    from bnfuse.stamps import watched
    from bnfuse.use_cases.bench import bench as run
    from bnfuse.use_cases.notes import unsafe_note
    from bnfuse.use_cases.provenance import file_info, versions

    with screen.progress() as progress, watched(*filter(None, (a, b))) as unchanged:
        before = file_info(a, hashes=options.as_json or earlier is not None)
        after = None if b is None else file_info(b, hashes=options.as_json)
        request = options.bench_request(
            options.batches,
            options.thread_counts,
            max(file.total_bytes for file in (before, after) if file),
        )
        progress("measuring")
        latency = run(a, b, request=request, load=load)
        unchanged.check()
    unsafe = options.allow_unsafe
    latency = replace(latency, notes=(*latency.notes, *unsafe_note(unsafe)))
    latency = beside_earlier(latency, before, earlier)
    if options.as_json:
        found = versions(latency.versions)
        screen.document(dumps(bench_document(before, after, latency, found, unsafe=unsafe)))
    else:
        screen.latency(latency)
    if most is not None:
        gate_speed(screen, latency, most, against_earlier=earlier is not None)
