"""``bnfuse optimize`` and ``bnfuse inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bnfuse.cli import options as opt
from bnfuse.cli.help import Grouped
from bnfuse.cli.limits import LIMITS
from bnfuse.cli.models import MANY, MODELS, OUTPUT, PLACE
from bnfuse.cli.requests import Inspect, Optimize, Reading
from bnfuse.cli.screen import Screen

if TYPE_CHECKING:
    from pathlib import Path

    from bnfuse.results import Report
    from bnfuse.results.outcomes import Gate
    from bnfuse.use_cases.speed_gate import SpeedGate


@click.command(
    cls=Grouped,
    short_help="Fold every BatchNormalization that can go exactly.",
    epilog="""Examples:

    \b
      bnfuse optimize model.onnx -o small.onnx --report report.html
      bnfuse optimize model.keras --check       in CI: exit 1 if it was not folded
      bnfuse optimize zoo/ -r --output-dir build  a whole folder, many at once
    """,
)
@MODELS
@OUTPUT
@click.option(
    "--output-dir",
    type=PLACE,
    metavar="DIR",
    help="Write results into DIR, in subfolders as those of the models.  [default: beside each model]",
)
@click.option("--force", is_flag=True, help="Overwrite an output that exists.")
@click.option("--dry-run", is_flag=True, help="Only say what would be folded; write nothing.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if anything could be folded.")
@click.option("--no-verify", is_flag=True, help="Write the result without proving it equal.")
@click.option("--no-bench", is_flag=True, help="Do not measure latency.")
@click.option(
    "--merge-affines",
    is_flag=True,
    help="Also put one BatchNormalization in place of each chain of Mul, Add, Sub, Div that has to stay "
    "(ONNX): fewer nodes, and often faster in onnxruntime.",
)
@opt.REPORTS
@opt.JSON
@opt.INPUTS
@opt.LABELS
@opt.BATCH
@opt.DEVICE
@opt.THREADS
@opt.ALLOW_UNSAFE
@LIMITS
@opt.VERIFY_TIME
@opt.MEASURING
@opt.FAIL_IF_SLOWER
@click.option(
    "--only-if-faster",
    is_flag=True,
    help="Write the result only if it is shown to be faster in at least one batch size, and slower in none "
    "(in steady state, with the runtime's own optimisation on). The exit code is 0 either way.",
)
@opt.BASELINE
@opt.COLD
@opt.PROFILE
@opt.READING
@MANY
@opt.VERBOSITY
@click.pass_obj
@opt.gathered(Optimize)
def optimize(screen: Screen, options: Optimize) -> None:
    """Fold every BatchNormalization of MODEL that can go exactly, and write the result.

    The result is proved equal to MODEL (about 10 s at most) and measured beside it (about 20 s at most);
    where it cannot be proved equal, nothing is written and the exit code is 4. MODEL is not touched.

    MODEL is a file, a folder, a pattern or an address. Of several, one that fails does not stop the others.
    """
    from bnfuse.cli.many import is_many

    if is_many(options):
        _many(screen, options)
        return
    options.check_reports()
    screen.expects(options.reports, options.model)
    _check_together(options)
    opt.check_labels(options.labels, options.inputs)
    gate = _speed_gate(options.baseline, options.most_percent)
    if options.plan_only:
        _inspect(screen, options, check=options.check)
        return
    from bnfuse.use_cases.unwritten import BatchNormsLeft, Unproved

    try:
        report = _optimized(screen, options, hashes=gate.earlier is not None)
    except (Unproved, BatchNormsLeft) as error:
        screen.result(error.report)
        screen.stop_on(error.report.gates)
        raise
    report = gate.report(report)
    screen.result(report)
    screen.stop_on(report.gates)


def _many(screen: Screen, options: Optimize) -> None:
    """The same for several models, folders, patterns and addresses."""
    from msgspec.structs import replace

    from bnfuse.cli.many import run_many

    _check_together(options)
    opt.check_labels(options.labels, options.inputs)
    if options.plan_only:
        check = options.check
        run_many(
            screen,
            options,
            _planning(options),
            lambda report: replace(report, gates=(_check_gate(report, options),)) if check else report,
        )
        return
    gate = _speed_gate(None, options.most_percent)
    folding = {"force": options.force, **_folding(options, hashes=True)}
    run_many(screen, options, folding, gate.report)


def _planning(options: Reading) -> dict[str, Any]:
    """What ``inspect`` of the API is called with for one of many."""
    return {"read": options.read, "hashes": True, "details": options.details}


def _folding(options: Optimize, *, hashes: bool) -> dict[str, Any]:
    """What ``optimize`` is to do, as the keywords of ``requests.requested``."""
    batches = () if options.batch is None else (options.batch,)
    threads = () if options.threads is None else (options.threads,)
    return {
        "verify": not options.no_verify and options.verify_request(),
        "bench": not options.no_bench and options.bench_request(batches, threads),
        "read": options.read,
        "hashes": hashes or options.as_json or bool(options.reports),
        "merge_affines": options.merge_affines,
        "only_if_faster": options.only_if_faster,
        "details": options.details,
    }


def _optimized(screen: Screen, options: Optimize, *, hashes: bool) -> Report:
    from bnfuse.use_cases.optimize import optimize as run
    from bnfuse.use_cases.requests import requested

    request = requested(**_folding(options, hashes=hashes))
    with screen.progress() as progress:
        target = options.output_path
        return run(options.model, target, request=request, force=options.force, progress=progress)


@click.command(cls=Grouped, short_help="Say where each BatchNormalization would go, or why it stays.")
@MODELS
@click.option(
    "--explain",
    "pattern",
    metavar="NAME",
    help="Explain how the decision on this node came about: every split tried, how far it reached, who "
    "refused. A pattern names several: '*' (in quotes) all of them.",
)
@opt.JSON
@opt.REPORTS
@opt.READING
@MANY
@opt.VERBOSITY
@click.pass_obj
@opt.gathered(Inspect)
def inspect(screen: Screen, options: Inspect) -> None:
    """Say for every BatchNormalization of MODEL where it would go, or why it stays.

    Runs nothing and writes nothing. MODEL is a file, a folder, a pattern or an address.
    """
    from bnfuse.cli.many import is_many

    if is_many(options):
        from bnfuse.cli.many import run_many

        run_many(screen, options, _planning(options), lambda report: report)
        return
    options.check_reports()
    screen.expects(options.reports, options.model)
    if options.pattern is None:
        _inspect(screen, options)
    else:
        _explain(screen, options, options.pattern)


def _explain(screen: Screen, options: Inspect, pattern: str) -> None:
    """Print the explanation; with ``--json`` and ``--report`` it is part of the whole report."""
    from bnfuse.core.explanation import Explanations
    from bnfuse.use_cases.explain import explain
    from bnfuse.use_cases.optimize import inspect as run

    report = None
    with screen.progress() as progress:
        progress("explaining")
        explanations = Explanations(pattern, explain(options.model, pattern, read=options.read))
        if options.as_json or options.reports:
            report = run(options.model, read=options.read, details=options.details, progress=progress)
    screen.result(report, explanations)


def _inspect(screen: Screen, options: Reading, *, check: bool = False) -> None:
    from msgspec.structs import replace

    from bnfuse.use_cases.optimize import inspect as run

    with screen.progress() as progress:
        report = run(
            options.model,
            read=options.read,
            hashes=options.as_json or bool(options.reports),
            details=options.details,
            progress=progress,
        )
    if check:
        report = replace(report, gates=(_check_gate(report, options),))
    screen.result(report)
    screen.stop_on(report.gates)


def _check_gate(report: Report, options: Reading) -> Gate:
    from bnfuse.results.outcomes import Gate
    from bnfuse.use_cases.measuring import foldable
    from bnfuse.use_cases.unwritten import why_missed

    count = foldable(report)
    if options.target == "no-bn" and report.plan.left:
        return Gate("--check", False, why_missed(report.plan))
    nodes = f"{count} node{'s' if count > 1 else ''} of '{report.input.path}' can be folded"
    return Gate("--check", not count, nodes if count else "nothing in the model can be folded")


def _speed_gate(baseline: Path | None, most_percent: float | None) -> SpeedGate:
    from bnfuse.use_cases.speed_gate import SpeedGate

    return SpeedGate.of(baseline, most_percent)


def _check_together(options: Optimize) -> None:
    """Refuse options that need a step which other options leave out."""
    if options.merge_affines and options.target == "no-bn":
        raise click.UsageError("--merge-affines makes BatchNormalizations, which --target no-bn takes out")
    if options.measures and (options.no_bench or options.plan_only):
        raise click.UsageError(
            "--fail-if-slower, --only-if-faster, --baseline, --cold and --profile need the measurement, "
            "which --no-bench, --dry-run and --check leave out"
        )
    if options.labels and (options.no_verify or options.plan_only):
        raise click.UsageError("--labels need the proof, which --no-verify, --dry-run and --check leave out")
