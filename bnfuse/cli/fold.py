"""``bnfuse optimize`` and ``bnfuse inspect``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnfuse.cli import options as opt
from bnfuse.cli.screen import Screen
from bnfuse.cli.speed_gate import beside_earlier, gate_speed, read_earlier
from bnfuse.errors import ExitCode

if TYPE_CHECKING:
    from bnfuse.results import Report


@click.command()
@opt.MODEL
@click.option("-o", "--output", type=opt.PATH, metavar="OUT", help="Output file.  [default: MODEL.fused.EXT]")
@click.option("--force", is_flag=True, help="Overwrite an output that exists.")
@click.option("--dry-run", is_flag=True, help="Only say what would be folded; write nothing.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if anything could be folded.")
@click.option("--no-verify", is_flag=True, help="Write the result without proving it equal.")
@click.option("--no-bench", is_flag=True, help="Do not measure latency.")
@click.option(
    "--merge-affines",
    is_flag=True,
    help="Also make one BatchNormalization of each chain of Mul, Add, Sub, Div that cannot go (ONNX): "
    "fewer nodes, and often faster in onnxruntime.",
)
@opt.REPORTS
@opt.JSON
@opt.INPUTS
@opt.LABELS
@opt.BATCH
@opt.DEVICE
@opt.THREADS
@opt.ALLOW_UNSAFE
@opt.VERIFY_TIME
@opt.MEASURING
@opt.FAIL_IF_SLOWER
@click.option(
    "--only-if-faster",
    is_flag=True,
    help="Write nothing unless the result is shown to be faster, in steady state with the runtime's own "
    "optimisation on: in at least one batch size, and slower in none. The exit code is 0 either way.",
)
@opt.BASELINE
@opt.PROFILE
@opt.READING
@opt.VERBOSITY
@click.pass_obj
def optimize(
    screen: Screen,
    *,
    model: Path,
    output: Path | None,
    force: bool,
    dry_run: bool,
    check: bool,
    no_verify: bool,
    no_bench: bool,
    merge_affines: bool,
    reports: tuple[Path, ...],
    as_json: bool,
    inputs: Path | None,
    shapes: dict[str, tuple[int, ...]],
    labels: dict[str, Path],
    batch: int | None,
    device: str,
    threads: int | None,
    allow_unsafe: bool,
    verify_time: float,
    precision_percent: float,
    bench_time: float,
    most_percent: float | None,
    only_if_faster: bool,
    baseline: Path | None,
    profile: bool,
    strict_inputs: bool,
    freeze_inputs: bool,
) -> None:
    """Fold every BatchNormalization of MODEL that can go exactly, and write the result.

    The result is proved equal to MODEL (about 10 s at most) and measured beside it (about 20 s at most);
    where it cannot be proved equal, nothing is written and the exit code is 4. MODEL is not touched.
    """
    _check_reports(reports, model)
    measures = most_percent is not None or only_if_faster or baseline is not None or profile
    plan_only = dry_run or check
    _check_together(measures and (no_bench or plan_only), bool(labels) and (no_verify or plan_only))
    opt.check_labels(labels, inputs)
    earlier = read_earlier(baseline)
    if plan_only:
        report = _inspect(screen, model, reports, as_json, strict_inputs, freeze_inputs)
        if check:
            _gate(screen, report)
        return
    from bnfuse.cli.requests import bench_request, verify_request
    from bnfuse.formats.base import ReadOptions
    from bnfuse.optimize import Unproved, changed
    from bnfuse.optimize import optimize as run

    wanted: dict[str, Any] = {
        "inputs": inputs,
        "shapes": shapes,
        "device": device,
        "allow_unsafe": allow_unsafe,
    }
    batches = () if batch is None else (batch,)
    verify = not no_verify and verify_request(
        **wanted, labels=labels, batch=batch, threads=threads, seconds=verify_time
    )
    bench = not no_bench and bench_request(
        **wanted,
        batches=batches,
        threads=() if threads is None else (threads,),
        seconds=bench_time,
        precision_percent=precision_percent,
        profile=profile,
    )
    try:
        with screen.progress() as progress:
            report = run(
                model,
                output,
                verify=verify,
                bench=bench,
                force=force,
                read=ReadOptions(strict_inputs, freeze_inputs),
                hashes=as_json or bool(reports) or earlier is not None,
                merge_affines=merge_affines,
                only_if_faster=only_if_faster,
                details=_wants_details(reports),
                progress=progress,
            )
    except Unproved as error:
        _show(screen, error.report, reports, as_json)
        raise
    if report.benchmark is not None:
        report = replace(report, benchmark=beside_earlier(report.benchmark, report.input, earlier))
    _show(screen, report, reports, as_json)
    if most_percent is not None and (earlier is not None or changed(report)):
        gate_speed(screen, report.benchmark, most_percent, against_earlier=earlier is not None)


@click.command()
@opt.MODEL
@click.option(
    "--explain",
    "pattern",
    metavar="NAME",
    help="Explain how the decision on this node came about: every split tried, how far it spread, who "
    "refused. A pattern (*, ?) names several.",
)
@opt.JSON
@opt.REPORTS
@opt.READING
@opt.VERBOSITY
@click.pass_obj
def inspect(
    screen: Screen,
    *,
    model: Path,
    pattern: str | None,
    as_json: bool,
    reports: tuple[Path, ...],
    strict_inputs: bool,
    freeze_inputs: bool,
) -> None:
    """Say for every BatchNormalization of MODEL where it would go, or why it stays.

    Runs nothing and writes nothing.
    """
    _check_reports(reports, model)
    if pattern is None:
        _inspect(screen, model, reports, as_json, strict_inputs, freeze_inputs)
    else:
        _explain(screen, model, pattern, reports, as_json, strict_inputs, freeze_inputs)


def _explain(
    screen: Screen,
    model: Path,
    pattern: str,
    reports: tuple[Path, ...],
    as_json: bool,
    strict: bool,
    freeze: bool,
) -> None:
    """Print the explanation; with ``--json`` and ``--report`` it is part of the whole report."""
    from bnfuse.explain import explain
    from bnfuse.formats.base import ReadOptions
    from bnfuse.optimize import inspect as run
    from bnfuse.report import render, write_report
    from bnfuse.report.explanation import document, print_explanations
    from bnfuse.report.terminal import console

    read = ReadOptions(strict, freeze)
    with screen.progress() as progress:
        progress("explaining")
        explanations = explain(model, pattern, read=read)
        wanted = as_json or bool(reports)
        report = run(model, read=read, details=_wants_details(reports), progress=progress) if wanted else None
    if not as_json and not screen.quiet:
        print_explanations(explanations, console(), verbose=screen.verbose)
    if report is None:
        return
    explanation = document(pattern, explanations)
    if as_json:
        screen.document(render(report, ".json", explanation=explanation))
    for path in reports:
        write_report(report, path, explanation=explanation)


def _inspect(
    screen: Screen, model: Path, reports: tuple[Path, ...], as_json: bool, strict: bool, freeze: bool
) -> Report:
    from bnfuse.formats.base import ReadOptions
    from bnfuse.optimize import inspect as run

    with screen.progress() as progress:
        report = run(
            model,
            read=ReadOptions(strict, freeze),
            hashes=as_json or bool(reports),
            details=_wants_details(reports),
            progress=progress,
        )
    _show(screen, report, reports, as_json)
    return report


def _gate(screen: Screen, report: Report) -> None:
    from bnfuse.optimize import foldable

    count = foldable(report)
    if count:
        screen.fail(
            f"{count} node{'s' if count > 1 else ''} of '{report.input.path}' can be folded (--check)"
        )
        raise click.exceptions.Exit(ExitCode.GATE)


def _check_together(unmeasured: bool, unproved: bool) -> None:
    """Refuse options that need a step which other options leave out."""
    if unmeasured:
        raise click.UsageError(
            "--fail-if-slower, --only-if-faster, --baseline and --profile need the measurement, which "
            "--no-bench, --dry-run and --check leave out"
        )
    if unproved:
        raise click.UsageError("--labels need the proof, which --no-verify, --dry-run and --check leave out")


def _check_reports(reports: tuple[Path, ...], model: Path) -> None:
    if reports:
        from bnfuse.report import check_reports

        check_reports(reports, model)


def _wants_details(reports: tuple[Path, ...]) -> bool:
    """Whether the graph around each decision and the weights of each layer are looked at, too."""
    if not reports:
        return False
    from bnfuse.report import wants_details

    return wants_details(reports)


def _show(screen: Screen, report: Report, reports: tuple[Path, ...], as_json: bool) -> None:
    """Print the report, then write the files; what was done is said even if a file fails."""
    from bnfuse.report import render, write_report

    if as_json:
        screen.document(render(report, ".json"))
    else:
        screen.report(report)
    for path in reports:
        write_report(report, path)
