"""What is printed where: results on stdout, progress and errors on stderr, rich only when printing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from bnfuse import __version__
from bnfuse.errors import ExitCode, OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from bnfuse.core.explanation import Explanation
    from bnfuse.difference.result import Difference
    from bnfuse.results import Agreement, Latency, Report
    from bnfuse.results.many import Collected
    from bnfuse.results.outcomes import Gate
    from bnfuse.use_cases.doctor import Diagnosis


@dataclass(slots=True)
class Screen:
    """How much to say, and where to. ``quiet`` leaves errors only (and the document of ``--json``).

    ``answered`` tells that the document of ``--json`` was printed: there is never a second.
    """

    quiet: bool = False
    verbose: bool = False
    command: str = ""
    as_json: bool = False
    reports: tuple[Path, ...] = ()
    path: Path | None = None
    answered: bool = False

    def expects(self, path: Path | None, reports: Sequence[Path]) -> None:
        """What an error is told of, and where to: files of reports that may be written."""
        self.path, self.reports = path, tuple(reports)

    def fail(self, sentence: str) -> None:
        """One sentence on stderr, whatever the model's strings hold."""
        from bnfuse.report.text import plain

        click.echo(f"bnfuse: {plain(sentence)}", err=True)

    def document(self, text: str) -> None:
        """A finished document on stdout, as it is."""
        self.answered = True
        click.echo(text, nl=False)

    def documents(self, parts: Iterable[str]) -> None:
        """The same in pieces."""
        for part in parts:
            self.document(part)

    def result(self, report: Report) -> None:
        """The report of one model in every form that was asked for, files last: one of them may fail."""
        from bnfuse.report import render

        if self.as_json:
            self.document(render(report, ".json"))
        else:
            self.report(report)
        self.write(lambda suffix: render(report, suffix))

    def write(self, render: Callable[[str], str | Iterable[str]]) -> None:
        """Write every report that was asked for, as ``render`` makes it of a suffix."""
        from bnfuse.report import write

        for path in self.reports:
            write(render(path.suffix), path)
            self.reports = tuple(left for left in self.reports if left != path)

    def failure(self, kind: str, message: str, exit_code: int) -> None:
        """An error in every form that was asked for and that nothing else was told in."""
        if not (self.reports or (self.as_json and not self.answered)):
            return
        from bnfuse.report import render_failure
        from bnfuse.results.outcomes import Failure

        found = Failure(self.command, kind, message, exit_code, self.path, {"bnfuse": __version__})
        if self.as_json and not self.answered:
            self.document(render_failure(found, ".json"))
        try:
            self.write(lambda suffix: render_failure(found, suffix))
        except OutputError as error:
            self.fail(str(error))

    def stop_on(self, gates: Sequence[Gate]) -> None:
        """Exit 1 where a gate said no, and say why."""
        refused = [gate for gate in gates if not gate.passed]
        for gate in refused:
            self.fail(f"{gate.message} ({gate.option})")
        if refused:
            raise click.exceptions.Exit(ExitCode.GATE)

    def report(self, report: Report) -> None:
        """The result of ``optimize`` or ``inspect`` on stdout."""
        if self.quiet:
            return
        from bnfuse.report.terminal import console, print_report

        print_report(report, console(), verbose=self.verbose)

    def many(self, collected: Collected) -> None:
        """The results of ``optimize`` or ``inspect`` for many models on stdout."""
        if self.quiet:
            return
        from bnfuse.report.many.terminal import print_many
        from bnfuse.report.terminal import console

        print_many(collected, console(), verbose=self.verbose)

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

        print_latency(latency, console(), verbose=self.verbose)

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

    def diagnosis(self, found: Diagnosis) -> None:
        """The result of ``doctor`` on stdout."""
        if self.quiet:
            return
        from bnfuse.report.content.doctor import sections
        from bnfuse.report.terminal import console, print_sections

        print_sections(sections(found), console())

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """A callable that shows what is done: a spinner on a terminal, else a line every 10 s (-v: all)."""
        if self.quiet:
            yield lambda _: None
        else:
            from bnfuse.cli.waiting import lines, spinner

            with spinner() if sys.stderr.isatty() else lines(every=self.verbose) as show:
                yield show
