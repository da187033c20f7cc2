"""What is printed where: results on stdout, progress and errors on stderr, rich only when printing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from bnfuse import __version__
from bnfuse.errors import ExitCode, OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from bnfuse.core.explanation import Explanations
    from bnfuse.results.outcomes import Gate


class Screen:
    """How much to say, and where to. ``quiet`` leaves errors only (and the document of ``--json``).

    ``answered`` tells that the document of ``--json`` was printed: there is never a second. ``models`` are
    those that an error may be about.
    """

    def __init__(self) -> None:
        self.quiet = self.verbose = self.as_json = False
        self.command = ""
        self.reports: tuple[Path, ...] = ()
        self.models: tuple[Path, ...] = ()
        self.answered = False

    def expects(self, reports: Sequence[Path], *models: Path) -> None:
        """What an error is told of, and where to: files of reports that may be written."""
        self.models, self.reports = models, tuple(reports)

    def fail(self, sentence: str) -> None:
        """One sentence on stderr, whatever the model's strings hold."""
        from bnfuse.report.text import plain

        click.echo(f"bnfuse: {plain(sentence)}", err=True)

    def document(self, text: str) -> None:
        """A finished document on stdout, as it is."""
        self.answered = True
        click.echo(text, nl=False)

    def result(self, found: Any, explanation: Explanations | None = None) -> None:
        """What a command found in every form that was asked for, files last: one of them may fail."""
        self.show(found, explanation)
        self.write(found, explanation)

    def show(self, found: Any, explanation: Explanations | None = None) -> None:
        """The same on stdout: the document of ``--json``, or words."""
        from bnfuse.report import pieces

        if self.as_json:
            for part in pieces(found, ".json", explanation=explanation):
                self.document(part)
        elif not self.quiet:
            from bnfuse.report.terminal import console, show

            show(found if explanation is None else explanation, console(), verbose=self.verbose)

    def write(self, found: Any, explanation: Explanations | None = None) -> None:
        """Write every report that was asked for."""
        from bnfuse.report import pieces, write

        for path in self.reports:
            write(pieces(found, path.suffix, explanation=explanation), path)
            self.reports = tuple(left for left in self.reports if left != path)

    def failure(self, kind: str, message: str, exit_code: int) -> None:
        """An error in every form that was asked for and that nothing else was told in."""
        if not (self.reports or (self.as_json and not self.answered)):
            return
        from bnfuse.report import render
        from bnfuse.results.outcomes import Failure

        path = _named(message, self.models)
        found = Failure(self.command, kind, message, exit_code, path, {"bnfuse": __version__})
        if self.as_json and not self.answered:
            self.document(render(found, ".json"))
        try:
            self.write(found)
        except OutputError as error:
            if str(error) != message:  # which is said already
                self.fail(str(error))

    def stop_on(self, gates: Sequence[Gate]) -> None:
        """Exit 1 where a gate said no, and say why."""
        refused = [gate for gate in gates if not gate.passed]
        for gate in refused:
            self.fail(f"{gate.message} ({gate.option})")
        if refused:
            raise click.exceptions.Exit(ExitCode.GATE)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """A callable that shows what is done: a spinner on a terminal, else a line every 10 s (-v: all)."""
        if self.quiet:
            yield lambda _: None
        else:
            from bnfuse.cli.waiting import lines, spinner

            with spinner() if sys.stderr.isatty() else lines(every=self.verbose) as show:
                yield show


def _named(message: str, models: Sequence[Path]) -> Path | None:
    """The model that a sentence names first, ``out.onnx`` before ``out``; where it names none, the first."""
    places = [(message.find(str(path)), -len(str(path)), path) for path in models if str(path) in message]
    return min(places)[2] if places else next(iter(models), None)
