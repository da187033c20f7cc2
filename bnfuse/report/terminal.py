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

from bnfuse.report import text
from bnfuse.report.groups import groups
from bnfuse.results import Agreement, BenchRun, Latency, Report, Status

_MOST_ROWS = 30
_MOST_GROUPS = 10
_PIPE_WIDTH = 140

_BEFORE = ("before p50", "p90")
_AFTER = ("after p50", "p90", "speed-up (95 %)", "verdict")
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
    for label, value, style in _facts(report):
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
    shown = agreement.outputs if verbose else agreement.outputs[:_MOST_ROWS]
    if not shown:
        return
    table = new_table("output", "max |difference|", "of the range", "allowed", "SNR", "arg-max agrees")
    for output in shown:
        agrees = "" if output.argmax_agreement is None else f"{100 * output.argmax_agreement:.4g} %"
        figures = (f"{output.max_abs:.3g}", f"{output.max_rel:.3g}", f"{output.tolerance:.3g}")
        add_row(table, output.name, *figures, f"{output.snr_db:.1f} dB", agrees)
    out.print(table)
    if len(agreement.outputs) > len(shown):
        say(out, "", f"{len(agreement.outputs) - len(shown)} more outputs: -v shows them all", "dim")


def print_latency(latency: Latency, out: Console) -> None:
    """The outcome of ``bench``, setting by setting, with its verdicts."""
    threads = f"{latency.threads} threads" if latency.threads != 1 else "1 thread"
    where = f"{latency.device}, {threads}, {', '.join(latency.providers)}"
    say(out, "latency", f"of one call, on {where}")
    paired = any(run.after_ms for run in latency.runs)
    columns = (*_BEFORE, *_AFTER) if paired else ("p50", "p90", "p99")
    table = new_table("setting", "batch", *columns)
    for run in latency.runs:
        add_row(table, run.setting, str(run.batch), *(_paired(run) if paired else _single(run)))
    out.print(table)
    for note in latency.notes:
        say(out, "note", note, "dim")


def _single(run: BenchRun) -> tuple[str, ...]:
    time = run.before_ms
    return tuple(text.milliseconds(figure) for figure in (time.p50, time.p90, time.p99))


def _paired(run: BenchRun) -> tuple[str, ...]:
    """Cells for ``_BEFORE`` and ``_AFTER``."""
    times = [text.milliseconds(figure) for figure in (run.before_ms.p50, run.before_ms.p90)]
    after = run.after_ms
    times += [text.milliseconds(figure) for figure in (after.p50, after.p90)] if after else ["", ""]
    return (*times, text.speedup(run), run.verdict)


def _facts(report: Report) -> list[tuple[str, str, str]]:
    """(label, value, style) of the lines below the tables."""
    facts = [("size", text.size_change(report.input, report.output), "")]
    if report.output is not None:
        style = _STATUS_STYLE[report.verification.status]
        facts.append(("proof", text.proof(report.verification), style))
        facts.append(("written", str(report.output.path), "bold"))
    elif report.verification.status is not Status.SKIPPED:
        facts.append(("proof", text.proof(report.verification), _STATUS_STYLE[report.verification.status]))
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
