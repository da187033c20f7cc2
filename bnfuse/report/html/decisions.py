"""What stays and why, group by group, and the table of every decision with the graph around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bnfuse.core.decisions import Decision, Fold, Keep
from bnfuse.report import text
from bnfuse.report.groups import Group, groups, main_refusal
from bnfuse.report.html.markup import code, esc, section
from bnfuse.results import Neighbourhood, Report


def kept_section(report: Report) -> str:
    """One line per reason, with the first few names and a way to its rows in the table."""
    every = groups(report.plan.decisions)
    lines = "".join(_group(number, group) for number, group in enumerate(every))
    return section("kept", "What stays, and why", f'<ul class="groups">{lines}</ul>' if lines else "")


def _group(number: int, group: Group) -> str:
    names = ", ".join(code(name) for name in group.nodes[: text.SHOWN_NAMES]) + text.more(group.nodes)
    show = f'<button type="button" class="show" data-reason="g{number}" hidden>show them</button>'
    return (
        f'<li><span class="count">{len(group.nodes)}</span><div><p>{esc(group.message)}</p>'
        f'<p class="dim clamp">{names}</p></div>{show}</li>'
    )


def table_section(report: Report) -> str:
    """Every decision as a row; the page's script filters and sorts them and draws the graph of each."""
    every = report.plan.decisions
    if not every:
        return ""
    drawn = report.details.neighbourhoods if report.details else ()
    group_of = _group_numbers(every)
    rows = "\n".join(
        _row(number, decision, group_of, drawn[number] if number < len(drawn) else None)
        for number, decision in enumerate(every)
    )
    head = "".join(
        f'<th scope="col"{kind}>{name}</th>'
        for name, kind in (
            ("#", ' class="number"'),
            ("node", ""),
            ("operator", ""),
            ("channels", ' class="number"'),
            ("decision", ""),
            ("how, or why not", ""),
        )
    )
    only = all(decision.is_batchnorm for decision in every)
    title = "Every BatchNormalization" if only else "Every BatchNormalization, Mul, Add, Sub and Div"
    return section(
        "decisions",
        title,
        _legend() if any(drawn) else "",
        _filter(report, group_of),
        f'<table class="sortable" id="every"><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>',
    )


def _group_numbers(decisions: Sequence[Decision]) -> dict[str, int]:
    """Which group each kept node is in, as ``kept_section`` numbers them."""
    return {name: number for number, group in enumerate(groups(decisions)) for name in group.nodes}


def _row(number: int, decision: Decision, group_of: dict[str, int], drawn: Neighbourhood | None) -> str:
    match decision:
        case Fold():
            verb, kind, filed = "folded", decision.split.value, decision.split.value
        case Keep():
            verb, kind = "kept", main_refusal(decision).reason.name
            filed = f"g{group_of.get(decision.node, 0)}"
    channels = "" if decision.channels is None else str(decision.channels)
    graph = f' data-graph="{number}"' if drawn is not None else ""
    return (
        f'<tr data-action="{verb}" data-reason="{filed}"{graph}><td class="number">{number + 1}</td>'
        f'<td data-label="node">{code(decision.node)}</td><td data-label="operator">{code(decision.op)}</td>'
        f'<td class="number" data-label="channels">{channels}</td>'
        f'<td data-label="decision"><span class="mark {verb}">{verb}</span></td>'
        f'<td data-label="why"><code class="kind">{esc(kind)}</code> '
        f'<span class="clamp">{esc(_why(decision))}</span></td></tr>'
    )


def _why(decision: Decision) -> str:
    """Where it went, or why it stays; the verb stands in a column of its own."""
    match decision:
        case Fold():
            where = ", ".join(decision.into) if decision.into else "nothing (it was the identity)"
            via = f", through {', '.join(decision.through)}" if decision.through else ""
            return f"into {where}{via}"
        case Keep():
            return decision.message


def _filter(report: Report, group_of: dict[str, int]) -> str:
    """Hidden until the script shows it: without one the table is whole anyway."""
    splits = Counter(d.split.value for d in report.plan.decisions if isinstance(d, Fold))
    folded = "".join(f'<option value="{split}">{split} ({n})</option>' for split, n in splits.items())
    kept = "".join(
        f'<option value="g{number}">{group.reason.name} {esc(_at(group))}({len(group.nodes)})</option>'
        for number, group in enumerate(groups(report.plan.decisions))
    )
    reasons = (
        '<option value="">all</option>'
        + (f'<optgroup label="folded">{folded}</optgroup>' if folded else "")
        + (f'<optgroup label="kept">{kept}</optgroup>' if kept else "")
    )
    return (
        '<form class="filter" hidden role="search">'
        '<label class="words"><span>Filter</span><input id="words" type="search" autocomplete="off" '
        'spellcheck="false" placeholder="name, operator or reason"></label>'
        '<label><span>Decision</span><select id="action"><option value="">all</option>'
        '<option value="folded">folded</option><option value="kept">kept</option></select></label>'
        f'<label><span>Split or reason</span><select id="reason">{reasons}</select></label>'
        '<p class="shown"><output id="shown" for="words action reason"></output> '
        '<button type="reset" class="plain">clear</button></p></form>'
    )


def _at(group: Group) -> str:
    return f"at {text.plain(group.op)[:40]} " if group.op else ""


def _legend() -> str:
    """What the drawings' colours mean; only of use where the script can draw."""
    kinds = (
        ("self", "this node"),
        ("into", "its weights change"),
        ("through", "passed"),
        ("refuses", "refused"),
        ("gone", "goes too"),
        ("beside", "beside"),
    )
    marks = "".join(f'<li><span class="swatch {kind}"></span>{word}</li>' for kind, word in kinds)
    return (
        '<div class="legend" hidden><p>Open a row to see the graph around it, before and after.</p>'
        f"<ul>{marks}</ul></div>"
    )
