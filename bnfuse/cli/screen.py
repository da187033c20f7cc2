"""What is printed where: results on stdout, progress and errors on stderr, rich only when printing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bnfuse.core.explanation import Explanation
    from bnfuse.difference.result import Difference
    from bnfuse.results import Agreement, Latency, Report


@dataclass(slots=True)
class Screen:
    """How much to say. ``quiet`` leaves errors only (and the document of ``--json``)."""

    quiet: bool = False
    verbose: bool = False

    def fail(self, sentence: str) -> None:
        """One sentence on stderr, whatever the model's strings hold."""
        from bnfuse.report.text import plain

        click.echo(f"bnfuse: {plain(sentence)}", err=True)

    def document(self, text: str) -> None:
        """A finished document on stdout, as it is."""
        click.echo(text, nl=False)

    def report(self, report: Report) -> None:
        """The result of ``optimize`` or ``inspect`` on stdout."""
        if self.quiet:
            return
        from bnfuse.report.terminal import console, print_report

        print_report(report, console(), verbose=self.verbose)

    def agreement(self, agreement: Agreement) -> None:
        """The result of ``verify`` on stdout."""
        if self.quiet:
            return
        from bnfuse.report.terminal import console, print_agreement

        print_agreement(agreement, console(), verbose=self.verbose)

    def latency(self, latency: Latency) -> None:
        """The result of ``bench`` on stdout."""
        if self.quiet:
            return
        from bnfuse.report.terminal import console, print_latency

        print_latency(latency, console())

    def explanations(self, explanations: Sequence[Explanation]) -> None:
        """The result of ``inspect --explain`` on stdout."""
        if self.quiet:
            return
        from bnfuse.report.terminal import console, print_explanations

        print_explanations(explanations, console(), verbose=self.verbose)

    def difference(self, difference: Difference) -> None:
        """The result of ``diff`` on stdout."""
        if self.quiet:
            return
        from bnfuse.report.terminal import console, print_difference

        print_difference(difference, console(), verbose=self.verbose)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """A callable that shows the phase: a spinner on a terminal, lines with ``-v``, else nothing."""
        if self.quiet or not (sys.stderr.isatty() or self.verbose):
            yield lambda _: None
        elif not sys.stderr.isatty():
            yield lambda phase: click.echo(f"{phase} …", err=True)
        else:
            with _spinner() as show:
                yield show


@contextmanager
def _spinner() -> Iterator[Callable[[str], None]]:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from bnfuse.report.terminal import console

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting")
        yield lambda phase: progress.reset(task, description=phase)
