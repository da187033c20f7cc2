"""The difference on a terminal, with rich. Long tables are cut unless ``verbose``."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from bnfuse.difference.result import Difference
from bnfuse.report.difference.section import Section
from bnfuse.report.difference.sections import headline, sections
from bnfuse.report.terminal import add_row, new_table, say

_MOST_ROWS = 20
_MOST_VERBOSE = 5000  # nobody reads more, and laying them out takes longer than finding them


def print_difference(found: Difference, out: Console, *, verbose: bool = False) -> None:
    """Headline, the models side by side, and every section that has something to say."""
    say(out, "", headline(found), "bold")
    shown = _MOST_VERBOSE if verbose else _MOST_ROWS
    for section in sections(found, shown, single=verbose):
        _print(section, out, where="--json tells" if verbose else "-v shows")
    if verbose:
        spent = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in found.seconds.items())
        say(out, "time", spent, "dim")


def _print(section: Section, out: Console, *, where: str) -> None:
    if section.name != "models":
        say(out, "", section.title, "bold")
    for label, sentence in section.lines:
        say(out, label, sentence)
    if not section.rows:
        return
    table = new_table(*section.head, numbers=False)
    for column in table.columns[section.texts :]:
        column.justify = "right"
    for row in section.rows:
        add_row(table, *row)
    if section.left_out:
        table.caption = Text(f"{section.left_out} more: {where} them all", "dim")
    out.print(table)
