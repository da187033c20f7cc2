"""What HTML alone shows of a plan: reasons that lead to their rows, and rows that open a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bnfuse.core.decisions import Decision, Fold, Keep
from bnfuse.report import text
from bnfuse.report.groups import Group, groups, main_refusal
from bnfuse.report.html.markup import code, esc
from bnfuse.results import Neighbourhood, Report

_HEAD = (
    '<thead><tr><th scope="col" class="number">#</th><th scope="col">node</th><th scope="col">operator</th>'
    '<th scope="col" class="number">channels</th><th scope="col">decision</th>'
    '<th scope="col">how, or why not</th></tr></thead>'
)
# What the drawings' colours mean; only of use where the script can draw.
_LEGEND = (
    '<div class="legend" hidden><p>Open a row to see the graph around it, before and after.</p><ul>'
    '<li><span class="swatch self"></span>this node</li>'
    '<li><span class="swatch into"></span>its weights change</li>'
    '<li><span class="swatch through"></span>passed</li>'
    '<li><span class="swatch refuses"></span>refused</li>'
    '<li><span class="swatch gone"></span>goes too</li>'
    '<li><span class="swatch beside"></span>beside</li></ul></div>'
)


def kept(every: Sequence[Group]) -> str:
    """One line per reason, with the first few names and a way to its rows in the table."""
    lines = "".join(_group(number, group) for number, group in enumerate(every))
    return f'<ul class="groups">{lines}</ul>'


def unchanged(counts: Sequence[tuple[str, int]]) -> str:
    """Operators whose number is the same, folded away."""
    others = ", ".join(f"{code(op)} {count}" for op, count in counts)
    return f"<details><summary>{len(counts)} unchanged</summary><p>{others}</p></details>"


def _group(number: int, group: Group) -> str:
    names = ", ".join(code(name) for name in group.nodes[: text.SHOWN_NAMES]) + text.more(group.nodes)
    show = f'<button type="button" class="show" data-reason="g{number}" hidden>show them</button>'
    return (
        f'<li><span class="count">{len(group.nodes)}</span><div><p>{esc(group.message)}</p>'
        f'<p class="dim clamp">{names}</p></div>{show}</li>'
    )


def decisions(report: Report) -> str:
    """Every decision as a row; the page's script filters and sorts them and draws the graph of each."""
    every = report.plan.decisions
    grouped = groups(every)
    group_of = {name: number for number, group in enumerate(grouped) for name in group.nodes}
    drawn = report.details.neighbourhoods if report.details else ()
    done = report.output is not None
    rows = "\n".join(
        _row(number, decision, group_of, drawn[number] if number < len(drawn) else None, done=done)
        for number, decision in enumerate(every)
    )
    table = f'<table class="sortable every" id="every">{_HEAD}<tbody>\n{rows}\n</tbody></table>'
    return "\n".join(
        filter(
            None,
            (_LEGEND if any(drawn) else "", _filter(every, grouped, text.verb("folded", done=done)), table),
        )
    )


def _row(
    number: int, decision: Decision, group_of: dict[str, int], drawn: Neighbourhood | None, *, done: bool
) -> str:
    """Where it went, or why it stays; the verb stands in a column of its own."""
    match decision:
        case Fold():
            verb, kind, filed = "folded", decision.split.value, decision.split.value
            why = decision.message.removeprefix(f"{verb} {kind} ")
        case Keep():
            verb, kind, why = "kept", main_refusal(decision).reason.name, decision.message
            filed = f"g{group_of.get(decision.node, 0)}"
    channels = "" if decision.channels is None else str(decision.channels)
    graph = f' data-graph="{number}"' if drawn is not None else ""
    return (
        f'<tr data-action="{verb}" data-reason="{filed}"{graph}><td class="number">{number + 1}</td>'
        f'<td data-label="node">{code(decision.node)}</td><td data-label="operator">{code(decision.op)}</td>'
        f'<td class="number" data-label="channels">{channels}</td>'
        f'<td data-label="decision"><span class="mark {verb}">{text.verb(verb, done=done)}</span></td>'
        f'<td data-label="why"><code class="kind">{esc(kind)}</code> '
        f'<span class="clamp">{esc(why)}</span></td></tr>'
    )


def _filter(every: Sequence[Decision], grouped: Sequence[Group], gone: str) -> str:
    """Hidden until the script shows it: without one the table is whole anyway."""
    splits = Counter(d.split.value for d in every if isinstance(d, Fold))
    folded = "".join(f'<option value="{split}">{split} ({n})</option>' for split, n in splits.items())
    kept = "".join(
        f'<option value="g{number}">{group.reason.name} {esc(_at(group))}({len(group.nodes)})</option>'
        for number, group in enumerate(grouped)
    )
    reasons = (
        '<option value="">all</option>'
        + (f'<optgroup label="{gone}">{folded}</optgroup>' if folded else "")
        + (f'<optgroup label="kept">{kept}</optgroup>' if kept else "")
    )
    return (
        '<form class="filter" hidden role="search">'
        '<label class="words"><span>Filter</span><input id="words" type="search" autocomplete="off" '
        'spellcheck="false" placeholder="name, operator or reason"></label>'
        '<label><span>Decision</span><select id="action"><option value="">all</option>'
        f'<option value="folded">{gone}</option><option value="kept">kept</option></select></label>'
        f'<label><span>Split or reason</span><select id="reason">{reasons}</select></label>'
        '<p class="shown"><output id="shown" for="words action reason"></output> '
        '<button type="reset" class="plain">clear</button></p></form>'
    )


def _at(group: Group) -> str:
    return f"at {text.plain(group.op)[:40]} " if group.op else ""
