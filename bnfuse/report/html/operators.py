"""Operators before and after, and what it all ran on."""

from __future__ import annotations

from bnfuse.report import text
from bnfuse.report.html.charts import meter
from bnfuse.report.html.markup import code, esc, facts, notes, section, table
from bnfuse.results import Machine, Report


def operators_section(report: Report) -> str:
    """Operators whose number changed, with all others folded away below."""
    if report.operators_before == report.operators_after:
        return ""
    *changed, total = text.operator_rows(report)
    most = max((max(before, after) for _, before, after in changed), default=1)
    rows = [(code(op), *_row(before, after, most)) for op, before, after in changed]
    rows.append(("<b>all nodes</b>", *_row(total[1], total[2], 0)))
    named = {op for op, _, _ in changed}
    same = sorted((op, n) for op, n in report.operators_before.items() if op not in named)
    others = ", ".join(f"{code(op)} {n}" for op, n in same)
    rest = f"<details><summary>{len(same)} unchanged</summary><p>{others}</p></details>" if same else ""
    return section("operators", "Operators", table(("operator", "before", "after", "change", ""), rows), rest)


def _row(before: int, after: int, most: int) -> tuple[str, ...]:
    """Figures, and bars where ``most`` says how long the longest may be."""
    bars = ""
    if most:
        pair = meter([(before / most, "before")]) + meter([(after / most, "after")])
        bars = f'<span class="bars">{pair}</span>'
    return str(before), str(after), f"{after - before:+d}".replace("-", "−"), bars


def notes_section(report: Report) -> str:
    """What the user should know, as sentences."""
    flushed = report.subnormals_flushed
    more = (
        (f"{flushed} subnormal weight{'s were' if flushed > 1 else ' was'} set to zero",) if flushed else ()
    )
    return section("notes", "Notes", notes((*report.notes, *more)))


def environment_section(report: Report) -> str:
    """Versions, and where the time went."""
    machine = report.benchmark.machine if report.benchmark else None
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    pairs = [("versions", esc(versions))] if versions else []
    if machine is not None:
        pairs.append(("machine", esc(_machine(machine))))
    if report.seconds:
        pairs.append(("time", esc(text.seconds(report))))
    return section("environment", "Made with", facts(pairs))


def _machine(machine: Machine) -> str:
    cores = f"{machine.processors} processor{'s' if machine.processors != 1 else ''}"
    memory = "" if machine.memory_bytes is None else f"{text.size(machine.memory_bytes)} of memory"
    return ", ".join(filter(None, (machine.cpu, cores, memory, machine.gpu, machine.system)))
