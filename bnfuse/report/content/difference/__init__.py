"""Everything that a report of a difference shows, section by section, and its headline."""

from __future__ import annotations

from msgspec.structs import replace

from bnfuse.difference.result import Difference
from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.content.difference.nodes import changed_nodes_section, nodes_section
from bnfuse.report.content.difference.ranges import ranges_section
from bnfuse.report.content.difference.weights import single_sections, weights_section
from bnfuse.report.content.difference.wholes import (
    facts_section,
    graphs_sections,
    interface_section,
    models_section,
    operators_section,
)
from bnfuse.report.content.difference.words import number
from bnfuse.report.content.outcomes import gates

# Rows per table. More on a terminal nobody reads, and laying them out takes longer than finding them.
_MOST_ROWS = {doc.Form.BRIEF: 20, doc.Form.VERBOSE: 5000, doc.Form.MARKDOWN: 50, doc.Form.HTML: 2000}
_VERBS = ("removed", "added", "changed", "renamed")
_HOW_TO_SEE = {doc.Form.BRIEF: ": -v shows them all", doc.Form.VERBOSE: ": --json tells them all"}


def document(found: Difference, form: doc.Form) -> doc.Document:
    """What differs in a sentence, and all of it.

    With ``-v`` every node and weight has a line of its own; else those that came, went or changed alike
    share one.
    """
    single = form is doc.Form.VERBOSE
    most = len(found.nodes_changed) if single else _MOST_ROWS[form]
    every = [
        gates(found.gates, form),
        models_section(found),
        interface_section(found.interface),
        facts_section(found),
        operators_section(found),
        *(graphs_sections(found) if single else ()),
        nodes_section(found, single=single),
        changed_nodes_section(found, most),
        weights_section(found),
        *(() if found.ranges is None else (ranges_section(found.ranges, form),)),
        *(single_sections(found) if single else ()),
    ]
    spent = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in found.seconds.items())
    time = [doc.Section("time", "", (doc.Facts([("time", spent, "dim")]),))] if single else []
    sections = [*(_cut(section, form) for section in every if section.blocks), *time]
    return doc.Document(headline(found), sections, "diff")


def _cut(section: doc.Section, form: doc.Form) -> doc.Section:
    """With so many rows as the form has room for."""
    return replace(section, blocks=tuple(_cut_table(block, form) for block in section.blocks))


def _cut_table(table: doc.Block, form: doc.Form) -> doc.Block:
    if not isinstance(table, doc.Table):
        return table
    rows = table.rows[: _MOST_ROWS[form]]
    left_out = len(table.rows) - len(rows)
    if form is doc.Form.HTML:
        rows = [[_shortened(cell) for cell in row] for row in rows]
    caption = f"{left_out} more{_HOW_TO_SEE.get(form, '')}" if left_out else ""
    return replace(table, rows=rows, caption=caption)


def _shortened(cell: doc.Words | doc.Cell) -> doc.Words | doc.Cell:
    match cell:
        case doc.Span(words, kind):
            return doc.Span(text.shortened(words), kind)
        case str():
            return text.shortened(cell)
        case _:
            return cell


def headline(found: Difference) -> str:
    """One sentence: what differs."""
    parts = [] if found.comparable else [_parameters(found)]
    parts += [
        _count(len(found.interface), "input or output", "inputs or outputs", "differs", "differ"),
        _count(len(found.facts), "fact", "facts", "differs", "differ"),
        _tally("nodes", found),
        _tally("weights", found),
    ]
    said = "; ".join(part for part in parts if part)
    if said:
        return said
    ignored = f" but changes of weights below the limit ({found.weights_ignored})"
    return f"no difference{ignored if found.weights_ignored else ''}"


def _parameters(found: Difference) -> str:
    """What is said first of models of two formats."""
    before, after = found.before, found.after
    formats = f"{before.file.format} and {after.file.format}"
    if before.parameters == after.parameters:
        return f"{formats}: {number(before.parameters)} parameters in both"
    return f"{formats}: {number(before.parameters)} → {number(after.parameters)} parameters"


def _count(count: int, one: str, many: str, does: str, do: str) -> str:
    if not count:
        return ""
    return f"1 {one} {does}" if count == 1 else f"{count} {many} {do}"


def _tally(what: str, found: Difference) -> str:
    """How many ``nodes`` or ``weights`` came, went and changed."""
    counts = [(verb, len(getattr(found, f"{what}_{verb}"))) for verb in _VERBS]
    told = [f"{count} {verb}" for verb, count in counts if count]
    return f"{what}: {', '.join(told)}" if told else ""
