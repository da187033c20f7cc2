"""``bnfuse verify`` and ``bnfuse bench``: two models (or one), run beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnfuse.cli import options as opt
from bnfuse.cli.screen import Screen
from bnfuse.errors import ExitCode

if TYPE_CHECKING:
    from bnfuse.results import Latency


@click.command()
@click.argument("a", type=opt.PATH)
@click.argument("b", type=opt.PATH)
@opt.JSON
@opt.INPUTS
@opt.BATCH
@opt.DEVICE
@opt.THREADS
@opt.ALLOW_UNSAFE
@opt.VERIFY_TIME
@opt.VERBOSITY
@click.pass_obj
def verify(
    screen: Screen,
    *,
    a: Path,
    b: Path,
    as_json: bool,
    inputs: Path | None,
    shapes: dict[str, tuple[int, ...]],
    batch: int | None,
    device: str,
    threads: int | None,
    allow_unsafe: bool,
    verify_time: float,
) -> None:
    """Are the models A and B equal, and on what evidence?

    Runs both on the same inputs, about 10 s at most, with the runtime's own optimisation off.
    Exit codes: 0 equal, 1 different, 4 neither could be shown.
    """
    from bnfuse.cli.requests import verify_request
    from bnfuse.formats import load
    from bnfuse.provenance import file_info, versions
    from bnfuse.report.json import dumps, verify_document
    from bnfuse.results import Status
    from bnfuse.verify import verify as run

    files = [file_info(path, hashes=as_json) for path in (a, b)]
    request = verify_request(
        inputs=inputs,
        shapes=shapes,
        batch=batch,
        device=device,
        threads=threads,
        allow_unsafe=allow_unsafe,
        seconds=verify_time,
        model_bytes=max(file.total_bytes for file in files),
    )
    with screen.progress() as progress:
        progress("verifying")
        agreement = run(a, b, request=request, load=load)
    if as_json:
        screen.document(dumps(verify_document(files[0], files[1], agreement, versions(runtimes=True))))
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
@opt.THREADS
@opt.ALLOW_UNSAFE
@opt.BENCH_TIME
@opt.FAIL_IF_SLOWER
@opt.VERBOSITY
@click.pass_obj
def bench(
    screen: Screen,
    *,
    a: Path,
    b: Path | None,
    as_json: bool,
    inputs: Path | None,
    shapes: dict[str, tuple[int, ...]],
    batches: tuple[int, ...],
    device: str,
    threads: int | None,
    allow_unsafe: bool,
    bench_time: float,
    most_percent: float | None,
) -> None:
    """Measure the latency of the model A, or of A and B in interleaved pairs.

    Takes about 10 s, with the runtime's own optimisation off and on.
    """
    if most_percent is not None and b is None:
        raise click.UsageError("--fail-if-slower compares two models: give B as well")
    from bnfuse.bench import bench as run
    from bnfuse.cli.requests import bench_request
    from bnfuse.formats import load
    from bnfuse.provenance import file_info, versions
    from bnfuse.report.json import bench_document, dumps

    before = file_info(a, hashes=as_json)
    after = None if b is None else file_info(b, hashes=as_json)
    request = bench_request(
        inputs=inputs,
        shapes=shapes,
        batches=batches,
        device=device,
        threads=threads,
        allow_unsafe=allow_unsafe,
        seconds=bench_time,
        model_bytes=max(file.total_bytes for file in (before, after) if file),
    )
    with screen.progress() as progress:
        progress("measuring")
        latency = run(a, b, request=request, load=load)
    if as_json:
        screen.document(dumps(bench_document(before, after, latency, versions(runtimes=True))))
    else:
        screen.latency(latency)
    if most_percent is not None:
        _gate(screen, latency, most_percent)


def _gate(screen: Screen, latency: Latency, most_percent: float) -> None:
    """Exit 1 where even the interval's mildest end says that B is slower by more than allowed.

    ``ci95`` bounds before/after, so its upper end is the least slow-down: 1/hi − 1.
    """
    compared = [(run.ci95[1], run) for run in latency.runs if run.ci95 is not None]
    if not compared:
        screen.fail("nothing could be compared, so --fail-if-slower cannot say yes")
        raise click.exceptions.Exit(ExitCode.GATE)
    most_speedup, run = min(compared, key=lambda pair: pair[0])
    least_slowdown = 100 * (1 / most_speedup - 1)
    if least_slowdown > most_percent:
        screen.fail(
            f"slower by at least {least_slowdown:.1f} % with {run.setting}, batch {run.batch} "
            f"(--fail-if-slower {most_percent:g})"
        )
        raise click.exceptions.Exit(ExitCode.GATE)
