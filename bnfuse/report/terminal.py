"""The report on a terminal, with rich: headline, every BN, operators, size, proof, latency.

Model strings become ``Text`` objects and are never parsed as markup. Long tables are grouped by
reason, or cut, unless ``verbose``. Where the output is no terminal, lines are wider and uncoloured.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from bnfuse.report import measured, proved, text
from bnfuse.report.groups import groups
from bnfuse.report.sizes import sizes
from bnfuse.results import Agreement, BenchRun, Latency, Report, Status

_MOST_ROWS = 30
_MOST_GROUPS = 10
_MOST_ALLOWANCES = 3
_PIPE_WIDTH = 140

_BEFORE = ("before p50", "p90")
_AFTER = ("after p50", "p90", "speed-up (95 %)", "verdict")
_ALONE = ("min", "p50 (95 %)", "p90", "p99", "per second")
_ACTION_STYLE = {"folded": "green", "kept": "yellow"}
_STATUS_STYLE = {
    Status.EQUAL: "green",
    Status.DIFFERENT: "bold red",
    Status.INCONCLUSIVE: "yellow",
    Status.SKIPPED: "dim",
}


def console(*, stderr: bool = False) -> Console:
    """A console on stdout (or stderr) that reads no markup and honours NO_COLOR."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def print_report(report: Report, out: Console, *, verbose: bool = False) -> None:
    """Everything one ``optimize`` or ``inspect`` found out and did."""
    say(out, "", text.headline(report), "bold")
    _print_groups(report, out, verbose=verbose)
    if report.plan.decisions:
        out.print(_decisions(report, verbose=verbose))
    if report.operators_before != report.operators_after:
        out.print(_operators(report))
    if verbose:
        _print_outputs(report.verification, out, verbose=True)
    for label, value, style in _facts(report, verbose=verbose):
        say(out, label, value, style)
    if report.benchmark is not None:
        print_latency(report.benchmark, out)
    if verbose and report.seconds:
        say(out, "time", text.seconds(report), "dim")


def _print_groups(report: Report, out: Console, *, verbose: bool) -> None:
    """Why nodes stay, a line per reason; a single one stands in the table alone."""
    every = groups(report.plan.decisions)
    if sum(len(group.nodes) for group in every) < 2:
        return
    shown = every if verbose else every[:_MOST_GROUPS]
    for group in shown:
        say(out, "kept", f"{group.message} ({text.names(group.nodes)})")
    if len(every) > len(shown):
        say(out, "", f"{len(every) - len(shown)} more reasons: -v shows them all", "dim")


def print_agreement(agreement: Agreement, out: Console, *, verbose: bool = False) -> None:
    """The outcome of ``verify``, output by output."""
    say(out, "proof", text.proof(agreement), _STATUS_STYLE[agreement.status])
    _print_outputs(agreement, out, verbose=verbose)
    for label, value, style in _proof_facts(agreement, verbose=verbose):
        say(out, label, value, style)


def _print_outputs(agreement: Agreement, out: Console, *, verbose: bool) -> None:
    shown = agreement.outputs if verbose else agreement.outputs[:_MOST_ROWS]
    if not shown:
        return
    table = new_table(*proved.HEAD)
    for output in shown:
        add_row(table, output.name, *proved.figures(output))
    out.print(table)
    if len(agreement.outputs) > len(shown):
        say(out, "", f"{len(agreement.outputs) - len(shown)} more outputs: -v shows them all", "dim")


def _proof_facts(agreement: Agreement, *, verbose: bool) -> list[tuple[str, str, str]]:
    """What was allowed and why, the user's labels, and how models of two formats were brought together."""
    sized = [("inputs", sizes(agreement.inputs), "")] if agreement.inputs else []
    allowed = proved.allowances(agreement)
    shown = allowed if verbose else allowed[:_MOST_ALLOWANCES]
    folds = [("folds", sentence, "") for sentence in proved.between_folds(agreement)]
    facts = [*sized, *folds, *(("allowed", sentence, "dim") for sentence in shown)]
    if len(shown) < len(allowed):
        facts.append(("", f"{len(allowed) - len(shown)} more tolerances: -v shows them all", "dim"))
    facts += [("accuracy", sentence, "") for sentence in proved.accuracies(agreement)]
    return facts + [("note", note, "dim") for note in agreement.notes]


def print_latency(latency: Latency, out: Console) -> None:
    """The outcome of ``bench``, setting by setting, with its verdicts."""
    say(out, "latency", f"of one call, on {text.where(latency)}")
    paired = any(run.after_ms for run in latency.runs)
    columns = (*_BEFORE, *_AFTER) if paired else _ALONE
    table = new_table("setting", "batch", *columns)
    for run in latency.runs:
        figures = _paired(run) if paired else _single(run)
        add_row(table, text.setting(run, latency), str(run.batch), *figures)
    out.print(table)
    for label, value in measured.facts(latency):
        say(out, label, value)
    _print_profile(latency, out)
    _print_baseline(latency, out)
    for note in latency.notes:
        say(out, "note", note, "dim")


def _print_profile(latency: Latency, out: Console) -> None:
    """Where the time goes, operator by operator."""
    if latency.profile is None:
        return
    alone = latency.profile.after_ms is None
    table = new_table(*(measured.OPERATORS_ALONE if alone else measured.OPERATORS))
    for cells in measured.profile_rows(latency.profile):
        add_row(table, *cells)
    say(out, "profile", measured.profile_title(latency.profile))
    out.print(table)


def _print_baseline(latency: Latency, out: Console) -> None:
    """Beside an earlier report."""
    if latency.baseline is None:
        return
    say(out, "baseline", measured.baseline_title(latency.baseline))
    if not latency.baseline.runs:
        return
    table = new_table(*measured.THEN_AND_NOW)
    for cells in measured.baseline_rows(latency.baseline):
        add_row(table, *cells)
    out.print(table)


def _single(run: BenchRun) -> tuple[str, ...]:
    """Cells for ``_ALONE``."""
    time = run.before_ms
    least, p50, p90, p99 = (
        "" if figure is None else text.milliseconds(figure)
        for figure in (time.least, time.p50, time.p90, time.p99)
    )
    doubt = f" ({run.before_ci95_ms[0]:.3g}–{run.before_ci95_ms[1]:.3g})" if run.before_ci95_ms else ""
    return least, p50 + doubt, p90, p99, text.throughput(run)


def _paired(run: BenchRun) -> tuple[str, ...]:
    """Cells for ``_BEFORE`` and ``_AFTER``."""
    times = [text.milliseconds(figure) for figure in (run.before_ms.p50, run.before_ms.p90)]
    after = run.after_ms
    times += [text.milliseconds(figure) for figure in (after.p50, after.p90)] if after else ["", ""]
    return (*times, text.speedup(run), run.verdict)


def _facts(report: Report, *, verbose: bool) -> list[tuple[str, str, str]]:
    """(label, value, style) of the lines below the tables."""
    facts = [("size", text.size_change(report.input, report.output), "")]
    if report.output is not None:
        style = _STATUS_STYLE[report.verification.status]
        facts.append(("proof", text.proof(report.verification), style))
        facts += _proof_facts(report.verification, verbose=verbose)
        facts.append(("written", str(report.output.path), "bold"))
    elif report.verification.status is not Status.SKIPPED:
        facts.append(("proof", text.proof(report.verification), _STATUS_STYLE[report.verification.status]))
        facts += _proof_facts(report.verification, verbose=verbose)
    facts += [("note", note, "dim") for note in report.notes]
    if report.subnormals_flushed:
        facts.append(("note", f"{report.subnormals_flushed} subnormal weights were set to zero", "dim"))
    return facts


def _decisions(report: Report, *, verbose: bool) -> RenderableType:
    every = text.rows(report.plan.decisions)
    shown: Sequence[text.Row] = every if verbose or len(every) <= _MOST_ROWS else text.grouped(every)
    left_out = 0 if verbose else max(0, len(shown) - _MOST_ROWS)
    table = new_table("node", "operator", "", "where to, or why not", numbers=False)
    for row in shown[: len(shown) - left_out]:
        add_row(table, row.name, row.op, Text(row.verb, _ACTION_STYLE[row.action]), row.why)
    if len(shown) < len(every) or left_out:
        more = f"{left_out} more groups; " if left_out else ""
        table.caption = Text(f"{more}grouped: -v shows all {len(every)}", "dim")
    return table


def _operators(report: Report) -> Table:
    table = new_table("operator", "before", "after", "change")
    for op, before, after in text.operator_rows(report):
        change = f"{after - before:+d}".replace("-", "−")
        add_row(table, op, str(before), str(after), change)
    return table


def new_table(first: str, *others: str, numbers: bool = True) -> Table:
    """A table with a left edge: a line of the log never starts with a string of the model."""
    table = Table(box=box.ROUNDED, header_style="bold", border_style="dim", caption_justify="left")
    table.add_column(first, overflow="fold")
    for other in others:
        table.add_column(other, justify="right" if numbers and other else "left", overflow="fold")
    return table


def add_row(table: Table, *cells: str | Text) -> None:
    """A row whose cells are read as no markup."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(text.plain(cell)) for cell in cells))


def say(out: Console, label: str, value: str, style: str = "") -> None:
    """Print ``label  value``, nothing in it parsed as markup, in one line however long."""
    line = Text.assemble((f"{label:<9}" if label else "", "dim"), (text.plain(value), style))
    out.print(line, soft_wrap=True)
