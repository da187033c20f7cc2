"""The report as Markdown for a pull-request comment or a CI job summary on GitHub.

Model strings stand in ``<code>`` with every character that could be markup written as an entity:
no link, mention, image, table cell or HTML can come out of a node's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bnfuse.report import measured, proved, text
from bnfuse.report.groups import groups
from bnfuse.report.sizes import sizes
from bnfuse.results import Agreement, Baseline, BenchRun, Latency, Profile, Report, Status

# GitHub cuts a comment at 65 536 characters and a summary at 1 MiB.
_MOST_ROWS = 100
_MOST_CHARACTERS = 200
_MARK = {Status.EQUAL: "✅", Status.DIFFERENT: "❌", Status.INCONCLUSIVE: "⚠️", Status.SKIPPED: "⏭️"}
_ZERO_WIDTH_SPACE = "&#8203;"


def render(report: Report) -> str:
    """The whole report as one Markdown document."""
    parts = [
        f"## bnfuse: {prose(text.headline(report))}",
        _summary(report),
        _kept(report),
        _decisions(report),
        _operators(report),
        _proof(report.verification),
        _latency(report.benchmark),
        _notes(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def prose(value: str) -> str:
    """``value`` as text that is no markup: entities, and no @mention or #reference."""
    escaped = "".join(_entity(c) for c in text.plain(value))
    return escaped.replace("&#64;", "&#64;" + _ZERO_WIDTH_SPACE).replace("&#35;", "&#35;" + _ZERO_WIDTH_SPACE)


def code(value: str) -> str:
    """``value``, shortened, in a ``<code>`` element."""
    short = value if len(value) <= _MOST_CHARACTERS else value[: _MOST_CHARACTERS - 1] + "…"
    return f"<code>{''.join(_entity(c) for c in text.plain(short))}</code>"


def _entity(character: str) -> str:
    """Letters, digits, blanks and harmless signs as they are, every other ASCII sign as an entity."""
    if character.isalnum() or character in " ,;%" or not character.isascii():
        return character
    return f"&#{ord(character)};"


def _summary(report: Report) -> str:
    mark = _MARK[report.verification.status]
    lines = [
        ("model", code(report.input.path.name)),
        *text.counts(report),
        ("proof", f"{mark} {prose(text.proof(report.verification))}"),
        *([("inputs", prose(sizes(report.verification.inputs)))] if report.verification.inputs else []),
        *(("folds", prose(sentence)) for sentence in proved.between_folds(report.verification)),
        *(("accuracy", prose(sentence)) for sentence in proved.accuracies(report.verification)),
        ("size", prose(text.size_change(report.input, report.output))),
        ("written", code(str(report.output.path)) if report.output else "nothing"),
    ]
    return _table(("", ""), lines)


def _kept(report: Report) -> str:
    """One line per reason, with the first few names."""
    lines = [
        f"- {prose(group.message)} ({', '.join(code(name) for name in group.nodes[: text.SHOWN_NAMES])}"
        f"{text.more(group.nodes)})"
        for group in groups(report.plan.decisions)[:_MOST_ROWS]
    ]
    return "\n".join(lines)


def _decisions(report: Report) -> str:
    every = text.rows(report.plan.decisions)
    if not every:
        return ""
    shown = every if len(every) <= _MOST_ROWS else text.grouped(every)[:_MOST_ROWS]
    table = _table(
        ("node", "operator", "", "where to, or why not"),
        [(code(row.name), code(row.op), row.verb, prose(row.why)) for row in shown],
    )
    title = "Every decision" if len(shown) == len(every) else f"{len(every)} decisions, grouped"
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"


def _operators(report: Report) -> str:
    if report.operators_before == report.operators_after:
        return ""
    lines = [(code(op), str(before), str(after)) for op, before, after in text.operator_rows(report)]
    return _table(("operator", "before", "after"), lines)


def _proof(agreement: Agreement) -> str:
    """Output by output, and where the tolerances come from; folded away."""
    if not agreement.outputs:
        return ""
    shown = agreement.outputs[:_MOST_ROWS]
    table = _table(proved.HEAD, [(code(o.name), *map(prose, proved.figures(o))) for o in shown])
    words = [f"allowed: {sentence}" for sentence in proved.allowances(agreement)[:_MOST_ROWS]]
    items = "\n".join(_item(sentence) for sentence in (*words, *agreement.notes))
    title = f"The proof, output by output ({len(agreement.outputs)})"
    return f"<details><summary>{title}</summary>\n\n{table}\n\n{items}\n\n</details>"


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return ""
    table = _table(
        ("setting", "batch", "before p50", "after p50", "speed-up (95 %)", "verdict"),
        [_run(run, latency) for run in latency.runs],
    )
    title = f"Latency of one call, on {prose(text.where(latency))}:"
    parts = [title, table, _measured(latency), _profile(latency.profile)]
    parts += [_baseline(latency.baseline), "\n".join(_item(note) for note in latency.notes)]
    return "\n\n".join(part for part in parts if part)


def _measured(latency: Latency) -> str:
    return "\n".join(f"- {prose(label)}: {prose(value)}" for label, value in measured.facts(latency))


def _profile(profile: Profile | None) -> str:
    """Where the time goes, folded away."""
    if profile is None:
        return ""
    head = measured.OPERATORS_ALONE if profile.after_ms is None else measured.OPERATORS
    rows = [(code(op), *map(prose, cells)) for op, *cells in measured.profile_rows(profile)]
    title = _sentence(measured.profile_title(profile))
    return f"<details><summary>{title}</summary>\n\n{_table(head, rows)}\n\n</details>"


def _baseline(baseline: Baseline | None) -> str:
    if baseline is None:
        return ""
    title = _sentence(measured.baseline_title(baseline))
    if not baseline.runs:
        return f"{title}."
    rows = [[prose(cell) for cell in cells] for cells in measured.baseline_rows(baseline)]
    return f"{title}:\n\n{_table(measured.THEN_AND_NOW, rows)}"


def _run(run: BenchRun, latency: Latency) -> tuple[str, ...]:
    after = text.milliseconds(run.after_ms.p50) if run.after_ms else ""
    before = text.milliseconds(run.before_ms.p50)
    label = prose(text.setting(run, latency))
    return label, str(run.batch), before, after, text.speedup(run), prose(run.verdict)


def _sentence(value: str) -> str:
    return prose(value[:1].upper() + value[1:])


def _notes(report: Report) -> str:
    return "\n".join(_item(note) for note in report.notes)


def _item(note: str) -> str:
    return f"- {prose(note)}"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))
