"""Everything that a report of a difference shows, section by section, and its headline."""

from __future__ import annotations

from collections.abc import Sequence

from bnfuse.difference.result import Difference
from bnfuse.report.difference.nodes import changed_nodes_section, nodes_section
from bnfuse.report.difference.section import Section, cut, number
from bnfuse.report.difference.weights import single_sections, weights_section
from bnfuse.report.difference.wholes import (
    facts_section,
    graphs_sections,
    interface_section,
    models_section,
    operators_section,
)


def sections(found: Difference, most: int, *, single: bool = False) -> list[Section]:
    """Everything that differs.

    Args:
        found: what differs.
        most: rows per table.
        single: every node and weight on a line of its own; else those that came, went or changed alike
            share one.
    """
    every = [
        models_section(found),
        interface_section(found.interface),
        facts_section(found),
        operators_section(found),
        *(graphs_sections(found) if single else ()),
        nodes_section(found, single=single),
        changed_nodes_section(found, len(found.nodes_changed) if single else most),
        weights_section(found),
        *(single_sections(found) if single else ()),
    ]
    return [cut(section, most) for section in every if section.lines or section.rows]


def headline(found: Difference) -> str:
    """One sentence: what differs."""
    parts = [] if found.comparable else [_parameters(found)]
    parts += [
        _count(len(found.interface), "input or output", "inputs or outputs", "differs", "differ"),
        _count(len(found.facts), "fact", "facts", "differs", "differ"),
        _tally("node", found.nodes_removed, found.nodes_added, found.nodes_changed, found.nodes_renamed),
        _tally(
            "weight", found.weights_removed, found.weights_added, found.weights_changed, found.weights_renamed
        ),
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


def _tally(
    what: str,
    removed: Sequence[object],
    added: Sequence[object],
    changed: Sequence[object],
    renamed: Sequence[object],
) -> str:
    counts = (("removed", removed), ("added", added), ("changed", changed), ("renamed", renamed))
    told = [f"{len(every)} {verb}" for verb, every in counts if every]
    return f"{what}s: {', '.join(told)}" if told else ""
